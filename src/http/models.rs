//! `/models`: every model served, one of them with its labels and devices, and a model read anew.
//!
//! What stands behind them is in `registry.rs`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::aside::joined;
use super::auth::Admin;
use super::error::ApiError;
use super::registry::Served;
use super::segments::Segments;
use super::state::Service;

/// `/models`
#[derive(Serialize, ToSchema)]
pub(super) struct Models {
    #[schema(inline)]
    models: Vec<Row>,
}

/// A model of several.
#[derive(Serialize, ToSchema)]
pub(super) struct Row {
    name: String,
    /// Counts what was loaded under this name, from 1.
    version: u64,
    /// Whether `/classify` asks it.
    default: bool,
    /// Whether photos for it are welcome now.
    ready: bool,
    architecture: String,
    /// How many there are.
    labels: usize,
    height: usize,
    width: usize,
    device: String,
    dtype: String,
}

/// `/models/{model}`
#[derive(Serialize, ToSchema)]
pub(super) struct Details {
    name: String,
    version: u64,
    default: bool,
    ready: bool,
    architecture: String,
    labels: Vec<String>,
    height: usize,
    width: usize,
    device: String,
    dtype: String,
    #[schema(inline)]
    devices: Vec<Device>,
}

/// A device of a model.
#[derive(Serialize, ToSchema)]
pub(super) struct Device {
    name: String,
    /// The product's name, of a CUDA device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    hardware: Option<String>,
    /// Of a CUDA device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    compute_capability: Option<String>,
    /// Bytes, of a CUDA device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total_memory: Option<u64>,
    dtype: &'static str,
    /// Bytes, as the device's thread last saw it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    free_memory: Option<u64>,
    /// Photos in one forward pass, at most, once the model is warm there.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    max_batch_size: Option<usize>,
}

/// Each device of a model; its batch limit is there once it is warm, its free memory as its thread last saw it.
pub(super) fn devices(service: &Service, served: &Served) -> Vec<Device> {
    let (states, limits) = (service.engine().devices(), served.model.max_batch_sizes());
    let choices = served.info.devices.iter();
    let figures = choices.enumerate().map(|(index, choice)| {
        let cuda = choice.device.cuda();
        let memory = states.get(index).and_then(|state| state.memory);
        Device {
            name: choice.device.name(),
            hardware: cuda.map(|cuda| cuda.name.clone()),
            compute_capability: cuda
                .map(|cuda| format!("{}.{}", cuda.compute_capability.0, cuda.compute_capability.1)),
            total_memory: cuda.map(|cuda| cuda.total_memory),
            dtype: choice.precision.name(),
            free_memory: memory.map(|memory| memory.free),
            max_batch_size: limits.get(index).copied().flatten(),
        }
    });
    figures.collect()
}

/// `GET /models`: every model served.
pub(super) async fn models(State(service): State<Service>) -> Result<Json<Models>, ApiError> {
    let default = service.model(None)?;
    let models = service.models();
    let models = models.iter().map(|served| row(&service, served, &default));
    Ok(Json(Models { models: models.collect() }))
}

/// `GET /models/{model}`: one of them, with its labels.
pub(super) async fn model(
    State(service): State<Service>,
    Segments(name): Segments<String>,
) -> Result<Json<Details>, ApiError> {
    let served = service.model(Some(&name))?;
    let Row { name, version, default, ready, architecture, height, width, device, dtype, .. } =
        row(&service, &served, &*service.model(None)?);
    let (labels, devices) = (served.info.labels.to_vec(), devices(&service, &served));
    Ok(Json(Details {
        name,
        version,
        default,
        ready,
        architecture,
        labels,
        height,
        width,
        device,
        dtype,
        devices,
    }))
}

/// `POST /models/{name}/reload`: reads a model anew from its folder. Goes on to its end even if the client leaves.
pub(super) async fn reload(
    _: Admin,
    State(service): State<Service>,
    Segments(name): Segments<String>,
) -> Result<Json<Row>, ApiError> {
    let reloading = tokio::spawn({
        let service = service.clone();
        async move { service.reload(&name).await }
    });
    let served = joined(reloading.await)??;
    Ok(Json(row(&service, &served, &*service.model(None)?)))
}

fn row(service: &Service, served: &Served, default: &Served) -> Row {
    let info = &served.info;
    Row {
        name: served.name.to_string(),
        version: served.version,
        default: served.name == default.name,
        ready: service.ready(),
        architecture: info.architecture.clone(),
        labels: info.labels.len(),
        height: info.height,
        width: info.width,
        device: info.device(),
        dtype: info.dtype(),
    }
}
