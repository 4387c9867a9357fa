//! The decode pool: a bounded number of threads that turn photos into pixels.
//!
//! Started by `Engine::start`; takes encoded photos one by one and pushes prepared ones to the devices' queue. A photo
//! that cannot be read, or that makes the decoder panic, is answered here and touches no other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

use super::batcher::BatchRule;
use super::model::Model;
use super::queue::{Entry, Taken, Taker};
use super::shared::Shared;
use super::{EngineError, Prepared};

/// A decode thread takes photos of any model, one at a time.
pub(super) struct OneByOne;

impl Taker for OneByOne {
    fn rule(&self, _: &Model) -> Option<BatchRule> {
        Some(BatchRule::SINGLE)
    }
}

/// Starts the threads; they end when the queue of encoded photos is closed.
pub(super) fn spawn(shared: &Arc<Shared>) -> std::io::Result<()> {
    for number in 0..shared.settings.decode_threads.max(1) {
        let shared = shared.clone();
        std::thread::Builder::new().name(format!("decode-{number}")).spawn(move || work(&shared))?;
    }
    Ok(())
}

fn work(shared: &Shared) {
    loop {
        match shared.encoded.take(&OneByOne) {
            Taken::Batch(entries) => entries.into_iter().for_each(|entry| decode(shared, entry)),
            Taken::Nothing => {}
            Taken::Closed => return,
        }
    }
}

/// Prepares one photo as its model wants it.
pub(super) fn decode(shared: &Shared, entry: Entry<Bytes>) {
    let Entry { payload, call } = entry;
    let start = shared.clock.now();
    // The closure owns nothing that could be left half-changed: bytes in, pixels out.
    let outcome = catch_unwind(AssertUnwindSafe(|| call.model().prepare()(&payload)));
    let end = shared.clock.now();
    shared.metrics.decode_duration.observe(end.saturating_duration_since(start).as_secs_f64());
    drop(payload);
    let failure = match outcome {
        Ok(Ok(pixels)) => {
            return shared.push_ready(vec![Entry { payload: Prepared::Pixels(pixels.into()), call }]);
        }
        Ok(Err(error)) => EngineError::Photo(error),
        Err(_) => {
            shared.metrics.panics_decode.inc();
            EngineError::Internal("a decoder panicked".to_owned())
        }
    };
    shared.pace.refused(call.model().lane(), shared.waiting(), end);
    call.answer(Err(failure));
}
