//! A request body that is read on after an early refusal, so that the client sees the answer.
//!
//! `observe.rs` wraps every body. When a handler lets go of a body before its end (401, 413, 415, 503 …) the rest is
//! read and thrown away in the background, within a bound of bytes and of time: closing the socket on a client that is
//! still writing would reset the connection under the answer. Nothing here changes what a handler reads.
//!
//! The rest of a small body is on its way already: it is given a moment before the answer, and the connection goes on. Under
//! overload most answers are refusals, and a new connection for each would cost more than they do.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Notify;

/// The longest that a refused body is read on.
const TIME: Duration = Duration::from_secs(1);
/// Read on at most this far beyond what the service would have taken anyway. One MiB was too little: a client that writes 3 MB
/// against a limit of 1 MB before it reads lost its answer on a loaded machine. Nothing is kept, and time is the tighter bound.
const BYTES: u64 = 16 * 1024 * 1024;

/// A rest that is worth waiting for, at most: a photo.
const SMALL: u64 = 512 * 1024;
/// How long it is waited for.
const SOON: Duration = Duration::from_millis(10);

/// Whether the client sends its body unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// It does.
    Unasked,
    /// It sent `Expect: 100-continue` and waits to be asked, or refused: there is nothing to read on.
    WhenAsked,
}

/// How far a body was read.
#[derive(Debug, Default)]
pub(super) struct Reading {
    unfinished: AtomicBool,
    bytes: AtomicU64,
    /// Whether a rest that is worth waiting for is being read.
    awaited: AtomicBool,
    /// That it has been.
    read_on: Notify,
}

impl Reading {
    /// Whether the body was let go before its end, or broke off.
    pub(super) fn unfinished(&self) -> bool {
        self.unfinished.load(Ordering::Acquire)
    }

    /// Gives the rest of a small body that was let go a moment to arrive.
    pub(super) async fn settle(&self) {
        if self.awaited.load(Ordering::Acquire) {
            // Too late is no error: the answer then says that the connection is closed.
            let _ = tokio::time::timeout(SOON, self.read_on.notified()).await;
        }
    }

    /// Bytes that a handler took.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// The wrapped body.
pub(super) struct Lingering {
    inner: Option<Body>,
    sending: Sending,
    allowance: u64,
    reading: Arc<Reading>,
}

impl Lingering {
    /// Wraps `inner`, and says how far it was read.
    pub(super) fn new(inner: Body, sending: Sending, max_body_bytes: u64) -> (Self, Arc<Reading>) {
        let reading = Arc::<Reading>::default();
        let allowance = max_body_bytes.saturating_add(BYTES);
        (Self { inner: Some(inner), sending, allowance, reading: reading.clone() }, reading)
    }
}

impl HttpBody for Lingering {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(inner) = self.inner.as_mut() else { return Poll::Ready(None) };
        let polled = Pin::new(inner).poll_frame(context);
        self.sending = Sending::Unasked;
        match &polled {
            Poll::Ready(None) => self.inner = None,
            // Where it would go on is not known: nothing more can be read over this connection.
            Poll::Ready(Some(Err(_))) => {
                self.reading.unfinished.store(true, Ordering::Release);
                self.inner = None;
            }
            Poll::Ready(Some(Ok(frame))) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                self.allowance = self.allowance.saturating_sub(length);
                self.reading.bytes.fetch_add(length, Ordering::Relaxed);
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.inner.take().filter(|body| !body.is_end_stream()) else { return };
        self.reading.unfinished.store(true, Ordering::Release);
        if self.sending == Sending::WhenAsked {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let small = body.size_hint().upper().is_some_and(|bytes| bytes <= SMALL);
        self.reading.awaited.store(small, Ordering::Release);
        let (reading, allowance) = (self.reading.clone(), self.allowance.max(BYTES));
        runtime.spawn(async move {
            if tokio::time::timeout(TIME, read_on(body, allowance)).await == Ok(true) {
                reading.unfinished.store(false, Ordering::Release);
            }
            reading.read_on.notify_one();
        });
    }
}

/// Whether the end was reached within the allowance.
async fn read_on(mut body: Body, mut allowance: u64) -> bool {
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        allowance = allowance.saturating_sub(length);
        if allowance == 0 {
            return false;
        }
    }
    true
}
