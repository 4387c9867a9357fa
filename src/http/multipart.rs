//! `multipart/form-data`: files are photos, `top_k` and `function_to_apply` are parameters.
//!
//! Called by `submission.rs` with the whole body. A field that is neither is refused by name. How many fields and photos there
//! may be, and how long a name or a parameter, is checked before their bytes are copied.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyDataStream, Full};

use super::error::ApiError;
use super::parameters::{KNOWN, Parameters};
use super::state::Service;
use super::submission::{Photo, Submission};

/// Fields beside the photos, at most: the parameters, and file fields that were left empty.
const OTHER_FIELDS: usize = 32;
/// Bytes of a parameter, at most.
const LONGEST_PARAMETER: usize = 1024;
/// Bytes of a name, at most: a file's or a field's.
const LONGEST_NAME: usize = 1024;

/// Takes a form apart.
///
/// # Errors
/// `BadRequest` for a form that is not well-formed, or holds an unknown field, too many of them or one that is too long;
/// `TooManyPhotos`; `Overloaded` when the memory for the files' bytes is in use.
pub(super) async fn parse(service: &Service, body: Bytes, boundary: String) -> Result<Submission, ApiError> {
    // The parser copies each field out of the body: for a moment both exist.
    let reservation = Arc::new(service.promise(body.len() as u64)?);
    let mut form = multer::Multipart::new(BodyDataStream::new(Full::new(body)), boundary);
    let (mut photos, mut parameters) = (Vec::new(), Parameters::default());
    let limit = service.settings().photos_per_request();
    let mut fields = 0;
    while let Some(field) = form.next_field().await.map_err(malformed)? {
        fields += 1;
        if fields > limit + OTHER_FIELDS {
            return Err(ApiError::BadRequest(format!(
                "the form has more than {} fields",
                limit + OTHER_FIELDS
            )));
        }
        let longest = field.name().map_or(0, str::len).max(field.file_name().map_or(0, str::len));
        if longest > LONGEST_NAME {
            return Err(ApiError::BadRequest(format!(
                "a name in the form has more than {LONGEST_NAME} bytes"
            )));
        }
        let name = field.name().unwrap_or_default().to_owned();
        let file = field.file_name().map(str::to_owned);
        let image = field.content_type().is_some_and(|kind| kind.type_() == "image");
        match file {
            // A browser sends a file field nobody filled in as an empty file without a name.
            Some(file) if file.is_empty() => {
                let bytes = field.bytes().await.map_err(malformed)?;
                if !bytes.is_empty() {
                    room_for_another(&photos, limit)?;
                    photos.push(Photo { file: name, bytes: reservation.clone().hold(bytes) });
                }
            }
            None if !image => {
                let value = text(field, &name).await?;
                if !parameters.set(&name, &value)? {
                    return Err(ApiError::BadRequest(format!(
                        "the form's field `{name}` is neither a file nor one of {KNOWN}"
                    )));
                }
            }
            file => {
                room_for_another(&photos, limit)?;
                let bytes = field.bytes().await.map_err(malformed)?;
                photos.push(Photo { file: file.unwrap_or(name), bytes: reservation.clone().hold(bytes) });
            }
        }
    }
    Ok(Submission { photos, parameters })
}

fn room_for_another(photos: &[Photo], limit: usize) -> Result<(), ApiError> {
    if photos.len() < limit { Ok(()) } else { Err(ApiError::TooManyPhotos { limit }) }
}

/// The text of a field called `name`, as far as a parameter can be long.
async fn text(mut field: multer::Field<'_>, name: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(part) = field.chunk().await.map_err(malformed)? {
        if bytes.len() + part.len() > LONGEST_PARAMETER {
            return Err(ApiError::BadRequest(format!(
                "the form's field `{name}` has more than {LONGEST_PARAMETER} bytes, and is no file: that would have a file name"
            )));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn malformed(error: multer::Error) -> ApiError {
    ApiError::BadRequest(format!("the multipart form is malformed: {error}"))
}
