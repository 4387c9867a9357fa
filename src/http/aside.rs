//! Work that takes its time: not on a thread that speaks to other clients.
//!
//! `submission.rs` and `open_inference/infer.rs` parse large JSON through [`parse`].

use tokio::task::JoinError;

use super::error::ApiError;

/// What is parsed at once: it takes a millisecond or two, and a thread of its own would cost more than it spares.
const SMALL: usize = 256 * 1024;

/// Parses `length` bytes, on a thread that may block where they are many.
///
/// # Errors
/// Those of `parsing`. A panic goes on here, as if it had been parsed at once.
pub(super) async fn parse<T: Send + 'static>(
    length: usize,
    parsing: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if length <= SMALL {
        return parsing();
    }
    joined(tokio::task::spawn_blocking(parsing).await)?
}

/// What a task of this request's came to; its panic is the request's, and is counted and answered as such.
///
/// # Errors
/// `Internal` where the runtime ends before it.
pub(super) fn joined<T>(outcome: Result<T, JoinError>) -> Result<T, ApiError> {
    outcome.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(error) => ApiError::Internal(format!("a task of the request did not end: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_a_thread_aside_is_the_requests_own() {
        let request = tokio::spawn(parse::<()>(SMALL + 1, || panic!("a parser's bug")));
        assert!(request.await.expect_err("a panic").is_panic());
    }
}
