//! `{"inputs": "<base64>", "parameters": {"top_k": 5, "function_to_apply": "softmax"}}`, or `{"url": "https://…"}`.
//!
//! Called by `submission.rs`. `inputs` may be a list of such texts; a URL is handed on, not fetched here. Standard and URL-safe
//! base64 are taken, with and without padding, also as a `data:` URL. Unknown fields are refused by name.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, de};

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
    inputs: Option<Inputs<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    url: Option<Text<'a>>,
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

/// One text or a list of them; borrowed from the body where it holds no escapes. Of a list that is longer than any may be, so much
/// as shows it.
struct Inputs<'a>(Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Inputs<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputsVisitor)
    }
}

struct InputsVisitor;

impl<'de> Visitor<'de> for InputsVisitor {
    type Value = Inputs<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a photo as base64 text, or a list of them, in `inputs`")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Inputs(vec![Cow::Borrowed(text)]))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Inputs(vec![Cow::Owned(text.to_owned())]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut texts = Vec::new();
        while let Some(Text(text)) = list.next_element()? {
            texts.push(text);
            if texts.len() > MOST_PHOTOS_PER_REQUEST {
                while list.next_element::<de::IgnoredAny>()?.is_some() {}
                break;
            }
        }
        Ok(Inputs(texts))
    }
}

/// A text, borrowed where possible.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Whether a body without a type is a JSON object; no photo is one.
pub(super) fn looks_like(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<de::IgnoredAny>(body).is_ok()
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
    let Inputs(texts) = match (request.inputs, request.url) {
        (Some(inputs), None) => inputs,
        (None, Some(Text(url))) => return Ok(Content::Url { url: url.into_owned(), parameters }),
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
    let length: usize = texts.iter().map(|text| text.len()).sum();
    let reservation = Arc::new(service.promise(length as u64 / 4 * 3)?);
    let photo = |(index, text): (usize, &Cow<'_, str>)| {
        let bytes = decode(text).map_err(|error| {
            ApiError::BadRequest(format!("`inputs` (photo {index}) is no base64 text: {error}"))
        })?;
        Ok(Photo { file: format!("inputs[{index}]"), bytes: reservation.clone().hold(bytes) })
    };
    let photos = texts.iter().enumerate().map(photo).collect::<Result<_, ApiError>>()?;
    Ok(Content::Photos(Submission { photos, parameters }))
}

/// Reads base64 in any of its spellings.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let text = match text.split_once(',') {
        Some((head, rest)) if head.trim_start().starts_with("data:") => rest,
        _ => text,
    };
    let mut text = Cow::Borrowed(text);
    if text.bytes().any(|byte| byte.is_ascii_whitespace()) {
        text = Cow::Owned(text.split_ascii_whitespace().collect());
    }
    let alphabet = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config).decode(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_taken_in_both_alphabets_with_and_without_padding_and_as_a_data_url() {
        let want = [251, 255, 190, 1];
        for text in
            ["+/++AQ==", "+/++AQ", "-_--AQ==", "-_--AQ", "data:image/png;base64,+/++AQ==", "+/++\r\nAQ=="]
        {
            assert_eq!(decode(text).as_deref(), Ok(&want[..]), "{text}");
        }
        assert!(decode("+/++A!").is_err());
    }

    #[test]
    fn only_a_whole_json_object_looks_like_one() {
        assert!(looks_like(b" {\"inputs\": \"\"}"));
        assert!(!looks_like(b"{ not json"));
        assert!(!looks_like(b"\x89PNG"));
    }
}
