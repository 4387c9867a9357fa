//! `multipart/form-data`: files are photos, `top_k` and `function_to_apply` are parameters.
//!
//! Called by `submission.rs` with the whole body. A field that is neither is refused by name.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyDataStream, Full};

use super::error::ApiError;
use super::parameters::{KNOWN, Parameters};
use super::state::Service;
use super::submission::{Photo, Submission};

/// Takes a form apart.
///
/// # Errors
/// `BadRequest` for a form that is not well-formed or holds an unknown field; `Overloaded` when the memory for the
/// files' bytes is in use.
pub(super) async fn parse(service: &Service, body: Bytes, boundary: String) -> Result<Submission, ApiError> {
    // The parser copies each field out of the body: for a moment both exist.
    let reservation = service.bodies().reserve(body.len() as u64);
    let reservation = Arc::new(
        reservation.ok_or_else(|| ApiError::Overloaded { retry_after: service.engine().retry_after() })?,
    );
    let mut form = multer::Multipart::new(BodyDataStream::new(Full::new(body)), boundary);
    let (mut photos, mut parameters) = (Vec::new(), Parameters::default());
    while let Some(field) = form.next_field().await.map_err(malformed)? {
        let name = field.name().unwrap_or_default().to_owned();
        let file = field.file_name().map(str::to_owned);
        let image = field.content_type().is_some_and(|kind| kind.type_() == "image");
        match file {
            // A browser sends a file field nobody filled in as an empty file without a name.
            Some(file) if file.is_empty() => {
                let bytes = field.bytes().await.map_err(malformed)?;
                if !bytes.is_empty() {
                    photos.push(Photo { file: name, bytes: reservation.clone().hold(bytes) });
                }
            }
            None if !image => {
                let value = field.text().await.map_err(malformed)?;
                if !parameters.set(&name, &value)? {
                    return Err(ApiError::BadRequest(format!(
                        "the form's field `{name}` is neither a file nor one of {KNOWN}"
                    )));
                }
            }
            file => {
                let bytes = field.bytes().await.map_err(malformed)?;
                photos.push(Photo { file: file.unwrap_or(name), bytes: reservation.clone().hold(bytes) });
            }
        }
    }
    Ok(Submission { photos, parameters })
}

fn malformed(error: multer::Error) -> ApiError {
    ApiError::BadRequest(format!("the multipart form is malformed: {error}"))
}
