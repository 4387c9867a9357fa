//! `POST /` and `POST /predict`: the contract of Hugging Face's image classification, as its inference endpoints answer.
//!
//! Reached through `router.rs`. Photos come in every form that `/classify` takes, raw bytes and `{"inputs": "<base64>",
//! "parameters": …}` among them; the answer is the bare list, `[{"label": …, "score": …}]`, of the default model, or a list of
//! such lists for several photos. The contract knows no answer that is half an error: where one photo fails, the request does.

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};

use super::classify::{Scored, rank, score};
use super::error::ApiError;
use super::state::Service;

/// The handler.
pub(super) async fn predict(State(service): State<Service>, request: Request) -> Result<Response, ApiError> {
    let Scored { served, files, parameters, answers } = score(&service, None, request).await?;
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
