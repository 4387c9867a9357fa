//! Preprocessing against Pillow: every photo of every set in `preprocessing/` of the goldens root.
//!
//! A set is `NAME.safetensors`; its name says the processor in words, its tensors are named after the source photos
//! beside it and hold what Pillow makes of them (u8, height × width × 3). `FEATHERLIGHT_GOLDENS` names another root.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of a test may fail loudly, as the test itself"
)]

use std::path::{Path, PathBuf};

use featherlight::image::{DecodeLimits, Processor};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

/// How far from the reference a photo may be.
struct Tolerance {
    /// Mean absolute difference, in levels of 255.
    mean: f64,
    /// Largest difference anywhere, in levels.
    most: u8,
    /// Share of values off by more than 2 levels.
    off: f64,
}

impl Tolerance {
    /// JPEG decoders differ in their inverse transform and in how they upsample colour; the others are lossless.
    fn of(photo: &str) -> Self {
        match photo.rsplit('.').next() {
            Some("jpg" | "jpeg" | "JPG" | "JPEG") => Self { mean: 0.5, most: 255, off: 0.01 },
            _ => Self { mean: 0.25, most: 3, off: 1.0 },
        }
    }
}

/// The processor that a set's name spells out: `FAMILY_SIZE[_shortest_edge]_FILTER[_center_crop]`, where SIZE is a
/// number or HEIGHTxWIDTH.
fn processor(name: &str) -> Result<Processor, String> {
    let rest = name.split_once('_').map(|(_, rest)| rest).ok_or("no size")?;
    let (size, rest) = rest.split_once('_').ok_or("no filter")?;
    let (height, width) = size.split_once('x').unwrap_or((size, size));
    let number = |text: &str| text.parse::<u64>().map_err(|error| format!("size `{text}`: {error}"));
    let (height, width) = (number(height)?, number(width)?);
    let (shortest_edge, rest) = match rest.strip_prefix("shortest_edge_") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let (crop, filter) = match rest.strip_suffix("_center_crop") {
        Some(filter) => (true, filter),
        None => (false, rest),
    };
    let resample = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"]
        .iter()
        .position(|known| *known == filter)
        .ok_or_else(|| format!("filter `{filter}`"))?;
    let exact = json!({ "height": height, "width": width });
    let size = if shortest_edge { json!({ "shortest_edge": height.min(width) }) } else { exact.clone() };
    let settings: Value = json!({
        "do_resize": true, "size": size, "resample": resample, "do_center_crop": crop, "crop_size": exact,
        "do_normalize": false,
    });
    Processor::from_json(&settings).map_err(|error| error.to_string())
}

/// Compares one photo; the line of the table, and whether it is within tolerance.
fn compare(
    processor: &Processor,
    source: &Path,
    shape: &[usize],
    expected: &[u8],
) -> Result<(String, bool), String> {
    let photo = source.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let bytes = std::fs::read(source).map_err(|error| format!("{photo}: {error}"))?;
    let pixels =
        processor.prepare(&bytes, &DecodeLimits::default()).map_err(|error| format!("{photo}: {error}"))?;
    if [pixels.height(), pixels.width(), 3] != shape {
        return Err(format!("{photo}: {} × {} instead of {shape:?}", pixels.height(), pixels.width()));
    }
    let differences: Vec<u8> = pixels.data().iter().zip(expected).map(|(a, b)| a.abs_diff(*b)).collect();
    let count = differences.len() as f64;
    let mean = differences.iter().map(|difference| f64::from(*difference)).sum::<f64>() / count;
    let most = differences.iter().copied().max().unwrap_or(0);
    let off = differences.iter().filter(|difference| **difference > 2).count() as f64 / count;
    let allowed = Tolerance::of(photo);
    let line =
        format!("{photo:<24} mean {mean:.4}  most {most:>3}  off by more than 2: {:.3} %", off * 100.0);
    Ok((line, mean <= allowed.mean && most <= allowed.most && off <= allowed.off))
}

fn goldens() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .join(std::env::var_os("FEATHERLIGHT_GOLDENS").unwrap_or_else(|| "tests/goldens".into()))
        .join("preprocessing")
}

#[test]
fn every_processor_makes_of_every_photo_what_pillow_makes() {
    let folder = goldens();
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut sets: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    sets.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    sets.sort();
    assert!(!sets.is_empty(), "{}: no sets (*.safetensors)", folder.display());

    let mut failures = Vec::new();
    for set in sets {
        let name = set.file_stem().unwrap().to_str().unwrap();
        println!("{name}");
        let processor =
            processor(name).unwrap_or_else(|error| panic!("{name}: the name does not parse: {error}"));
        let file = std::fs::read(&set).unwrap();
        let tensors = SafeTensors::deserialize(&file).unwrap();
        let mut photos = tensors.tensors();
        photos.sort_by(|a, b| a.0.cmp(&b.0));
        assert!(!photos.is_empty(), "{name}: no tensors");
        for (photo, tensor) in photos {
            assert_eq!(tensor.dtype(), Dtype::U8, "{name}: {photo}");
            match compare(&processor, &folder.join(&photo), tensor.shape(), tensor.data()) {
                Ok((line, within)) => {
                    println!("  {line}");
                    failures.extend((!within).then(|| format!("{name}: {line}")));
                }
                Err(error) => failures.push(format!("{name}: {error}")),
            }
        }
    }
    assert!(failures.is_empty(), "beyond tolerance:\n{}", failures.join("\n"));
}

#[test]
fn a_name_that_says_no_processor_does_not_parse() {
    for name in [
        "beit",
        "beit_384",
        "beit_x_bilinear",
        "beit_384_cubic",
        "beit_384_shortest_edge_bilinear",
        "beit_0_box",
    ] {
        assert!(processor(name).is_err(), "{name}");
    }
}
