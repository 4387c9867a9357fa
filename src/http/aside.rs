//! Work that takes its time: not on a thread that speaks to other clients.
//!
//! `submission.rs` and `open_inference/infer.rs` parse large JSON through [`parse`].

use super::error::ApiError;

/// What is parsed at once: it takes a millisecond or two, and a thread of its own would cost more than it spares.
const SMALL: usize = 256 * 1024;

/// Parses `length` bytes, on a thread that may block where they are many.
///
/// # Errors
/// Those of `parsing`; `Internal` where it panics.
pub(super) async fn parse<T: Send + 'static>(
    length: usize,
    parsing: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if length <= SMALL {
        return parsing();
    }
    let parsed = tokio::task::spawn_blocking(parsing).await;
    parsed.map_err(|error| ApiError::Internal(format!("a request was not parsed: {error}")))?
}
