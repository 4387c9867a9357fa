//! `/v2`: the Open Inference Protocol, with tensors as JSON and as bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use base64::Engine as _;
use serde_json::{Value, json};
use service::{Answer, NOT_A_NUMBER, Running, Setup, photos};

const LENGTH: &str = "inference-header-content-length";

/// Pixels of the test's model, for each colour.
fn raw(colours: &[[u8; 3]]) -> Vec<u8> {
    colours.iter().flat_map(|colour| std::iter::repeat_n(*colour, 64).flatten()).collect()
}

/// The same as normalised values, plane by plane; here the values are the colours themselves.
fn planes(colours: &[[f32; 3]]) -> Vec<f32> {
    colours.iter().flatten().flat_map(|value| std::iter::repeat_n(*value, 64)).collect()
}

fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

fn infer(service: &Running, body: &Value) -> Answer {
    service.connect().send("POST", "/v2/models/colours/infer", &[], body.to_string().as_bytes())
}

/// JSON with one input's bytes behind it.
fn infer_binary(service: &Running, mut head: Value, bytes: &[u8]) -> Answer {
    head["inputs"][0]["parameters"] = json!({"binary_data_size": bytes.len()});
    send_binary(service, &head, bytes)
}

fn send_binary(service: &Running, head: &Value, bytes: &[u8]) -> Answer {
    let head = head.to_string();
    let length = head.len().to_string();
    let headers = [(LENGTH, length.as_str()), ("content-type", "application/octet-stream")];
    service.connect().send("POST", "/v2/models/colours/infer", &headers, &[head.as_bytes(), bytes].concat())
}

fn photo_elements(photos: &[Vec<u8>]) -> Vec<u8> {
    photos.iter().flat_map(|photo| [&(photo.len() as u32).to_le_bytes()[..], photo].concat()).collect()
}

/// The error in the protocol's shape.
fn refusal(answer: &Answer) -> (u16, String) {
    let json = answer.json();
    let fields: Vec<_> = json.as_object().expect("an object").keys().collect();
    assert_eq!(fields, ["error"], "{json}");
    assert!(answer.header("x-request-id").is_some());
    (answer.status, json["error"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned())
}

/// The data of an output, by its name.
fn output(answer: &Answer, name: &str) -> Value {
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let outputs = json["outputs"].as_array().unwrap_or_else(|| panic!("{json}"));
    outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("{json}")).clone()
}

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

#[test]
fn tensors_beyond_the_memory_for_bodies_are_a_503_and_give_it_back() {
    // A body of numbers fits; with its copy it does not.
    let body = json!({"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [60, 8, 8, 3], "data": vec![7; 11520]}]});
    let length = body.to_string().len() as u64;
    let service = Running::with_settings(|settings| settings.max_inflight_bytes = length + 10_000);
    assert_eq!(refusal(&infer(&service, &body)).0, 503);
    let small = json!({"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [40, 8, 8, 3], "data": vec![7; 7680]}]});
    for _ in 0..5 {
        assert_eq!(infer(&service, &small).status, 200);
    }
}

#[test]
fn a_clients_own_limit_of_time_is_kept() {
    let service = Running::start();
    service.hand.hold();
    let body = json!({
        "inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": raw(&[[1, 1, 1]])}],
        // Microseconds, as Triton's clients send it.
        "parameters": {"timeout": 100_000},
    });
    assert_eq!(refusal(&infer(&service, &body)).0, 504);
    let headers = [("x-request-timeout-ms", "100")];
    let mut unlimited = body;
    unlimited["parameters"] = json!({});
    let answer = service.connect().send(
        "POST",
        "/v2/models/colours/infer",
        &headers,
        unlimited.to_string().as_bytes(),
    );
    assert_eq!(refusal(&answer).0, 504);
    service.hand.release();
    service.until(|service| service.service.engine().queued() == 0);
    assert_eq!(infer(&service, &unlimited).status, 200);
}
