//! `featherlight bench --server` as a person runs it, against real sockets: its counts are the service's own.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod program;
mod service;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use featherlight::engine::BatchLimit;
use program::{Said, Served, data, featherlight, run};
use serde_json::Value;
use service::{Running, Setup};

const RECEIVED: &str = "featherlight_http_requests_received_total{route=\"/classify\"}";
const CLASSIFIED: &str = "featherlight_http_requests_total{route=\"/classify\",status=\"200\"}";

/// `bench` of the service at `address`.
fn bench(address: impl std::fmt::Display, more: &[&str]) -> Command {
    let mut command = featherlight(&["bench", "--server"]);
    command.arg(format!("http://{address}")).args(more);
    command
}

/// What a run that succeeded printed.
fn json(said: &Said) -> Value {
    assert_eq!(said.code, Some(0), "{}{}", said.out, said.err);
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {}", said.out))
}

fn rows(figures: &Value) -> &[Value] {
    figures["rows"].as_array().unwrap_or_else(|| panic!("no rows in {figures}"))
}

fn number(row: &Value, path: &str) -> f64 {
    row.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no {path} in {row}"))
}

/// What must hold of any row.
fn assert_adds_up(row: &Value) {
    let (answers, refused) = (number(row, "/answers"), number(row, "/refused/answers"));
    let failed = refused + number(row, "/unanswered");
    assert_eq!(number(row, "/sent"), answers + failed + number(row, "/abandoned"), "{row}");
    let errors = row["errors"].as_object().unwrap_or_else(|| panic!("no errors in {row}"));
    assert_eq!(errors.values().filter_map(Value::as_f64).sum::<f64>(), failed, "{row}");
    if answers > 0.0 {
        let times = ["/p50_ms", "/p90_ms", "/p99_ms", "/max_ms"].map(|path| number(row, path));
        assert!(times[0] > 0.0 && times.is_sorted(), "{row}");
        let rate = answers / number(row, "/seconds");
        assert!((number(row, "/photos_per_second") / rate - 1.0).abs() < 0.01, "{row}");
    }
    if refused > 0.0 {
        let times = ["/p50_ms", "/p99_ms", "/max_ms"].map(|name| number(row, &format!("/refused{name}")));
        assert!(times[0] > 0.0 && times.is_sorted(), "{row}");
    }
}

/// A run under way. Killed when a test fails.
struct Bench(Child);

impl Bench {
    fn start(mut command: Command) -> Self {
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts"))
    }

    /// Ctrl-C.
    fn interrupt(&self) {
        let killed = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status().expect("kill");
        assert!(killed.success());
    }

    fn end(mut self) -> Said {
        let patience = Instant::now() + Duration::from_secs(60);
        while self.0.try_wait().expect("its end").is_none() {
            assert!(Instant::now() < patience, "it did not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let (mut out, mut err) = (String::new(), String::new());
        self.0.stdout.take().expect("its output").read_to_string(&mut out).expect("text");
        self.0.stderr.take().expect("its errors").read_to_string(&mut err).expect("text");
        Said { code: self.0.wait().expect("its end").code(), out, err }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Lets the warm-up through and holds the device from then on, or a little later.
fn hold_after_the_warm_up(running: &Running) {
    running.until(|running| running.metric(CLASSIFIED) >= 1.0);
    running.hand.hold();
}

#[test]
fn a_closed_loop_is_measured_for_each_number_of_clients_and_split_by_the_service() {
    let pace = Duration::from_millis(5);
    let running = Running::with(Setup { pace, ..Setup::default() });
    let said = run(&mut bench(running.address, &["--json", "--seconds", "0.5", "--concurrency", "1,4"]));
    let figures = json(&said);
    assert_eq!(figures["rows"].as_array().map(Vec::len), Some(2), "{figures}");
    assert_eq!(figures["load"], figures["rows"][0], "the first by its old name");
    assert_eq!(figures["interrupted"], false);
    let mut answers = 0.0;
    for (row, clients) in rows(&figures).iter().zip([1, 4]) {
        assert_adds_up(row);
        assert_eq!((&row["concurrency"], &row["errors"]), (&clients.into(), &serde_json::json!({})), "{row}");
        assert!(number(row, "/p50_ms") >= 5.0, "no answer is faster than its pass: {row}");
        let photos = number(row, "/answers");
        answers += photos;
        for stage in ["/server/queue_ms/count", "/server/decode_ms/count"] {
            assert_eq!(number(row, stage), photos, "{stage} of {row}");
        }
        assert_eq!(number(row, "/server/batches"), number(row, "/server/inference_ms/count"), "{row}");
        assert!(number(row, "/server/inference_ms/mean") >= 5.0, "{row}");
        let batched = number(row, "/server/batches") * number(row, "/server/mean_batch");
        assert!((batched / photos - 1.0).abs() < 0.01, "{row}");
        let memory = ["start", "end", "max"].map(|name| number(row, &format!("/server/memory_bytes/{name}")));
        assert!(memory[0] > 0.0 && memory[2] >= memory[0].max(memory[1]), "{row}");
    }
    assert_eq!(number(&figures["rows"][0], "/server/mean_batch"), 1.0, "one client, one photo");
    assert_eq!(running.metric(CLASSIFIED), 1.0 + answers, "the warm-up, and what was counted");
}

#[test]
fn an_open_loop_waits_for_no_answer_and_times_from_the_schedule() {
    let running = Running::start();
    let bench = Bench::start(bench(running.address, &["--json", "--seconds", "3", "--rate", "20"]));
    hold_after_the_warm_up(&running);
    // Nothing is answered, and yet all of them come.
    running.until(|running| running.metric(RECEIVED) == 61.0);
    let through = running.metric(CLASSIFIED) - 1.0;
    running.hand.release();
    let figures = json(&bench.end());
    let row = &rows(&figures)[0];
    assert_adds_up(row);
    assert_eq!(["sent", "answers", "unsent"].map(|name| row[name].as_u64()), [60, 60, 0].map(Some), "{row}");
    assert_eq!(number(row, "/rate"), 20.0);
    // One of the first `through` + 1 was held, and answered after the last was due, at 2950 ms.
    let waited = (59.0 - through) * 50.0;
    assert!(waited > 0.0, "the device was held too late");
    assert!(number(row, "/max_ms") >= waited - 1.0, "{through} came through, {row}");
    assert!(number(row, "/server/max_queue_size") > 0.0, "{row}");
    let (rate, late) = (number(row, "/sent_per_second"), number(row, "/late_p99_ms"));
    assert!(rate <= 20.01 && (rate > 19.0 || late > 10.0), "{row}");
}

#[test]
fn an_open_loop_sends_no_more_than_may_be_in_flight_and_counts_what_it_left_out() {
    let running = Running::start();
    let words = ["--json", "--seconds", "600", "--rate", "50", "--max-in-flight", "4"];
    let bench = Bench::start(bench(running.address, &words));
    hold_after_the_warm_up(&running);
    running.until(|running| running.metric(RECEIVED) - running.metric(CLASSIFIED) == 4.0);
    // Fifty more are due, and find no room.
    std::thread::sleep(Duration::from_secs(1));
    bench.interrupt();
    let figures = json(&bench.end());
    let row = &rows(&figures)[0];
    assert_adds_up(row);
    assert_eq!(number(row, "/abandoned"), 4.0, "{row}");
    assert!(number(row, "/unsent") > 0.0, "{row}");
    assert_eq!(running.metric(RECEIVED), 1.0 + number(row, "/sent"), "{row}");
    running.hand.release();
}

#[test]
fn refusals_are_counted_by_code_and_timed_by_themselves() {
    let running = Running::with({
        let mut setup = Setup { pace: Duration::from_millis(20), ..Setup::default() };
        setup.settings.engine.max_queue_size = 1;
        setup.settings.engine.max_batch_size = BatchLimit::Fixed(1);
        setup
    });
    let words = ["--json", "--seconds", "0.5", "--concurrency", "6"];
    let figures = json(&run(&mut bench(running.address, &words)));
    let row = &rows(&figures)[0];
    assert_adds_up(row);
    let overloaded = number(row, "/errors/overloaded");
    assert!(overloaded > 0.0 && number(row, "/answers") > 0.0, "{row}");
    assert_eq!(number(row, "/refused/answers"), overloaded, "{row}");
    assert_eq!(running.metric("featherlight_rejected_total{reason=\"overloaded\"}"), overloaded);
    assert!(number(row, "/p50_ms") >= 20.0, "a refusal is no answer: {row}");
}

#[test]
fn a_table_for_people_fits_the_screen_and_names_what_it_measured() {
    let running = Running::with({
        let mut setup = Setup { pace: Duration::from_millis(20), ..Setup::default() };
        setup.settings.engine.max_queue_size = 1;
        setup
    });
    for (words, wanted) in [
        (["--concurrency", "1,16"], ["in flight", "closed loop"]),
        (["--rate", "300,5"], ["rate/s", "open loop"]),
    ] {
        let said = run(bench(running.address, &words).args(["--seconds", "0.3"]));
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert!(said.out.lines().all(|line| line.chars().count() <= 110), "{}", said.out);
        let known = ["photos/s", "answered with 200, ms", "queue, ms", "memory, MB", "overloaded"];
        for part in known.iter().chain(&wanted) {
            assert!(said.out.contains(part), "no {part} in\n{}", said.out);
        }
        for number in words[1].split(',') {
            let rows = said.out.lines().filter(|line| line.split_whitespace().next() == Some(number));
            assert!(rows.count() >= 2, "{number} in both tables of\n{}", said.out);
        }
    }
}

#[test]
fn a_key_is_asked_for_and_metrics_that_cannot_be_read_are_no_failure() {
    let served = Served::spawn(&mut featherlight(&["--port", "0", "--api-key", "open"]));
    let try_with = |more: &[&str]| run(bench(served.address, &["--json", "--seconds", "0.2"]).args(more));
    for (key, told) in [(&[][..], "--api-key"), (&["--api-key", "shut"], "does not know this API key")] {
        let said = try_with(key);
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{}", said.err);
        assert!(said.err.contains(told), "{}", said.err);
    }
    let figures = json(&try_with(&["--api-key", "open"]));
    assert!(number(&rows(&figures)[0], "/server/decode_ms/count") > 0.0, "{figures}");

    let elsewhere = format!("http://{}/none", served.address);
    let said = try_with(&["--api-key", "open", "--concurrency", "1,2", "--metrics-url", &elsewhere]);
    let figures = json(&said);
    assert!(rows(&figures).iter().all(|row| row["server"].is_null()), "{figures}");
    assert_eq!(said.err.lines().count(), 1, "said once: {}", said.err);
    assert!(said.err.contains(&elsewhere) && said.err.contains("--metrics-url"), "{}", said.err);
}

#[test]
fn what_is_no_service_ends_the_run_with_a_reason() {
    let nobody = TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr()).expect("a free port");
    let (page, _) = fake("<html>", usize::MAX);
    let running = Running::start();
    for (address, path, told) in [
        (nobody.to_string(), "/classify", "refused"),
        (page, "/classify", "not with predictions"),
        (running.address.to_string(), "/none", "no service here"),
        (running.address.to_string(), "/classify/none", "no model `none`"),
    ] {
        let said = run(&mut bench(&address, &["--json", "--seconds", "0.2", "--path", path]));
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{}", said.err);
        assert!(said.err.contains(&address) && said.err.contains(told), "{}", said.err);
    }
    let said = run(&mut bench(running.address, &["--rate", "5", "--concurrency", "5"]));
    assert_eq!(said.code, Some(2), "{}", said.err);
    assert!(said.err.contains("--rate") && said.err.contains("--concurrency"), "{}", said.err);

    let texts = tempfile::tempdir().expect("a folder");
    std::fs::write(texts.path().join("a.jpg"), "no photo").expect("written");
    let said = run(bench(running.address, &["--decode"]).arg(texts.path()));
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("1 unsupported_media_type"), "{}", said.err);
}

#[test]
fn one_of_several_models_is_measured_at_its_own_path() {
    let running = Running::start();
    let words = ["--json", "--seconds", "0.2", "--path", "/classify/colours"];
    let figures = json(&run(&mut bench(running.address, &words)));
    let row = &rows(&figures)[0];
    assert_adds_up(row);
    assert_eq!(
        (number(row, "/sent"), &row["errors"]),
        (number(row, "/answers"), &serde_json::json!({})),
        "{row}"
    );
    assert_eq!(running.metric("featherlight_predictions_total"), 1.0 + number(row, "/answers"));
}

#[test]
fn ctrl_c_ends_a_row_at_once_and_keeps_what_was_measured() {
    let running = Running::start();
    let words = ["--json", "--seconds", "600", "--concurrency", "3,5"];
    let bench = Bench::start(bench(running.address, &words));
    running.until(|running| running.metric(CLASSIFIED) >= 20.0);
    running.hand.hold();
    running.until(|running| running.metric(RECEIVED) - running.metric(CLASSIFIED) == 3.0);
    bench.interrupt();
    let figures = json(&bench.end());
    assert_eq!((&figures["interrupted"], rows(&figures).len()), (&true.into(), 1), "{figures}");
    let row = &rows(&figures)[0];
    assert_adds_up(row);
    assert_eq!(number(row, "/abandoned"), 3.0, "{row}");
    assert!(number(row, "/answers") >= 19.0 && number(row, "/seconds") < 600.0, "{row}");
    running.hand.release();
}

#[test]
fn a_time_that_is_over_is_said_by_the_service_itself() {
    let running = Running::start();
    let words = ["--json", "--seconds", "600", "--concurrency", "1", "--timeout-ms", "400"];
    let bench = Bench::start(bench(running.address, &words));
    hold_after_the_warm_up(&running);
    let late = "featherlight_http_requests_total{route=\"/classify\",status=\"504\"}";
    running.until(|running| running.metric(late) >= 1.0);
    // The only client sends again when it has counted the answer.
    let seen = running.metric(RECEIVED);
    running.until(|running| running.metric(RECEIVED) > seen);
    bench.interrupt();
    let figures = json(&bench.end());
    running.hand.release();
    let row = &rows(&figures)[0];
    assert_adds_up(row);
    assert!(number(row, "/errors/deadline_exceeded") >= 1.0, "{row}");
    assert!(number(row, "/refused/max_ms") >= 400.0, "{row}");
}

#[test]
fn a_service_that_falls_silent_times_out_and_a_run_without_any_photo_fails_with_its_figures() {
    let (address, _heads) = fake(PREDICTIONS, 1);
    let words = ["--json", "--seconds", "1", "--concurrency", "2", "--timeout-ms", "100"];
    let said = run(&mut bench(&address, &words));
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("no photo was classified") && said.err.contains("timeout"), "{}", said.err);
    let figures: Value = serde_json::from_str(&said.out).expect("figures");
    let row = &rows(&figures)[0];
    assert_adds_up(row);
    // Each gives up a second after its time, when the row is over.
    assert_eq!(row["errors"], serde_json::json!({"timeout": 2}), "{row}");
    assert_eq!((number(row, "/answers"), &row["p50_ms"]), (0.0, &Value::Null), "{row}");
}

#[test]
fn photos_go_to_the_path_that_is_named_with_what_the_flags_say() {
    let (address, heads) = fake(PREDICTIONS, usize::MAX);
    let photos = tempfile::tempdir().expect("a folder");
    let real = data("data/sign-digits/test/7/IMG_4355.jpg");
    let size = std::fs::copy(real, photos.path().join("b.jpg")).expect("copied");
    std::fs::write(photos.path().join("a.jpg"), "short").expect("written");
    let words = ["--path", "/classify/mine", "--top-k", "3", "--timeout-ms", "5000", "--api-key", "k"];
    let said = run(bench(&address, &words)
        .args(["--json", "--seconds", "0.2", "--concurrency", "1", "--decode"])
        .arg(photos.path()));
    let figures = json(&said);
    assert_eq!(figures["service"]["photos"], 2, "{figures}");
    assert!(said.err.contains(&format!("http://{address}/metrics")), "{}", said.err);

    let heads: Vec<String> = heads.try_iter().collect();
    let posted: Vec<&String> = heads.iter().filter(|head| head.starts_with("POST ")).collect();
    assert_eq!(posted.len() as f64, 1.0 + number(&rows(&figures)[0], "/answers"));
    for head in &posted {
        assert!(head.starts_with("POST /classify/mine?top_k=3 HTTP/1.1\r\n"), "{head}");
        for line in [
            "x-request-timeout-ms: 5000",
            "authorization: Bearer k",
            "content-type: application/octet-stream",
        ] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "no {line} in {head}");
        }
    }
    // The warm-up sends the first; then they go round.
    for (number, head) in posted.iter().skip(1).enumerate() {
        let length = if number % 2 == 0 { 5 } else { size };
        assert!(head.contains(&format!("\r\ncontent-length: {length}\r\n")), "photo {number}: {head}");
    }
}

/// Hugging Face's form.
const PREDICTIONS: &str = r#"[{"label": "7", "score": 0.5}]"#;

/// Something that answers the first `most` POSTs with 200 and `answer`, later ones never, and everything else with 404; and the
/// heads that it got.
fn fake(answer: &'static str, most: usize) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    let (sender, heads) = channel();
    let left = Arc::new(AtomicUsize::new(most));
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (sender, left) = (sender.clone(), left.clone());
            std::thread::spawn(move || serve_fake(stream, answer, &left, &sender));
        }
    });
    (address, heads)
}

fn serve_fake(stream: TcpStream, answer: &str, left: &AtomicUsize, heads: &Sender<String>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if stream.read_line(&mut head).unwrap_or(0) == 0 {
                return;
            }
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        if stream.read_exact(&mut body).is_err() {
            return;
        }
        let post = head.starts_with("POST ");
        let (status, text) = if post { (200, answer) } else { (404, "") };
        let _ = heads.send(head);
        if post && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_err()
        {
            continue;
        }
        let reply = format!("HTTP/1.1 {status} so\r\ncontent-length: {}\r\n\r\n{text}", text.len());
        if stream.get_mut().write_all(reply.as_bytes()).is_err() {
            return;
        }
    }
}
