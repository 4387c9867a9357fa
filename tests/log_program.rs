//! What the program writes into its log, and what it does where nobody reads it; its keys in files; its admin port.
#![allow(clippy::expect_used, clippy::panic, reason = "a test's own helpers fail by panicking")]

mod program;
mod service;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use program::{PROGRAM, Served, data, featherlight, quiet, run};
use serde_json::Value;
use service::{Connection, photos};

/// A service whose log goes into a file.
struct Logged {
    served: Served,
    log: PathBuf,
    _folder: tempfile::TempDir,
}

impl Logged {
    fn start(flags: &[&str]) -> Self {
        Self::spawn(
            featherlight(&["serve", "--port", "0", "--model"]).arg(data("../models/demo")).args(flags),
        )
    }

    /// The same in a shell that has limited itself before.
    fn start_after(limit: &str, flags: &[&str]) -> Self {
        let script = format!("{limit} && exec \"$0\" \"$@\"");
        let mut command = quiet(Path::new("/bin/sh"), &["-c", &script, PROGRAM]);
        command.args(["serve", "--port", "0", "--model"]).arg(data("../models/demo")).args(flags);
        Self::spawn(&mut command)
    }

    fn spawn(command: &mut Command) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let log = folder.path().join("log");
        command.env_remove("RUST_LOG");
        let served = Served::spawn(command.stderr(File::create(&log).expect("a file")));
        Self { served, log, _folder: folder }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.log).expect("the log")
    }

    /// The log once it holds what is looked for.
    fn until(&self, found: impl Fn(&str) -> bool) -> String {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let text = self.text();
            if found(&text) {
                return text;
            }
            assert!(Instant::now() < patience, "not in the log:\n{text}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> service::Answer {
        Connection::open(self.served.address).send(method, path, headers, body)
    }

    /// Lines of the access log, once there are so many.
    fn accesses(&self, count: usize) -> Vec<Value> {
        let of = |text: &str| -> Vec<Value> {
            let whole = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            whole.filter(|line: &Value| line["target"] == "featherlight::access").collect()
        };
        of(&self.until(|text| of(text).len() >= count))
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn each_request_is_a_line_with_its_ids_and_probes_are_none() {
    let logged = Logged::start(&["--log-format", "json", "--api-key", "the-secret-key"]);
    let photo = photos::plain([90, 0, 0]);
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [
        ("x-api-key", "the-secret-key"),
        ("x-request-id", "first"),
        ("traceparent", &parent),
        ("user-agent", "test/1"),
    ];
    assert_eq!(logged.send("POST", "/classify?top_k=1", &headers, &photo).status, 200);
    for probe in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(logged.send("GET", probe, &[], b"").status, 200);
    }
    let malformed = [("traceparent", "00-not-one-01"), ("x-request-id", "second")];
    assert_eq!(logged.send("GET", "/info", &malformed, b"").status, 401);
    assert_eq!(logged.send("POST", "/metrics", &[("x-request-id", "third")], b"").status, 405);

    let lines = logged.accesses(3);
    assert_eq!(lines.len(), 3, "{lines:?}");
    let [first, second, third] = [&lines[0], &lines[1], &lines[2]];
    assert_eq!(first["level"], "INFO");
    assert_eq!((&first["path"], &first["status"]), (&"/classify".into(), &200.into()), "no query: {first}");
    assert_eq!(first["bytes_in"], photo.len());
    assert!(first["bytes_out"].as_u64().is_some_and(|bytes| bytes > 20), "{first}");
    assert!(first["duration_ms"].as_f64().is_some_and(|time| time > 0.0), "{first}");
    assert!(first["client"].as_str().is_some_and(|client| client.starts_with("127.0.0.1:")), "{first}");
    assert_eq!(first["user_agent"], "test/1");
    let span = &first["span"];
    assert_eq!((&span["method"], &span["route"]), (&"POST".into(), &"/classify".into()));
    assert_eq!((&span["request_id"], &span["trace_id"]), (&"first".into(), &TRACE.into()));
    assert!(span["span_id"].as_str().is_some_and(|id| id.len() == 16 && id != "00f067aa0ba902b7"), "{first}");
    assert_eq!((&second["span"]["request_id"], &second["status"]), (&"second".into(), &401.into()));
    let fresh = second["span"]["trace_id"].as_str().expect("a trace of its own");
    assert!(fresh.len() == 32 && fresh != TRACE && fresh.bytes().any(|byte| byte != b'0'), "{second}");
    assert_eq!(third["span"]["request_id"], "third", "a probe that failed is a line");
    assert!(!logged.text().contains("the-secret-key"));
}

#[test]
fn no_client_can_forge_a_line() {
    let logged = Logged::start(&[]);
    // The log is written by a thread of its own: this is the last line of the start.
    let before = logged.until(|text| text.contains("the model is served")).lines().count();
    let agent = "a\tb\u{85}\u{2028}\u{1b}[31mred \u{202e}INFO forged";
    let agent: String = agent.chars().filter(|character| *character != '\u{1b}').collect();
    let path = "/%0aINFO%20forged\u{2028}x";
    logged.send("GET", path, &[("user-agent", &agent)], b"");
    let long = "u".repeat(2000);
    logged.send(&"M".repeat(200), "/", &[("user-agent", &long)], b"");
    let text = logged.until(|text| text.lines().count() >= before + 2);
    let lines: Vec<&str> = text.lines().skip(before).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert!(line.contains("featherlight::access") && line.contains("request_id="), "{line}");
        assert!(!line.contains(|character: char| character.is_control()), "{line:?}");
        assert!(!line.contains(['\u{85}', '\u{2028}', '\u{202e}']), "{line:?}");
    }
    assert!(lines[0].contains(r#"path="/%0aINFO%20forged"#), "{}", lines[0]);
    assert!(lines[1].len() < 700, "shortened: {}", lines[1]);
}

#[test]
fn the_access_log_can_be_turned_off() {
    let logged = Logged::start(&["--access-log", "off"]);
    assert_eq!(logged.send("GET", "/info", &[], b"").status, 200);
    // Written after the answer would have been.
    logged.served.terminate();
    let text = logged.until(|text| text.contains("stopped"));
    assert!(!text.contains("featherlight::access"), "{text}");
}

#[test]
fn a_log_that_nobody_reads_any_more_harms_no_request() {
    let mut command = featherlight(&["serve", "--port", "0", "--model"]);
    command.arg(data("../models/demo"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut served = Served::spawn(command.stderr(Stdio::from(writer)));
    drop(reader);
    for _ in 0..3 {
        assert_eq!(Connection::open(served.address).send("GET", "/info", &[], b"").status, 200);
    }
    let text = Connection::open(served.address).send("GET", "/metrics", &[], b"").text();
    assert_eq!(service::metric(&text, "featherlight_http_panics_total"), 0.0);
    served.terminate();
    assert_eq!(served.exit_status(), Some(0));
}

#[test]
fn a_log_whose_reader_stalls_harms_no_request_and_no_end() {
    let mut command = featherlight(&["serve", "--port", "0", "--model"]);
    command.arg(data("../models/demo"));
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut served = Served::spawn(command.stderr(Stdio::from(writer)));
    // A pipe holds 64 KiB; a line has more than 100 bytes.
    let mut connection = Connection::open(served.address);
    for _ in 0..1000 {
        assert_eq!(connection.send("GET", "/info", &[], b"").status, 200);
    }
    served.terminate();
    assert_eq!(served.exit_status(), Some(0));
    drop(reader);
}

#[test]
fn keys_come_from_a_file_too_and_are_read_again_at_sighup() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    write("# those of the shop\nfrom-the-file\n");
    let path = file.to_str().expect("a path");
    let logged = Logged::start(&["--api-key", "typed", "--api-key-file", path]);
    let status = |key: &str| logged.send("GET", "/info", &[("x-api-key", key)], b"").status;
    assert_eq!((status("typed"), status("from-the-file"), status("wrong")), (200, 200, 401));
    write("a-new-one\n");
    logged.served.signal("HUP");
    logged.until(|text| text.contains("the keys were read again"));
    assert_eq!((status("typed"), status("from-the-file"), status("a-new-one")), (200, 401, 200));
    write("\n");
    logged.served.signal("HUP");
    let text = logged.until(|text| text.contains("the keys stay as they were"));
    assert_eq!((status("typed"), status("a-new-one")), (200, 200));
    assert!(text.contains(path), "{text}");
    assert!(!text.contains("a-new-one") && !text.contains("from-the-file"), "{text}");
}

#[test]
fn a_key_file_that_cannot_be_used_ends_the_start_with_its_name() {
    for flag in ["--api-key-file", "--admin-key-file"] {
        let said = run(&mut featherlight(&["serve", "--port", "0", flag, "/no/such/keys"]));
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(said.err.contains(flag) && said.err.contains("/no/such/keys"), "{}", said.err);
    }
}

#[test]
fn the_admin_port_is_said_and_serves_what_the_health_check_asks_for() {
    let logged = Logged::start(&["--admin-port", "0"]);
    let admin = logged.served.admin.expect("its address");
    assert_eq!(Connection::open(admin).send("GET", "/health/ready", &[], b"").status, 200);
    assert_eq!(Connection::open(admin).send("GET", "/metrics", &[], b"").status, 200);
    assert_eq!(logged.send("GET", "/health/ready", &[], b"").status, 404);
    let taken = logged.served.address.port().to_string();
    let said = run(&mut featherlight(&["serve", "--port", "0", "--admin-port", &taken]));
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("--admin-port") && said.err.contains(&taken), "{}", said.err);
}

#[test]
fn as_many_files_are_asked_for_as_connections_need_and_fewer_connections_taken_where_that_fails() {
    let most = |logged: &Logged| {
        let text = logged.send("GET", "/metrics", &[], b"").text();
        service::metric(&text, "process_max_fds")
    };
    let raised = Logged::start_after("ulimit -S -n 256", &["--max-connections", "300"]);
    assert!(most(&raised) >= 300.0, "{}", most(&raised));
    assert!(!raised.text().contains("few open files"), "{}", raised.text());
    let bounded = Logged::start_after("ulimit -n 256", &["--max-connections", "300"]);
    assert_eq!(most(&bounded), 256.0);
    assert!(bounded.text().contains("few open files") && bounded.text().contains("connections=96"));
    // At that limit, the service still has files for itself.
    let idle: Vec<Connection> = (0..96).map(|_| Connection::open(bounded.served.address)).collect();
    bounded.until(|text| text.contains("at the limit of its connections"));
    let mut waiting = Connection::open(bounded.served.address);
    drop(idle);
    assert_eq!(waiting.send("GET", "/health", &[], b"").status, 200);
    assert!(!bounded.text().contains("cannot be accepted"), "{}", bounded.text());
}

#[cfg(not(feature = "otlp"))]
#[test]
fn an_endpoint_for_traces_that_this_build_cannot_use_is_said() {
    let mut command = featherlight(&["serve", "--port", "0", "--api-key-file", "/no/such/keys"]);
    let said = run(command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"));
    assert!(said.err.contains("OTEL_EXPORTER_OTLP_ENDPOINT") && said.err.contains("`otlp`"), "{}", said.err);
}
