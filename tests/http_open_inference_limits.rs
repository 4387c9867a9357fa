//! `/v2`: within which memory and time tensors are taken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::time::Duration;

use serde_json::json;
use service::inference::*;
use service::photos::{self, FORM};
use service::{Connection, Running};

#[test]
fn tensors_that_never_find_room_are_a_413_with_the_number_that_does() {
    // Two bytes of JSON a value, four of its copy: the body fits, its tensors do not.
    let values = |count: usize| {
        json!({"inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [count, 3, 8, 8],
            "data": vec![7; count * 192]}]})
    };
    let service = Running::with_settings(|settings| settings.max_inflight_bytes = 50_000);
    let (status, message) = refusal(&infer(&service, &values(60)));
    assert_eq!(status, 413);
    assert!(message.contains("which are 32;"), "{message}");
    for _ in 0..5 {
        assert_eq!(infer(&service, &values(32)).status, 200, "what was promised is given back");
    }
    let tiny = Running::with_settings(|settings| settings.max_inflight_bytes = 1_000);
    let (status, message) = refusal(&infer(&tiny, &values(1)));
    assert_eq!(status, 413);
    assert!(message.contains("500 bytes"), "{message}");
}

#[test]
fn the_configuration_promises_no_more_images_than_a_body_can_hold_as_values() {
    let batch = |bytes: u64| {
        let service = Running::with_settings(|settings| settings.max_body_bytes = bytes);
        let config = service.get("/v2/models/colours/config").json();
        config["max_batch_size"].as_u64().expect("a number")
    };
    // 3 × 8 × 8 values of four bytes are 768.
    assert_eq!([batch(20_000_000), batch(10 * 768 + 767), batch(100)], [64, 10, 1]);
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

#[test]
fn tensors_whose_client_has_left_count_as_long_as_they_lie_in_the_queue() {
    let service = Running::with_settings(|settings| {
        settings.max_inflight_bytes = 120_000;
        settings.request_timeout = Duration::from_secs(600);
    });
    service.hand.hold();
    let photo = photos::plain([90, 0, 0]);
    std::thread::scope(|scope| {
        let on_the_device = scope.spawn(|| service.classify("", &[], &photo).status);
        let taken = "featherlight_queue_duration_seconds_count";
        service.until(|service| service.metric(taken) == 1.0);

        // 60 × 3 × 8 × 8 values of four bytes: 46 kB of a budget of 120.
        let values = planes(&vec![[1.0; 3]; 60]);
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let head = json!({"inputs": [{"name": "pixel_values", "datatype": "FP32", "shape": [60, 3, 8, 8],
            "parameters": {"binary_data_size": bytes.len()}}]});
        let head = head.to_string();
        let length = head.len().to_string();
        let mut leaving = service.connect();
        let path = "/v2/models/colours/infer";
        leaving.write(&Connection::head("POST", path, &[(LENGTH, &length)], head.len() + bytes.len()));
        leaving.write(head.as_bytes());
        leaving.write(&bytes);
        service.until(|service| service.service.engine().queued() == 60);
        leaving.hang_up();
        let left = "featherlight_http_requests_total{route=\"/v2/models/{model}/infer\",status=\"499\"}";
        service.until(|service| service.metric(left) == 1.0);

        // A form is copied once: 50 kB need 100.
        let form = photos::form(&[("a", &[b'x'; 50_000])]);
        let sent = || service.classify("", &[("content-type", FORM)], &form).status;
        assert_eq!(sent(), 503, "the tensors are still there");
        service.hand.release();
        assert_eq!(on_the_device.join().expect("no panic"), 200);
        service.until(|_| sent() == 415);
    });
}
