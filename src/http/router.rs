//! Which path leads to which resource, and through which layers.
//!
//! Built once by `server.rs`. Paths not listed are 404, methods not listed 405, both as JSON.

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{from_fn_with_state, map_response};
use axum::routing::{get, post};

use super::auth::authorize;
use super::classify::{classify, classify_with};
use super::cors;
use super::docs::docs;
use super::error::ApiError;
use super::health;
use super::hugging_face::predict;
use super::info::info;
use super::metrics::metrics;
use super::models::{model, models, reload};
use super::observe::observe;
use super::open_inference as v2;
use super::openapi::openapi;
use super::page::page;
use super::security::secure;
use super::state::Service;

/// The label of everything not served.
pub(super) const OTHER: &str = "other";

/// The values of the label `route`: every path as it is routed, and the rest.
pub(super) const ROUTES: [&str; 23] = [
    "/",
    "/classify",
    "/classify/{model}",
    "/docs",
    "/health",
    "/health/live",
    "/health/ready",
    "/info",
    "/metrics",
    "/models",
    "/models/{model}",
    "/models/{model}/reload",
    "/openapi.json",
    "/predict",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{model}",
    "/v2/models/{model}/config",
    "/v2/models/{model}/infer",
    "/v2/models/{model}/ready",
    "/v2/repository/index",
    OTHER,
];

/// A version in a path of the Open Inference Protocol: it has no label of its own.
const VERSION: &str = "/versions/{version}";

/// The label of a request that came to this path. A path that the request's own port does not serve is none.
pub(super) fn route(matched: Option<&MatchedPath>) -> &'static str {
    let matched = matched.map_or(OTHER, MatchedPath::as_str).replacen(VERSION, "", 1);
    ROUTES.into_iter().find(|route| *route == matched).unwrap_or(OTHER)
}

/// What clients are there for.
fn public() -> Router<Service> {
    Router::new()
        .route("/", get(page).post(predict))
        .route("/classify", post(classify))
        .route("/classify/{model}", post(classify_with))
        .route("/docs", get(docs))
        .route("/info", get(info))
        .route("/models", get(models))
        .route("/models/{model}", get(model))
        .route("/openapi.json", get(openapi))
        .route("/predict", post(predict))
        .merge(open_inference())
}

/// The Open Inference Protocol.
fn open_inference() -> Router<Service> {
    Router::new()
        .route("/v2", get(v2::server))
        .route("/v2/health/live", get(v2::live))
        .route("/v2/health/ready", get(v2::ready))
        .route("/v2/models/{model}", get(v2::model))
        .route("/v2/models/{model}/config", get(v2::config))
        .route("/v2/models/{model}/infer", post(v2::infer))
        .route("/v2/models/{model}/ready", get(v2::model_ready))
        .route("/v2/models/{model}/versions/{version}", get(v2::model))
        .route("/v2/models/{model}/versions/{version}/config", get(v2::config))
        .route("/v2/models/{model}/versions/{version}/infer", post(v2::infer))
        .route("/v2/models/{model}/versions/{version}/ready", get(v2::model_ready))
        .route("/v2/repository/index", post(v2::index))
}

/// What those who run the service are there for. Handlers that change it take [`Admin`](super::auth::Admin).
fn admin() -> Router<Service> {
    Router::new()
        .route("/health", get(health::ready))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics))
        .route("/models/{model}/reload", post(reload))
}

/// What each port serves.
pub(super) struct Routers {
    /// Everything, or what is not on the admin port.
    pub(super) public: Router,
    /// Where there is such a port.
    pub(super) admin: Option<Router>,
}

/// The whole service, on one port or on two.
pub(super) fn routers(service: &Service, has_admin_port: bool) -> Routers {
    if has_admin_port {
        Routers { public: layered(public(), service), admin: Some(layered(admin(), service)) }
    } else {
        Routers { public: layered(public().merge(admin()), service), admin: None }
    }
}

/// A request passes secure → cors::grant → observe → cors::preflight → authorize → its resource.
fn layered(routes: Router<Service>, service: &Service) -> Router {
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(service.clone(), authorize))
        .layer(from_fn_with_state(service.clone(), cors::preflight))
        .layer(from_fn_with_state(service.clone(), observe))
        .layer(from_fn_with_state(service.clone(), cors::grant))
        .layer(map_response(secure))
        .with_state(service.clone())
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
