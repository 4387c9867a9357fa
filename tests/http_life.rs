//! The life of the service: clients that leave, its meters, its end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::sync::atomic::Ordering;
use std::time::Duration;

use featherlight::engine::{BatchLimit, DeviceChoice};
use featherlight::ops::device::{CudaInfo, DeviceInfo, Precision};
use serde_json::json;
use service::load::Load;
use service::photos;
use service::{Connection, DEVICE_LOSS, Running, Setup, metric};

const PNG: [(&str, &str); 1] = [("content-type", "image/png")];

#[test]
fn every_metric_exists_at_zero_before_the_first_request() {
    let service = Running::start();
    let text = service.get("/metrics").text();
    let zero = [
        "featherlight_http_requests_received_total{route=\"/classify\"}",
        "featherlight_http_requests_total{route=\"/classify\",status=\"200\"}",
        "featherlight_http_requests_total{route=\"/classify\",status=\"499\"}",
        "featherlight_http_requests_total{route=\"other\",status=\"404\"}",
        "featherlight_http_request_duration_seconds_count{route=\"/classify\"}",
        "featherlight_queue_size",
        "featherlight_queue_duration_seconds_count",
        "featherlight_decode_duration_seconds_count",
        "featherlight_inference_duration_seconds_count",
        "featherlight_batch_size_count",
        "featherlight_predictions_total",
        "featherlight_dropped_total{reason=\"disconnected\"}",
        "featherlight_dropped_total{reason=\"deadline\"}",
        "featherlight_rejected_total{reason=\"overloaded\"}",
        "featherlight_rejected_total{reason=\"too_many_pixels\"}",
    ];
    for line in zero {
        assert_eq!(metric(&text, line), 0.0, "{line}");
    }
    assert_eq!(metric(&text, "featherlight_ready"), 1.0);
    assert_eq!(metric(&text, "featherlight_http_requests_in_flight"), 1.0, "the one that asks");
    let model =
        "featherlight_model_info{architecture=\"mean\",device=\"cpu\",dtype=\"f32\",model=\"colours\"}";
    assert_eq!(metric(&text, model), 1.0);
    assert!(metric(&text, "process_resident_memory_bytes") > 0.0);
}

#[test]
fn at_rest_as_many_requests_were_answered_as_received_clients_that_left_included() {
    let service = Running::with_settings(|settings| settings.engine.max_batch_size = BatchLimit::Fixed(1));
    let photo = photos::plain([90, 0, 0]);
    service.hand.hold();
    let mut leavers = Vec::new();
    for _ in 0..5 {
        let mut connection = service.connect();
        connection.write(&Connection::head("POST", "/classify", &PNG, photo.len()));
        connection.write(&photo);
        leavers.push(connection);
    }
    let mut half = service.connect();
    half.write(&Connection::head("POST", "/classify", &PNG, photo.len()));
    half.write(&photo[..20]);
    service.until(|service| {
        service.metric("featherlight_http_requests_received_total{route=\"/classify\"}") == 6.0
    });
    // One photo is on the device and held there; four wait.
    service.until(|service| {
        service.metric("featherlight_decode_duration_seconds_count") == 5.0
            && service.metric("featherlight_queue_size") == 4.0
    });
    half.hang_up();
    leavers.into_iter().for_each(Connection::hang_up);
    let left = "featherlight_http_requests_total{route=\"/classify\",status=\"499\"}";
    service.until(|service| service.metric(left) == 6.0);
    service.hand.release();
    assert_eq!(service.classify("", &PNG, &photo).status, 200);
    assert_eq!(service.classify("?top_k=0", &PNG, &photo).status, 400);
    let text = service.get("/metrics").text();
    let sum = |name: &str| -> f64 {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines
            .map(|line| {
                line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
            })
            .sum()
    };
    let received = sum("featherlight_http_requests_received_total");
    assert_eq!(received, sum("featherlight_http_requests_total") + 1.0, "all but the one that asks");
    assert_eq!(metric(&text, "featherlight_queue_size"), 0.0);
    let dropped = metric(&text, "featherlight_dropped_total{reason=\"disconnected\"}");
    assert_eq!(dropped, 4.0, "those behind the held one never reached the device");
    assert_eq!(metric(&text, "featherlight_predictions_total"), 2.0, "the held one, and the one that stayed");
}

#[test]
fn a_client_that_leaves_with_its_last_byte_is_counted_as_well() {
    let service = Running::start();
    let photo = photos::plain([90, 0, 0]);
    let whole = [Connection::head("POST", "/classify", &PNG, photo.len()), photo.clone()].concat();
    let half = [Connection::head("POST", "/classify", &PNG, photo.len()), photo[..20].to_vec()].concat();
    for request in [&whole, &half] {
        for _ in 0..50 {
            let mut connection = service.connect();
            connection.write(request);
            connection.hang_up();
        }
    }
    let count = |service: &Running, line: &str| service.metric(&format!("featherlight_http_requests_{line}"));
    service.until(|service| count(service, "received_total{route=\"/classify\"}") == 100.0);
    service.until(|service| {
        let of = |status: u16| count(service, &format!("total{{route=\"/classify\",status=\"{status}\"}}"));
        of(200) + of(499) == 100.0 && of(499) >= 50.0
    });
}

#[test]
fn every_answer_carries_a_request_id_the_clients_own_if_it_is_fit() {
    let service = Running::start();
    let own = service.connect().send("GET", "/nowhere", &[("x-request-id", "abc-123")], b"");
    assert_eq!(own.header("x-request-id"), Some("abc-123"));
    assert_eq!(own.json()["error"]["request_id"], "abc-123");
    let unfit = service.connect().send("GET", "/health", &[("x-request-id", "with spaces")], b"");
    assert_eq!(unfit.header("x-request-id").map(str::len), Some(36), "a UUID: {unfit:?}");
}

#[test]
fn the_page_and_the_information_are_there_and_head_asks_for_no_body() {
    let service = Running::start();
    let page = service.get("/");
    assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
    let text = page.text();
    let outside: Vec<_> = text
        .match_indices("http")
        .filter(|(at, _)| {
            let rest = &text[*at..];
            (rest.starts_with("http://") || rest.starts_with("https://"))
                && !rest.starts_with("http://www.w3.org/2000/svg")
        })
        .collect();
    assert!(outside.is_empty(), "no outside requests: {outside:?}");
    let head = service.connect().send("HEAD", "/", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), page.header("content-length"));
    let info = service.get("/info").json();
    assert_eq!(info["model"]["name"], "colours");
    assert_eq!(info["model"]["labels"], serde_json::json!(service::labels()));
}

#[test]
fn the_information_names_the_devices_and_what_is_known_of_them() {
    let info = Running::start().get("/info").json();
    assert_eq!((&info["model"]["device"], &info["model"]["dtype"]), (&json!("cpu"), &json!("f32")));
    assert_eq!(info["devices"][0]["name"], "cpu");
    assert_eq!(info["devices"][0]["max_batch_size"], 8);
    assert_eq!(info["devices"][0]["compute_capability"], json!(null), "a CPU has none");

    let card = |ordinal| DeviceChoice {
        device: DeviceInfo::Cuda(CudaInfo {
            ordinal,
            name: format!("card {ordinal}"),
            compute_capability: (9, 0),
            total_memory: 80 << 30,
        }),
        precision: Precision::Bf16,
    };
    let service = Running::with(Setup { devices: vec![card(0), card(1)], ..Setup::default() });
    let info = service.get("/info").json();
    assert_eq!((&info["model"]["device"], &info["model"]["dtype"]), (&json!("cuda:0,1"), &json!("bf16")));
    let want = json!({
        "name": "cuda:1", "hardware": "card 1", "compute_capability": "9.0", "total_memory": 80_u64 << 30,
        "dtype": "bf16", "free_memory": 5_u64 << 30, "max_batch_size": 8,
    });
    assert_eq!(info["devices"][1], want);
    assert_eq!(info["devices"].as_array().map(Vec::len), Some(2));
}

#[test]
fn after_a_lost_device_the_end_waits_for_nothing_and_who_waits_is_told() {
    let mut service = Running::with_settings(|settings| {
        settings.engine.max_batch_size = BatchLimit::Fixed(1);
        settings.drain_delay = Duration::from_secs(600);
        settings.shutdown_grace = Duration::from_secs(600);
    });
    service.hand.hold();
    // One after the other, so that the photo the device is lost over is on it while the other waits.
    let mut waiting = Vec::new();
    for (photo, queued) in [(DEVICE_LOSS, 0.0), ([90, 0, 0], 1.0)] {
        let photo = photos::plain(photo);
        let mut connection = service.connect();
        connection.write(&Connection::head("POST", "/classify", &PNG, photo.len()));
        connection.write(&photo);
        waiting.push(connection);
        service.until(|service| {
            service.metric("featherlight_decode_duration_seconds_count") == waiting.len() as f64
                && service.metric("featherlight_queue_size") == queued
        });
    }
    service.hand.release();
    assert!(service.ended_by_itself(), "neither a signal, nor delay, nor grace");
    for waiting in &mut waiting {
        let answer = waiting.read_answer("POST").expect("whoever waits is told");
        assert_eq!(answer.row(), (503, "device_unavailable".to_owned()));
    }
}

#[test]
fn during_the_drain_delay_the_service_is_unready_but_still_serves() {
    let mut service = Running::with_settings(|settings| settings.drain_delay = Duration::from_secs(3));
    service.signal();
    service.until(|service| service.get("/health/ready").status == 503);
    assert_eq!(service.metric("featherlight_ready"), 0.0);
    assert_eq!(service.get("/health/live").status, 200);
    assert_eq!(service.classify("", &PNG, &photos::plain([90, 0, 0])).status, 200);
}

#[test]
fn while_it_drains_new_photos_are_refused_and_waiting_ones_answered() {
    let mut service = Running::start();
    let photo = photos::plain([90, 0, 0]);
    service.hand.hold();
    let mut idle = service.connect();
    assert_eq!(idle.send("GET", "/health", &[], b"").status, 200);
    let mut slow = service.connect();
    slow.write(&Connection::head("POST", "/classify", &PNG, photo.len()));
    let mut waiting = service.connect();
    waiting.write(&Connection::head("POST", "/classify", &PNG, photo.len()));
    waiting.write(&photo);
    service.until(|service| service.metric("featherlight_decode_duration_seconds_count") == 1.0);
    service.signal();
    service.until(|service| service.get("/health/ready").status == 503);
    let refused = idle.send("POST", "/classify", &PNG, &photo);
    assert_eq!(refused.row(), (503, "shutting_down".to_owned()));
    assert_eq!(refused.header("connection"), Some("close"));
    assert!(refused.header("retry-after").is_some());
    assert!(idle.closed());
    let interrupted = slow.read_answer("POST").expect("an answer to the unfinished upload");
    assert_eq!(interrupted.row(), (503, "shutting_down".to_owned()));
    service.hand.release();
    assert_eq!(waiting.read_answer("POST").expect("an answer").status, 200);
    assert!(service.ended());
    assert!(Connection::try_open(service.address).is_err(), "the port is closed");
}

#[test]
fn at_the_end_of_the_grace_those_who_wait_are_told_and_the_service_ends() {
    let mut service = Running::with_settings(|settings| settings.shutdown_grace = Duration::from_millis(200));
    let photo = photos::plain([90, 0, 0]);
    service.hand.hold();
    let mut waiting = service.connect();
    waiting.write(&Connection::head("POST", "/classify", &PNG, photo.len()));
    waiting.write(&photo);
    service.until(|service| service.metric("featherlight_decode_duration_seconds_count") == 1.0);
    service.signal();
    let answer = waiting.read_answer("POST").expect("an answer, though the device hangs");
    assert_eq!(answer.row(), (503, "shutting_down".to_owned()));
    assert!(service.ended());
}

#[test]
fn an_idle_connection_is_closed_in_good_order() {
    let mut service = Running::start();
    let mut idle = service.connect();
    assert_eq!(idle.send("GET", "/health", &[], b"").status, 200);
    assert!(service.ended());
    assert!(idle.closed(), "the end of the stream, not a reset");
}

#[test]
fn under_load_no_request_before_the_port_closed_is_lost() {
    for _ in 0..3 {
        let mut setup = Setup { pace: Duration::from_millis(5), ..Setup::default() };
        setup.settings.drain_delay = Duration::from_millis(200);
        let mut service = Running::with(setup);
        let photo = photos::plain([90, 0, 0]);
        let (address, load) = (service.address, Load::default());
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| load.post(address, &photo, |_| {}));
            }
            service.until(|_| load.served.load(Ordering::Relaxed) > 50);
            assert!(service.ended());
            load.end();
        });
        assert!(load.refused.load(Ordering::Relaxed) > 0, "the end came under load");
    }
}
