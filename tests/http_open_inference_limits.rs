//! `/v2`: within which memory and time tensors are taken.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use serde_json::json;
use service::Running;
use service::inference::*;

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
