//! The schemas that operations refer to by name.
//!
//! Answers' schemas are those of the types that are answered; requests' are written here, since their parsers count and refuse
//! while they read and have no plain types. What is said of a request here is what the parsers take.

use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::operations::count;
use super::reference;
use crate::http::{classify, error, health, info, models, open_inference as v2};

/// All of them, by name.
pub(super) fn all(urls: bool) -> Value {
    let mut schemas = Map::new();
    answers(&mut schemas);
    for (name, schema) in requests(urls) {
        schemas.insert(name.to_owned(), schema);
    }
    Value::Object(schemas)
}

fn answers(schemas: &mut Map<String, Value>) {
    add::<error::Envelope<'_>>("Error", schemas);
    add::<error::Plain>("ProtocolError", schemas);
    add::<classify::One<'_>>("Predictions", schemas);
    add::<classify::Several<'_>>("Results", schemas);
    add::<classify::Labels<'_>>("Labels", schemas);
    add::<health::Health>("Health", schemas);
    add::<info::Info>("Info", schemas);
    add::<models::Models>("Models", schemas);
    add::<models::Row>("Model", schemas);
    add::<models::Details>("ModelDetails", schemas);
    add::<v2::ServerMetadata>("ServerMetadata", schemas);
    add::<v2::Liveness>("Liveness", schemas);
    add::<v2::Readiness>("Readiness", schemas);
    add::<v2::ModelReadiness>("ModelReadiness", schemas);
    add::<v2::ModelMetadata>("ModelMetadata", schemas);
    add::<v2::ModelConfig>("ModelConfig", schemas);
    add::<v2::RepositoryIndex>("RepositoryIndex", schemas);
    add::<v2::InferAnswer<'_>>("InferAnswer", schemas);
}

/// A type's schema under a name of ours, and those that it refers to under theirs.
fn add<T: ToSchema>(name: &str, schemas: &mut Map<String, Value>) {
    let mut referred = Vec::new();
    T::schemas(&mut referred);
    for (name, schema) in std::iter::once((name.to_owned(), T::schema())).chain(referred) {
        // Plain data: strings, numbers and lists always become JSON.
        schemas.insert(name, serde_json::to_value(schema).unwrap_or_default());
    }
}

fn requests(urls: bool) -> [(&'static str, Value); 5] {
    let base64 = json!({"type": "string", "minLength": 1, "contentEncoding": "base64",
        "description": "A photo in base64: the standard or the URL-safe alphabet, with or without padding; `data:` URLs too."});
    let parameters = or_null(reference("ClassifyParameters"));
    let by_value = json!({
        "type": "object", "additionalProperties": false, "required": ["inputs"],
        "properties": {
            "inputs": {"oneOf": [base64, {"type": "array", "items": base64, "minItems": 1}]},
            "parameters": parameters,
        },
    });
    let by_url = json!({
        "type": "object", "additionalProperties": false, "required": ["url"],
        "properties": {
            "url": {"type": "string", "format": "uri", "description": "http or https, of a public address; the service fetches the photo itself."},
            "parameters": parameters,
        },
    });
    let flat = |more: Value| {
        // Parameters are flat; what is not understood is refused by name.
        or_null(json!({"type": "object", "additionalProperties": false, "properties": more}))
    };
    [
        ("Function", json!({"type": "string", "enum": ["softmax", "sigmoid", "none"]})),
        (
            "ClassifyParameters",
            json!({
                "type": "object", "additionalProperties": false,
                "properties": {
                    "top_k": or_null(count()),
                    "function_to_apply": or_null(reference("Function")),
                },
            }),
        ),
        ("ClassifyRequest", if urls { json!({"oneOf": [by_value, by_url]}) } else { by_value }),
        (
            "InferRequest",
            json!({
                "type": "object", "additionalProperties": false, "required": ["inputs"],
                "properties": {
                    "id": {"type": ["string", "null"], "description": "Comes back in the answer."},
                    "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": reference("InferInput")},
                    "outputs": {
                        "type": ["array", "null"], "maxItems": 2,
                        "items": {
                            "type": "object", "additionalProperties": false, "required": ["name"],
                            "properties": {
                                "name": {"type": "string", "enum": ["logits", "scores"]},
                                "parameters": flat(json!({
                                    "classification": count(),
                                    "binary_data": {"type": "boolean"},
                                })),
                            },
                        },
                    },
                    // `timeout` is left out for the reason given at `headers`.
                    "parameters": flat(json!({
                        "binary_data_output": {"type": "boolean"},
                        "function_to_apply": reference("Function"),
                    })),
                },
            }),
        ),
        (
            "InferInput",
            json!({
                "type": "object", "additionalProperties": false, "required": ["name", "datatype", "shape"],
                "properties": {
                    "name": {"type": "string", "enum": ["image", "pixel_values", "pixels"]},
                    "datatype": {"type": "string", "enum": ["BYTES", "FP32", "UINT8"]},
                    "shape": {"type": "array", "minItems": 1, "maxItems": 4, "items": count()},
                    "data": {"type": ["array", "null"], "description": "Row by row, flat or nested: base64 for BYTES, numbers else."},
                    "parameters": flat(json!({
                        "binary_data_size": {"type": "integer", "minimum": 0, "maximum": u64::MAX, "description": "Bytes after the JSON, in the place of `data`."},
                        "content_type": {"type": "string", "enum": ["base64"]},
                    })),
                },
            }),
        ),
    ]
}

/// A field that may be null, which is as if it were not there.
fn or_null(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_absent_from_an_answer_is_not_required() {
        let schemas = all(true);
        let required = |name: &str| schemas[name]["required"].clone();
        assert_eq!(required("InferAnswer"), json!(["model_name", "model_version", "outputs"]));
        assert_eq!(required("Predictions"), json!(["model", "predictions"]));
        assert_eq!(schemas["Error"]["required"], json!(["error"]));
    }
}
