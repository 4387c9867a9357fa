//! Requests of the Open Inference Protocol to the harness's model, and what comes back.

use base64::Engine as _;
use serde_json::{Value, json};

use super::{Answer, Running};

pub const LENGTH: &str = "inference-header-content-length";

/// Pixels of the test's model, for each colour.
pub fn raw(colours: &[[u8; 3]]) -> Vec<u8> {
    colours.iter().flat_map(|colour| std::iter::repeat_n(*colour, 64).flatten()).collect()
}

/// The same as normalised values, plane by plane; here the values are the colours themselves.
pub fn planes(colours: &[[f32; 3]]) -> Vec<f32> {
    colours.iter().flatten().flat_map(|value| std::iter::repeat_n(*value, 64)).collect()
}

pub fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

pub fn infer(service: &Running, body: &Value) -> Answer {
    service.connect().send("POST", "/v2/models/colours/infer", &[], body.to_string().as_bytes())
}

/// JSON with one input's bytes behind it.
pub fn infer_binary(service: &Running, mut head: Value, bytes: &[u8]) -> Answer {
    head["inputs"][0]["parameters"] = json!({"binary_data_size": bytes.len()});
    send_binary(service, &head, bytes)
}

pub fn send_binary(service: &Running, head: &Value, bytes: &[u8]) -> Answer {
    let head = head.to_string();
    let length = head.len().to_string();
    let headers = [(LENGTH, length.as_str()), ("content-type", "application/octet-stream")];
    service.connect().send("POST", "/v2/models/colours/infer", &headers, &[head.as_bytes(), bytes].concat())
}

pub fn photo_elements(photos: &[Vec<u8>]) -> Vec<u8> {
    photos.iter().flat_map(|photo| [&(photo.len() as u32).to_le_bytes()[..], photo].concat()).collect()
}

/// The error in the protocol's shape.
pub fn refusal(answer: &Answer) -> (u16, String) {
    let json = answer.json();
    let fields: Vec<_> = json.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["error"], "{json}");
    assert!(answer.header("x-request-id").is_some());
    (answer.status, json["error"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned())
}

/// The data of an output, by its name.
pub fn output(answer: &Answer, name: &str) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let outputs = json["outputs"].as_array().unwrap_or_else(|| panic!("{json}"));
    outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("{json}")).clone()
}
