//! Properties of crops, flips and their randomness, on small pictures made here.

use super::*;
use featherlight::image::{Filter, resize};
use std::collections::HashSet;

fn processor() -> Arc<Processor> {
    let config = serde_json::json!({
        "image_processor_type": "BeitImageProcessor",
        "do_resize": true, "size": {"height": 12, "width": 16}, "resample": 2,
        "do_center_crop": false, "do_rescale": true, "rescale_factor": 1.0 / 255.0,
        "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    });
    Arc::new(Processor::from_json(&config).unwrap())
}

fn augmenter(variation: Variation) -> Augmenter {
    Augmenter::new(processor(), Augmentation::Random(variation), Randomness::new(42)).unwrap()
}

/// Every pixel different, none symmetric.
fn photo(width: usize, height: usize) -> Pixels {
    let data = (0..width * height).flat_map(|i| {
        [(i % width * 255 / width) as u8, (i / width * 255 / height) as u8, (i * 7 % 256) as u8]
    });
    Pixels::new(width, height, data.collect()).unwrap()
}

fn regions(size: (usize, usize), scale: CropScale) -> Vec<Region> {
    let stream = |sample| Randomness::new(7).stream(Purpose::Crop, 0, sample, 0);
    (0..2_000).map(|sample| random_region(size, scale, &mut stream(sample))).collect()
}

#[test]
fn crops_lie_inside_and_keep_to_scale_and_ratio() {
    let (width, height) = (400, 300);
    for region in regions((width, height), CropScale::default()) {
        assert!(region.left + region.width <= width && region.top + region.height <= height);
        let share = (region.width * region.height) as f64 / (width * height) as f64;
        let ratio = region.width as f64 / region.height as f64;
        assert!((0.078..=1.0).contains(&share), "{region:?}");
        assert!((0.74..1.35).contains(&ratio), "{region:?}");
    }
}

#[test]
fn crops_are_spread_over_scale_ratio_and_place() {
    let regions = regions((400, 400), CropScale::new(0.1, 0.5).unwrap());
    let mean = |of: &dyn Fn(&Region) -> f64| regions.iter().map(of).sum::<f64>() / regions.len() as f64;
    let share = mean(&|r| (r.width * r.height) as f64 / 160_000.0);
    let log_ratio = mean(&|r| (r.width as f64 / r.height as f64).ln());
    let centre_x = mean(&|r| r.left as f64 + r.width as f64 / 2.0);
    let centre_y = mean(&|r| r.top as f64 + r.height as f64 / 2.0);
    assert!((share - 0.3).abs() < 0.01, "{share}");
    assert!(log_ratio.abs() < 0.02, "{log_ratio}");
    assert!((centre_x - 200.0).abs() < 6.0 && (centre_y - 200.0).abs() < 6.0, "{centre_x} {centre_y}");
}

#[test]
fn a_photo_too_narrow_for_any_ratio_gives_its_centre() {
    let whole = CropScale::new(1.0, 1.0).unwrap();
    for region in regions((100, 1000), whole) {
        assert_eq!(region, Region { left: 0, top: 433, width: 100, height: 133 });
    }
    for region in regions((1000, 100), whole) {
        assert_eq!(region, Region { left: 433, top: 0, width: 133, height: 100 });
    }
    assert_eq!(regions((1, 1), whole)[0], Region { left: 0, top: 0, width: 1, height: 1 });
}

#[test]
fn a_sample_has_the_processors_size_whatever_the_photos() {
    let augmenter = augmenter(Variation { color_jitter: 0.4, ..Variation::default() });
    for (width, height) in [(1, 1), (3, 200), (640, 480)] {
        let sample = augmenter.apply(&photo(width, height), 0, 0).unwrap();
        assert_eq!((sample.width(), sample.height()), (16, 12));
    }
}

#[test]
fn a_sample_is_a_function_of_seed_epoch_and_index() {
    let augmenter = augmenter(Variation { color_jitter: 0.4, ..Variation::default() });
    let photo = photo(64, 48);
    let apply = |epoch, sample| augmenter.apply(&photo, epoch, sample).unwrap().into_data();
    let distinct: HashSet<Vec<u8>> = (0..5)
        .flat_map(|epoch| (0..5).map(move |sample| (epoch, sample)))
        .map(|(e, s)| apply(e, s))
        .collect();
    assert_eq!(distinct.len(), 25);
    assert_eq!(apply(3, 4), apply(3, 4));
}

#[test]
fn everything_together_is_a_function_of_seed_epoch_and_index() {
    let rand_augment = Some(RandAugment::new(2, 9).unwrap());
    let variation = Variation { color_jitter: 0.4, rand_augment, random_erase: 1.0, ..Variation::default() };
    let photo = photo(64, 48);
    let apply = |seed, epoch, sample| {
        let augmentation = Augmentation::Random(variation);
        let augmenter = Augmenter::new(processor(), augmentation, Randomness::new(seed)).unwrap();
        augmenter.apply(&photo, epoch, sample).unwrap()
    };
    assert_eq!(apply(1, 2, 3), apply(1, 2, 3));
    for (seed, epoch, sample) in [(0, 2, 3), (1, 0, 3), (1, 2, 0)] {
        assert_ne!(apply(seed, epoch, sample), apply(1, 2, 3));
    }
}

#[test]
fn erasing_paints_in_the_mean_colour_and_leaves_crop_and_flip_alone() {
    let photo = photo(64, 48);
    let plain = augmenter(Variation::default());
    let erasing = augmenter(Variation { random_erase: 1.0, ..Variation::default() });
    let mut erased = 0;
    for sample in 0..100 {
        let (plain, erasing) =
            (plain.apply(&photo, 0, sample).unwrap(), erasing.apply(&photo, 0, sample).unwrap());
        let pixels = |picture: &Pixels| picture.data().as_chunks::<3>().0.to_vec();
        for (plain, erasing) in pixels(&plain).into_iter().zip(pixels(&erasing)) {
            // The processor's mean is 0.5.
            assert!(erasing == plain || erasing == [128; 3], "{plain:?} {erasing:?}");
            erased += usize::from(erasing == [128; 3]);
        }
    }
    let share = erased as f64 / (100 * 12 * 16) as f64;
    assert!((0.12..0.22).contains(&share), "{share}");
}

#[test]
fn photos_are_erased_as_often_as_asked() {
    let photo = photo(64, 48);
    let of = |random_erase| {
        let augmenter = augmenter(Variation { random_erase, ..Variation::default() });
        (0..400).map(|sample| augmenter.apply(&photo, 0, sample).unwrap()).collect::<Vec<_>>()
    };
    let (never, some) = (of(0.0), of(0.25));
    let erased = never.iter().zip(&some).filter(|(never, some)| never != some).count();
    assert!((70..130).contains(&erased), "{erased}");
}

#[test]
fn the_operations_come_before_the_jitter() {
    let photo = photo(64, 48);
    let rand_augment = RandAugment::new(1, 20).unwrap();
    let [cropped, both] = [None, Some(rand_augment)].map(|rand_augment| {
        augmenter(Variation {
            rand_augment,
            color_jitter: if rand_augment.is_some() { 0.4 } else { 0.0 },
            ..Variation::default()
        })
    });
    for sample in 0..50 {
        let mut expected = cropped.apply(&photo, 0, sample).unwrap().into_data();
        let stream = |purpose| Randomness::new(42).stream(purpose, 0, sample, 0);
        rand_augment.apply(&mut expected, 16, &mut stream(Purpose::RandAugment));
        jitter(&mut expected, 0.4, &mut stream(Purpose::ColorJitter));
        assert_eq!(both.apply(&photo, 0, sample).unwrap().data(), expected);
    }
}

#[test]
fn a_flip_mirrors_the_picture_and_happens_as_often_as_asked() {
    let photo = photo(64, 48);
    let [never, always, half] = [0.0, 1.0, 0.5].map(|flip_probability| {
        let augmenter = augmenter(Variation { flip_probability, ..Variation::default() });
        (0..400).map(|sample| augmenter.apply(&photo, 0, sample).unwrap()).collect::<Vec<_>>()
    });
    for (plain, flipped) in never.iter().zip(&always) {
        for y in 0..12 {
            for x in 0..16 {
                let at = |picture: &Pixels, x: usize| picture.data()[(y * 16 + x) * 3..][..3].to_vec();
                assert_eq!(at(plain, x), at(flipped, 15 - x));
            }
        }
    }
    let flipped = half.iter().zip(&always).filter(|(sample, flipped)| sample == flipped).count();
    assert!((150..250).contains(&flipped), "{flipped}");
}

#[test]
fn the_whole_photo_without_flip_is_the_photo_resized() {
    let square = Variation {
        crop_scale: CropScale::new(1.0, 1.0).unwrap(),
        flip_probability: 0.0,
        ..Variation::default()
    };
    // At the limit of the ratios and at full area nothing but the whole photo fits.
    let photo = photo(400, 300);
    let resized = resize(&photo, 16, 12, Filter::Bilinear).unwrap();
    let whole = (0..200).filter(|&sample| augmenter(square).apply(&photo, 0, sample).unwrap() == resized);
    assert!(whole.count() > 0);
}

#[test]
fn without_augmentation_a_sample_is_what_the_processor_makes() {
    let augmenter = Augmenter::new(processor(), Augmentation::Plain, Randomness::new(1)).unwrap();
    let photo = photo(64, 48);
    let expected = processor().apply(&photo).unwrap();
    assert_eq!(augmenter.apply(&photo, 0, 0).unwrap(), expected);
    assert_eq!(augmenter.apply(&photo, 5, 9).unwrap(), expected);
}

#[test]
fn crop_scales_are_read_from_text() {
    assert_eq!("0.4".parse(), CropScale::new(0.4, 1.0));
    assert_eq!("0.4, 0.9".parse(), CropScale::new(0.4, 0.9));
    for text in ["0", "1.5", "0.9,0.4", "a", "", "0.1,0.2,0.3", "nan"] {
        let error = text.parse::<CropScale>().unwrap_err();
        assert!(error.to_string().contains("0.08"), "{error}");
    }
}

#[test]
fn impossible_variations_are_refused() {
    let refused = |variation| {
        Augmenter::new(processor(), Augmentation::Random(variation), Randomness::new(1)).unwrap_err()
    };
    let flip = refused(Variation { flip_probability: 1.5, ..Variation::default() });
    assert_eq!(flip, AugmentError::FlipProbability(1.5));
    let color = refused(Variation { color_jitter: -0.1, ..Variation::default() });
    assert_eq!(color, AugmentError::ColorJitter(-0.1));
    for random_erase in [-0.1, 1.5, f64::INFINITY] {
        let erase = refused(Variation { random_erase, ..Variation::default() });
        assert_eq!(erase, AugmentError::RandomErase(random_erase));
    }
}
