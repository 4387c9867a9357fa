//! Which path leads to which resource, and through which layers.
//!
//! Built once by `server.rs`. Paths not listed are 404, methods not listed 405, both as JSON.

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::auth::authorize;
use super::classify::classify;
use super::cors::cors;
use super::error::ApiError;
use super::health;
use super::info::info;
use super::metrics::metrics;
use super::observe::observe;
use super::page::page;
use super::state::Service;

/// The values of the label `route`; everything not served is `other`.
pub(super) const ROUTES: [&str; 8] =
    ["/", "/classify", "/health", "/health/live", "/health/ready", "/info", "/metrics", "other"];

/// The label of a path.
pub(super) fn route(path: &str) -> &'static str {
    ROUTES.into_iter().find(|route| *route == path).unwrap_or("other")
}

/// The whole service; a request passes observe → cors → authorize → its resource.
pub(super) fn router(service: Service) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/classify", post(classify))
        .route("/health", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/info", get(info))
        .route("/metrics", get(metrics))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(service.clone(), authorize))
        .layer(from_fn_with_state(service.clone(), cors))
        .layer(from_fn_with_state(service.clone(), observe))
        .with_state(service)
}

async fn not_found(request: Request) -> ApiError {
    ApiError::NotFound(shown(request.uri().path()))
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::MethodNotAllowed { method: request.method().to_string(), path: shown(request.uri().path()) }
}

/// A path fit for a message.
fn shown(path: &str) -> String {
    path.chars().take(200).collect()
}
