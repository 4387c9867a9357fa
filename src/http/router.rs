//! Which path leads to which resource, and through which layers.
//!
//! Built once by `server.rs`. Paths not listed are 404, methods not listed 405, both as JSON.

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};

use super::auth::authorize;
use super::classify::{classify, classify_with};
use super::cors::cors;
use super::error::ApiError;
use super::health;
use super::info::{info, model, models};
use super::metrics::metrics;
use super::observe::observe;
use super::page::page;
use super::state::Service;

/// The values of the label `route`; everything not served is `other`.
pub(super) const ROUTES: [&str; 12] = [
    "/",
    "/classify",
    "/classify/{model}",
    "/health",
    "/health/live",
    "/health/ready",
    "/info",
    "/metrics",
    "/models",
    "/models/{model}",
    "/models/{model}/reload",
    "other",
];

/// The label of a path; `{model}` stands for one segment of any name.
pub(super) fn route(path: &str) -> &'static str {
    ROUTES.into_iter().find(|route| matches(route, path)).unwrap_or("other")
}

fn matches(route: &str, path: &str) -> bool {
    let (mut wanted, mut found) = (route.split('/'), path.split('/'));
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return true,
            (Some("{model}"), Some(name)) if !name.is_empty() => {}
            (Some(wanted), Some(found)) if wanted == found => {}
            _ => return false,
        }
    }
}

/// The whole service; a request passes observe → cors → authorize → its resource.
pub(super) fn router(service: Service) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/classify", post(classify))
        .route("/classify/{model}", post(classify_with))
        .route("/health", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/info", get(info))
        .route("/metrics", get(metrics))
        .route("/models", get(models))
        .route("/models/{model}", get(model))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_of_a_path_holds_no_name_that_a_client_chose() {
        for (path, label) in [
            ("/", "/"),
            ("/classify", "/classify"),
            ("/classify/birds", "/classify/{model}"),
            ("/classify/", "other"),
            ("/classify/a/b", "other"),
            ("/models/a/reload", "/models/{model}/reload"),
            ("/models/a/other", "other"),
            ("/anything", "other"),
        ] {
            assert_eq!(route(path), label, "{path}");
        }
    }
}
