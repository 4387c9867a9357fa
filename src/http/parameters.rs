//! The parameters of a classification, from the query or from the body.
//!
//! `submission.rs` gathers them: what the body says wins over the query. Every value is checked here and nowhere else;
//! a wrong one is refused by name.

use std::time::Duration;

use axum::http::HeaderMap;

use super::error::ApiError;
use super::settings::ServeSettings;
use crate::scores::Function;

/// What the client asked for; `None`: the default.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Parameters {
    /// Predictions a photo, at least 1.
    pub(super) top_k: Option<usize>,
    /// What turns logits into scores.
    pub(super) function: Option<Function>,
}

/// How long a client waits, as a header says; what is longer than the service's own limit means that limit.
const X_REQUEST_TIMEOUT_MS: &str = "x-request-timeout-ms";

/// The time from a request's head to its answer, at most: the service's limit, or less where the client says so.
///
/// # Errors
/// `BadRequest` for a header that is no whole number from 1.
pub(super) fn patience(settings: &ServeSettings, headers: &HeaderMap) -> Result<Duration, ApiError> {
    let Some(value) = headers.get(X_REQUEST_TIMEOUT_MS) else { return Ok(settings.request_timeout) };
    let number = value.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|number| *number > 0);
    let number = number.ok_or_else(|| {
        let shown = String::from_utf8_lossy(value.as_bytes());
        let shown: String = shown.chars().take(100).collect();
        ApiError::BadRequest(format!(
            "`{X_REQUEST_TIMEOUT_MS}` is `{shown}`; it must be a whole number of milliseconds from 1"
        ))
    })?;
    Ok(settings.request_timeout.min(Duration::from_millis(number)))
}

/// The names, for messages.
pub(super) const KNOWN: &str = "`top_k` and `function_to_apply`";

impl Parameters {
    /// Reads `top_k=5&function_to_apply=softmax`.
    pub(super) fn from_query(query: Option<&str>) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(
            &axum::http::Uri::builder()
                .path_and_query(format!("/?{}", query.unwrap_or_default()))
                .build()
                .map_err(|error| ApiError::BadRequest(format!("the query cannot be read: {error}")))?,
        )
        .map_err(|error| ApiError::BadRequest(format!("the query cannot be read: {error}")))?;
        let mut parameters = Self::default();
        for (name, value) in &pairs.0 {
            if !parameters.set(name, value)? {
                return Err(ApiError::BadRequest(format!(
                    "unknown query parameter `{name}`; known are {KNOWN}"
                )));
            }
        }
        Ok(parameters)
    }

    /// Sets one by its name; false when there is none of that name.
    pub(super) fn set(&mut self, name: &str, value: &str) -> Result<bool, ApiError> {
        match name {
            "top_k" => {
                let number = value.trim().parse().ok().filter(|number| *number > 0);
                let number = number.ok_or_else(|| {
                    ApiError::BadRequest(format!("`top_k` is `{value}`; it must be a whole number from 1"))
                })?;
                set_once("top_k", &mut self.top_k, number)?;
            }
            "function_to_apply" => {
                let function = Function::from_name(value.trim()).ok_or_else(|| {
                    ApiError::BadRequest(format!(
                        "`function_to_apply` is `{value}`; it must be `softmax`, `sigmoid` or `none`"
                    ))
                })?;
                set_once("function_to_apply", &mut self.function, function)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// These, and where they are silent, those.
    pub(super) fn or(self, other: Self) -> Self {
        Self { top_k: self.top_k.or(other.top_k), function: self.function.or(other.function) }
    }
}

fn set_once<T>(name: &str, place: &mut Option<T>, value: T) -> Result<(), ApiError> {
    match place.replace(value) {
        Some(_) => Err(ApiError::BadRequest(format!("`{name}` is given twice"))),
        None => Ok(()),
    }
}
