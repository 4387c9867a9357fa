//! `GET /openapi.json`: every route, its parameters, bodies, answers and errors, as OpenAPI 3.1.
//!
//! Reached through `router.rs`; `/docs` shows the same document. Schemas of answers come from the types that are answered
//! (`schemas.rs`), errors from the table of `error.rs` (`errors.rs`), operations are listed in `operations.rs` and
//! `protocols.rs`. Tests hold the list against the router; nothing here is asked while a photo is classified.

mod errors;
mod operations;
mod protocols;
mod schemas;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::state::Service;

/// The handler.
pub(super) async fn openapi(State(service): State<Service>) -> Response {
    let settings = service.settings();
    let offer = Offer {
        keys: !settings.api_keys.is_empty(),
        admin_keys: !settings.admin_keys.is_empty(),
        protect_all: settings.protect_all,
        admin_port: settings.admin_port.is_some(),
        urls: settings.url_input.is_some(),
    };
    Json(document(offer)).into_response()
}

/// What differs from service to service.
#[derive(Debug, Clone, Copy)]
struct Offer {
    /// Keys are set.
    keys: bool,
    /// Admin keys are.
    admin_keys: bool,
    /// Pages and metrics want a key as well.
    protect_all: bool,
    /// What is for operators has a port of its own, and is not served on this one.
    admin_port: bool,
    /// Photos by URL are taken.
    urls: bool,
}

/// One operation, before it becomes JSON.
struct Operation {
    method: &'static str,
    path: &'static str,
    tag: Tag,
    /// Its name in generated clients.
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    parameters: Vec<Value>,
    body: Option<Value>,
    /// Status, description, and content by type.
    answers: Vec<(u16, &'static str, Value)>,
    errors: &'static [&'static str],
    /// Who may ask.
    access: Access,
    port: Port,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Everyone.
    Open,
    /// Everyone, unless `--protect-all`.
    Shown,
    /// Whoever has a key.
    Key,
    /// Whoever has an admin key.
    Admin,
}

impl Access {
    /// Whether a key must be sent.
    fn wants_key(self, offer: Offer) -> bool {
        match self {
            Self::Open => false,
            Self::Shown => offer.keys && offer.protect_all,
            Self::Key => offer.keys,
            // Where there is no admin key this is off, but an API key is asked for first.
            Self::Admin => offer.keys || offer.admin_keys,
        }
    }
}

/// Where an operation is served.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    /// Always on the port for clients.
    Public,
    /// On the admin port where there is one.
    Admin,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Tag {
    Classification,
    Models,
    HuggingFace,
    OpenInference,
    Operations,
    Documentation,
}

impl Tag {
    const ALL: [Self; 6] = [
        Self::Classification,
        Self::Models,
        Self::HuggingFace,
        Self::OpenInference,
        Self::Operations,
        Self::Documentation,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Classification => "Classification",
            Self::Models => "Models",
            Self::HuggingFace => "Hugging Face",
            Self::OpenInference => "Open Inference Protocol",
            Self::Operations => "Operations",
            Self::Documentation => "Documentation",
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Classification => "Photos in, labels out.",
            Self::Models => "What is served, where, and within which limits.",
            Self::HuggingFace => {
                "The contract of Hugging Face's image classification, for `huggingface_hub.InferenceClient` and others."
            }
            Self::OpenInference => {
                "Version 2 over REST, as KServe and Triton speak it, with the extensions for binary tensors, classification and model configuration."
            }
            Self::Operations => "For orchestrators and monitoring. Neither waits for inference.",
            Self::Documentation => "This document, and a page that shows it.",
        }
    }

    /// Whether errors have the protocol's own shape.
    fn has_plain_errors(self) -> bool {
        self == Self::OpenInference
    }
}

/// The whole document.
fn document(offer: Offer) -> Value {
    let mut paths = Map::new();
    for operation in operations(offer) {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        path[operation.method] = render(&operation, offer);
    }
    let tags = Tag::ALL.map(|tag| json!({"name": tag.name(), "description": tag.description()}));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Featherlight",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Classifies photos with vision transformers",
            "description": "Every answer carries `x-request-id`: the client's own if it sent one of 1 to 128 visible ASCII \
                characters, else a fresh one. Errors name it too, and the service's log has it beside the details. \
                Where keys are set, they are sent as `Authorization: Bearer KEY` or `x-api-key: KEY`. With \
                `x-request-timeout-ms` a client says how long it waits for the labels of a photo, in milliseconds; the answer is \
                then a 504 at the latest, or a 503 at once where the queue is too long for that. More than the service's own \
                limit means that limit.",
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": schemas::all(offer.urls),
            "parameters": headers(),
            "headers": {
                "RequestId": {
                    "description": "The request's id: the client's own, or a fresh one.",
                    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
                },
                "RetryAfter": {
                    "description": "When to come back, in seconds: by the photos that wait and the time that one takes.",
                    "schema": {"type": "integer", "minimum": 1},
                },
                "Allow": {"description": "The methods of this path.", "schema": {"type": "string"}},
            },
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A key of `--api-key`, or of `--admin-key` for everything."},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "A key of `--api-key`, or of `--admin-key` for everything."},
            },
        },
    })
}

fn operations(offer: Offer) -> impl Iterator<Item = Operation> {
    let all = operations::list(offer.urls).into_iter().chain(protocols::list(offer.urls));
    all.filter(move |operation| operation.port == Port::Public || !offer.admin_port)
}

/// Headers that any request may carry. No operation refers to them: programs that try every value of every parameter would
/// take the end of a time that they chose themselves for a fault of the service.
fn headers() -> Value {
    json!({
        "RequestId": {
            "name": "x-request-id", "in": "header", "description": "An id of the client's own.",
            "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        },
        "RequestTimeout": {
            "name": "x-request-timeout-ms", "in": "header",
            "description": "How long the client waits for the labels of a photo, in milliseconds.",
            "schema": {"type": "integer", "minimum": 1},
        },
        "HeaderLength": {
            "name": "inference-header-content-length", "in": "header",
            "description": "With a body of the Open Inference Protocol: the length of the JSON in bytes, where binary tensors follow it.",
            "schema": {"type": "integer", "minimum": 1},
        },
    })
}

fn render(operation: &Operation, offer: Offer) -> Value {
    let mut answers = Map::new();
    for (status, description, content) in &operation.answers {
        let mut answer = json!({
            "description": description,
            "headers": {"x-request-id": {"$ref": "#/components/headers/RequestId"}},
        });
        if !content.is_null() {
            answer["content"] = content.clone();
        }
        answers.insert(status.to_string(), answer);
    }
    let wants_key = operation.access.wants_key(offer);
    errors::add(operation, wants_key, &mut answers);
    let mut rendered = json!({
        "operationId": operation.id,
        "tags": [operation.tag.name()],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": operation.parameters,
        "responses": answers,
        "security": if wants_key { json!([{"bearer": []}, {"key": []}]) } else { json!([]) },
    });
    if let Some(body) = &operation.body {
        rendered["requestBody"] = body.clone();
    }
    rendered
}

/// Content of one type.
fn content(kind: &str, schema: Value) -> Value {
    json!({ kind: {"schema": schema} })
}

/// JSON content of a schema of `schemas.rs`, with examples by name.
fn json_of(schema: &str, examples: &[(&str, Value)]) -> Value {
    let mut media = json!({"schema": reference(schema)});
    if !examples.is_empty() {
        let examples: Map<String, Value> =
            examples.iter().map(|(name, value)| ((*name).to_owned(), json!({"value": value}))).collect();
        media["examples"] = Value::Object(examples);
    }
    json!({"application/json": media})
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::router::ROUTES;

    pub(super) const ALL: Offer =
        Offer { keys: true, admin_keys: true, protect_all: false, admin_port: false, urls: true };

    /// Paths given to `.route(` in the router's source: no list beside it could be forgotten.
    fn routed() -> BTreeSet<&'static str> {
        let source = include_str!("../router.rs");
        source
            .split(".route(")
            .skip(1)
            .filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next())
            .collect()
    }

    #[test]
    fn every_route_is_documented_and_every_documented_path_is_routed() {
        let documented: BTreeSet<_> = operations(ALL).map(|operation| operation.path).collect();
        assert_eq!(documented, routed());
        let versions = |path: &&&str| !path.contains("/versions/");
        let labels: BTreeSet<_> = ROUTES.into_iter().collect();
        let without: Vec<_> =
            documented.iter().filter(versions).filter(|path| !labels.contains(*path)).collect();
        assert!(without.is_empty(), "no label of metrics for {without:?}");
    }

    #[test]
    fn names_are_given_once_and_every_reference_leads_somewhere() {
        let mut ids = BTreeSet::new();
        assert!(operations(ALL).all(|operation| ids.insert(operation.id)), "two operations share an id");
        let document = document(ALL);
        let text = document.to_string();
        for part in text.split("\"$ref\":\"").skip(1) {
            let target = part.split('"').next().and_then(|target| target.strip_prefix('#'));
            assert!(target.is_some_and(|target| document.pointer(target).is_some()), "{target:?}");
        }
    }

    #[test]
    fn every_operation_has_an_example_of_its_answer_in_json() {
        for operation in operations(ALL) {
            for (status, _, content) in &operation.answers {
                if let Some(json) = content.get("application/json").filter(|_| *status == 200) {
                    assert!(json["examples"].is_object(), "{} {}", operation.method, operation.path);
                }
            }
        }
    }

    #[test]
    fn keys_are_asked_for_where_they_are_set() {
        let secured = |offer: Offer, method: &str, path: &str| {
            document(offer)["paths"][path][method]["security"] != json!([])
        };
        let open = Offer { keys: false, admin_keys: false, ..ALL };
        assert!(secured(ALL, "post", "/classify") && !secured(open, "post", "/classify"));
        assert!(
            !secured(ALL, "get", "/health") && !secured(Offer { protect_all: true, ..ALL }, "get", "/health")
        );
        assert!(!secured(ALL, "get", "/docs") && secured(Offer { protect_all: true, ..ALL }, "get", "/docs"));
        assert!(secured(ALL, "post", "/models/{model}/reload"));
        assert!(secured(Offer { admin_keys: false, ..ALL }, "post", "/models/{model}/reload"));
        assert!(secured(Offer { keys: false, ..ALL }, "post", "/models/{model}/reload"));
        assert!(!secured(open, "post", "/models/{model}/reload"));
    }

    #[test]
    fn what_has_a_port_of_its_own_is_not_documented_on_this_one() {
        let paths = document(Offer { admin_port: true, ..ALL })["paths"].clone();
        assert!(
            paths.get("/metrics").is_none()
                && paths.get("/health").is_none()
                && paths.get("/classify").is_some()
        );
    }

    #[test]
    fn photos_by_url_are_documented_where_they_are_taken() {
        let urls = |urls| document(Offer { urls, ..ALL }).to_string().contains("photos.example.com");
        assert!(urls(true) && !urls(false));
    }
}
