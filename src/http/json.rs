//! `{"inputs": "<base64>", "parameters": {"top_k": 5, "function_to_apply": "softmax"}}`, or `{"url": "https://…"}`.
//!
//! Called by `submission.rs`. `inputs` may be a list of such texts, which `base64_text.rs` reads where they lie; a URL is handed on, not
//! fetched here. Unknown fields are refused by name.

use std::fmt;
use std::sync::Arc;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;

use super::base64_text::{decode, decoded_length};
use super::error::ApiError;
use super::parameters::Parameters;
use super::settings::MOST_PHOTOS_PER_REQUEST;
use super::state::Service;
use super::strict::Object;
use super::submission::{Photo, Submission};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request<'a> {
    #[serde(borrow, default, deserialize_with = "given")]
    inputs: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "given")]
    url: Option<&'a RawValue>,
    #[serde(default)]
    parameters: Option<Object<Settings>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    top_k: Option<NumberText>,
    function_to_apply: Option<String>,
}

/// A field that is not null where it is there.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// A number as text, which the one check for all encodings reads. Nothing nested: a list of nothings is many times larger in
/// memory than in the body.
struct NumberText(String);

impl<'de> Deserialize<'de> for NumberText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberTextVisitor;

        impl Visitor<'_> for NumberTextVisitor {
            type Value = NumberText;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a whole number from 1")
            }

            fn visit_u64<E>(self, value: u64) -> Result<NumberText, E> {
                Ok(NumberText(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<NumberText, E> {
                Ok(NumberText(value.to_string()))
            }

            /// `5.0` is a whole number of JSON too, and written without its fraction.
            fn visit_f64<E>(self, value: f64) -> Result<NumberText, E> {
                Ok(NumberText(value.to_string()))
            }
        }

        deserializer.deserialize_any(NumberTextVisitor)
    }
}

/// The texts of a list, as they are written. Of a list that is longer than any may be, so much as shows it.
struct List<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for List<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;

        impl<'de> Visitor<'de> for ListVisitor {
            type Value = List<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                    if texts.len() > MOST_PHOTOS_PER_REQUEST {
                        while list.next_element::<de::IgnoredAny>()?.is_some() {}
                        break;
                    }
                }
                Ok(List(texts))
            }
        }

        deserializer.deserialize_seq(ListVisitor)
    }
}

/// What stands between the quotes of each text in `inputs`: one, or a list of them.
fn texts(inputs: &RawValue) -> Result<Vec<&str>, ApiError> {
    let wrong =
        || ApiError::BadRequest("`inputs` must be a photo as base64 text, or a list of them".to_owned());
    let List(values) = match inputs.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(inputs.get()).map_err(|_| wrong())?,
        _ => List(vec![inputs]),
    };
    let quoted = values.into_iter().map(RawValue::get);
    quoted.map(|text| text.strip_prefix('"')?.strip_suffix('"')).map(|text| text.ok_or_else(wrong)).collect()
}

/// The longest text of a URL that is looked at: more than any URL that is taken, with all its characters escaped.
const LONGEST_URL: usize = 64 * 1024;

fn url(value: &RawValue) -> Result<String, ApiError> {
    if value.get().len() > LONGEST_URL {
        return Err(ApiError::BadRequest(format!("`url` has more than {LONGEST_URL} bytes")));
    }
    serde_json::from_str(value.get())
        .map_err(|_| ApiError::BadRequest("`url` must be the address of a photo, as text".to_owned()))
}

/// Whether a body without a type may be a JSON object.
pub(super) fn may_be(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{")
}

/// Whether it is one; no photo is.
pub(super) fn is_one(body: &[u8]) -> bool {
    may_be(body) && serde_json::from_slice::<de::IgnoredAny>(body).is_ok()
}

/// What a JSON body holds.
#[derive(Debug)]
pub(super) enum Content {
    /// Photos.
    Photos(Submission),
    /// Where one is.
    Url {
        /// As sent.
        url: String,
        /// Those beside it.
        parameters: Parameters,
    },
}

/// Takes a JSON body apart.
///
/// # Errors
/// `BadRequest` naming what is wrong; `TooManyPhotos`; `Overloaded` when the memory for the decoded photos is in use.
pub(super) fn parse(service: &Service, body: &[u8]) -> Result<Content, ApiError> {
    let Object(request): Object<Request<'_>> = serde_json::from_slice(body)
        .map_err(|error| ApiError::BadRequest(format!("the JSON body cannot be used: {error}")))?;
    let mut parameters = Parameters::default();
    if let Some(Object(settings)) = request.parameters {
        if let Some(value) = settings.top_k {
            parameters.set("top_k", &value.0)?;
        }
        if let Some(name) = settings.function_to_apply {
            parameters.set("function_to_apply", &name)?;
        }
    }
    let texts = match (request.inputs, request.url) {
        (Some(inputs), None) => texts(inputs)?,
        (None, Some(value)) => return Ok(Content::Url { url: url(value)?, parameters }),
        (Some(_), Some(_)) => {
            return Err(ApiError::BadRequest(
                "`inputs` and `url` are given; one of them is taken".to_owned(),
            ));
        }
        (None, None) => {
            return Err(ApiError::BadRequest("the JSON body holds neither `inputs` nor `url`".to_owned()));
        }
    };
    let limit = service.settings().photos_per_request();
    if texts.len() > limit {
        return Err(ApiError::TooManyPhotos { limit });
    }
    let length = texts.iter().map(|text| decoded_length(text.len())).sum();
    let reservation = Arc::new(service.promise(length)?);
    let photo = |(index, text): (usize, &&str)| {
        let bytes = decode(text).map_err(|error| {
            ApiError::BadRequest(format!("`inputs` (photo {index}) is no base64 text: {error}"))
        })?;
        Ok(Photo { file: format!("inputs[{index}]"), bytes: reservation.clone().hold(bytes) })
    };
    let photos = texts.iter().enumerate().map(photo).collect::<Result<_, ApiError>>()?;
    Ok(Content::Photos(Submission { photos, parameters }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_json_object_looks_like_one() {
        assert!(is_one(b" {\"inputs\": \"\"}"));
        assert!(may_be(b"{ not json") && !is_one(b"{ not json"));
        assert!(!is_one(b"\x89PNG"));
    }
}
