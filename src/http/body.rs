//! Reading a request's body: within its size, its time and the memory all bodies share.
//!
//! `classify.rs` reads through [`read`]. Memory is promised before it is taken and held as long as the bytes live,
//! through every stage up to the decoder. Nothing here looks into a body.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body as _;

use super::error::ApiError;
use super::state::Service;

/// Bytes promised to bodies in flight.
#[derive(Debug, Clone)]
pub(super) struct ByteBudget {
    limit: u64,
    used: Arc<AtomicU64>,
}

/// Promised bytes; free again when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    budget: ByteBudget,
    bytes: u64,
}

impl ByteBudget {
    pub(super) fn new(limit: u64) -> Self {
        Self { limit, used: Arc::default() }
    }

    /// Promises `bytes`, or nothing when they are not free.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let mut reservation = Reservation { budget: self.clone(), bytes: 0 };
        reservation.grow(bytes).then_some(reservation)
    }
}

impl Reservation {
    /// Promises `more` bytes; false, and nothing changed, when they are not free.
    fn grow(&mut self, more: u64) -> bool {
        let grown = |used: u64| used.checked_add(more).filter(|sum| *sum <= self.budget.limit);
        let free = self.budget.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, grown).is_ok();
        if free {
            self.bytes += more;
        }
        free
    }

    /// Promises what is missing to `length` bytes, or `step` where that is more and free; false, and nothing changed, when
    /// not even the former is free.
    pub(super) fn cover(&mut self, length: u64, step: u64) -> bool {
        let missing = length.saturating_sub(self.bytes);
        missing == 0 || self.grow(missing.max(step)) || self.grow(missing)
    }

    /// Bytes that hold this promise as long as any slice of them lives.
    pub(super) fn hold<B: AsRef<[u8]> + Send + 'static>(self: Arc<Self>, bytes: B) -> Bytes {
        Bytes::from_owner(Held { bytes, _reservation: self })
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

struct Held<B> {
    bytes: B,
    _reservation: Arc<Reservation>,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Held<B> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// Steps in which the promise grows for a body that does not say its length.
const STEP: u64 = 256 * 1024;

/// Reads a whole body that began to arrive at `start`, for a request whose answer is due at `deadline`.
///
/// # Errors
/// `BodyTooLarge` at once by `Content-Length`, or when the limit is crossed; `RequestTimeout` when it comes too slowly;
/// `Overloaded` when the memory for bodies is in use; `ClientLeft` when it breaks off; the engine's reason when it stops
/// being ready meanwhile.
pub(super) async fn read(
    service: &Service,
    mut body: Body,
    start: Instant,
    deadline: Instant,
) -> Result<Bytes, ApiError> {
    let settings = service.settings();
    let limit = settings.max_body_bytes.min(settings.max_inflight_bytes);
    let patience = settings.body_timeout.min(deadline.saturating_duration_since(start));
    let end = tokio::time::Instant::from_std(start + patience);

    // The exact length where the client gave one (`Content-Length`); a chunked body says nothing.
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| length > limit) {
        return Err(ApiError::BodyTooLarge { limit: settings.max_body_bytes });
    }
    let mut reservation = service.promise(declared.unwrap_or(0))?;
    let mut bytes = Vec::with_capacity(usize::try_from(declared.unwrap_or(0)).unwrap_or(0));
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            closed = service.closed(deadline) => return Err(closed),
            () = tokio::time::sleep_until(end) => return Err(ApiError::RequestTimeout(rounded(patience))),
        };
        let Some(frame) = frame else { break };
        let Ok(data) = frame.map_err(|_| ApiError::ClientLeft)?.into_data() else { continue };
        let length = bytes.len() as u64 + data.len() as u64;
        if length > limit {
            return Err(ApiError::BodyTooLarge { limit: settings.max_body_bytes });
        }
        if !reservation.cover(length, STEP) {
            return Err(service.overloaded());
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Arc::new(reservation).hold(bytes))
}

/// A duration fit for a message.
fn rounded(duration: Duration) -> Duration {
    Duration::from_millis(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promised_bytes_stay_promised_as_long_as_a_slice_of_them_lives() {
        let budget = ByteBudget::new(10);
        let bytes = Arc::new(budget.reserve(8).expect("free")).hold(vec![7; 8]);
        assert!(budget.reserve(3).is_none());
        let slice = bytes.slice(2..4);
        drop(bytes);
        assert!(budget.reserve(3).is_none());
        drop(slice);
        assert!(budget.reserve(10).is_some());
    }
}
