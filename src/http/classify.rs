//! `POST /classify` and `/classify/{model}`: one photo or several → the best labels of each.
//!
//! Reached through `router.rs`, after authorisation. Refuses what it can before it reads the body, then submits to the
//! engine all photos or none. Never sees a tensor.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use super::body;
use super::error::{ApiError, ErrorBody};
use super::observe::RequestId;
use super::parameters::{Parameters, patience};
use super::registry::{ModelInfo, Served};
use super::segments::Segments;
use super::state::Service;
use super::submission::{Encoding, Submission, parse};
use crate::engine::{EngineError, Input, Scores};
use crate::scores::{Prediction, predictions};

/// Predictions a photo where the client does not say.
const TOP_K: usize = 5;

/// The answer for one photo.
#[derive(Serialize, ToSchema)]
pub(super) struct One<'a> {
    model: &'a str,
    #[schema(inline)]
    predictions: Labels<'a>,
}

/// The answer for several photos, in the order sent.
#[derive(Serialize, ToSchema)]
pub(super) struct Several<'a> {
    model: &'a str,
    #[schema(inline)]
    results: Vec<Photo<'a>>,
}

#[derive(Serialize, ToSchema)]
struct Photo<'a> {
    /// Its name among several.
    file: &'a str,
    #[serde(flatten)]
    #[schema(inline)]
    outcome: Outcome<'a>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Outcome<'a> {
    Predictions(#[schema(inline)] Labels<'a>),
    Error(#[schema(inline)] ErrorBody<'a>),
}

/// Labels of one photo, best first.
#[derive(Serialize)]
#[serde(transparent)]
pub(super) struct Labels<'a>(Vec<Prediction<&'a str>>);

// By hand: what is derived for a generic type refers to schemas that there are none of.
impl PartialSchema for Labels<'_> {
    fn schema() -> RefOr<Schema> {
        let score = ObjectBuilder::new()
            .schema_type(Type::Number)
            .description(Some("From 0 to 1 after softmax or sigmoid, else the raw logit."));
        let prediction = ObjectBuilder::new()
            .property("label", String::schema())
            .property("score", score)
            .required("label")
            .required("score");
        ArrayBuilder::new().items(prediction).description(Some("Best first.")).into()
    }
}

impl ToSchema for Labels<'_> {}

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
    Segments(model): Segments<String>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&service, Some(&model), &id, request).await
}

/// The photos of a request with what a model makes of them.
pub(super) struct Scored {
    /// The version of the model that did. Kept to the end: labels and scores are of one version, whatever is loaded meanwhile.
    pub(super) served: Arc<Served>,
    /// The photos' names, in the order sent; at least one.
    pub(super) files: Vec<String>,
    /// Those of the body, and where it is silent of the query.
    pub(super) parameters: Parameters,
    /// One a photo.
    pub(super) answers: Vec<Result<Scores, EngineError>>,
}

/// Reads the photos of a request, in whatever form, and has the model of this name, or the default one, score them: all or none
/// are admitted.
///
/// # Errors
/// Why the request as a whole got no scores; refused before its body is read where that is possible.
pub(super) async fn score(
    service: &Service,
    model: Option<&str>,
    request: Request,
) -> Result<Scored, ApiError> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    let deadline = start + patience(service.settings(), &head.headers)?;
    let encoding = Encoding::of(&head.headers)?;
    let query = Parameters::from_query(head.uri.query())?;
    service.engine().admissible(deadline)?;
    let served = service.model(model)?;
    let bytes = body::read(service, body, start, deadline).await?;
    let Submission { photos, parameters } = parse(service, encoding, bytes, deadline).await?;
    let (files, inputs): (Vec<_>, Vec<_>) =
        photos.into_iter().map(|photo| (photo.file, Input::Photo(photo.bytes))).unzip();
    let answers = service.engine().submit_many(inputs, &served.model, deadline).await?;
    Ok(Scored { served, files, parameters: parameters.or(query), answers })
}

async fn answer(
    service: &Service,
    model: Option<&str>,
    id: &RequestId,
    request: Request,
) -> Result<Response, ApiError> {
    let Scored { served, files, parameters, answers } = score(service, model, request).await?;
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
pub(super) fn rank(
    model: &ModelInfo,
    parameters: Parameters,
    answer: Result<Scores, EngineError>,
) -> Result<Labels<'_>, ApiError> {
    let Scores(logits) = model.check(answer?)?;
    let function = parameters.function.unwrap_or(model.function);
    Ok(Labels(predictions(&logits, &model.labels, function, parameters.top_k.unwrap_or(TOP_K))))
}
