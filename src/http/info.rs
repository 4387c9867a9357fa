//! `/info`: the default model, its devices, and the limits of the service.
//!
//! For people and for clients that adapt to a service; holds nothing secret.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ApiError;
use super::models::{Device, devices};
use super::state::Service;
use crate::engine::BatchLimit;

/// `/info`
#[derive(Serialize, ToSchema)]
pub(super) struct Info {
    name: &'static str,
    version: &'static str,
    #[schema(inline)]
    model: DefaultModel,
    #[schema(inline)]
    devices: Vec<Device>,
    #[schema(inline)]
    limits: Limits,
}

/// The model that `/classify` asks.
#[derive(Serialize, ToSchema)]
struct DefaultModel {
    name: String,
    architecture: String,
    labels: Vec<String>,
    height: usize,
    width: usize,
    device: String,
    dtype: String,
}

/// The limits of the service.
#[derive(Serialize, ToSchema)]
struct Limits {
    /// As it was set; null: each device found its own.
    #[schema(required)]
    max_batch_size: Option<usize>,
    max_queue_size: usize,
    max_body_bytes: u64,
    max_pixels: u64,
    max_photos_per_request: usize,
    request_timeout_ms: u64,
}

/// `GET /info`
pub(super) async fn info(State(service): State<Service>) -> Result<Json<Info>, ApiError> {
    let (served, settings) = (service.model(None)?, service.settings());
    let info = &served.info;
    let max_batch_size = match settings.engine.max_batch_size {
        BatchLimit::Fixed(size) => Some(size),
        BatchLimit::Auto => None,
    };
    Ok(Json(Info {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        model: DefaultModel {
            name: served.name.to_string(),
            architecture: info.architecture.clone(),
            labels: info.labels.to_vec(),
            height: info.height,
            width: info.width,
            device: info.device(),
            dtype: info.dtype(),
        },
        devices: devices(&service, &served),
        limits: Limits {
            max_batch_size,
            max_queue_size: settings.engine.max_queue_size,
            max_body_bytes: settings.body_limit(),
            max_pixels: settings.max_pixels,
            max_photos_per_request: settings.photos_per_request(),
            request_timeout_ms: u64::try_from(settings.request_timeout.as_millis()).unwrap_or(u64::MAX),
        },
    }))
}
