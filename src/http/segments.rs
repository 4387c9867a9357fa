//! The named segments of a path, as text.
//!
//! Handlers take [`Segments`] in the place of axum's `Path`, whose own refusals are plain text of no known shape.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::error::ApiError;

/// What the path of a request names.
#[derive(Debug)]
pub(super) struct Segments<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Segments<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(named)) => Ok(Self(named)),
            // In practice: percent-encoded bytes that are no UTF-8.
            Err(rejection) => {
                Err(ApiError::BadRequest(format!("the path cannot be read: {}", rejection.body_text())))
            }
        }
    }
}
