//! What a client sent: photos and parameters, whatever the encoding.
//!
//! `classify.rs` asks [`Encoding::of`] before it reads the body, so that a wrong type is refused unread, and
//! [`parse`] after. The encodings themselves are in `json.rs` and `multipart.rs`; a photo by its URL is fetched by
//! `remote_photo`. No photo is decoded here.

use std::time::Instant;

use axum::http::{HeaderMap, header};
use bytes::Bytes;

use super::error::ApiError;
use super::parameters::Parameters;
use super::state::Service;
use super::{aside, json, multipart, remote_photo};

/// One photo of a request.
#[derive(Debug)]
pub(super) struct Photo {
    /// Its name among several: the file's name, or the field's.
    pub(super) file: String,
    /// As sent, encoded.
    pub(super) bytes: Bytes,
}

/// The content of a request.
#[derive(Debug)]
pub(super) struct Submission {
    /// At least one, in the order sent.
    pub(super) photos: Vec<Photo>,
    /// From the body alone.
    pub(super) parameters: Parameters,
}

/// How a body holds its photos.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// The body is the photo.
    Raw,
    /// `{"inputs": "<base64>", …}` or `{"url": "https://…"}`.
    Json,
    /// A form with files.
    Multipart {
        /// The line between its parts.
        boundary: String,
    },
    /// The type says nothing: JSON if it is JSON, otherwise a photo.
    Unknown,
}

impl Encoding {
    /// By the content type.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(Self::Unknown) };
        let text = String::from_utf8_lossy(value.as_bytes());
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            // What `curl --data-binary` sends when nobody tells it the type.
            "" | "application/octet-stream" | "application/x-www-form-urlencoded" => Ok(Self::Unknown),
            "application/json" => Ok(Self::Json),
            "multipart/form-data" => {
                let boundary = multer::parse_boundary(&*text).map_err(|_| {
                    ApiError::BadRequest("multipart/form-data without its `boundary`".to_owned())
                })?;
                Ok(Self::Multipart { boundary })
            }
            image if image.starts_with("image/") => Ok(Self::Raw),
            other => Err(ApiError::UnsupportedMediaType(format!(
                "`{other}` is not served; send image/*, application/octet-stream, multipart/form-data or application/json"
            ))),
        }
    }
}

/// Takes a whole body apart; a photo by its URL is fetched until `deadline`, at the longest.
pub(super) async fn parse(
    service: &Service,
    encoding: Encoding,
    body: Bytes,
    deadline: Instant,
) -> Result<Submission, ApiError> {
    let submission = match encoding {
        Encoding::Raw => raw(body),
        Encoding::Json => from_json(service, body, false, deadline).await?,
        Encoding::Multipart { boundary } => multipart::parse(service, body, boundary).await?,
        Encoding::Unknown if json::may_be(&body) => from_json(service, body, true, deadline).await?,
        Encoding::Unknown => raw(body),
    };
    if submission.photos.is_empty() {
        return Err(ApiError::BadRequest("the request holds no photo".to_owned()));
    }
    Ok(submission)
}

/// Takes JSON apart; `doubtful` JSON may be a photo.
async fn from_json(
    service: &Service,
    body: Bytes,
    doubtful: bool,
    deadline: Instant,
) -> Result<Submission, ApiError> {
    let parsing = {
        let (service, body) = (service.clone(), body.clone());
        move || match doubtful && !json::is_one(&body) {
            true => Ok(None),
            false => json::parse(&service, &body).map(Some),
        }
    };
    match aside::parse(body.len(), parsing).await? {
        None => Ok(raw(body)),
        Some(json::Content::Photos(submission)) => Ok(submission),
        Some(json::Content::Url { url, parameters }) => {
            // Its memory is free again before the photo takes some.
            drop(body);
            let bytes = remote_photo::fetch(service, &url, deadline).await?;
            Ok(Submission { photos: vec![Photo { file: "url".to_owned(), bytes }], parameters })
        }
    }
}

fn raw(bytes: Bytes) -> Submission {
    let photo = Photo { file: "photo".to_owned(), bytes };
    Submission { photos: vec![photo], parameters: Parameters::default() }
}
