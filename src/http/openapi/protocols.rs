//! Operations of protocols that others made: Hugging Face's contract and the Open Inference Protocol.

use serde_json::{Value, json};

use super::operations::{CLASSIFICATION, TINY_PNG, model, parameters, photos};
use super::{Access, Operation, Port, Tag, json_of, reference};

pub(super) fn list(urls: bool) -> Vec<Operation> {
    let mut list = hugging_face(urls);
    list.extend(service());
    list.extend(models());
    list
}

fn hugging_face(urls: bool) -> Vec<Operation> {
    let of = |path, id| {
        let best = json!([{"label": "7", "score": 0.98}, {"label": "1", "score": 0.01}]);
        let mut answer = json_of(
            "Labels",
            &[("one photo", best.clone()), ("several photos", json!([best.clone(), best]))],
        );
        let labels = reference("Labels");
        answer["application/json"]["schema"] =
            json!({"oneOf": [labels, {"type": "array", "minItems": 2, "items": labels}]});
        Operation {
            method: "post",
            path,
            tag: Tag::HuggingFace,
            id,
            summary: "Photos → the bare list of the best labels, by the default model",
            description: "Photos come in every form that `/classify` takes, so `InferenceClient(model=\"http://…\").\
                image_classification(photo)` works. Several photos get a list of lists; where one of them fails, the request \
                does, and the error names it.",
            parameters: parameters(),
            body: Some(photos(urls)),
            answers: vec![(200, "The labels.", answer)],
            errors: CLASSIFICATION,
            access: Access::Key,
            port: Port::Public,
        }
    };
    vec![of("/", "predictAtRoot"), of("/predict", "predict")]
}

fn get(path: &'static str, id: &'static str, summary: &'static str) -> Operation {
    Operation {
        method: "get",
        path,
        tag: Tag::OpenInference,
        id,
        summary,
        description: "",
        parameters: vec![],
        body: None,
        answers: vec![],
        errors: &[],
        access: Access::Key,
        port: Port::Public,
    }
}

fn service() -> Vec<Operation> {
    let metadata = json!({"name": "featherlight", "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data", "classification", "model_configuration"]});
    let readiness = |value| json_of("Readiness", &[("for example", json!({"ready": value}))]);
    let index = json!([{"name": "demo", "version": "1", "state": "READY", "reason": ""}]);
    vec![
        Operation {
            answers: vec![(
                200,
                "Name, version, extensions.",
                json_of("ServerMetadata", &[("for example", metadata)]),
            )],
            ..get("/v2", "serverMetadata", "What the service is")
        },
        Operation {
            answers: vec![(200, "It does.", json_of("Liveness", &[("for example", json!({"live": true}))]))],
            access: Access::Open,
            ..get("/v2/health/live", "serverLive", "Whether the process answers")
        },
        Operation {
            answers: vec![(200, "They are.", readiness(true)), (503, "They are not.", readiness(false))],
            access: Access::Open,
            ..get("/v2/health/ready", "serverReady", "Whether requests are welcome")
        },
        Operation {
            method: "post",
            answers: vec![(200, "One a model.", json_of("RepositoryIndex", &[("for example", index)]))],
            ..get("/v2/repository/index", "repositoryIndex", "Every model that is served")
        },
    ]
}

/// Each for the model, and for a version of it.
fn models() -> Vec<Operation> {
    let metadata = json!({
        "name": "demo", "versions": ["1"], "platform": "featherlight",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1, 1]},
            {"name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, 64, 64]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, 64, 64, 3]},
        ],
        "outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 10]}, {"name": "scores", "datatype": "FP32", "shape": [-1, 10]}],
    });
    let config = json!({
        "name": "demo", "platform": "featherlight", "backend": "featherlight", "max_batch_size": 64,
        "input": [{"name": "image", "data_type": "TYPE_STRING", "dims": [1], "optional": true}],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}],
    });
    let ready =
        |value| json_of("ModelReadiness", &[("for example", json!({"name": "demo", "ready": value}))]);
    let metadata = || json_of("ModelMetadata", &[("for example", metadata.clone())]);
    let config = || json_of("ModelConfig", &[("for example", config.clone())]);
    let of = |path: &'static str, id, summary, answers| {
        let versioned = path.contains("/versions/");
        let parameters = std::iter::once(model()).chain(versioned.then(version)).collect();
        let errors: &[&str] = &["bad_request", "model_not_found", "not_ready"];
        Operation { parameters, answers, errors, ..get(path, id, summary) }
    };
    let summary = "Its inputs, of which a request gives one, and its outputs";
    let configured = "Its configuration, as Triton's clients read it";
    let asked = "Whether requests for it are welcome";
    vec![
        of("/v2/models/{model}", "modelMetadata", summary, vec![(200, "The model.", metadata())]),
        of(
            "/v2/models/{model}/versions/{version}",
            "versionMetadata",
            summary,
            vec![(200, "The model.", metadata())],
        ),
        of(
            "/v2/models/{model}/config",
            "modelConfig",
            configured,
            vec![(200, "The configuration.", config())],
        ),
        of(
            "/v2/models/{model}/versions/{version}/config",
            "versionConfig",
            configured,
            vec![(200, "The configuration.", config())],
        ),
        of(
            "/v2/models/{model}/ready",
            "modelReady",
            asked,
            vec![(200, "They are.", ready(true)), (503, "They are not.", ready(false))],
        ),
        of(
            "/v2/models/{model}/versions/{version}/ready",
            "versionReady",
            asked,
            vec![(200, "They are.", ready(true)), (503, "They are not.", ready(false))],
        ),
        infer("/v2/models/{model}/infer", "infer"),
        infer("/v2/models/{model}/versions/{version}/infer", "inferVersion"),
    ]
}

fn version() -> Value {
    json!({
        "name": "version", "in": "path", "required": true, "description": "Every model has the one version `1`.",
        "schema": {"type": "string", "minLength": 1}, "example": "1",
    })
}

fn infer(path: &'static str, id: &'static str) -> Operation {
    let request = json!({
        "id": "42",
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [TINY_PNG]}],
        "outputs": [{"name": "scores"}, {"name": "logits", "parameters": {"classification": 3}}],
    });
    let answer = json!({
        "model_name": "demo", "model_version": "1", "id": "42",
        "outputs": [
            {"name": "scores", "datatype": "FP32", "shape": [1, 3], "data": [0.7, 0.2, 0.1]},
            {"name": "logits", "datatype": "BYTES", "shape": [1, 3], "data": ["2.100000:0:cat", "0.800000:1:dog", "0.100000:2:bird"]},
        ],
    });
    let bytes = json!({"schema": {"type": "string", "format": "binary", "description": "JSON, as long as `inference-header-content-length` says, and the tensors' bytes after it."}});
    let mut body = json_of("InferRequest", &[("a photo", request)]);
    body["application/octet-stream"] = bytes.clone();
    let mut content = json_of("InferAnswer", &[("for example", answer)]);
    content["application/octet-stream"] = bytes;
    let versioned = path.contains("/versions/");
    Operation {
        method: "post",
        parameters: std::iter::once(model()).chain(versioned.then(version)).collect(),
        body: Some(json!({"required": true, "content": body})),
        answers: vec![(200, "The outputs asked for, or all of them.", content)],
        errors: &[
            "bad_request",
            "model_not_found",
            "request_timeout",
            "body_too_large",
            "too_many_photos",
            "unsupported_media_type",
            "undecodable_image",
            "too_many_pixels",
            "overloaded",
            "not_ready",
            "shutting_down",
            "device_unavailable",
            "deadline_exceeded",
        ],
        description: "One input: `image` (BYTES, `[n]` or `[n, 1]`: encoded photos; base64 as JSON), `pixel_values` (FP32, \
            `[n, 3, height, width]`, normalised) or `pixels` (UINT8, `[n, height, width, 3]`, of the model's own size). Outputs: \
            `logits`, `scores` (FP32, `[n, labels]`); with the parameter `classification: k` the best k as `score:index:label` \
            (BYTES). Parameters of the request: `binary_data_output`, `timeout` (microseconds), `function_to_apply`. Where one \
            image cannot be used the request fails, and the error names it.",
        ..get(path, id, "Tensors → tensors")
    }
}
