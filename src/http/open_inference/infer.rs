//! `POST /v2/models/{model}/infer`: tensors in, tensors out.
//!
//! A body is JSON, or JSON of the length that `inference-header-content-length` names with binary tensors after it. The protocol
//! knows no half answers: where one image cannot be used, the request fails and the error names it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::response::Response;
use bytes::Bytes;

use super::answer::{HEADER_LENGTH, Wanted, render};
use super::head::Head;
use super::tensors;
use super::{ModelPath, find};
use crate::engine::{EngineError, Input};
use crate::http::error::ApiError;
use crate::http::parameters::patience;
use crate::http::registry::Served;
use crate::http::segments::Segments;
use crate::http::state::Service;
use crate::http::strict::{Few, Object};
use crate::http::{aside, body};
use crate::scores::Function;

/// A request taken apart.
struct Parsed {
    id: Option<String>,
    /// One an image, in order.
    inputs: Vec<Input>,
    wanted: Vec<Wanted>,
    function: Function,
    /// The client's own limit.
    timeout: Option<Duration>,
}

/// The handler.
pub(crate) async fn infer(
    State(service): State<Service>,
    Segments(path): Segments<ModelPath>,
    request: Request,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    let served = find(&service, &path)?;
    if head.headers.contains_key(header::CONTENT_ENCODING) {
        let message = "`content-encoding` is not understood; send the body as it is".to_owned();
        return Err(ApiError::UnsupportedMediaType(message));
    }
    let mut deadline = start + patience(service.settings(), &head.headers)?;
    service.engine().admissible(deadline)?;
    let header_length = header_length(&head.headers)?;
    let bytes = body::read(&service, body, start, deadline).await?;
    let parsing = aside::parse(bytes.len(), {
        let (service, served) = (service.clone(), served.clone());
        move || parse(&service, &served, header_length, &bytes)
    });
    let Parsed { id, inputs, wanted, function, timeout } = parsing.await?;
    if let Some(timeout) = timeout.and_then(|timeout| start.checked_add(timeout)) {
        deadline = deadline.min(timeout);
    }

    let count = inputs.len();
    let tensors = matches!(inputs.first(), Some(Input::Tensor(_)));
    let answers = service.engine().submit_many(inputs, &served.model, deadline).await?;
    let mut scores = Vec::with_capacity(count);
    for (index, answer) in answers.into_iter().enumerate() {
        let answer = answer.map_err(|error| match error {
            // Only tensors of a client's own making can bring a working model to this.
            EngineError::NonFinite if tensors => ApiError::BadRequest("the scores are not finite".to_owned()),
            error => ApiError::from(error),
        });
        let one = answer.map_err(|error| error.about(&format!("image {index} of {count}")))?;
        scores.push(served.info.check(one)?);
    }
    render(&served, function, &wanted, id.as_deref(), &scores)
}

/// What the header says of the JSON's length.
fn header_length(headers: &HeaderMap) -> Result<Option<usize>, ApiError> {
    let Some(value) = headers.get(HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok()).filter(|length| *length > 0);
    let wrong =
        || ApiError::BadRequest(format!("`{HEADER_LENGTH}` must be the length of the JSON, in bytes"));
    length.map(Some).ok_or_else(wrong)
}

fn parse(
    service: &Service,
    served: &Arc<Served>,
    header_length: Option<usize>,
    body: &Bytes,
) -> Result<Parsed, ApiError> {
    let length = header_length.unwrap_or(body.len());
    if length > body.len() {
        let message = format!("`{HEADER_LENGTH}` is {length}, the body has {} bytes", body.len());
        return Err(ApiError::BadRequest(message));
    }
    let json = body.slice(..length);
    let mut binary = body.slice(length..);
    let head = Head::parse(&json)?;
    let mut parameters = head.parameters.unwrap_or_default();
    let all_binary = parameters.flag("binary_data_output")?.unwrap_or(false);
    let timeout = parameters.count("timeout")?.filter(|timeout| *timeout > 0).map(Duration::from_micros);
    let function = parameters.text("function_to_apply")?;
    parameters.finish("the request")?;
    let function = match function {
        Some(name) => Function::from_name(&name).ok_or_else(|| {
            ApiError::BadRequest(
                "parameter `function_to_apply` must be `softmax`, `sigmoid` or `none`".to_owned(),
            )
        })?,
        None => served.info.function,
    };
    let wanted = Wanted::of(head.outputs, all_binary)?;

    let Few(mut inputs) = head.inputs;
    let Some(Object(mut input)) = inputs.pop().filter(|_| inputs.is_empty()) else {
        let message = "`inputs` must hold one tensor: `image`, `pixel_values` or `pixels`".to_owned();
        return Err(ApiError::BadRequest(message));
    };
    let mut parameters = input.parameters.take().unwrap_or_default();
    let size = parameters.count("binary_data_size")?;
    // As other servers of the protocol know it; JSON holds photos in no other form.
    let content = parameters.text("content_type")?;
    if content.is_some_and(|content| content != "base64") {
        let message = "parameter `content_type` of an input must be `base64`, which it is anyway".to_owned();
        return Err(ApiError::BadRequest(message));
    }
    parameters.finish("the input")?;
    let own = match size {
        Some(_) if header_length.is_none() => {
            let message = format!("`binary_data_size` is given, but no header `{HEADER_LENGTH}`");
            return Err(ApiError::BadRequest(message));
        }
        Some(size) => {
            let size = usize::try_from(size).ok().filter(|size| *size <= binary.len());
            let short = || {
                let message =
                    format!("{} bytes follow the JSON, fewer than `binary_data_size`", binary.len());
                ApiError::BadRequest(message)
            };
            Some(size.ok_or_else(short)?)
        }
        None => None,
    };
    let own = own.map(|size| binary.split_to(size));
    if !binary.is_empty() {
        let message = format!("{} bytes follow the JSON that belong to no input", binary.len());
        return Err(ApiError::BadRequest(message));
    }
    let inputs = tensors::read(service, &served.info, &input, own)?;
    Ok(Parsed { id: head.id, inputs, wanted, function, timeout })
}
