//! The Open Inference Protocol, version 2, over REST: `/v2/…`, as KServe and Triton speak it.
//!
//! Reached through `router.rs`. What the service and its models say of themselves is here; inference is in `infer.rs`, from the
//! JSON head of a request (`head.rs`) and its tensors (`tensors.rs`) to the answer (`answer.rs`). Extensions that are spoken:
//! binary tensors, classification and model configuration. Errors have the protocol's shape, which `error.rs` gives to all paths
//! under `/v2`.

mod answer;
mod head;
mod infer;
mod tensors;

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ApiError;
use super::registry::{ModelInfo, Served};
use super::segments::Segments;
use super::state::Service;

pub(super) use answer::InferAnswer;
pub(super) use infer::infer;

/// The one version of every model: a model that was changed is another folder, or the same one read again.
const VERSION: &str = "1";

/// A model's place in a path.
#[derive(Debug, Deserialize)]
pub(super) struct ModelPath {
    model: String,
    #[serde(default)]
    version: Option<String>,
}

/// The model that a path names.
fn find(service: &Service, ModelPath { model, version }: &ModelPath) -> Result<Arc<Served>, ApiError> {
    let served = service.model(Some(model))?;
    match version.as_ref().filter(|version| *version != VERSION) {
        Some(version) => Err(ApiError::ModelNotFound(format!(
            "no version `{version}` of model `{model}`; there is {VERSION}"
        ))),
        None => Ok(served),
    }
}

/// What the service is.
#[derive(Serialize, ToSchema)]
pub(super) struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 3],
}

/// `GET /v2`
pub(super) async fn server() -> Json<ServerMetadata> {
    Json(ServerMetadata {
        name: env!("CARGO_PKG_NAME"),
        version: env!("CARGO_PKG_VERSION"),
        extensions: ["binary_tensor_data", "classification", "model_configuration"],
    })
}

/// Whether the process answers.
#[derive(Serialize, ToSchema)]
pub(super) struct Liveness {
    live: bool,
}

/// Whether requests are welcome.
#[derive(Serialize, ToSchema)]
pub(super) struct Readiness {
    ready: bool,
}

/// Whether requests for a model are welcome.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelReadiness {
    name: String,
    ready: bool,
}

/// `GET /v2/health/live`
pub(super) async fn live() -> Response {
    respond(StatusCode::OK, Liveness { live: true })
}

/// `GET /v2/health/ready`
pub(super) async fn ready(State(service): State<Service>) -> Response {
    let ready = service.ready();
    respond(status(ready), Readiness { ready })
}

/// `GET /v2/models/{model}/ready`
pub(super) async fn model_ready(
    State(service): State<Service>,
    Segments(path): Segments<ModelPath>,
) -> Result<Response, ApiError> {
    let ready = match find(&service, &path) {
        Ok(_) => service.ready(),
        Err(ApiError::NotReady) => false,
        Err(error) => return Err(error),
    };
    Ok(respond(status(ready), ModelReadiness { name: path.model, ready }))
}

/// A tensor as the protocol describes it; −1: as many as there are images.
#[derive(Serialize, ToSchema)]
pub(super) struct TensorMetadata {
    name: &'static str,
    datatype: &'static str,
    shape: Vec<i64>,
}

/// A model's inputs and outputs.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelMetadata {
    name: String,
    versions: [&'static str; 1],
    platform: &'static str,
    /// Alternatives: a request gives one of them.
    #[schema(inline)]
    inputs: Vec<TensorMetadata>,
    #[schema(inline)]
    outputs: Vec<TensorMetadata>,
}

const PLATFORM: &str = "featherlight";

/// `GET /v2/models/{model}`
pub(super) async fn model(
    State(service): State<Service>,
    Segments(path): Segments<ModelPath>,
) -> Result<Json<ModelMetadata>, ApiError> {
    let served = find(&service, &path)?;
    let describe = |(name, datatype, shape): (_, _, Vec<usize>)| {
        let sizes = shape.into_iter().map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        TensorMetadata { name, datatype, shape: std::iter::once(-1).chain(sizes).collect() }
    };
    Ok(Json(ModelMetadata {
        name: served.name.to_string(),
        versions: [VERSION],
        platform: PLATFORM,
        inputs: tensors::inputs(&served.info).map(describe).into(),
        outputs: answer::outputs(&served.info).map(describe).into(),
    }))
}

/// A tensor as Triton's configuration describes it, without the number of images.
#[derive(Serialize, ToSchema)]
struct TensorConfig {
    name: &'static str,
    data_type: String,
    dims: Vec<usize>,
    /// One of the inputs is given.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    optional: bool,
}

/// What Triton's clients and tools look for in a configuration.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelConfig {
    name: String,
    platform: &'static str,
    backend: &'static str,
    /// Images in one request, as the protocol counts; a forward pass may take fewer.
    max_batch_size: usize,
    #[schema(inline)]
    input: Vec<TensorConfig>,
    #[schema(inline)]
    output: Vec<TensorConfig>,
}

/// Images of one request, at most, also as the largest of the inputs: values of four bytes.
fn images_per_request(service: &Service, info: &ModelInfo) -> usize {
    let (settings, one) = (service.settings(), (3 * 4 * info.height * info.width).max(1));
    let room = usize::try_from(settings.body_limit()).unwrap_or(usize::MAX) / one;
    settings.photos_per_request().min(room).max(1)
}

/// `GET /v2/models/{model}/config`
pub(super) async fn config(
    State(service): State<Service>,
    Segments(path): Segments<ModelPath>,
) -> Result<Json<ModelConfig>, ApiError> {
    let served = find(&service, &path)?;
    let describe = |(name, datatype, dims): (_, &str, _), optional| {
        let kind = if datatype == "BYTES" { "STRING" } else { datatype };
        TensorConfig { name, data_type: format!("TYPE_{kind}"), dims, optional }
    };
    Ok(Json(ModelConfig {
        name: served.name.to_string(),
        platform: PLATFORM,
        backend: PLATFORM,
        max_batch_size: images_per_request(&service, &served.info),
        input: tensors::inputs(&served.info).map(|input| describe(input, true)).into(),
        output: answer::outputs(&served.info).map(|output| describe(output, false)).into(),
    }))
}

/// A model in the index.
#[derive(Serialize, ToSchema)]
struct Indexed {
    name: String,
    version: &'static str,
    /// `READY` or `UNAVAILABLE`.
    state: &'static str,
    reason: &'static str,
}

/// Every model served.
#[derive(Serialize, ToSchema)]
#[serde(transparent)]
pub(super) struct RepositoryIndex(#[schema(inline)] Vec<Indexed>);

/// `POST /v2/repository/index`. What a body may ask for, models that are ready alone, is what all of them are.
pub(super) async fn index(State(service): State<Service>) -> Json<RepositoryIndex> {
    let state = if service.ready() { "READY" } else { "UNAVAILABLE" };
    let models = service.models();
    let row =
        |served: &Arc<Served>| Indexed { name: served.name.to_string(), version: VERSION, state, reason: "" };
    Json(RepositoryIndex(models.iter().map(row).collect()))
}

fn status(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn respond(status: StatusCode, body: impl Serialize) -> Response {
    (status, Json(body)).into_response()
}
