//! `POST /classify` and `/classify/{model}`: one photo or several → the best labels of each.
//!
//! Reached through `router.rs`, after authorisation. Refuses what it can before it reads the body, then submits to the
//! engine all photos or none. Never sees a tensor.

use std::time::Instant;

use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;

use super::error::{ApiError, ErrorBody};
use super::models::ModelInfo;
use super::observe::RequestId;
use super::parameters::{Parameters, patience};
use super::state::Service;
use super::submission::{Encoding, parse};
use super::{body, submission};
use crate::engine::{EngineError, Input, Scores};
use crate::scores::{Prediction, predictions};

/// Predictions a photo where the client does not say.
const TOP_K: usize = 5;

#[derive(Serialize)]
struct One<'a> {
    model: &'a str,
    predictions: Vec<Prediction<&'a str>>,
}

#[derive(Serialize)]
struct Several<'a> {
    model: &'a str,
    results: Vec<Photo<'a>>,
}

#[derive(Serialize)]
struct Photo<'a> {
    file: &'a str,
    #[serde(flatten)]
    outcome: Outcome<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome<'a> {
    Predictions(Vec<Prediction<&'a str>>),
    Error(ErrorBody<'a>),
}

/// `POST /classify`: with the default model.
pub(super) async fn classify(
    State(service): State<Service>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&service, None, &id, request).await
}

/// `POST /classify/{model}`.
pub(super) async fn classify_with(
    State(service): State<Service>,
    Path(model): Path<String>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&service, Some(&model), &id, request).await
}

async fn answer(
    service: &Service,
    model: Option<&str>,
    id: &RequestId,
    request: Request,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    let deadline = start + patience(service.settings(), &head.headers)?;
    let encoding = Encoding::of(&head.headers)?;
    let query = Parameters::from_query(head.uri.query())?;
    service.engine().admissible(deadline)?;
    // Kept to the end: labels and scores are of one version, whatever is loaded meanwhile.
    let served = service.model(model)?;
    let bytes = body::read(service, body, start, deadline).await?;
    let submission::Submission { photos, parameters } = parse(service, encoding, bytes, deadline).await?;
    let parameters = parameters.or(query);

    let (files, inputs): (Vec<_>, Vec<_>) =
        photos.into_iter().map(|photo| (photo.file, Input::Photo(photo.bytes))).unzip();
    let answers = service.engine().submit_many(inputs, &served.model, deadline).await?;
    let mut outcomes = answers.into_iter().map(|answer| rank(&served.info, parameters, answer));

    let model = &*served.name;
    if files.len() == 1 {
        let lost = || ApiError::Internal("a photo got no answer".to_owned());
        let predictions = outcomes.next().ok_or_else(lost)??;
        return Ok(Json(One { model, predictions }).into_response());
    }
    let results = files.iter().zip(outcomes).map(|(file, outcome)| Photo {
        file,
        outcome: match outcome {
            Ok(predictions) => Outcome::Predictions(predictions),
            Err(error) => {
                error.log();
                service.metrics().reject(error.code());
                Outcome::Error(error.body(&id.0))
            }
        },
    });
    Ok(Json(Several { model, results: results.collect() }).into_response())
}

/// One photo's scores → its best labels.
fn rank(
    model: &ModelInfo,
    parameters: Parameters,
    answer: Result<Scores, EngineError>,
) -> Result<Vec<Prediction<&str>>, ApiError> {
    let Scores(logits) = answer?;
    if logits.len() != model.labels.len() {
        let detail = format!("{} scores for {} labels", logits.len(), model.labels.len());
        return Err(ApiError::Internal(detail));
    }
    let function = parameters.function.unwrap_or(model.function);
    Ok(predictions(&logits, &model.labels, function, parameters.top_k.unwrap_or(TOP_K)))
}
