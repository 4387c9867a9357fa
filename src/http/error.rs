//! The one table of errors: what went wrong → status, `error.code`, headers.
//!
//! Handlers return [`ApiError`]; `observe.rs` renders it, since only there the request's id is known. Details of
//! internal errors are logged and never sent.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::EngineError;
use crate::image::ImageError;

/// Why a request, or one photo of it, got no predictions. The text is for the client.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum ApiError {
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    UrlNotAllowed(String),
    #[error(
        "this service wants an API key, and none that it knows was sent; use `Authorization: Bearer KEY` or `x-api-key: KEY`"
    )]
    Unauthorized,
    #[error("{0}")]
    Forbidden(String),
    #[error("nothing is served at {0}; GET /docs shows what is")]
    NotFound(String),
    #[error("{0}")]
    ModelNotFound(String),
    #[error("{method} is not served at {path}")]
    MethodNotAllowed { method: String, path: String },
    #[error("the body did not arrive within {0:?}")]
    RequestTimeout(Duration),
    #[error("the body is larger than {limit} bytes")]
    BodyTooLarge { limit: u64 },
    #[error("more photos than one request may hold, which are {limit}; send several requests")]
    TooManyPhotos { limit: usize },
    #[error("the address is longer than {limit} bytes")]
    UriTooLong { limit: usize },
    #[error("the photo at `url` is larger than {limit} bytes")]
    PhotoTooLarge { limit: u64 },
    #[error("{0}")]
    UnsupportedMediaType(String),
    #[error("{0}")]
    UndecodableImage(String),
    #[error("{0}")]
    TooManyPixels(String),
    #[error("the request's head has more than {fields} fields or {bytes} bytes")]
    HeadersTooLarge { fields: usize, bytes: usize },
    #[error("{0}")]
    UrlUnreachable(String),
    #[error("the service is at its limit; try again in {} s", .retry_after.as_secs())]
    Overloaded { retry_after: Duration },
    #[error("{message}")]
    DeadlineUnmeetable { message: String, retry_after: Duration },
    #[error("the model is not loaded yet")]
    NotReady,
    #[error("the service is shutting down")]
    ShuttingDown,
    #[error("the model could not be loaded anew, and the old one goes on: {0}")]
    ReloadFailed(String),
    #[error("the device that runs the model is unavailable")]
    DeviceUnavailable(Arc<str>),
    #[error("the deadline passed before the answer")]
    DeadlineExceeded,
    #[error("an error inside the service; its log holds the details under this request id")]
    Internal(String),
    #[error("the client left")]
    ClientLeft,
}

/// The statuses a request can end with, each a label value of `http_requests_total`; 499: the client left.
pub(super) const STATUSES: [u16; 18] =
    [200, 204, 400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 422, 431, 499, 500, 503, 504];

/// The codes counted in `rejected_total`: requests or photos turned away before inference.
pub(super) const REJECTIONS: [&str; 18] = [
    "bad_request",
    "url_not_allowed",
    "unauthorized",
    "forbidden",
    "model_not_found",
    "request_timeout",
    "body_too_large",
    "too_many_photos",
    "uri_too_long",
    "unsupported_media_type",
    "undecodable_image",
    "too_many_pixels",
    "url_unreachable",
    "headers_too_large",
    "overloaded",
    "not_ready",
    "shutting_down",
    "device_unavailable",
];

/// Characters of a message, at most.
const LONGEST_MESSAGE: usize = 500;

impl ApiError {
    /// The row of the table: status and `error.code`.
    pub(super) fn row(&self) -> (u16, &'static str) {
        match self {
            Self::BadRequest(_) => (400, "bad_request"),
            Self::UrlNotAllowed(_) => (400, "url_not_allowed"),
            Self::Unauthorized => (401, "unauthorized"),
            Self::Forbidden(_) => (403, "forbidden"),
            Self::NotFound(_) => (404, "not_found"),
            Self::ModelNotFound(_) => (404, "model_not_found"),
            Self::MethodNotAllowed { .. } => (405, "method_not_allowed"),
            Self::RequestTimeout(_) => (408, "request_timeout"),
            Self::ReloadFailed(_) => (409, "reload_failed"),
            Self::BodyTooLarge { .. } | Self::PhotoTooLarge { .. } => (413, "body_too_large"),
            Self::TooManyPhotos { .. } => (413, "too_many_photos"),
            Self::UriTooLong { .. } => (414, "uri_too_long"),
            Self::UnsupportedMediaType(_) => (415, "unsupported_media_type"),
            Self::UndecodableImage(_) => (422, "undecodable_image"),
            Self::TooManyPixels(_) => (422, "too_many_pixels"),
            Self::UrlUnreachable(_) => (422, "url_unreachable"),
            Self::HeadersTooLarge { .. } => (431, "headers_too_large"),
            Self::ClientLeft => (499, "client_left"),
            Self::Internal(_) => (500, "internal"),
            Self::Overloaded { .. } | Self::DeadlineUnmeetable { .. } => (503, "overloaded"),
            Self::NotReady => (503, "not_ready"),
            Self::ShuttingDown => (503, "shutting_down"),
            Self::DeviceUnavailable(_) => (503, "device_unavailable"),
            Self::DeadlineExceeded => (504, "deadline_exceeded"),
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.row().0).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn code(&self) -> &'static str {
        self.row().1
    }

    /// When a 503 may be tried again: by the queue's measure, or the second that a start or a replacement takes.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after } | Self::DeadlineUnmeetable { retry_after, .. } => {
                Some(*retry_after)
            }
            Self::NotReady | Self::ShuttingDown => Some(Duration::from_secs(1)),
            Self::DeviceUnavailable(_) => Some(Duration::from_secs(30)),
            _ => None,
        }
    }

    /// Writes what the operator should know; clients' mistakes are no news. The request's span says whose it was.
    pub(super) fn log(&self) {
        match self {
            Self::Internal(detail) => tracing::error!(detail, "internal error"),
            Self::DeviceUnavailable(reason) => {
                tracing::warn!(reason = &**reason, "refused: the device is unavailable");
            }
            _ => {}
        }
    }

    /// The `error` object.
    pub(super) fn body<'a>(&self, request_id: &'a str) -> ErrorBody<'a> {
        let mut message = self.to_string();
        // What a client sent may stand in it: an answer never grows with that.
        if let Some((end, _)) = message.char_indices().nth(LONGEST_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        ErrorBody { code: self.code(), message, request_id }
    }

    /// The body of an answer, as text.
    pub(super) fn text(&self, request_id: &str) -> String {
        // Never fails: strings under fixed names.
        serde_json::to_string(&Envelope { error: self.body(request_id) }).unwrap_or_default()
    }

    /// The same error, with the photo that it is about before its words.
    pub(super) fn about(self, photo: &str) -> Self {
        let named = |message: String| format!("{photo}: {message}");
        match self {
            Self::BadRequest(message) => Self::BadRequest(named(message)),
            Self::UnsupportedMediaType(message) => Self::UnsupportedMediaType(named(message)),
            Self::UndecodableImage(message) => Self::UndecodableImage(named(message)),
            Self::TooManyPixels(message) => Self::TooManyPixels(named(message)),
            other => other,
        }
    }

    /// The whole answer.
    pub(super) fn render(&self, request_id: &str, shape: Shape) -> Response {
        let mut response = match shape {
            Shape::Own => axum::Json(Envelope { error: self.body(request_id) }).into_response(),
            Shape::OpenInference => {
                axum::Json(Plain { error: self.body(request_id).message }).into_response()
            }
        };
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        if let Some(time) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(time.as_secs()));
        }
        if matches!(self, Self::Unauthorized) {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// The `error` object of an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ErrorBody<'a> {
    /// For programs.
    code: &'static str,
    /// For people.
    message: String,
    /// As in `x-request-id`.
    request_id: &'a str,
}

/// An error.
#[derive(Serialize, ToSchema)]
pub(super) struct Envelope<'a> {
    #[schema(inline)]
    error: ErrorBody<'a>,
}

/// As the Open Inference Protocol has it.
#[derive(Serialize, ToSchema)]
pub(super) struct Plain {
    error: String,
}

/// What the JSON of an error looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `{"error": {"code": …, "message": …, "request_id": …}}`
    Own,
    /// `{"error": "…"}`
    OpenInference,
}

impl Shape {
    /// By the path, so that errors of the layers around a resource have the shape of the resource.
    pub(super) fn of(path: &str) -> Self {
        let protocol = path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if protocol { Self::OpenInference } else { Self::Own }
    }
}

impl IntoResponse for ApiError {
    /// A bare status that carries the error; `observe.rs` turns it into the full answer.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            // Memory that a photo does not find now is a limit of the service like a full queue.
            EngineError::Overloaded { retry_after } | EngineError::OutOfMemory { retry_after } => {
                Self::Overloaded { retry_after }
            }
            EngineError::DeadlineUnmeetable { retry_after, .. } => {
                Self::DeadlineUnmeetable { message: error.to_string(), retry_after }
            }
            EngineError::ShuttingDown => Self::ShuttingDown,
            EngineError::DeviceUnavailable { reason } => Self::DeviceUnavailable(reason),
            EngineError::DeadlineExceeded => Self::DeadlineExceeded,
            EngineError::TooManyPhotos { limit, .. } => Self::TooManyPhotos { limit },
            EngineError::PixelSize { .. } | EngineError::TensorSize { .. } => {
                Self::BadRequest(error.to_string())
            }
            EngineError::Load { reason } => Self::ReloadFailed(reason),
            EngineError::Photo(error) => Self::from(error),
            EngineError::NonFinite => Self::Internal("the model's scores are not finite".to_owned()),
            EngineError::Internal(detail) => Self::Internal(detail),
        }
    }
}

impl From<ImageError> for ApiError {
    fn from(error: ImageError) -> Self {
        let message = error.to_string();
        match error {
            ImageError::UnsupportedFormat { .. } => Self::UnsupportedMediaType(message),
            ImageError::TooManyPixels { .. } | ImageError::TooMuchMemory { .. } => {
                Self::TooManyPixels(message)
            }
            // The last two: a photo of such proportions that nothing is left of it after resizing.
            ImageError::Undecodable { .. } | ImageError::Shape { .. } | ImageError::Geometry { .. } => {
                Self::UndecodableImage(message)
            }
        }
    }
}
