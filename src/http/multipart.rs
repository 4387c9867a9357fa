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
    // The parser copies the whole body, and every file is a slice of that copy: the promise lives as long as one of them.
    let reservation = Arc::new(service.promise(body.len() as u64)?);
    let mut form = multer::Multipart::new(BodyDataStream::new(Full::new(body)), boundary);
    let (mut photos, mut parameters) = (Vec::new(), Parameters::default());
    let limit = service.settings().photos_per_request();
    let mut fields = 0;
    while let Some(field) = form.next_field().await.map_err(malformed)? {
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
                let bytes = whole(field).await?;
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
                let bytes = whole(field).await?;
                photos.push(Photo { file: file.unwrap_or(name), bytes: reservation.clone().hold(bytes) });
            }
        }
        fields += 1;
        if fields > photos.len() + OTHER_FIELDS {
            return Err(ApiError::BadRequest(format!(
                "the form has more than {OTHER_FIELDS} fields beside its photos"
            )));
        }
    }
    Ok(Submission { photos, parameters })
}

/// The bytes of a file, where possible without another copy: of a body that is there as a whole the parser makes one piece.
async fn whole(mut field: multer::Field<'_>) -> Result<Bytes, ApiError> {
    let Some(first) = field.chunk().await.map_err(malformed)? else { return Ok(Bytes::new()) };
    let Some(second) = field.chunk().await.map_err(malformed)? else { return Ok(first) };
    let mut bytes = [first, second].concat();
    while let Some(next) = field.chunk().await.map_err(malformed)? {
        bytes.extend_from_slice(&next);
    }
    Ok(bytes.into())
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use hyper::body::{Body, Frame};

    use super::*;

    const FORM: &[u8] =
        b"--x\r\ncontent-disposition: form-data; name=\"a\"; filename=\"a\"\r\n\r\nthe bytes \r\n of it\r\n--x--\r\n";

    /// A body that pauses before each of its pieces, so that the parser looks at every one by itself.
    struct Pieces {
        left: VecDeque<Bytes>,
        paused: bool,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.paused = !self.paused;
            if self.paused {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    #[tokio::test]
    async fn a_file_is_whole_in_however_many_pieces_its_form_comes() {
        for size in [1, 7, FORM.len()] {
            let left = FORM.chunks(size).map(Bytes::copy_from_slice).collect();
            let body = BodyDataStream::new(Pieces { left, paused: false });
            let mut form = multer::Multipart::new(body, "x");
            let field = form.next_field().await.expect("a form").expect("a field");
            let bytes = whole(field).await.map_err(|error| error.to_string());
            assert_eq!(bytes.as_deref(), Ok(&b"the bytes \r\n of it"[..]), "pieces of {size}");
        }
    }

    #[tokio::test]
    async fn of_a_whole_body_the_parser_makes_one_piece_of_a_file() {
        let body = BodyDataStream::new(Full::new(Bytes::from_static(FORM)));
        let mut form = multer::Multipart::new(body, "x");
        let mut field = form.next_field().await.expect("a form").expect("a field");
        let first = field.chunk().await.expect("bytes");
        assert_eq!(first.as_deref(), Some(&b"the bytes \r\n of it"[..]));
        assert_eq!(field.chunk().await.expect("an end"), None);
    }
}
