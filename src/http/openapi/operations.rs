//! The service's own operations: classification, models, health, metrics, documentation.

use serde_json::{Map, Value, json};

use super::{Access, Operation, Port, Tag, content, json_of, reference};

/// Formats that are served, as content types.
pub(super) const IMAGES: [&str; 6] =
    ["image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff"];

/// What a classification by a model of some name may end with.
const CLASSIFICATION_BY_NAME: &[&str] = &[
    "bad_request",
    "url_not_allowed",
    "request_timeout",
    "body_too_large",
    "too_many_photos",
    "unsupported_media_type",
    "undecodable_image",
    "too_many_pixels",
    "url_unreachable",
    "overloaded",
    "not_ready",
    "shutting_down",
    "device_unavailable",
    "deadline_exceeded",
    "model_not_found",
];

/// What one by the default model may: all but the last.
pub(super) const CLASSIFICATION: &[&str] = match CLASSIFICATION_BY_NAME {
    [others @ .., _] => others,
    [] => &[],
};

/// The photo, a form of photos, or JSON.
pub(super) fn photos(urls: bool) -> Value {
    let bytes =
        json!({"schema": {"type": "string", "format": "binary", "description": "The bytes of the photo."}});
    let kinds = IMAGES.into_iter().chain(["application/octet-stream"]);
    let mut types: Map<String, Value> = kinds.map(|kind| (kind.to_owned(), bytes.clone())).collect();
    let mut examples = json!({
        "a photo": {"value": {"inputs": TINY_PNG, "parameters": {"top_k": 2, "function_to_apply": "softmax"}}},
        "several photos": {"value": {"inputs": [TINY_PNG, TINY_PNG]}},
    });
    if urls {
        examples["a photo by its URL"] = json!({"value": {"url": "https://photos.example.com/a.jpg"}});
    }
    types.insert(
        "multipart/form-data".to_owned(),
        json!({
            "schema": {
                "type": "object",
                "properties": {
                    "file": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "minItems": 1,
                        "description": "A photo; any name of a field will do, and there may be several."
                    },
                    "top_k": count(),
                    "function_to_apply": reference("Function"),
                },
                "required": ["file"],
                "additionalProperties": false,
            },
            "encoding": {"file": {"contentType": IMAGES.join(", ")}},
        }),
    );
    let json = json!({"schema": reference("ClassifyRequest"), "examples": examples});
    types.insert("application/json".to_owned(), json);
    json!({"required": true, "content": types})
}

/// A small red square, in base64.
pub(super) const TINY_PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mM4oaGBFTEMLQkAgl1GARdiiXUAAAAASUVORK5CYII=";

/// `top_k` and `function_to_apply`.
pub(super) fn parameters() -> Vec<Value> {
    vec![
        json!({
            "name": "top_k", "in": "query", "description": "Labels a photo, best first, 5 where it is not said; more than there are means all.",
            "schema": count(),
        }),
        json!({
            "name": "function_to_apply", "in": "query",
            "description": "What turns logits into scores. Default: `softmax`; `sigmoid` for one label or a multi-label model.",
            "schema": reference("Function"),
        }),
    ]
}

/// A whole number from 1, as far as one is read.
pub(super) fn count() -> Value {
    json!({"type": "integer", "minimum": 1, "maximum": u64::MAX})
}

/// `{model}` of a path.
pub(super) fn model() -> Value {
    json!({
        "name": "model", "in": "path", "required": true, "description": "A model's name, as `/models` lists it.",
        "schema": {"type": "string", "minLength": 1}, "example": "demo",
    })
}

fn predictions() -> Value {
    let photo = json!([{"label": "7", "score": 0.98}, {"label": "1", "score": 0.01}]);
    let error = json!({"code": "unsupported_media_type", "message": "this is text; formats served are JPEG, PNG, WebP, GIF, BMP and TIFF",
        "request_id": "c6b364eb-2eae-4421-b7ec-fb2785e54197"});
    let mut content = json_of(
        "Predictions",
        &[
            ("one photo", json!({"model": "demo", "predictions": photo})),
            (
                "several photos, one of them none",
                json!({"model": "demo", "results": [
                    {"file": "a.jpg", "predictions": photo}, {"file": "notes.txt", "error": error}]}),
            ),
        ],
    );
    content["application/json"]["schema"] =
        json!({"oneOf": [reference("Predictions"), reference("Results")]});
    content
}

pub(super) fn list(urls: bool) -> Vec<Operation> {
    let mut list = classification(urls);
    list.extend(models());
    list.extend(upkeep());
    list
}

fn classification(urls: bool) -> Vec<Operation> {
    let classify = Operation {
        method: "post",
        path: "/classify",
        tag: Tag::Classification,
        id: "classify",
        summary: "Photos → the best labels of each, by the default model",
        description: "A photo is the body itself, a file of a form, base64 in JSON, or, where the operator allows it, a URL. JPEG, PNG, WebP, GIF (its first \
            frame), BMP and TIFF are told by their bytes, never by the content type. One photo gets `predictions`; several \
            get `results` in the order sent, each with its own predictions or error, and are admitted together or not at all.",
        parameters: parameters(),
        body: Some(photos(urls)),
        answers: vec![(200, "The labels.", predictions())],
        errors: CLASSIFICATION,
        access: Access::Key,
        port: Port::Public,
    };
    let by_name = Operation {
        path: "/classify/{model}",
        id: "classifyWith",
        summary: "The same by a model of your choice",
        description: "As `/classify`.",
        parameters: std::iter::once(model()).chain(parameters()).collect(),
        body: Some(photos(urls)),
        answers: vec![(200, "The labels.", predictions())],
        errors: CLASSIFICATION_BY_NAME,
        ..classify
    };
    vec![classify, by_name]
}

fn models() -> Vec<Operation> {
    let row = json!({"name": "demo", "version": 1, "default": true, "ready": true, "architecture": "beit", "labels": 10,
        "height": 64, "width": 64, "device": "cpu", "dtype": "f32"});
    let device = json!({"name": "cpu", "dtype": "f32", "max_batch_size": 8});
    let mut reloaded = row.clone();
    reloaded["version"] = json!(2);
    let mut details = row.clone();
    details["labels"] = json!(["0", "1", "2"]);
    details["devices"] = json!([device]);
    let info = json!({
        "name": "featherlight", "version": env!("CARGO_PKG_VERSION"),
        "model": {"name": "demo", "architecture": "beit", "labels": ["0", "1", "2"], "height": 64, "width": 64, "device": "cpu", "dtype": "f32"},
        "devices": [device],
        "limits": {"max_batch_size": 8, "max_queue_size": 256, "max_body_bytes": 20971520, "max_pixels": 178956970, "max_photos_per_request": 64, "request_timeout_ms": 30000},
    });
    let get = |path, id, summary, schema, example, errors, parameters| Operation {
        method: "get",
        path,
        tag: Tag::Models,
        id,
        summary,
        description: "",
        parameters,
        body: None,
        answers: vec![(200, "What is served.", json_of(schema, &[("for example", example)]))],
        errors,
        access: Access::Key,
        port: Port::Public,
    };
    vec![
        get(
            "/info",
            "info",
            "The default model, its devices and the limits of the service",
            "Info",
            info,
            &["not_ready"],
            vec![],
        ),
        get(
            "/models",
            "models",
            "Every model that is served",
            "Models",
            json!({"models": [row]}),
            &["not_ready"],
            vec![],
        ),
        get(
            "/models/{model}",
            "model",
            "One of them, with its labels and devices",
            "ModelDetails",
            details,
            &["bad_request", "model_not_found", "not_ready"],
            vec![model()],
        ),
        Operation {
            method: "post",
            description: "It is read and warmed beside the old one, which answers until the new one takes its place; requests \
                under way end on the old. A folder that cannot be loaded changes nothing.",
            answers: vec![(200, "The new one.", json_of("Model", &[("for example", reloaded)]))],
            access: Access::Admin,
            port: Port::Admin,
            ..get(
                "/models/{model}/reload",
                "reload",
                "Reads a model anew from its folder",
                "Model",
                Value::Null,
                &[
                    "bad_request",
                    "forbidden",
                    "model_not_found",
                    "reload_failed",
                    "shutting_down",
                    "device_unavailable",
                ],
                vec![model()],
            )
        },
    ]
}

fn upkeep() -> Vec<Operation> {
    let status = |word: &str| json_of("Health", &[("for example", json!({"status": word}))]);
    let ready = || {
        vec![
            (200, "Photos are welcome.", status("ready")),
            (503, "They are not: `starting`, `shutting_down` or `failed`.", status("starting")),
        ]
    };
    let get = |path, tag: Tag, id, summary, answers, access| Operation {
        method: "get",
        path,
        tag,
        id,
        summary,
        description: "",
        parameters: vec![],
        body: None,
        answers,
        errors: &[],
        access,
        port: if tag == Tag::Operations { Port::Admin } else { Port::Public },
    };
    let text = |kind: &str| content(kind, json!({"type": "string"}));
    vec![
        get("/health", Tag::Operations, "health", "Whether photos are welcome", ready(), Access::Open),
        get("/health/ready", Tag::Operations, "ready", "Whether photos are welcome", ready(), Access::Open),
        get(
            "/health/live",
            Tag::Operations,
            "live",
            "Whether the process answers",
            vec![(200, "It does.", status("live"))],
            Access::Open,
        ),
        get(
            "/metrics",
            Tag::Operations,
            "metrics",
            "Prometheus' metrics, each there from the start, at zero; times are in seconds",
            vec![(200, "The metrics.", text("text/plain"))],
            Access::Shown,
        ),
        get(
            "/",
            Tag::Documentation,
            "page",
            "A page to drop photos on",
            vec![(200, "The page.", text("text/html"))],
            Access::Shown,
        ),
        get(
            "/docs",
            Tag::Documentation,
            "docs",
            "This document as a page",
            vec![(200, "The page.", text("text/html"))],
            Access::Shown,
        ),
        get(
            "/openapi.json",
            Tag::Documentation,
            "openapi",
            "This document",
            vec![(
                200,
                "The document.",
                json!({"application/json": {"schema": {"type": "object", "required": ["openapi", "info", "paths"]},
                    "examples": {"its beginning": {"value": {"openapi": "3.1.0", "info": {"title": "Featherlight", "version": env!("CARGO_PKG_VERSION")}, "paths": {}}}}}}),
            )],
            Access::Shown,
        ),
    ]
}
