//! `/v2`: what is refused, in the protocol's shape, and that the message names the fault.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use serde_json::{Value, json};
use service::inference::*;
use service::{NOT_A_NUMBER, Running, Setup, photos};

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let service = Running::with_settings(|settings| settings.engine.max_queue_size = 4);
    let photo = base64(&photos::plain([9, 0, 0]));
    let image = |shape: Value, data: Value| json!({"inputs": [{"name": "image", "datatype": "BYTES", "shape": shape, "data": data}]});
    let tensor = |name: &str, kind: &str, shape: Value, data: Value| json!({"inputs": [{"name": name, "datatype": kind, "shape": shape, "data": data}]});
    let with = |mut body: Value, field: &str, value: Value| {
        body[field] = value;
        body
    };
    let good = image(json!([1]), json!([photo]));
    let zeros = |count: usize| json!(vec![0; count]);
    let cases = [
        (json!([]), "expected an object"),
        (json!([null, null, []]), "expected an object"),
        (json!({"inputs": [["image", [1], "BYTES"]]}), "expected an object"),
        (json!({}), "inputs"),
        (json!({"inputs": []}), "one tensor"),
        (json!({"inputs": [good["inputs"][0], good["inputs"][0]]}), "one tensor"),
        (tensor("picture", "BYTES", json!([1]), json!([photo])), "no input `picture`"),
        (tensor("image", "FP32", json!([1]), json!([photo])), "`image` is of type BYTES"),
        (tensor("pixels", "FP32", json!([1, 8, 8, 3]), zeros(192)), "`pixels` is of type UINT8"),
        (tensor("pixel_values", "FP64", json!([1, 3, 8, 8]), zeros(192)), "`pixel_values` is of type FP32"),
        (image(json!([]), json!([])), "shape []"),
        (image(json!([0]), json!([])), "no image"),
        (image(json!([1, 2]), json!([photo])), "shape [1, 2]; it must be [n, 1]"),
        (image(json!([-1]), json!([photo])), "invalid value"),
        (image(json!([2]), json!([photo])), "1 elements, the shape tells of 2"),
        (image(json!([1]), json!([photo, photo])), "more than 1 elements"),
        (image(json!([1]), json!([5])), "texts"),
        (image(json!([1]), json!(["*"])), "no base64"),
        (tensor("pixel_values", "FP32", json!([1, 3, 8, 9]), zeros(216)), "[n, 3, 8, 8]"),
        (tensor("pixel_values", "FP32", json!([3, 8, 8]), zeros(192)), "[n, 3, 8, 8]"),
        (
            tensor("pixel_values", "FP32", json!([1, 3, 8, 8]), zeros(191)),
            "191 numbers, the shape tells of 192",
        ),
        (tensor("pixel_values", "FP32", json!([1, 3, 8, 8]), zeros(193)), "more than 1 × 192"),
        (tensor("pixel_values", "FP32", json!([1, 3, 8, 8]), json!(vec!["a"; 192])), "numbers"),
        (
            tensor("pixel_values", "FP32", json!([1, 3, 8, 8]), json!(vec![1e39; 192])),
            "image 0 holds a value",
        ),
        (tensor("pixels", "UINT8", json!([1, 3, 8, 8]), zeros(192)), "[n, 8, 8, 3]"),
        (tensor("pixels", "UINT8", json!([1, 8, 8, 3]), json!(vec![256; 192])), "256 is no whole number"),
        (tensor("pixels", "UINT8", json!([1, 8, 8, 3]), json!(vec![-1; 192])), "-1 is no whole number"),
        (tensor("pixels", "UINT8", json!([1, 8, 8, 3]), json!(vec![0.5; 192])), "0.5 is no whole number"),
        (tensor("pixels", "UINT8", json!([1, 8, 8, 3]), Value::Null), "neither `data` nor"),
        (with(good.clone(), "outputs", json!([{"name": "classes"}])), "no output `classes`"),
        (with(good.clone(), "outputs", json!([{"name": "scores"}, {"name": "scores"}])), "twice"),
        (
            with(good.clone(), "outputs", json!([{"name": "scores", "parameters": {"classification": 0}}])),
            "`classification`",
        ),
        (
            with(
                good.clone(),
                "outputs",
                json!([{"name": "scores", "parameters": {"shared_memory_region": "x"}}]),
            ),
            "shared_memory_region",
        ),
        (with(good.clone(), "parameters", json!({"sequence_id": 1})), "sequence_id"),
        (with(good.clone(), "parameters", json!({"binary_data_output": 1})), "true or false"),
        (with(good.clone(), "parameters", json!({"function_to_apply": "relu"})), "sigmoid"),
        (with(good.clone(), "colour", json!(1)), "colour"),
    ];
    let count = cases.len() as f64;
    for (body, word) in cases {
        let (status, message) = refusal(&infer(&service, &body));
        assert_eq!(status, 400, "{word}: {message}");
        assert!(message.contains(word), "{word}: {message}");
    }
    assert_eq!(service.metric("featherlight_rejected_total{reason=\"bad_request\"}"), count);
    assert_eq!(infer(&service, &good).status, 200);
    for count in [5, u64::MAX] {
        let (status, message) = refusal(&infer(&service, &image(json!([count]), json!([photo]))));
        assert_eq!(status, 413);
        assert!(message.contains("which are 4;"), "{message}");
    }
}

#[test]
fn bytes_that_do_not_fit_their_head_are_named() {
    let service = Running::start();
    let photo = photos::plain([9, 0, 0]);
    let image = json!({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1]}]});
    let pixels = json!({"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3]}]});
    let values = json!({"inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8]}]});
    let sized = |mut head: Value, size: usize| {
        head["inputs"][0]["parameters"] = json!({"binary_data_size": size});
        head
    };
    let element = photo_elements(std::slice::from_ref(&photo));
    let mut both = image.clone();
    both["inputs"][0]["data"] = json!([base64(&photo)]);
    let not_a_number: Vec<u8> = std::iter::repeat_n(f32::NAN.to_le_bytes(), 192).flatten().collect();
    for (answer, word) in [
        (infer_binary(&service, image.clone(), &photo), "ends within element 0"),
        (infer_binary(&service, image.clone(), &element[..3]), "ends within element 0"),
        (infer_binary(&service, image.clone(), &element[..element.len() - 1]), "ends within element 0"),
        (infer_binary(&service, image.clone(), &[&element[..], &element].concat()), "bytes are left"),
        (infer_binary(&service, image.clone(), &[0xff; 64]), "ends within element 0"),
        (infer_binary(&service, pixels.clone(), &[0; 191]), "191 bytes of binary data; its shape takes 192"),
        (infer_binary(&service, values.clone(), &[0; 769]), "769 bytes of binary data; its shape takes 768"),
        (infer_binary(&service, values, &not_a_number), "image 0 holds a value"),
        (infer_binary(&service, both, &element), "both `data` and"),
        (send_binary(&service, &sized(pixels.clone(), 193), &[0; 192]), "fewer than `binary_data_size`"),
        (send_binary(&service, &sized(pixels.clone(), 192), &[0; 193]), "belong to no input"),
        (
            send_binary(&service, &sized(pixels.clone(), usize::MAX), &[0; 192]),
            "fewer than `binary_data_size`",
        ),
        (infer(&service, &sized(pixels.clone(), 192)), "no header"),
        (send_binary(&service, &pixels, &[]), "neither `data` nor"),
    ] {
        let (status, message) = refusal(&answer);
        assert_eq!(status, 400, "{word}: {message}");
        assert!(message.contains(word), "{word}: {message}");
    }
    for length in ["0", "-1", "x", "99999999", "99999999999999999999999"] {
        let answer = service.connect().send("POST", "/v2/models/colours/infer", &[(LENGTH, length)], b"{}");
        assert_eq!(refusal(&answer).0, 400, "{length}");
    }
}

#[test]
fn one_bad_image_fails_the_request_and_is_named() {
    let service = Running::start();
    let good = photos::plain([9, 0, 0]);
    let head = json!({"inputs": [{"name": "image", "datatype": "BYTES", "shape": [3]}]});
    let bad = photo_elements(&[good.clone(), good.clone(), b"no photo".to_vec()]);
    let (status, message) = refusal(&infer_binary(&service, head.clone(), &bad));
    assert_eq!(status, 415);
    assert!(message.starts_with("image 2 of 3: "), "{message}");
    let (status, message) = refusal(&infer_binary(
        &service,
        head.clone(),
        &photo_elements(&[photos::truncated(), good.clone(), good.clone()]),
    ));
    assert_eq!(status, 422);
    assert!(message.starts_with("image 0 of 3: "), "{message}");
    // Scores that are no numbers are the service's fault for a photo, and the client's for values of its own.
    let broken = photo_elements(&[good.clone(), photos::plain(NOT_A_NUMBER), good]);
    assert_eq!(refusal(&infer_binary(&service, head, &broken)).0, 500);
    let values = planes(&[NOT_A_NUMBER.map(f32::from)]);
    let body = json!({"inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [1, 3, 8, 8], "data": values}]});
    let (status, message) = refusal(&infer(&service, &body));
    assert_eq!(status, 400);
    assert!(message.contains("image 0 of 1: the scores are not finite"), "{message}");
}

#[test]
fn errors_around_the_protocol_have_its_shape_too() {
    let service = Running::with_settings(|settings| {
        settings.api_keys = vec!["key".into()];
        settings.max_body_bytes = 1000;
    });
    let key = [("x-api-key", "key")];
    let send = |method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]| {
        refusal(&service.connect().send(method, path, headers, body)).0
    };
    assert_eq!(send("GET", "/v2", &[], b""), 401);
    assert_eq!(send("GET", "/v2/nothing", &key, b""), 404);
    assert_eq!(send("GET", "/v2/models/birds", &key, b""), 404);
    assert_eq!(send("GET", "/v2/models/birds/ready", &key, b""), 404);
    assert_eq!(send("GET", "/v2/models/colours/versions/2", &key, b""), 404);
    assert_eq!(send("POST", "/v2/models/birds/infer", &key, b"{}"), 404);
    assert_eq!(send("POST", "/v2/models/colours/versions/0/infer", &key, b"{}"), 404);
    assert_eq!(send("GET", "/v2/models/%ff", &key, b""), 400);
    assert_eq!(send("GET", "/v2/models/colours/infer", &key, b""), 405);
    assert_eq!(send("POST", "/v2/models/colours/infer", &key, &[b' '; 1001]), 413);
    let packed = [("x-api-key", "key"), ("content-encoding", "gzip")];
    assert_eq!(send("POST", "/v2/models/colours/infer", &packed, b"\x1f\x8b"), 415);
    for open in ["/v2/health/live", "/v2/health/ready"] {
        assert_eq!(service.get(open).status, 200, "{open}");
    }
    // Beside it nothing has changed.
    assert_eq!(service.get("/v2x").row(), (401, "unauthorized".to_owned()));
}

#[test]
fn a_service_that_is_not_ready_says_so() {
    let service = Running::with(Setup { cold: true, ..Setup::default() });
    assert_eq!(service.get("/v2/health/live").status, 200);
    let ready = service.get("/v2/health/ready");
    assert_eq!((ready.status, ready.json()), (503, json!({"ready": false})));
    assert_eq!(refusal(&service.get("/v2/models/colours")).0, 503);
    let model = service.get("/v2/models/colours/ready");
    assert_eq!((model.status, model.json()), (503, json!({"name": "colours", "ready": false})));
    assert_eq!(refusal(&infer(&service, &json!({}))).0, 503);
}
