//! Preprocessing as timm describes it: the `pretrained_cfg` in a timm model's `config.json`.
//!
//! The model folder's reader calls [`Processor::from_timm`] where a folder has no `preprocessor_config.json`. What is
//! left out of a `pretrained_cfg` has one documented default each (`timm/data/config.py`), taken here. Only the
//! evaluation transform is described, never the training augmentation.

use std::path::PathBuf;

use serde_json::Value;

use super::geometry::Filter;
use super::processor::{Geometry, Processor, Resize, enlarged};
use super::settings::{Fields, ProcessorError, Size};

/// timm's `DEFAULT_CROP_PCT`.
const CROP_PCT: f64 = 0.875;
/// timm's `IMAGENET_DEFAULT_MEAN`.
const MEAN: [f64; 3] = [0.485, 0.456, 0.406];
/// timm's `IMAGENET_DEFAULT_STD`.
const STD: [f64; 3] = [0.229, 0.224, 0.225];

impl Processor {
    /// The processing of a timm `pretrained_cfg`: the shortest edge is resized to ⌊size / crop_pct⌋ (in crop mode
    /// `squash`, both sides are), then the middle is cut out.
    ///
    /// An odd margin is halved downwards, as transformers does; torchvision rounds every other one of them up.
    ///
    /// # Errors
    /// [`ProcessorError`], with the field at fault.
    pub fn from_timm(pretrained_cfg: &Value) -> Result<Self, ProcessorError> {
        let fields = Fields::new(PathBuf::from("config.json"), "pretrained_cfg", pretrained_cfg)?;
        let crop = input_size(&fields)?;
        let share = fields.positive("crop_pct")?.unwrap_or(CROP_PCT);
        let large = Size { height: enlarged(crop.height, share), width: enlarged(crop.width, share) };
        let resize = match fields.text("crop_mode")?.unwrap_or("center") {
            "center" if crop.height == crop.width => Resize::ShortestEdge(large.height),
            "center" => return Err(fields.unsupported("input_size", "a centre crop must be square")),
            "squash" => Resize::Exact(large),
            _ => return Err(fields.unsupported("crop_mode", "supported are \"center\" and \"squash\"")),
        };
        let geometry = match resize {
            Resize::Exact(size) if size == crop => Geometry::Resize(size),
            resize => Geometry::ResizeCrop { resize, crop },
        };
        let mean = fields.channels("mean")?.unwrap_or(MEAN);
        let std = fields.deviations("std")?.unwrap_or(STD);
        Ok(Self { geometry, filter: filter(&fields)?, rescale: 1.0 / 255.0, normalize: Some((mean, std)) })
    }
}

fn input_size(fields: &Fields) -> Result<Size, ProcessorError> {
    const WANT: &str = "[3, height, width]";
    let value = fields.get("input_size").ok_or_else(|| fields.missing("input_size", WANT))?;
    match value.as_array().map(Vec::as_slice) {
        Some([channels, height, width]) if channels.as_u64() == Some(3) => Ok(Size {
            height: fields.side_of("input_size", height)?,
            width: fields.side_of("input_size", width)?,
        }),
        _ => Err(fields.wrong("input_size", value, WANT)),
    }
}

fn filter(fields: &Fields) -> Result<Filter, ProcessorError> {
    Ok(match fields.text("interpolation")?.unwrap_or("bicubic") {
        "nearest" => Filter::Nearest,
        "bilinear" => Filter::Bilinear,
        "bicubic" => Filter::Bicubic,
        "box" => Filter::Box,
        "hamming" => Filter::Hamming,
        "lanczos" => Filter::Lanczos,
        _ => {
            let want = "supported are nearest, bilinear, bicubic, box, hamming and lanczos";
            return Err(fields.unsupported("interpolation", want));
        }
    })
}
