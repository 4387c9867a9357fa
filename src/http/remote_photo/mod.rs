//! `{"url": "https://…"}`: a photo that the service fetches itself, where `--allow-url-input` says that it may.
//!
//! `submission.rs` calls [`fetch`]. A client must not reach through the service what it cannot reach itself, so only http(s)
//! URLs of public addresses are taken: every address of a name is checked, also after each redirect, and the connection goes
//! to the address that was checked. No proxy of the environment is used: behind one, nothing could be checked. What an answer
//! says of a refusal is the same for a name that does not exist and one that leads inside, and what it says of a connection the
//! same however far that came.

mod addresses;
mod download;
mod target;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, oneshot};

pub use addresses::{Addresses, PublicAddresses};
use download::{Download, Failure, REDIRECTS};
use target::Target;

use super::error::ApiError;
use super::state::Service;

/// Photos fetched at the same time, at most: each holds a thread, which may wait for a slow name server.
const PLACES: usize = 32;

/// How photos are fetched.
#[derive(Clone)]
pub struct UrlInput {
    /// `--url-timeout-ms`: from the first look-up to the last byte, redirects included.
    pub timeout: Duration,
    addresses: Arc<dyn Addresses>,
    places: Arc<Semaphore>,
}

impl UrlInput {
    /// From addresses on the public internet alone, as the program does.
    pub fn new(timeout: Duration) -> Self {
        Self::with_addresses(timeout, Arc::new(PublicAddresses))
    }

    /// With look-ups and a policy of the caller's own: for tests, whose servers are on this machine.
    pub fn with_addresses(timeout: Duration, addresses: Arc<dyn Addresses>) -> Self {
        Self { timeout, addresses, places: Arc::new(Semaphore::new(PLACES)) }
    }
}

impl fmt::Debug for UrlInput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("UrlInput").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

/// Tells the thread that nobody waits any more.
struct Withdrawal(Arc<AtomicBool>);

impl Drop for Withdrawal {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The bytes behind `url`, at the latest at `deadline`; whether they are a photo is the decoder's to say.
///
/// # Errors
/// `UrlNotAllowed` where the operator, or the rules above, forbid it; `UrlUnreachable` where nothing was to be had in time;
/// `PhotoTooLarge`; `Overloaded` when too many photos are being fetched or the memory for bodies is in use; the engine's
/// reason when it stops being ready meanwhile.
pub(super) async fn fetch(service: &Service, url: &str, deadline: Instant) -> Result<Bytes, ApiError> {
    let settings = service.settings();
    let Some(input) = &settings.url_input else {
        return Err(ApiError::UrlNotAllowed(
            "photos by URL are not taken here; the operator of the service can allow them with --allow-url-input"
                .to_owned(),
        ));
    };
    let target = Target::parse(url).map_err(|reason| ApiError::UrlNotAllowed(reason.to_string()))?;
    let place = input.places.clone().try_acquire_owned().map_err(|_| service.overloaded())?;
    let end = deadline.min(Instant::now() + input.timeout);
    let withdrawal = Withdrawal(Arc::default());
    let download = Download {
        addresses: input.addresses.clone(),
        end,
        limit: settings.body_limit(),
        budget: service.bodies().clone(),
        withdrawn: withdrawal.0.clone(),
    };
    let host = target.host().to_owned();
    let (reply, answer) = oneshot::channel();
    // A thread of its own: the runtime waits for its blocking tasks when it ends, and a look-up cannot be broken off. The place
    // is free again when the thread ends, whoever still waits for it.
    let thread = std::thread::Builder::new().name("fetch".to_owned()).spawn(move || {
        let _place = place;
        let _ = reply.send(download.run(target));
    });
    thread.map_err(|error| ApiError::Internal(format!("no thread to fetch a photo: {error}")))?;

    let outcome = tokio::select! {
        biased;
        answer = answer => answer.unwrap_or_else(|_| Err(Failure::Unreachable("the thread ended early".to_owned()))),
        () = tokio::time::sleep_until(end.into()) => Err(Failure::Late),
        closed = service.closed(deadline) => return Err(closed),
    };
    outcome.map_err(|failure| {
        tracing::info!(host, %failure, "a photo was not fetched from its URL");
        match failure {
            Failure::Late if deadline <= Instant::now() => ApiError::DeadlineExceeded,
            Failure::NotAllowed(refusal) => ApiError::UrlNotAllowed(refusal.to_string()),
            Failure::TooLarge { limit } => ApiError::PhotoTooLarge { limit },
            Failure::NoMemory => service.overloaded(),
            // The same words for all that can happen on the way.
            _ => ApiError::UrlUnreachable(format!(
                "`url` gave no answer of status 200 within {:?} and {REDIRECTS} redirects",
                input.timeout
            )),
        }
    })
}
