//! Reading a request's body: within its size, its time and the memory all bodies share.
//!
//! `classify.rs` and `open_inference` read through [`read`]. Nothing here looks into a body.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::budget::Gathering;
use super::error::ApiError;
use super::state::Service;

/// Reads a whole body that began to arrive at `start`, for a request whose answer is due at `deadline`.
///
/// # Errors
/// `BodyTooLarge` at once by `Content-Length`, or when the limit is crossed; `RequestTimeout` when it comes too slowly;
/// `Overloaded` when the memory for bodies is in use; `ClientLeft` when it breaks off, `BadRequest` when it is malformed; the
/// engine's reason when it stops being ready meanwhile.
pub(super) async fn read(
    service: &Service,
    mut body: Body,
    start: Instant,
    deadline: Instant,
) -> Result<Bytes, ApiError> {
    let settings = service.settings();
    let limit = settings.body_limit();
    let patience = settings.body_timeout.min(deadline.saturating_duration_since(start));
    let end = tokio::time::Instant::from_std(start + patience);

    // The exact length where the client gave one (`Content-Length`); a chunked body says nothing.
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| length > limit) {
        return Err(ApiError::BodyTooLarge { limit });
    }
    // What would find no room now is not begun; but a length alone is promised nothing.
    if !service.bodies().has(declared.unwrap_or(0)) {
        return Err(service.overloaded());
    }
    let mut gathering = Gathering::new(service.bodies());
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            closed = service.closed(deadline) => return Err(closed),
            () = tokio::time::sleep_until(end) => return Err(ApiError::RequestTimeout(rounded(patience))),
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        if gathering.len() + data.len() as u64 > limit {
            return Err(ApiError::BodyTooLarge { limit });
        }
        if !gathering.keep(&data, declared.unwrap_or(limit)) {
            return Err(service.overloaded());
        }
    }
    Ok(gathering.finish())
}

/// Why a body ended early. A client whose chunks are malformed is still there; any other has gone.
fn broken(error: axum::Error) -> ApiError {
    let causes = std::iter::successors(Some(&error as &dyn Error), |error| (*error).source());
    let kind = causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind).next();
    match kind {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => ApiError::BadRequest(
            "the body is malformed: its chunks are not as `transfer-encoding: chunked` has them".to_owned(),
        ),
        _ => ApiError::ClientLeft,
    }
}

/// A duration fit for a message.
fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
