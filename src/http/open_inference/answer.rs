//! Scores → the tensors that were asked for.
//!
//! `infer.rs` calls [`Wanted::of`] before inference, so that a wrong wish costs none, and [`render`] after.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::VERSION;
use super::head::OutputHead;
use crate::engine::Scores;
use crate::http::error::ApiError;
use crate::http::registry::{ModelInfo, Served};
use crate::http::strict::{Few, Object};
use crate::scores::{Function, best};

/// How long the JSON is at the head of a body with binary tensors.
pub(super) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");

const LOGITS: &str = "logits";
const SCORES: &str = "scores";

/// The outputs of a model: name, type, and shape for one image.
pub(super) fn outputs(info: &ModelInfo) -> [(&'static str, &'static str, Vec<usize>); 2] {
    [(LOGITS, "FP32", vec![info.labels.len()]), (SCORES, "FP32", vec![info.labels.len()])]
}

/// One output that was asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Wanted {
    name: &'static str,
    /// As `score:index:label`, this many an image.
    classification: Option<usize>,
    binary: bool,
}

impl Wanted {
    /// What `outputs` ask for; all where nothing is asked for. `binary` is the request's own word.
    pub(super) fn of(outputs: Option<Few<Object<OutputHead>>>, binary: bool) -> Result<Vec<Self>, ApiError> {
        let Some(Few(outputs)) = outputs.filter(|outputs| !outputs.0.is_empty()) else {
            return Ok([LOGITS, SCORES].map(|name| Self { name, classification: None, binary }).to_vec());
        };
        let mut wanted: Vec<Self> = Vec::with_capacity(outputs.len());
        for Object(output) in outputs {
            let Some(name) = [LOGITS, SCORES].into_iter().find(|name| *name == output.name) else {
                let sent: String = output.name.chars().take(100).collect();
                let message = format!("no output `{sent}`; there are `{LOGITS}` and `{SCORES}`");
                return Err(ApiError::BadRequest(message));
            };
            if wanted.iter().any(|known| known.name == name) {
                return Err(ApiError::BadRequest(format!("output `{name}` is asked for twice")));
            }
            let mut parameters = output.parameters.unwrap_or_default();
            let own = parameters.flag("binary_data")?;
            let classification = parameters.count("classification")?;
            if classification == Some(0) {
                let message =
                    format!("parameter `classification` of output `{name}` must be a whole number from 1");
                return Err(ApiError::BadRequest(message));
            }
            parameters.finish(&format!("output `{name}`"))?;
            let classification = classification.map(|count| usize::try_from(count).unwrap_or(usize::MAX));
            wanted.push(Self { name, classification, binary: own.unwrap_or(binary) });
        }
        Ok(wanted)
    }
}

/// The tensors asked for.
#[derive(Serialize, ToSchema)]
pub(crate) struct InferAnswer<'a> {
    model_name: &'a str,
    model_version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<&'a str>,
    #[schema(inline)]
    outputs: Vec<OutputTensor>,
}

#[derive(Serialize, ToSchema)]
struct OutputTensor {
    name: &'static str,
    datatype: &'static str,
    shape: [usize; 2],
    /// Where its bytes come after the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, nullable = false)]
    parameters: Option<BinaryData>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline, nullable = false)]
    data: Option<Data>,
}

#[derive(Serialize, ToSchema)]
struct BinaryData {
    binary_data_size: usize,
}

/// Row by row.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Data {
    Numbers(Vec<f32>),
    Texts(Vec<String>),
}

impl Data {
    /// As bytes: numbers little-endian, texts with four bytes of length before each.
    fn append_to(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Numbers(numbers) => bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Self::Texts(texts) => {
                for text in texts {
                    bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
                    bytes.extend_from_slice(text.as_bytes());
                }
            }
        }
    }
}

/// The whole answer.
pub(super) fn render(
    served: &Served,
    function: Function,
    wanted: &[Wanted],
    id: Option<&str>,
    scores: &[Scores],
) -> Result<Response, ApiError> {
    let info = &served.info;
    let mut binary = Vec::new();
    let outputs = wanted.iter().map(|wanted| {
        let function = if wanted.name == SCORES { function } else { Function::None };
        let rows = scores.iter().map(|Scores(logits)| function.apply(logits));
        let (datatype, columns, data) = match wanted.classification {
            Some(count) => {
                let count = count.min(info.labels.len());
                let texts = rows.flat_map(|row| classes(&row, &info.labels, count)).collect();
                ("BYTES", count, Data::Texts(texts))
            }
            None => {
                let numbers = rows.flatten().map(|score| score as f32).collect();
                ("FP32", info.labels.len(), Data::Numbers(numbers))
            }
        };
        let mut output = OutputTensor {
            name: wanted.name,
            datatype,
            shape: [scores.len(), columns],
            parameters: None,
            data: None,
        };
        if wanted.binary {
            let start = binary.len();
            data.append_to(&mut binary);
            output.parameters = Some(BinaryData { binary_data_size: binary.len() - start });
        } else {
            output.data = Some(data);
        }
        output
    });
    let outputs = outputs.collect();
    let answer = InferAnswer { model_name: &served.name, model_version: VERSION, id, outputs };
    if !wanted.iter().any(|wanted| wanted.binary) {
        return Ok(axum::Json(answer).into_response());
    }
    let mut body = serde_json::to_vec(&answer)
        .map_err(|error| ApiError::Internal(format!("an answer cannot be written: {error}")))?;
    let length = HeaderValue::from(body.len());
    body.append(&mut binary);
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind), (HEADER_LENGTH, length)], body).into_response())
}

/// The best of a row, as Triton writes them.
fn classes(row: &[f64], labels: &[String], count: usize) -> Vec<String> {
    let class = |index: usize| {
        let (score, label) = row.get(index).zip(labels.get(index))?;
        Some(format!("{score:.6}:{index}:{label}"))
    };
    best(row, count).into_iter().filter_map(class).collect()
}
