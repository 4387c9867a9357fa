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
        /// Queued photos × measured seconds a photo ÷ devices, whole seconds, at least one.
        retry_after: Duration,
    },
    /// The device had no memory for the photo, not even in half a batch; another time it may.
    #[error("the device has no memory left for this photo; try again in {} s", .retry_after.as_secs())]
    OutOfMemory {
        /// As [`EngineError::Overloaded`]'s.
        retry_after: Duration,
    },
    /// The model is still being loaded or warmed.
    #[error("the model is not loaded yet")]
    NotReady,
    /// Admission has ended, or ended before this photo's turn came.
    #[error("the service is shutting down")]
    ShuttingDown,
    /// The model could not be built, or the device failed.
    #[error("the device is unavailable: {reason}")]
    DeviceUnavailable {
        /// For the log.
        reason: Arc<str>,
    },
    /// The deadline passed before the scores came.
    #[error("the deadline passed before the answer")]
    DeadlineExceeded,
    /// The request names a model that is not served.
    #[error("no model `{name}`; the model served is `{known}`")]
    UnknownModel {
        /// The name asked for.
        name: String,
        /// The name that would be right.
        known: Arc<str>,
    },
    /// More photos in one request than the queue ever holds.
    #[error("{sent} photos in one request, at most {limit} are taken")]
    TooManyPhotos {
        /// Photos in the request.
        sent: usize,
        /// Slots there are in all.
        limit: usize,
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
