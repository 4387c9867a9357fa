//! What can go wrong between the admission of a photo and its scores.
//!
//! `http/error.rs` gives each variant its status. Messages of variants that reach a client say what would be right;
//! `Internal` and `DeviceUnavailable` carry details for the log and never reach one.

use std::sync::Arc;
use std::time::Duration;

use crate::image::ImageError;

/// Why a photo got no scores.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No free slot.
    #[error("the queue is full; try again in {} s", .retry_after.as_secs())]
    Overloaded {
        /// Queued photos × measured seconds a photo, whole seconds, at least one.
        retry_after: Duration,
    },
    /// The photos ahead take longer than the time left until the deadline.
    #[error(
        "the answer would take about {} s, more than the {} s left; try again in {} s", tenths(.wait), tenths(.left),
        .retry_after.as_secs()
    )]
    DeadlineUnmeetable {
        /// Until the answer, by measure.
        wait: Duration,
        /// Until the deadline.
        left: Duration,
        /// As [`EngineError::Overloaded`]'s.
        retry_after: Duration,
    },
    /// The device had no memory for the photo, not even in half a batch; another time it may.
    #[error("the device has no memory left for this photo; try again in {} s", .retry_after.as_secs())]
    OutOfMemory {
        /// As [`EngineError::Overloaded`]'s.
        retry_after: Duration,
    },
    /// Admission has ended, or ended before this photo's turn came.
    #[error("the service is shutting down")]
    ShuttingDown,
    /// A device failed, or the models to start with could not be loaded.
    #[error("the device is unavailable: {reason}")]
    DeviceUnavailable {
        /// For the log.
        reason: Arc<str>,
    },
    /// The deadline passed before the scores came.
    #[error("the deadline passed before the answer")]
    DeadlineExceeded,
    /// A model could not be loaded or warmed; those that are loaded already work on.
    #[error("{reason}")]
    Load {
        /// Which file or device, and what is wrong with it.
        reason: String,
    },
    /// More photos in one request than the queue ever holds.
    #[error("{sent} photos in one request, at most {limit} are taken")]
    TooManyPhotos {
        /// Photos in the request.
        sent: usize,
        /// Slots there are in all.
        limit: usize,
    },
    /// Pixels of another size than the model takes.
    #[error("{}×{} pixels (height × width); the model takes {}×{}", .found.0, .found.1, .want.0, .want.1)]
    PixelSize {
        /// Height and width of the model's input.
        want: (usize, usize),
        /// Height and width in the request.
        found: (usize, usize),
    },
    /// A tensor of the wrong size.
    #[error("a tensor of {found} values; the model takes {want} (3 × height × width)")]
    TensorSize {
        /// `3 × height × width` of the model.
        want: usize,
        /// Values in the request.
        found: usize,
    },
    /// The photo cannot be read; says why.
    #[error(transparent)]
    Photo(#[from] ImageError),
    /// The model's scores for this photo are not all finite numbers.
    #[error("the model's scores are not finite")]
    NonFinite,
    /// A fault of the service.
    #[error("internal: {0}")]
    Internal(String),
}

/// Seconds, fit for a message.
fn tenths(time: &Duration) -> String {
    format!("{:.1}", time.as_secs_f64())
}
