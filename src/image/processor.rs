//! `preprocessor_config.json`: what a model wants done to a photo before it sees it.
//!
//! A [`Processor`] is read from a model folder once, then applied to every photo by the decode pool and the evaluator:
//! decode, resize, centre crop, in this order, to a size known beforehand. Rescaling and normalising belong to the
//! device and are only described here. Fields that would change the pixels in a way not built are refused by name.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::decode::{DecodeLimits, decode};
use super::geometry::{Filter, resize, resize_and_crop};
use super::settings::{Fields, ProcessorError, Size};
use super::{ImageError, Pixels};

/// The file's name in a model folder.
const FILE: &str = "preprocessor_config.json";

/// Preprocessing as a model folder asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Processor {
    pub(super) geometry: Geometry,
    pub(super) filter: Filter,
    /// Factor from u8 to the scale of mean and deviation; kept in f64 so that it is written as it was read.
    pub(super) rescale: f64,
    /// Mean and deviation a channel; `None` where the model does not normalise.
    pub(super) normalize: Option<([f64; 3], [f64; 3])>,
}

/// How a photo of any size comes to the one size the model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Geometry {
    /// Resized to this size, whatever its proportions.
    Resize(Size),
    /// Resized, then cut or padded to `crop` about its middle.
    ResizeCrop { resize: Resize, crop: Size },
    /// Cut or padded about its middle.
    Crop(Size),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Resize {
    Exact(Size),
    /// The shorter side becomes this long, proportions kept.
    ShortestEdge(usize),
}

/// What the device does to each u8: `(value · rescale − mean) / std`, a channel of RGB at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normalization {
    /// Usually 1/255.
    pub rescale: f32,
    /// Subtracted, on the rescaled value.
    pub mean: [f32; 3],
    /// Divided by.
    pub std: [f32; 3],
}

/// What the type named in a file tells beyond the fields. Only two things are taken from it, because the fields do not
/// say them: what a bare number as `size` means, and ConvNeXt's `crop_pct`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// A bare number is a square.
    Square,
    /// A bare number is the shortest edge.
    ShortestEdge,
    ConvNext,
    /// No type is named.
    Unnamed,
}

impl Processor {
    /// Reads a `preprocessor_config.json`.
    ///
    /// # Errors
    /// [`ProcessorError`], with the file and the field at fault.
    pub fn from_file(file: &Path) -> Result<Self, ProcessorError> {
        let read = |source| ProcessorError::Read { file: file.to_owned(), source };
        let text = std::fs::read(file).map_err(read)?;
        let value: Value = serde_json::from_slice(&text)
            .map_err(|source| ProcessorError::Json { file: file.to_owned(), source })?;
        Self::from_fields(&Fields::new(file.to_owned(), "", &value)?)
    }

    /// What a model without a `preprocessor_config.json` gets: photos squashed to this size (bilinear) and scaled to −1 … 1,
    /// as BEiT's own.
    ///
    /// # Errors
    /// A side of 0.
    pub fn plain(height: usize, width: usize) -> Result<Self, ProcessorError> {
        Self::from_json(&json!({
            "do_resize": true, "size": { "height": height, "width": width }, "resample": 2, "do_center_crop": false,
            "do_rescale": true, "rescale_factor": 1.0 / 255.0,
            "do_normalize": true, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        }))
    }

    /// The same as [`Processor::from_file`] from JSON in memory.
    ///
    /// # Errors
    /// [`ProcessorError`], with the field at fault.
    pub fn from_json(value: &Value) -> Result<Self, ProcessorError> {
        Self::from_fields(&Fields::new(PathBuf::from(FILE), "", value)?)
    }

    fn from_fields(fields: &Fields) -> Result<Self, ProcessorError> {
        let family = Family::of(fields)?;
        refuse_what_is_not_built(fields)?;
        Ok(Self {
            geometry: geometry(fields, family)?,
            filter: filter(fields)?,
            rescale: match fields.flag("do_rescale")?.unwrap_or(true) {
                true => fields.positive("rescale_factor")?.unwrap_or(1.0 / 255.0),
                false => 1.0,
            },
            normalize: match fields.flag("do_normalize")?.unwrap_or(true) {
                true => {
                    // Classes have had defaults, but not the same ones in every version.
                    let want = "three numbers, or `do_normalize`: false";
                    let mean =
                        fields.channels("image_mean")?.ok_or_else(|| fields.missing("image_mean", want))?;
                    let std =
                        fields.deviations("image_std")?.ok_or_else(|| fields.missing("image_std", want))?;
                    Some((mean, std))
                }
                false => None,
            },
        })
    }

    /// The content of a `preprocessor_config.json` that transformers and [`Processor::from_json`] read back as the same
    /// processing.
    pub fn to_json(&self) -> Value {
        let size = |size: Size| json!({ "height": size.height, "width": size.width });
        let (class, resize, crop) = match self.geometry {
            Geometry::Resize(to) => ("ViTImageProcessor", Some(Resize::Exact(to)), None),
            Geometry::ResizeCrop { resize, crop } => ("CLIPImageProcessor", Some(resize), Some(crop)),
            Geometry::Crop(crop) => ("CLIPImageProcessor", None, Some(crop)),
        };
        let mut file =
            json!({ "image_processor_type": class, "do_convert_rgb": true, "do_resize": resize.is_some() });
        let mut set = |field: &str, value: Value| file[field] = value;
        match resize {
            Some(Resize::Exact(to)) => set("size", size(to)),
            Some(Resize::ShortestEdge(edge)) => set("size", json!({ "shortest_edge": edge })),
            None => {}
        }
        set("resample", json!(self.filter.code()));
        set("do_center_crop", json!(crop.is_some()));
        if let Some(crop) = crop {
            set("crop_size", size(crop));
        }
        set("do_rescale", json!(true));
        set("rescale_factor", json!(self.rescale));
        set("do_normalize", json!(self.normalize.is_some()));
        if let Some((mean, std)) = self.normalize {
            set("image_mean", json!(mean));
            set("image_std", json!(std));
        }
        file
    }

    /// Decodes a photo and brings it to [`Processor::output_size`]. Blocks while the memory budget is taken.
    ///
    /// # Errors
    /// Those of [`decode`].
    pub fn prepare(&self, bytes: &[u8], limits: &DecodeLimits) -> Result<Pixels, ImageError> {
        let photo = decode(bytes, limits)?;
        self.apply(&photo)
    }

    /// Brings decoded pixels of any size to [`Processor::output_size`].
    ///
    /// # Errors
    /// None that a photo can cause; [`ImageError::Geometry`] stands for the impossible.
    pub fn apply(&self, photo: &Pixels) -> Result<Pixels, ImageError> {
        let own = (photo.width() as u64, photo.height() as u64);
        let (resized, crop) = match self.geometry {
            Geometry::Resize(to) => return resize(photo, to.width, to.height, self.filter),
            Geometry::Crop(crop) => (own, crop),
            Geometry::ResizeCrop { resize: Resize::Exact(to), crop } => {
                if to == crop {
                    return resize(photo, to.width, to.height, self.filter);
                }
                ((to.width as u64, to.height as u64), crop)
            }
            Geometry::ResizeCrop { resize: Resize::ShortestEdge(edge), crop } => {
                let edge = edge as u64;
                // As in the reference: the long side is divided in floating point and cut, never rounded.
                let long = |long: u64, short: u64| ((edge * long) as f64 / short as f64) as u64;
                let resized =
                    if own.0 <= own.1 { (edge, long(own.1, own.0)) } else { (long(own.0, own.1), edge) };
                (resized, crop)
            }
        };
        resize_and_crop(photo, resized, (crop.width, crop.height), self.filter)
    }

    /// Height and width of every prepared photo, in pixels.
    pub fn output_size(&self) -> (usize, usize) {
        match self.geometry {
            Geometry::Resize(size) | Geometry::ResizeCrop { crop: size, .. } | Geometry::Crop(size) => {
                (size.height, size.width)
            }
        }
    }

    /// The field of `preprocessor_config.json` that decides [`Processor::output_size`].
    pub fn size_field(&self) -> &'static str {
        match self.geometry {
            Geometry::Resize(_) => "size",
            Geometry::ResizeCrop { .. } | Geometry::Crop(_) => "crop_size",
        }
    }

    /// The filter photos are resized with.
    pub fn filter(&self) -> Filter {
        self.filter
    }

    /// What is left for the device to do; a mean of 0 and a deviation of 1 where the model does not normalise.
    pub fn normalization(&self) -> Normalization {
        let (mean, std) = self.normalize.unwrap_or(([0.0; 3], [1.0; 3]));
        let narrow = |three: [f64; 3]| three.map(|number| number as f32);
        Normalization { rescale: self.rescale as f32, mean: narrow(mean), std: narrow(std) }
    }
}

impl Family {
    /// By `image_processor_type`, or `feature_extractor_type` as older files have it.
    fn of(fields: &Fields) -> Result<Self, ProcessorError> {
        let field =
            ["image_processor_type", "feature_extractor_type"].into_iter().find(|f| fields.get(f).is_some());
        let Some(field) = field else { return Ok(Self::Unnamed) };
        let name = fields.text(field)?.unwrap_or_default();
        let stem = ["ImageProcessorFast", "ImageProcessorPil", "ImageProcessor", "FeatureExtractor"]
            .into_iter()
            .find_map(|suffix| name.strip_suffix(suffix));
        match stem {
            Some("Beit" | "ViT" | "DeiT" | "Siglip") => Ok(Self::Square),
            Some("CLIP" | "ChineseCLIP" | "Bit" | "ViTHybrid") => Ok(Self::ShortestEdge),
            Some("ConvNext") => Ok(Self::ConvNext),
            _ => Err(fields.unsupported(
                field,
                "supported are Beit, ViT, DeiT, Siglip, CLIP, Bit and ConvNext processors",
            )),
        }
    }
}

/// Steps not built must not be passed over in silence.
fn refuse_what_is_not_built(fields: &Fields) -> Result<(), ProcessorError> {
    // `do_reduce_labels` is about segmentation maps; pixels are RGB whatever `do_convert_rgb` says.
    const KNOWN: [&str; 6] =
        ["do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb", "do_reduce_labels"];
    for (field, value) in fields.iter() {
        if field.starts_with("do_") && !KNOWN.contains(&field) && fields.flag(field)?.unwrap_or(false) {
            return Err(
                fields.unsupported(field, "photos can be resized, centre-cropped, rescaled and normalised")
            );
        }
        let other_step =
            ["auto_map", "rescale_offset", "keep_aspect_ratio", "ensure_multiple_of", "size_divisor"];
        if other_step.contains(&field) && *value != Value::Bool(false) {
            return Err(fields.unsupported(field, "remove the field or set it to null"));
        }
    }
    Ok(())
}

fn filter(fields: &Fields) -> Result<Filter, ProcessorError> {
    // Files that leave `resample` out were written for bilinear.
    let Some(value) = fields.get("resample") else { return Ok(Filter::Bilinear) };
    value.as_u64().and_then(Filter::from_code).ok_or_else(|| {
        let want = "a Pillow filter: 0 nearest, 1 Lanczos, 2 bilinear, 3 bicubic, 4 box, 5 Hamming";
        fields.wrong("resample", value, want)
    })
}

fn geometry(fields: &Fields, family: Family) -> Result<Geometry, ProcessorError> {
    let crops = fields.flag("do_center_crop")?.unwrap_or(false);
    if family == Family::ConvNext {
        return conv_next(fields, crops);
    }
    if family == Family::Unnamed && fields.get("crop_pct").is_some() {
        return Err(
            fields.unsupported("crop_pct", "it takes `image_processor_type`: \"ConvNextImageProcessor\"")
        );
    }
    // A `crop_size` beside `do_center_crop`: false is a leftover of older files.
    let crop = crops.then(|| crop_size(fields)).transpose()?;
    if !fields.flag("do_resize")?.unwrap_or(true) {
        let want = "with a fixed size to come to: `do_center_crop`: true and a `crop_size`";
        return crop.map(Geometry::Crop).ok_or_else(|| fields.unsupported("do_resize", want));
    }
    match (resize_to(fields, family, crops)?, crop) {
        (resize, Some(crop)) => Ok(Geometry::ResizeCrop { resize, crop }),
        (Resize::Exact(size), None) => Ok(Geometry::Resize(size)),
        (Resize::ShortestEdge(_), None) => {
            let want = "the shortest edge alone gives photos of different sizes: add `do_center_crop`: true and a `crop_size`";
            Err(fields.unsupported("size", want))
        }
    }
}

/// ConvNeXt: below 384, the shortest edge is resized to size / crop_pct and the middle cut out; from 384 on, squashed.
fn conv_next(fields: &Fields, crops: bool) -> Result<Geometry, ProcessorError> {
    if crops || !fields.flag("do_resize")?.unwrap_or(true) {
        let field = if crops { "do_center_crop" } else { "do_resize" };
        return Err(fields.unsupported(field, "a ConvNext processor resizes, and crops by `crop_pct`"));
    }
    let edge = match resize_to(fields, Family::ShortestEdge, false)? {
        Resize::ShortestEdge(edge) => edge,
        Resize::Exact(_) => {
            return Err(fields.unsupported("size", "a ConvNext processor has `size.shortest_edge`"));
        }
    };
    let square = Size { height: edge, width: edge };
    if edge >= 384 {
        return Ok(Geometry::Resize(square));
    }
    let share =
        fields.positive("crop_pct")?.ok_or_else(|| fields.missing("crop_pct", "a number, such as 0.875"))?;
    Ok(Geometry::ResizeCrop { resize: Resize::ShortestEdge(enlarged(edge, share)), crop: square })
}

/// The edge to resize to when the middle `share` of it is to be `edge` long.
pub(super) fn enlarged(edge: usize, share: f64) -> usize {
    ((edge as f64 / share) as usize).max(1)
}

fn resize_to(fields: &Fields, family: Family, crops: bool) -> Result<Resize, ProcessorError> {
    const WANT: &str = "a number, {\"height\", \"width\"} or {\"shortest_edge\"}";
    let value = fields.get("size").ok_or_else(|| fields.missing("size", WANT))?;
    if value.is_number() {
        let side = fields.side_of("size", value)?;
        return match family {
            Family::ShortestEdge => Ok(Resize::ShortestEdge(side)),
            Family::Unnamed if crops => {
                let want = "a bare number beside a crop may mean a square or the shortest edge: \
                            write {\"height\", \"width\"} or {\"shortest_edge\"}";
                Err(fields.unsupported("size", want))
            }
            _ => Ok(Resize::Exact(Size { height: side, width: side })),
        };
    }
    if !value.is_object() {
        return Err(fields.wrong("size", value, WANT));
    }
    let size = fields.within("size", value)?;
    if let Some((name, _)) =
        size.iter().find(|(name, _)| !["height", "width", "shortest_edge"].contains(name))
    {
        return Err(size.unsupported(name, "supported are `height` with `width`, or `shortest_edge`"));
    }
    match (size.side("height")?, size.side("width")?, size.side("shortest_edge")?) {
        (Some(height), Some(width), None) => Ok(Resize::Exact(Size { height, width })),
        (None, None, Some(edge)) => Ok(Resize::ShortestEdge(edge)),
        _ => Err(fields.wrong("size", value, WANT)),
    }
}

fn crop_size(fields: &Fields) -> Result<Size, ProcessorError> {
    const WANT: &str = "a number or {\"height\", \"width\"}, since `do_center_crop` is true";
    let value = fields.get("crop_size").ok_or_else(|| fields.missing("crop_size", WANT))?;
    if value.is_number() {
        let side = fields.side_of("crop_size", value)?;
        return Ok(Size { height: side, width: side });
    }
    if !value.is_object() {
        return Err(fields.wrong("crop_size", value, WANT));
    }
    let size = fields.within("crop_size", value)?;
    match (size.side("height")?, size.side("width")?) {
        (Some(height), Some(width)) => Ok(Size { height, width }),
        _ => Err(fields.wrong("crop_size", value, WANT)),
    }
}
