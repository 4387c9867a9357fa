//! The decode pool: a bounded number of threads that turn photos into pixels.
//!
//! Started by `Engine::start`; takes encoded photos one by one and pushes prepared ones to the device's queue. A photo
//! that cannot be read, or that makes the decoder panic, is answered here and touches no other.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use super::batcher::BatchRule;
use super::queue::Entry;
use super::shared::Shared;
use super::{EngineError, Prepare, Prepared};

/// Starts the threads; they end when the queue of encoded photos is closed.
pub(super) fn spawn(shared: &Arc<Shared>, prepare: &Arc<dyn Prepare>) -> std::io::Result<()> {
    for number in 0..shared.settings.decode_threads.max(1) {
        let (shared, prepare) = (shared.clone(), prepare.clone());
        std::thread::Builder::new()
            .name(format!("decode-{number}"))
            .spawn(move || work(&shared, &*prepare))?;
    }
    Ok(())
}

fn work(shared: &Shared, prepare: &dyn Prepare) {
    while let Some(entries) = shared.encoded.take(&BatchRule::SINGLE) {
        for Entry { payload, call } in entries {
            let start = Instant::now();
            // The closure owns nothing that could be left half-changed: bytes in, pixels out.
            let outcome = catch_unwind(AssertUnwindSafe(|| prepare(&payload)));
            shared.metrics.decode_duration.observe(start.elapsed().as_secs_f64());
            drop(payload);
            match outcome {
                Ok(Ok(pixels)) => shared.push_ready(Entry { payload: Prepared::Pixels(pixels), call }),
                Ok(Err(error)) => call.answer(Err(EngineError::Photo(error))),
                Err(_) => {
                    shared.metrics.panics_decode.inc();
                    call.answer(Err(EngineError::Internal("a decoder panicked".to_owned())));
                }
            }
        }
    }
}
