//! What a caller holds of one admitted photo: the way to its answer.

use std::time::Instant;

use tokio::sync::{oneshot, watch};

use super::{EngineError, EngineStatus, Scores};

/// The claim to one admitted photo's answer. Dropping it withdraws the photo wherever it waits.
#[derive(Debug)]
pub struct Ticket {
    pub(super) answer: oneshot::Receiver<Result<Scores, EngineError>>,
    pub(super) deadline: Instant,
    pub(super) status: watch::Receiver<EngineStatus>,
}

impl Ticket {
    /// Waits for the scores, at the longest until the deadline or the engine's end, even if the device hangs.
    ///
    /// # Errors
    /// `DeadlineExceeded`; `Photo` when it cannot be decoded; `OutOfMemory`, `NonFinite`, `DeviceUnavailable`,
    /// `ShuttingDown`, `Internal`.
    pub async fn wait(mut self) -> Result<Scores, EngineError> {
        // Where several are true at once the first line wins: an answer that is there is given.
        tokio::select! {
            biased;
            answer = self.answer => answer.unwrap_or_else(|_| {
                Err(EngineError::Internal("an entry was dropped without an answer".to_owned()))
            }),
            end = over(&mut self.status) => Err(end),
            () = tokio::time::sleep_until(self.deadline.into()) => Err(EngineError::DeadlineExceeded),
        }
    }
}

/// Waits until nobody is answered any more, and says why.
pub(super) async fn over(status: &mut watch::Receiver<EngineStatus>) -> EngineError {
    let end = |status: &EngineStatus| matches!(status, EngineStatus::Stopped | EngineStatus::Failed(_));
    match status.wait_for(end).await.as_deref() {
        Ok(EngineStatus::Failed(reason)) => EngineError::DeviceUnavailable { reason: reason.clone() },
        _ => EngineError::ShuttingDown,
    }
}
