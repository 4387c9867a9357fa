//! What `image::Processor` and the geometry beneath it promise.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test may fail loudly, as the test itself"
)]

use std::path::Path;

use featherlight::image::{
    DecodeLimits, Filter, ImageError, Pixels, Processor, Region, center_crop, resize, resize_region,
};
use serde_json::{Value, json};

/// A picture whose every pixel tells its place: red is the column, green the row.
fn ramp(width: usize, height: usize) -> Pixels {
    let pixel = |index: usize| [(index % width) as u8, (index / width) as u8, 7];
    Pixels::new(width, height, (0..width * height).flat_map(pixel).collect()).unwrap()
}

fn at(pixels: &Pixels, x: usize, y: usize) -> [u8; 3] {
    let start = (y * pixels.width() + x) * 3;
    pixels.data()[start..start + 3].try_into().unwrap()
}

fn normalized(settings: Value) -> Value {
    let mut all = json!({ "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5] });
    for (field, value) in settings.as_object().unwrap() {
        all[field] = value.clone();
    }
    all
}

fn read(settings: Value) -> Processor {
    Processor::from_json(&normalized(settings)).unwrap()
}

fn refusal(settings: Value) -> String {
    Processor::from_json(&normalized(settings)).unwrap_err().to_string()
}

/// One of each kind of processing.
fn kinds() -> Vec<Processor> {
    let clip = json!({
        "image_processor_type": "CLIPImageProcessor", "size": 32, "resample": 3, "do_center_crop": true, "crop_size": 24,
    });
    let conv = json!({ "feature_extractor_type": "ConvNextFeatureExtractor", "size": 48, "crop_pct": 0.875 });
    vec![
        read(json!({ "size": 48 })),
        read(json!({ "size": { "height": 20, "width": 31 }, "resample": 0, "do_rescale": false })),
        read(
            json!({ "size": { "shortest_edge": 17 }, "do_center_crop": true, "crop_size": { "height": 40, "width": 11 } }),
        ),
        read(
            json!({ "size": { "height": 30, "width": 30 }, "do_center_crop": true, "crop_size": 24, "resample": 1 }),
        ),
        read(json!({ "do_resize": false, "do_center_crop": true, "crop_size": 24, "do_normalize": false })),
        read(clip),
        read(conv),
        Processor::from_timm(&json!({ "input_size": [3, 30, 30], "crop_pct": 0.9 })).unwrap(),
    ]
}

#[test]
fn whatever_the_photos_size_the_output_has_the_processors() {
    for processor in kinds() {
        let (height, width) = processor.output_size();
        for (x, y) in
            [(1, 1), (1, 700), (700, 1), (3, 2), (24, 24), (25, 24), (640, 479), (2, 9000), (9000, 2)]
        {
            let photo = Pixels::new(x, y, vec![9; x * y * 3]).unwrap();
            let output = processor.apply(&photo).unwrap();
            assert_eq!((output.height(), output.width()), (height, width), "{x} × {y}: {processor:?}");
        }
    }
}

#[test]
fn what_is_written_reads_back_as_the_same_processor() {
    for processor in kinds() {
        let written = processor.to_json();
        assert_eq!(Processor::from_json(&written).unwrap(), processor, "{written}");
    }
}

#[test]
fn the_processors_of_real_model_folders_are_read() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens");
    let cases = [
        ("beit-tiny", 48, Filter::Bilinear),
        ("vit-tiny", 48, Filter::Bilinear),
        ("swin-tiny", 56, Filter::Bicubic),
    ];
    for (folder, side, filter) in cases.into_iter().chain([("clip-tiny", 48, Filter::Bicubic)]) {
        let processor = Processor::from_file(&goldens.join(folder).join("preprocessor_config.json")).unwrap();
        assert_eq!((processor.output_size(), processor.filter()), ((side, side), filter), "{folder}");
    }
    let text = std::fs::read(goldens.join("beit-tiny-timm/config.json")).unwrap();
    let config: Value = serde_json::from_slice(&text).unwrap();
    let timm = Processor::from_timm(&config["pretrained_cfg"]).unwrap();
    assert_eq!((timm.output_size(), timm.filter()), ((48, 48), Filter::Bicubic));
    assert_eq!(timm.normalization().std, [0.5; 3]);
}

#[test]
fn normalization_is_what_the_fields_say_and_neutral_where_they_say_none() {
    let usual = read(json!({ "size": 8 })).normalization();
    assert_eq!((usual.rescale, usual.mean, usual.std), (1.0 / 255.0, [0.5; 3], [0.5; 3]));
    let plain = read(json!({ "size": 8, "do_normalize": false, "do_rescale": false })).normalization();
    assert_eq!((plain.rescale, plain.mean, plain.std), (1.0, [0.0; 3], [1.0; 3]));
    let other = read(json!({ "size": 8, "rescale_factor": 0.5, "image_std": 0.25 })).normalization();
    assert_eq!((other.rescale, other.std), (0.5, [0.25; 3]));
}

#[test]
fn a_bare_number_is_a_square_or_the_shortest_edge_by_the_type_named() {
    let photo = ramp(40, 20);
    let crop = |class: &str| {
        let settings = json!({ "image_processor_type": class, "size": 10, "do_center_crop": true, "crop_size": 10, "resample": 0 });
        at(&read(settings).apply(&photo).unwrap(), 0, 0)[0]
    };
    assert_eq!((crop("BeitImageProcessor"), crop("CLIPImageProcessorFast")), (2, 11));
    let unnamed = refusal(json!({ "size": 10, "do_center_crop": true, "crop_size": 10 }));
    assert!(unnamed.contains("`size` is 10") && unnamed.contains("shortest_edge"), "{unnamed}");
}

#[test]
fn timm_resizes_by_the_crop_share_before_it_cuts() {
    let settings = json!({ "input_size": [3, 21, 21], "crop_pct": 0.875, "interpolation": "nearest" });
    let processor = Processor::from_timm(&settings).unwrap();
    // 21 / 0.875 = 24, so the middle 21 of 24 columns remain.
    assert_eq!(at(&processor.apply(&ramp(24, 48)).unwrap(), 0, 0), [1, 13, 7]);
    let squashed = json!({ "input_size": [3, 12, 24], "crop_pct": 1.0, "crop_mode": "squash" });
    assert_eq!(Processor::from_timm(&squashed).unwrap().output_size(), (12, 24));
    for (field, value) in
        [("crop_mode", json!("border")), ("interpolation", json!("random")), ("input_size", json!([1, 8, 8]))]
    {
        let mut wrong = settings.clone();
        wrong[field] = value;
        let message = Processor::from_timm(&wrong).unwrap_err().to_string();
        assert!(message.contains(&format!("config.json: `pretrained_cfg.{field}`")), "{message}");
    }
}

#[test]
fn a_wrong_field_is_named_with_what_was_found_and_what_is_right() {
    let cases = [
        (json!({ "size": "big" }), "`size` is \"big\"", "shortest_edge"),
        (json!({ "size": 0 }), "`size` is 0", "1 to 16384"),
        (json!({ "size": { "height": 8, "width": -1 } }), "`size.width` is -1", "1 to 16384"),
        (json!({ "size": { "height": 8 } }), "`size` is {\"height\":8}", "shortest_edge"),
        (json!({ "size": { "longest_edge": 8 } }), "`size.longest_edge` is 8", "shortest_edge"),
        (json!({}), "no `size`", "shortest_edge"),
        (json!({ "size": 8, "resample": 9 }), "`resample` is 9", "3 bicubic"),
        (json!({ "size": 8, "do_resize": "yes" }), "`do_resize` is \"yes\"", "true or false"),
        (json!({ "size": 8, "image_mean": [0.5, 0.5] }), "`image_mean` is [0.5,0.5]", "three numbers"),
        (json!({ "size": 8, "image_std": [0.5, 0, 0.5] }), "`image_std` is [0.5,0,0.5]", "above 0"),
        (json!({ "size": 8, "image_mean": null }), "no `image_mean`", "do_normalize"),
        (json!({ "size": 8, "rescale_factor": 0 }), "`rescale_factor` is 0", "above 0"),
        (json!({ "size": 8, "do_center_crop": true }), "no `crop_size`", "do_center_crop"),
    ];
    for (settings, found, right) in cases {
        let message = refusal(settings);
        let named = message.starts_with("preprocessor_config.json: ");
        assert!(named && message.contains(found) && message.contains(right), "{message}");
    }
}

#[test]
fn what_would_change_the_pixels_and_is_not_built_is_refused_by_name() {
    let cases = [
        (json!({ "size": 8, "do_pad": true }), "do_pad"),
        (json!({ "size": 8, "do_flip_channel_order": true }), "do_flip_channel_order"),
        (json!({ "size": 8, "rescale_offset": true }), "rescale_offset"),
        (json!({ "size": 8, "image_processor_type": "DonutImageProcessor" }), "image_processor_type"),
        (json!({ "size": 8, "do_resize": false }), "do_resize"),
        (json!({ "size": { "shortest_edge": 8 } }), "size"),
        (json!({ "size": 8, "crop_pct": 0.9 }), "crop_pct"),
    ];
    for (settings, field) in cases {
        let message = refusal(settings);
        assert!(
            message.contains(&format!("`{field}` is ")) && message.contains("not supported"),
            "{message}"
        );
    }
    let harmless = json!({ "size": 8, "do_pad": false, "do_reduce_labels": true, "reduce_labels": true, "crop_size": 9 });
    assert_eq!(read(harmless).output_size(), (8, 8));
}

#[test]
fn a_file_that_is_missing_or_no_json_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("preprocessor_config.json");
    let name = file.display().to_string();
    assert!(Processor::from_file(&file).unwrap_err().to_string().starts_with(&name));
    for text in ["{", "[]", "{\"size\": true}"] {
        std::fs::write(&file, text).unwrap();
        assert!(Processor::from_file(&file).unwrap_err().to_string().starts_with(&name), "{text}");
    }
}

#[test]
fn a_photo_is_prepared_from_its_bytes_and_gives_its_memory_back() {
    let photo =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/preprocessing/exif_Landscape_6.jpg");
    let limits = DecodeLimits::default();
    let output = read(json!({ "size": 48 })).prepare(&std::fs::read(photo).unwrap(), &limits).unwrap();
    assert_eq!((output.height(), output.width(), limits.memory.reserved()), (48, 48, 0));
}

#[test]
fn centre_crops_round_as_transformers_does_and_pad_with_black() {
    let cut = center_crop(&ramp(7, 6), 4, 3).unwrap();
    assert_eq!((at(&cut, 0, 0), at(&cut, 3, 2)), ([1, 1, 7], [4, 3, 7]));
    let padded = center_crop(&ramp(2, 5), 5, 3).unwrap();
    assert_eq!([at(&padded, 1, 0), at(&padded, 2, 0), at(&padded, 3, 2)], [[0; 3], [0, 1, 7], [1, 3, 7]]);
    assert_eq!(at(&padded, 4, 0), [0; 3]);
}

#[test]
fn a_region_is_cut_out_before_it_is_resized() {
    let photo = ramp(20, 20);
    let region = Region { left: 3, top: 5, width: 4, height: 2 };
    assert_eq!(at(&resize_region(&photo, region, 4, 2, Filter::Bicubic).unwrap(), 3, 1), [6, 6, 7]);
    // Enlarged, no pixel beyond the region's own range shows.
    let large = resize_region(&photo, region, 40, 20, Filter::Bilinear).unwrap();
    assert!(
        large.data().chunks_exact(3).all(|pixel| (3..=6).contains(&pixel[0]) && (5..=6).contains(&pixel[1]))
    );
    for (left, width) in [(17, 4), (usize::MAX, 4), (20, 1), (0, 0)] {
        let outside = Region { left, width, ..region };
        let refused = resize_region(&photo, outside, 4, 4, Filter::Box);
        assert!(matches!(refused, Err(ImageError::Geometry { .. })), "{refused:?}");
    }
    assert!(matches!(resize(&photo, 0, 4, Filter::Box), Err(ImageError::Geometry { .. })));
}

#[test]
fn cropping_while_resizing_shows_the_same_pixels_as_cropping_after() {
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/preprocessing/photo_1.jpg");
    let photo =
        featherlight::image::decode(&std::fs::read(photo).unwrap(), &DecodeLimits::default()).unwrap();
    for (size, crop, resample) in
        [((97, 150), (61, 90), 2), ((500, 380), (500, 100), 3), ((33, 700), (20, 650), 1)]
    {
        let settings = json!({
            "size": { "height": size.0, "width": size.1 }, "do_center_crop": true, "resample": resample,
            "crop_size": { "height": crop.0, "width": crop.1 },
        });
        let processor = read(settings);
        let at_once = processor.apply(&photo).unwrap();
        let whole = resize(&photo, size.1, size.0, processor.filter()).unwrap();
        let after = center_crop(&whole, crop.1, crop.0).unwrap();
        let most = at_once.data().iter().zip(after.data()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most <= Some(1), "{size:?} {crop:?}: {most:?}");
    }
}
