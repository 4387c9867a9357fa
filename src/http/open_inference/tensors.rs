//! The tensors of a request → inputs of the engine.
//!
//! `infer.rs` calls [`read`] with one input's head and its bytes, if they are binary. Name, type and shape are judged before
//! any memory is taken, and what is copied out of the body is promised by the budget of bodies first.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use serde_json::value::RawValue;

use super::head::InputHead;
use crate::engine::{EngineError, Held, Input};
use crate::http::base64_text::{decode, decoded_length, texts};
use crate::http::budget::Reservation;
use crate::http::error::ApiError;
use crate::http::registry::ModelInfo;
use crate::http::state::Service;
use crate::http::strict::Few;
use crate::image::Pixels;

/// Encoded photos.
pub(super) const IMAGE: &str = "image";
/// Normalised values.
pub(super) const PIXEL_VALUES: &str = "pixel_values";
/// Raw pixels of the model's own size.
pub(super) const PIXELS: &str = "pixels";

/// The inputs of a model: name, type, and shape of one image.
pub(super) fn inputs(info: &ModelInfo) -> [(&'static str, &'static str, Vec<usize>); 3] {
    let ModelInfo { height, width, .. } = *info;
    [
        (IMAGE, "BYTES", vec![1]),
        (PIXEL_VALUES, "FP32", vec![3, height, width]),
        (PIXELS, "UINT8", vec![height, width, 3]),
    ]
}

/// Reads one input, one for the engine an image; `binary` holds its bytes where they came beside the JSON. The memory of copies is
/// promised as long as they live.
///
/// # Errors
/// `BadRequest` naming what is wrong; `Overloaded` when the memory for copies is in use.
pub(super) fn read(
    service: &Service,
    info: &ModelInfo,
    input: &InputHead<'_>,
    binary: Option<Bytes>,
) -> Result<Vec<Input>, ApiError> {
    let known = inputs(info);
    let found = known.iter().find(|(name, ..)| *name == input.name);
    let Some((name, datatype, one)) = found else {
        let sent: String = input.name.chars().take(100).collect();
        return Err(ApiError::BadRequest(format!(
            "no input `{sent}`; a request gives one of `{IMAGE}`, `{PIXEL_VALUES}` and `{PIXELS}`"
        )));
    };
    if input.datatype != *datatype {
        let sent: String = input.datatype.chars().take(100).collect();
        return Err(ApiError::BadRequest(format!("input `{name}` is of type {datatype}, not `{sent}`")));
    }
    let count = count(service, name, one, &input.shape)?;
    match (*name, binary, input.data) {
        (_, Some(_), Some(_)) => Err(ApiError::BadRequest(format!(
            "input `{name}` has both `data` and `binary_data_size`; one of them is taken"
        ))),
        (_, None, None) => Err(ApiError::BadRequest(format!(
            "input `{name}` has neither `data` nor the parameter `binary_data_size`"
        ))),
        (IMAGE, Some(bytes), None) => binary_photos(count, bytes),
        (IMAGE, None, Some(data)) => json_photos(service, count, data),
        (PIXEL_VALUES, Some(bytes), None) => binary_values(service, count, one, &bytes),
        (PIXEL_VALUES, None, Some(data)) => json_values(service, count, one, data),
        (_, Some(bytes), None) => binary_pixels(service, info, count, &bytes),
        (_, None, Some(data)) => json_pixels(service, info, count, data),
    }
}

/// The number of images that a shape tells of.
fn count(service: &Service, name: &str, one: &[usize], shape: &Few<u64>) -> Result<usize, ApiError> {
    let (first, rest) = shape.0.split_first().unwrap_or((&0, &[]));
    let same = rest.len() == one.len()
        && rest.iter().zip(one).all(|(sent, wanted)| usize::try_from(*sent) == Ok(*wanted));
    // Photos also without their second dimension.
    let flat = name == IMAGE && shape.0.len() == 1;
    if !same && !flat {
        let wanted: Vec<_> = one.iter().map(ToString::to_string).collect();
        return Err(ApiError::BadRequest(format!(
            "input `{name}` has shape {:?}; it must be [n, {}]",
            shape.0,
            wanted.join(", ")
        )));
    }
    let limit = service.settings().photos_per_request();
    match usize::try_from(*first) {
        Ok(0) => Err(ApiError::BadRequest(format!("input `{name}` holds no image"))),
        Ok(count) if count <= limit => Ok(count),
        other => Err(EngineError::TooManyPhotos { sent: other.unwrap_or(usize::MAX), limit }.into()),
    }
}

/// Promises memory for a copy of `count` images of `one` bytes each. A body takes half of all memory at most, and its copies the
/// other half: more never find room.
fn promise(service: &Service, count: usize, one: usize) -> Result<Arc<Reservation>, ApiError> {
    let half = service.settings().max_inflight_bytes / 2;
    let room = usize::try_from(half).unwrap_or(usize::MAX) / one.max(1);
    match room {
        0 => Err(ApiError::BodyTooLarge { limit: half }),
        limit if limit < count => Err(ApiError::TooManyPhotos { limit }),
        _ => service.promise(count as u64 * one as u64).map(Arc::new),
    }
}

fn wrong_size(name: &str, found: usize, wanted: usize) -> ApiError {
    ApiError::BadRequest(format!("input `{name}` has {found} bytes of binary data; its shape takes {wanted}"))
}

/// Each with four bytes of length before it, little-endian; slices of the body, not copies.
fn binary_photos(count: usize, mut bytes: Bytes) -> Result<Vec<Input>, ApiError> {
    let cut = |index: usize| {
        ApiError::BadRequest(format!(
            "the binary data of input `{IMAGE}` ends within element {index} of {count}"
        ))
    };
    let mut inputs = Vec::with_capacity(count);
    for index in 0..count {
        let length = bytes.try_get_u32_le().map_err(|_| cut(index))?;
        let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
        inputs.push(Input::Photo(bytes.split_to(length.ok_or_else(|| cut(index))?)));
    }
    if !bytes.is_empty() {
        let left = bytes.len();
        return Err(ApiError::BadRequest(format!(
            "{left} bytes are left of input `{IMAGE}` after {count} elements"
        )));
    }
    Ok(inputs)
}

/// JSON holds no bytes: each is base64.
fn json_photos(service: &Service, count: usize, data: &RawValue) -> Result<Vec<Input>, ApiError> {
    let promised = Arc::new(service.promise(decoded_length(data.get().len()))?);
    let mut inputs = Vec::with_capacity(count);
    for text in texts(data.get()) {
        let text = text.map_err(|reason| unusable(IMAGE, &reason))?;
        if inputs.len() == count {
            return Err(unusable(IMAGE, &format!("more than {count} elements")));
        }
        let bytes = decode(text).map_err(|error| {
            unusable(IMAGE, &format!("element {} is no base64 text: {error}", inputs.len()))
        })?;
        inputs.push(Input::Photo(promised.clone().hold(bytes)));
    }
    if inputs.len() < count {
        return Err(unusable(IMAGE, &format!("{} elements, the shape tells of {count}", inputs.len())));
    }
    Ok(inputs)
}

fn binary_values(
    service: &Service,
    count: usize,
    one: &[usize],
    bytes: &Bytes,
) -> Result<Vec<Input>, ApiError> {
    let values: usize = one.iter().product();
    let wanted = count.saturating_mul(values).saturating_mul(4);
    if bytes.len() != wanted {
        return Err(wrong_size(PIXEL_VALUES, bytes.len(), wanted));
    }
    let promised = promise(service, count, values * 4)?;
    let number = |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let images = bytes.chunks_exact(values * 4).map(|image| image.chunks_exact(4).map(number).collect());
    tensors(images, promised)
}

fn json_values(
    service: &Service,
    count: usize,
    one: &[usize],
    data: &RawValue,
) -> Result<Vec<Input>, ApiError> {
    let values: usize = one.iter().product();
    let promised = promise(service, count, values * 4)?;
    let mut images: Vec<Vec<f32>> = Vec::with_capacity(count);
    data::numbers(data, &mut |number| {
        if images.last().is_none_or(|image| image.len() == values) {
            if images.len() == count {
                return Err(format!("more than {count} × {values} numbers"));
            }
            images.push(Vec::with_capacity(values));
        }
        if let Some(image) = images.last_mut() {
            image.push(number as f32);
        }
        Ok(())
    })
    .map_err(|reason| unusable(PIXEL_VALUES, &reason))?;
    whole(PIXEL_VALUES, images.len(), images.last().map_or(0, Vec::len), count, values)?;
    tensors(images.into_iter(), promised)
}

/// Finite values only: what is none gives no scores either, and that is then no fault of the service.
fn tensors(
    images: impl Iterator<Item = Vec<f32>>,
    promised: Arc<Reservation>,
) -> Result<Vec<Input>, ApiError> {
    let checked =
        images.enumerate().map(|(index, image)| match image.iter().all(|value| value.is_finite()) {
            true => Ok(Input::Tensor(Held::new(image, promised.clone()))),
            false => Err(unusable(
                PIXEL_VALUES,
                &format!("image {index} holds a value that is no finite number of 32 bits"),
            )),
        });
    checked.collect()
}

fn binary_pixels(
    service: &Service,
    info: &ModelInfo,
    count: usize,
    bytes: &Bytes,
) -> Result<Vec<Input>, ApiError> {
    let one = info.height * info.width * 3;
    let wanted = count.saturating_mul(one);
    if bytes.len() != wanted {
        return Err(wrong_size(PIXELS, bytes.len(), wanted));
    }
    let promised = promise(service, count, one)?;
    pixels(info, bytes.chunks_exact(one).map(<[u8]>::to_vec), promised)
}

fn json_pixels(
    service: &Service,
    info: &ModelInfo,
    count: usize,
    data: &RawValue,
) -> Result<Vec<Input>, ApiError> {
    let one = info.height * info.width * 3;
    let promised = promise(service, count, one)?;
    let mut images: Vec<Vec<u8>> = Vec::with_capacity(count);
    data::numbers(data, &mut |number| {
        if images.last().is_none_or(|image| image.len() == one) {
            if images.len() == count {
                return Err(format!("more than {count} × {one} numbers"));
            }
            images.push(Vec::with_capacity(one));
        }
        if number.fract() != 0.0 || !(0.0..=255.0).contains(&number) {
            return Err(format!("{number} is no whole number from 0 to 255"));
        }
        if let Some(image) = images.last_mut() {
            image.push(number as u8);
        }
        Ok(())
    })
    .map_err(|reason| unusable(PIXELS, &reason))?;
    whole(PIXELS, images.len(), images.last().map_or(0, Vec::len), count, one)?;
    pixels(info, images.into_iter(), promised)
}

fn pixels(
    info: &ModelInfo,
    images: impl Iterator<Item = Vec<u8>>,
    promised: Arc<Reservation>,
) -> Result<Vec<Input>, ApiError> {
    let ModelInfo { height, width, .. } = *info;
    let input = |image| {
        let pixels = Pixels::new(width, height, image)?;
        Ok(Input::Pixels(Held::new(pixels, promised.clone())))
    };
    images.map(input).collect()
}

/// Whether the last of `images` is there, and whole.
fn whole(name: &str, images: usize, last: usize, count: usize, one: usize) -> Result<(), ApiError> {
    if images == count && last == one {
        return Ok(());
    }
    let found = images.saturating_sub(1) * one + last;
    Err(unusable(name, &format!("{found} numbers, the shape tells of {}", count.saturating_mul(one))))
}

fn unusable(name: &str, reason: &str) -> ApiError {
    ApiError::BadRequest(format!("`data` of input `{name}` cannot be used: {reason}"))
}

/// JSON data, flat or nested in any depth, handed on number by number.
mod data {
    use std::fmt;

    use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
    use serde_json::value::RawValue;

    type Take<'a> = dyn FnMut(f64) -> Result<(), String> + 'a;

    /// Every number, in order.
    pub(super) fn numbers(data: &RawValue, take: &mut Take<'_>) -> Result<(), String> {
        let mut json = serde_json::Deserializer::from_str(data.get());
        Walk(take).deserialize(&mut json).map_err(|error| error.to_string())
    }

    struct Walk<'a, 'b>(&'a mut Take<'b>);

    impl<'de> DeserializeSeed<'de> for Walk<'_, '_> {
        type Value = ();

        fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
            deserializer.deserialize_any(self)
        }
    }

    impl<'de> Visitor<'de> for Walk<'_, '_> {
        type Value = ();

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("numbers, in lists")
        }

        fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
            self.0(number as f64).map_err(E::custom)
        }

        fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
            self.0(number as f64).map_err(E::custom)
        }

        fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
            self.0(number).map_err(E::custom)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
            while list.next_element_seed(Walk(self.0))?.is_some() {}
            Ok(())
        }
    }
}
