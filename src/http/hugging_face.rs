//! `POST /` and `POST /predict`: the contract of Hugging Face's image classification, as its inference endpoints answer.
//!
//! Reached through `router.rs`. Photos come in every form that `/classify` takes, raw bytes and `{"inputs": "<base64>",
//! "parameters": …}` among them; the answer is the bare list, `[{"label": …, "score": …}]`, of the default model, or a list of
//! such lists for several photos. The contract knows no answer that is half an error: where one photo fails, the request does.

use std::time::Instant;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::body;
use super::classify::rank;
use super::error::ApiError;
use super::parameters::{Parameters, patience};
use super::state::Service;
use super::submission::{Encoding, Submission, parse};
use crate::engine::Input;

/// The handler.
pub(super) async fn predict(State(service): State<Service>, request: Request) -> Result<Response, ApiError> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    let deadline = start + patience(service.settings(), &head.headers)?;
    let encoding = Encoding::of(&head.headers)?;
    let query = Parameters::from_query(head.uri.query())?;
    service.engine().admissible(deadline)?;
    let served = service.model(None)?;
    let bytes = body::read(&service, body, start, deadline).await?;
    let Submission { photos, parameters } = parse(&service, encoding, bytes, deadline).await?;
    let parameters = parameters.or(query);

    let (files, inputs): (Vec<_>, Vec<_>) =
        photos.into_iter().map(|photo| (photo.file, Input::Photo(photo.bytes))).unzip();
    let answers = service.engine().submit_many(inputs, &served.model, deadline).await?;
    let outcomes = files.iter().zip(answers).map(|(file, answer)| {
        let ranked = rank(&served.info, parameters, answer);
        ranked.map_err(|error| if files.len() == 1 { error } else { error.about(file) })
    });
    let mut lists = outcomes.collect::<Result<Vec<_>, _>>()?;
    Ok(match lists.pop() {
        Some(only) if lists.is_empty() => Json(only).into_response(),
        last => {
            lists.extend(last);
            Json(lists).into_response()
        }
    })
}
