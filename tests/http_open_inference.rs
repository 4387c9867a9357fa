//! `/v2`: the Open Inference Protocol, with tensors as JSON and as bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use serde_json::{Value, json};
use service::inference::*;
use service::{Running, photos};

#[test]
fn the_service_and_its_models_describe_themselves() {
    let service = Running::with_settings(|settings| settings.max_photos_per_request = 33);
    let server = service.get("/v2").json();
    assert_eq!(server["name"], "featherlight");
    assert_eq!(server["extensions"], json!(["binary_tensor_data", "classification", "model_configuration"]));
    assert_eq!(service.get("/v2/health/live").json(), json!({"live": true}));
    assert_eq!(service.get("/v2/health/ready").json(), json!({"ready": true}));
    let model = service.get("/v2/models/colours").json();
    assert_eq!(
        model,
        json!({
            "name": "colours", "versions": ["1"], "platform": "featherlight",
            "inputs": [
                {"name": "image", "datatype": "BYTES", "shape": [-1, 1]},
                {"name": "pixel_values", "datatype": "FP32", "shape": [-1, 3, 8, 8]},
                {"name": "pixels", "datatype": "UINT8", "shape": [-1, 8, 8, 3]},
            ],
            "outputs": [
                {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
                {"name": "scores", "datatype": "FP32", "shape": [-1, 3]},
            ],
        })
    );
    assert_eq!(service.get("/v2/models/colours/versions/1").json(), model);
    assert_eq!(service.get("/v2/models/colours/ready").json(), json!({"name": "colours", "ready": true}));
    assert_eq!(service.get("/v2/models/colours/versions/1/ready").status, 200);
    let config = service.get("/v2/models/colours/config").json();
    assert_eq!(config["max_batch_size"], 33);
    assert_eq!(
        config["input"][0],
        json!({"name": "image", "data_type": "TYPE_STRING", "dims": [1], "optional": true})
    );
    let index = service.connect().send("POST", "/v2/repository/index", &[], b"");
    assert_eq!(index.json(), json!([{"name": "colours", "version": "1", "state": "READY", "reason": ""}]));
}

#[test]
fn photos_as_base64_get_logits_and_scores() {
    let service = Running::start();
    let photos = [photos::plain([10, 30, 20]), photos::plain([90, 0, 1])];
    let data: Vec<_> = photos.iter().map(|photo| base64(photo)).collect();
    for (shape, data) in [
        (json!([2]), json!(data)),
        (json!([2, 1]), json!(data)),
        (json!([2, 1]), json!([[data[0]], [data[1]]])),
    ] {
        let input = json!({"name": "image", "datatype": "BYTES", "shape": shape, "data": data});
        let answer = infer(&service, &json!({"id": "seven", "inputs": [input]}));
        let logits = output(&answer, "logits");
        assert_eq!(
            logits,
            json!({"name": "logits", "datatype": "FP32", "shape": [2, 3], "data": [10.0, 30.0, 20.0, 90.0, 0.0, 1.0]})
        );
        let scores = output(&answer, "scores")["data"].clone();
        let first = scores[1].as_f64().expect("a number");
        assert!((first - 1.0 / (1.0 + (-10.0_f64).exp())).abs() < 1e-6, "{scores}");
        let json = answer.json();
        assert_eq!(
            (&json["model_name"], &json["model_version"], &json["id"]),
            (&json!("colours"), &json!("1"), &json!("seven"))
        );
        assert_eq!(answer.header(LENGTH), None);
    }
}

#[test]
fn the_same_pixels_get_the_same_logits_as_photo_as_pixels_and_as_values_in_json_and_in_bytes() {
    let service = Running::start();
    let colours = [[10, 30, 20], [90, 0, 1]];
    let (values, bytes) = (planes(&colours.map(|colour| colour.map(f32::from))), raw(&colours));
    let little_endian: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    let photos = photo_elements(&colours.map(photos::plain));
    let head = |name: &str, kind: &str, shape: Value| json!({"inputs": [{"name": name, "datatype": kind, "shape": shape}], "outputs": [{"name": "logits"}]});
    let with = |mut head: Value, data: Value| {
        head["inputs"][0]["data"] = data;
        head
    };
    let pixels = head("pixels", "UINT8", json!([2, 8, 8, 3]));
    let pixel_values = head("pixel_values", "FP32", json!([2, 3, 8, 8]));
    let nested: Vec<_> = values
        .chunks(192)
        .map(|image| image.chunks(64).map(|plane| plane.chunks(8).collect::<Vec<_>>()).collect::<Vec<_>>())
        .collect();
    let answers = [
        infer_binary(&service, head("image", "BYTES", json!([2, 1])), &photos),
        infer(&service, &with(pixels.clone(), json!(bytes))),
        infer_binary(&service, pixels, &bytes),
        infer(&service, &with(pixel_values.clone(), json!(values))),
        infer(&service, &with(pixel_values.clone(), json!(nested))),
        infer_binary(&service, pixel_values, &little_endian),
    ];
    for answer in answers {
        assert_eq!(output(&answer, "logits")["data"], json!([10.0, 30.0, 20.0, 90.0, 0.0, 1.0]));
        assert_eq!(answer.json()["outputs"].as_array().map(Vec::len), Some(1), "only what was asked for");
    }
}

#[test]
fn outputs_come_as_bytes_where_the_request_or_the_output_says_so() {
    let service = Running::start();
    let input =
        json!({"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": raw(&[[10, 30, 20]])});
    let numbers = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|number| f32::from_le_bytes(number.try_into().expect("four"))).collect()
    };
    let answer = infer(&service, &json!({"inputs": [input], "parameters": {"binary_data_output": true}}));
    let length: usize = answer.header(LENGTH).expect("the header").parse().expect("a number");
    assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    let (head, rest) = answer.body.split_at(length);
    let head: Value = serde_json::from_slice(head).expect("JSON of that length");
    for output in head["outputs"].as_array().expect("a list") {
        assert_eq!(output["parameters"], json!({"binary_data_size": 12}));
        assert!(output.get("data").is_none());
    }
    assert_eq!(rest.len(), 24);
    assert_eq!(numbers(&rest[..12]), [10.0, 30.0, 20.0]);
    assert!((numbers(&rest[12..]).iter().sum::<f32>() - 1.0).abs() < 1e-6);

    // One as bytes, one as JSON, in the order asked for; the best two with index and label.
    let outputs = json!([
        {"name": "scores", "parameters": {"binary_data": false}},
        {"name": "logits", "parameters": {"classification": 2}},
    ]);
    let body = json!({"inputs": [input], "outputs": outputs, "parameters": {"binary_data_output": true, "function_to_apply": "none"}});
    let answer = infer(&service, &body);
    let length: usize = answer.header(LENGTH).expect("the header").parse().expect("a number");
    let (head, rest) = answer.body.split_at(length);
    let head: Value = serde_json::from_slice(head).expect("JSON of that length");
    assert_eq!(head["outputs"][0]["data"], json!([10.0, 30.0, 20.0]), "scores, with the function asked for");
    assert_eq!(head["outputs"][1]["datatype"], "BYTES");
    assert_eq!(head["outputs"][1]["shape"], json!([1, 2]));
    assert_eq!(rest, photo_elements(&[b"30.000000:1:green".to_vec(), b"20.000000:2:blue".to_vec()]));

    let body =
        json!({"inputs": [input], "outputs": [{"name": "logits", "parameters": {"classification": 99}}]});
    let classes = output(&infer(&service, &body), "logits");
    assert_eq!(classes["data"], json!(["30.000000:1:green", "20.000000:2:blue", "10.000000:0:red"]));
    assert_eq!(classes["shape"], json!([1, 3]), "as many as there are");
}
