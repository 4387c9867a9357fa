//! A handler that panics: its client gets a 500, the counter one more, and the log the panic with the request's ids.
//!
//! A program of its own, since the log and the panic hook are the whole process's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::io::Write;
use std::sync::{Arc, Mutex};

use featherlight::telemetry::{LogFormat, start_logs};
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use serde_json::Value;
use service::{Running, photos};

/// A meter whose first reading panics, in the midst of the handler of `/metrics`.
struct Broken {
    desc: Desc,
    readings: Mutex<usize>,
}

impl Collector for Broken {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut readings = self.readings.lock().expect("unpoisoned");
        *readings += 1;
        let first = *readings == 1;
        drop(readings);
        assert!(!first, "a meter's bug\nINFO not a line of its own");
        Vec::new()
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("unpoisoned").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_handler_s_panic_is_a_500_and_is_counted_and_logged_with_the_request_s_ids() {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
    log.try_init().expect("the first log of this process");
    // The log is there already: what this adds is the panic hook.
    let _logs = start_logs(LogFormat::Json).expect("no variable is set");

    let service = Running::with_settings(|settings| {
        settings.cors_allow_origins = vec!["https://a.example".parse().expect("an origin")];
    });
    let desc = Desc::new("broken".into(), "Breaks once".into(), Vec::new(), Default::default());
    let broken = Broken { desc: desc.expect("a name"), readings: Mutex::new(0) };
    service.registry.register(Box::new(broken)).expect("a new name");

    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let headers =
        [("x-request-id", "the-one-that-broke"), ("traceparent", &parent), ("origin", "https://a.example")];
    let mut connection = service.connect();
    let answer = connection.send("GET", "/metrics", &headers, b"");
    assert_eq!(answer.row(), (500, "internal".to_owned()));
    assert!(!answer.text().contains("bug"), "no details to the client");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://a.example"));
    assert_eq!(connection.send("GET", "/health", &[], b"").status, 200, "the connection is none the worse");
    assert_eq!(service.metric("featherlight_http_panics_total"), 1.0);
    assert_eq!(
        service.metric("featherlight_http_requests_total{route=\"/metrics\",status=\"500\"}"),
        1.0,
        "and is answered"
    );
    assert_eq!(service.classify("", &[], &photos::plain([90, 0, 0])).status, 200);

    let text = String::from_utf8(lines.0.lock().expect("unpoisoned").clone()).expect("text");
    let found: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |target: &str| {
        let mut lines = found.iter().filter(|line| line["target"] == target);
        let line = lines.next().unwrap_or_else(|| panic!("no line of {target} in {text}"));
        (line, lines.count())
    };
    let (panic, more) = of("featherlight::panic");
    assert_eq!(more, 0, "{text}");
    assert_eq!(panic["panic"], "a meter's bug\nINFO not a line of its own");
    assert!(panic["location"].as_str().is_some_and(|at| at.contains("http_panics.rs")), "{panic}");
    let (error, _) = of("featherlight::http::error");
    for line in [panic, error] {
        assert_eq!(line["level"], "ERROR");
        let span = &line["span"];
        assert_eq!(span["request_id"], "the-one-that-broke");
        assert_eq!(span["trace_id"], trace);
        assert_eq!((&span["method"], &span["route"]), (&"GET".into(), &"/metrics".into()));
        let own = span["span_id"].as_str().expect("a span of its own");
        assert!(own.len() == 16 && own != "b7ad6b7169203331", "{own}");
    }
}
