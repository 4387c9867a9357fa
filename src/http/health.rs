//! `/health`, `/health/ready`, `/health/live`: for load balancers and orchestrators.
//!
//! Live means that the process answers; ready means that photos are welcome. Neither waits for the engine.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::state::{Phase, Service};
use crate::engine::EngineStatus;

/// In a word.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `live`, `ready`, or why it is not: `starting`, `shutting_down`, `failed`.
    status: &'static str,
}

pub(super) async fn live() -> Response {
    answer(StatusCode::OK, "live")
}

pub(super) async fn ready(State(service): State<Service>) -> Response {
    if service.ready() {
        return answer(StatusCode::OK, "ready");
    }
    let status = service.engine().status().borrow().clone();
    let word = match status {
        EngineStatus::Failed(_) => "failed",
        EngineStatus::Ready if service.phase() == Phase::Serving => "starting",
        _ => "shutting_down",
    };
    answer(StatusCode::SERVICE_UNAVAILABLE, word)
}

fn answer(status: StatusCode, word: &'static str) -> Response {
    (status, Json(Health { status: word })).into_response()
}
