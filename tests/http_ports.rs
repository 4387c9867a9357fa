//! The admin port, and what is open to whom.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::net::SocketAddr;
use std::time::Duration;

use service::{Answer, Connection, Running, photos};

const ADMIN: [&str; 4] = ["/metrics", "/health", "/health/live", "/health/ready"];

fn get(address: SocketAddr, path: &str) -> Answer {
    Connection::open(address).send("GET", path, &[], b"")
}

fn sum(text: &str, name: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines
        .map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number"))
        .sum()
}

#[test]
fn with_an_admin_port_health_and_metrics_are_there_and_no_longer_on_the_public_one() {
    let service = Running::with_settings(|settings| settings.admin_port = Some(0));
    let admin = service.admin.expect("an admin port");
    for path in ADMIN {
        assert_eq!(get(admin, path).status, 200, "{path}");
        assert_eq!(service.get(path).row(), (404, "not_found".to_owned()), "{path}");
    }
    for path in ["/", "/info", "/models"] {
        assert_eq!(service.get(path).status, 200, "{path}");
        assert_eq!(get(admin, path).row(), (404, "not_found".to_owned()), "{path}");
    }
    let reload = |address| Connection::open(address).send("POST", "/models/colours/reload", &[], b"").row();
    assert_eq!(reload(service.address), (404, "not_found".to_owned()));
    assert_eq!(reload(admin), (403, "forbidden".to_owned()), "there, and off without a key");
    let photo = photos::plain([90, 0, 0]);
    assert_eq!(service.classify("", &[], &photo).status, 200);
    assert_eq!(Connection::open(admin).send("POST", "/classify", &[], &photo).status, 404);
    // What a port does not serve is `other`, whatever the other port calls it.
    let other = "featherlight_http_requests_total{route=\"other\",status=\"404\"}";
    assert_eq!(service.metric(other), ADMIN.len() as f64 + 5.0);
    service.until(|service| service.metric("featherlight_http_connections{port=\"admin\"}") == 1.0);
    let text = get(admin, "/metrics").text();
    let received = sum(&text, "featherlight_http_requests_received_total");
    assert_eq!(received, sum(&text, "featherlight_http_requests_total") + 1.0, "all but the one that asks");
}

#[test]
fn the_label_of_a_path_holds_no_name_that_a_client_chose() {
    let service = Running::start();
    for (method, path, status, label) in [
        ("POST", "/classify/birds", 404, "/classify/{model}"),
        ("GET", "/classify/birds", 405, "/classify/{model}"),
        ("POST", "/classify/", 404, "other"),
        ("POST", "/classify/a/b", 404, "other"),
        ("GET", "/models/birds", 404, "/models/{model}"),
        ("POST", "/models/birds/reload", 403, "/models/{model}/reload"),
        ("GET", "/models/birds/other", 404, "other"),
        ("GET", "/anything", 404, "other"),
    ] {
        let line = format!("featherlight_http_requests_total{{route=\"{label}\",status=\"{status}\"}}");
        let before = service.metric(&line);
        assert_eq!(service.connect().send(method, path, &[], b"").status, status, "{method} {path}");
        assert_eq!(service.metric(&line), before + 1.0, "{method} {path}");
    }
}

#[test]
fn the_admin_port_is_open_until_the_end_and_says_what_goes_on() {
    let mut service = Running::with_settings(|settings| {
        settings.admin_port = Some(0);
        settings.shutdown_grace = Duration::from_secs(600);
    });
    let admin = service.admin.expect("an admin port");
    service.hand.hold();
    let photo = photos::plain([90, 0, 0]);
    let mut waiting = service.connect();
    waiting.write(&Connection::head("POST", "/classify", &[], photo.len()));
    waiting.write(&photo);
    service.until(|service| service.metric("featherlight_decode_duration_seconds_count") == 1.0);
    service.signal();
    service.until(|_| get(admin, "/health/ready").status == 503);
    assert_eq!(get(admin, "/health/ready").json()["status"], "shutting_down");
    assert_eq!(service.metric("featherlight_ready"), 0.0);
    assert_eq!(get(admin, "/health/live").status, 200);
    service.hand.release();
    assert_eq!(waiting.read_answer("POST").expect("an answer").status, 200);
    assert!(service.ended());
    for address in [service.address, admin] {
        assert!(Connection::try_open(address).is_err(), "{address} is closed");
    }
}

#[test]
fn the_admin_port_has_places_of_its_own() {
    let service = Running::with_settings(|settings| {
        settings.admin_port = Some(0);
        settings.max_connections = 2;
    });
    let idle = [service.connect(), service.connect()];
    let open = "featherlight_http_connections{port=\"public\"}";
    service.until(|service| service.metric(open) == 2.0);
    // The third waits with the system: connected, and not yet heard.
    let mut late = service.connect();
    late.write(&Connection::head("GET", "/info", &[], 0));
    assert_eq!(service.metric(open), 2.0);
    assert_eq!(service.metric("featherlight_http_requests_received_total{route=\"/info\"}"), 0.0);
    let [first, _second] = idle;
    first.hang_up();
    assert_eq!(late.read_answer("GET").expect("late, not lost").status, 200);
}

#[test]
fn a_key_opens_what_wants_one_and_health_wants_none() {
    let keys = |settings: &mut featherlight::http::ServeSettings| {
        settings.api_keys = vec!["first".into(), "second".into()];
        settings.admin_keys = vec!["root".into()];
    };
    let service = Running::with_settings(keys);
    for open in ["/", "/metrics", "/health", "/health/live", "/health/ready"] {
        assert_eq!(service.get(open).status, 200, "{open}");
    }
    assert_eq!(service.get("/info").row(), (401, "unauthorized".to_owned()));
    for key in ["first", "second", "root"] {
        assert_eq!(service.connect().send("GET", "/info", &[("x-api-key", key)], b"").status, 200, "{key}");
    }

    let service = Running::with_settings(|settings| {
        keys(settings);
        settings.protect_all = true;
    });
    for closed in ["/", "/metrics", "/info", "/docs", "/openapi.json"] {
        assert_eq!(service.get(closed).row(), (401, "unauthorized".to_owned()), "{closed}");
    }
    for open in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(service.get(open).status, 200, "{open}");
    }
    let metrics = service.connect().send("GET", "/metrics", &[("authorization", "Bearer second")], b"");
    assert_eq!(metrics.status, 200);
}

#[test]
fn an_admin_key_alone_leaves_the_service_open() {
    let service = Running::with_settings(|settings| settings.admin_keys = vec!["root".into()]);
    assert_eq!(service.get("/info").status, 200);
}

#[test]
fn keys_can_be_replaced_while_the_service_runs() {
    let service = Running::with_settings(|settings| settings.api_keys = vec!["old".into()]);
    let with = |key: &str| service.connect().send("GET", "/info", &[("x-api-key", key)], b"").status;
    assert_eq!((with("old"), with("new")), (200, 401));
    service.service.replace_keys(&["new".into()], &[]);
    assert_eq!((with("old"), with("new")), (401, 200));
}
