//! Traces to an OpenTelemetry collector: the program as it runs, and a collector on a real socket.
//!
//! Empty without feature `otlp`: `cargo test --features otlp --test otlp_program`, as `./test slow` does.
#![cfg(feature = "otlp")]
#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

mod program;
mod service;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use program::{Served, data, featherlight, run};
use service::{Connection, photos};

/// One request that the collector got.
struct Sent {
    line: String,
    headers: Vec<String>,
    body: Vec<u8>,
}

impl Sent {
    fn header(&self, name: &str) -> Option<&str> {
        let mut pairs = self.headers.iter().filter_map(|line| line.split_once(':'));
        pairs.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// Answers every request with 200 and hands it on.
fn collector() -> (SocketAddr, Receiver<Sent>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("a bound socket");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.expect("a connection"));
            let mut lines = Vec::new();
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).is_ok_and(|length| length > 2) {
                    lines.push(line.trim_end().to_owned());
                } else {
                    break;
                }
            }
            if lines.is_empty() {
                continue;
            }
            let mut sent = Sent { line: lines.remove(0), headers: lines, body: Vec::new() };
            let length = sent.header("content-length").and_then(|length| length.parse().ok());
            sent.body = vec![0; length.expect("a length")];
            reader.read_exact(&mut sent.body).expect("the body");
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            reader.get_mut().write_all(answer).expect("the answer");
            if sender.send(sent).is_err() {
                return;
            }
        }
    });
    (address, receiver)
}

/// A value of a protobuf message: of the kinds that OTLP's traces are made of.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message, by number: <https://protobuf.dev/programming-guides/encoding/>.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = bytes.split_first().expect("a whole number");
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        value
    }
    fn take<'a>(bytes: &mut &'a [u8], length: usize) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(length);
        *bytes = rest;
        taken
    }
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Number(varint(&mut bytes)),
            1 => Field::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().expect("eight bytes"))),
            2 => {
                let length = varint(&mut bytes) as usize;
                Field::Bytes(take(&mut bytes, length))
            }
            5 => {
                Field::Number(u32::from_le_bytes(take(&mut bytes, 4).try_into().expect("four bytes")).into())
            }
            kind => panic!("no kind {kind} in protobuf"),
        };
        found.push((key >> 3, field));
    }
    found
}

/// The parts of a message under a field's number.
fn parts(bytes: &[u8], number: u64) -> Vec<&[u8]> {
    let all = fields(bytes).into_iter().filter(|(found, _)| *found == number);
    all.filter_map(|(_, field)| match field {
        Field::Bytes(bytes) => Some(bytes),
        Field::Number(_) => None,
    })
    .collect()
}

fn number(bytes: &[u8], number: u64) -> Option<u64> {
    fields(bytes).into_iter().find_map(|(found, field)| match field {
        Field::Number(value) if found == number => Some(value),
        _ => None,
    })
}

/// `KeyValue`s as text; numbers as such.
fn attributes(list: Vec<&[u8]>) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    list.into_iter()
        .map(|pair| {
            let value = parts(pair, 2)[0];
            let shown = parts(value, 1).first().map(|value| text(value));
            (
                text(parts(pair, 1)[0]),
                shown.or(number(value, 3).map(|value| value.to_string())).unwrap_or_default(),
            )
        })
        .collect()
}

fn has(list: &[(String, String)], name: &str, value: &str) -> bool {
    list.iter().any(|(known, found)| known == name && found == value)
}

fn serve(endpoint: &str) -> Command {
    let mut command = featherlight(&["serve", "--port", "0", "--log-format", "json", "--model"]);
    command.arg(data("../models/demo")).env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint);
    // Sent at the end, all at once.
    command.env("OTEL_BSP_SCHEDULE_DELAY", "600000").env("OTEL_SERVICE_NAME", "hand-signs");
    command
}

const TRACE: [u8; 16] =
    [0x4b, 0xf9, 0x2f, 0x35, 0x77, 0xb3, 0x4d, 0xa6, 0xa3, 0xce, 0x92, 0x9d, 0x0e, 0x0e, 0x47, 0x36];
const PARENT: [u8; 8] = [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7];

#[test]
fn spans_reach_the_collector_in_their_caller_s_trace_before_the_program_ends() {
    let (address, collected) = collector();
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("log");
    let mut command = serve(&format!("http://{address}"));
    let mut served = Served::spawn(command.stderr(std::fs::File::create(&log).expect("a file")));
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let unsampled = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let mut connection = Connection::open(served.address);
    let photo = photos::plain([90, 0, 0]);
    let id = [("traceparent", parent), ("x-request-id", "the-traced-one")];
    assert_eq!(connection.send("POST", "/classify", &id, &photo).status, 200);
    assert_eq!(connection.send("GET", "/nowhere", &[], b"").status, 404);
    assert_eq!(connection.send("GET", "/info", &[("traceparent", unsampled)], b"").status, 200);
    served.terminate();
    assert_eq!(served.exit_status(), Some(0));

    let sent = collected.recv_timeout(Duration::from_secs(30)).expect("spans, at the end");
    assert_eq!(sent.line, "POST /v1/traces HTTP/1.1");
    assert_eq!(sent.header("content-type"), Some("application/x-protobuf"));
    // ExportTraceServiceRequest.resource_spans[].{resource.attributes, scope_spans[].spans[]}
    let resource_spans = parts(&sent.body, 1);
    let [resource_spans] = resource_spans[..] else { panic!("one resource, not {}", resource_spans.len()) };
    let resource = attributes(parts(parts(resource_spans, 1)[0], 1));
    assert!(has(&resource, "service.name", "hand-signs"), "{resource:?}");
    assert!(has(&resource, "service.version", env!("CARGO_PKG_VERSION")), "{resource:?}");
    let spans: Vec<&[u8]> = parts(resource_spans, 2).into_iter().flat_map(|scope| parts(scope, 2)).collect();
    let named = |name: &str| {
        let mut found = spans.iter().filter(|span| parts(span, 5) == [name.as_bytes()]);
        let span = found.next().unwrap_or_else(|| panic!("no span {name} among {}", spans.len()));
        assert!(found.next().is_none(), "one span a request");
        *span
    };
    assert_eq!(spans.len(), 2, "the caller that keeps no trace gets none");
    let classify = named("POST /classify");
    assert_eq!((parts(classify, 1), parts(classify, 4)), (vec![&TRACE[..]], vec![&PARENT[..]]));
    assert_eq!(number(classify, 6), Some(2), "SPAN_KIND_SERVER");
    let found = attributes(parts(classify, 9));
    for (name, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/classify"),
        ("http.response.status_code", "200"),
        ("request_id", "the-traced-one"),
    ] {
        assert!(has(&found, name, value), "{name}: {found:?}");
    }
    let own = named("GET other");
    assert!(parts(own, 4).iter().all(|parent| parent.is_empty()), "a trace of its own has no parent");
    assert!(has(&attributes(parts(own, 9)), "http.response.status_code", "404"));

    // The log shows the ids under which the span was exported.
    let text = std::fs::read_to_string(&log).expect("the log");
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (line, span) in [("the-traced-one", classify), ("/nowhere", own)] {
        let line = text.lines().find(|found| found.contains("featherlight::access") && found.contains(line));
        let line: serde_json::Value = serde_json::from_str(line.expect("a line")).expect("JSON");
        assert_eq!(line["span"]["trace_id"], hex(parts(span, 1)[0]), "{line}");
        assert_eq!(line["span"]["span_id"], hex(parts(span, 2)[0]), "{line}");
    }
}

#[test]
fn a_collector_that_is_not_there_harms_no_request_and_not_the_end() {
    let mut command = serve("http://127.0.0.1:1");
    let mut served = Served::spawn(command.stderr(Stdio::null()).env("OTEL_EXPORTER_OTLP_TIMEOUT", "500"));
    for _ in 0..3 {
        assert_eq!(Connection::open(served.address).send("GET", "/info", &[], b"").status, 200);
    }
    served.terminate();
    assert_eq!(served.exit_status(), Some(0));
}

#[test]
fn a_protocol_that_is_not_spoken_is_refused_at_the_start() {
    let mut command = serve("http://127.0.0.1:1");
    let said = run(command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && said.err.contains("http/protobuf"),
        "{}",
        said.err
    );
}
