//! Ten thousand requests of every kind, a third of whose clients hang up: each that stays is answered right, and every one is
//! accounted for in `/metrics` to the unit.
//!
//! A real process with a real model and real photos. Takes long, so `./test slow` runs it.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod program;
mod service;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use program::{Served, data};
use service::photos::{self, FORM};
use service::{Answer, Connection, hostile, metric};

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 32;
/// The service's patience, so short that a body that never ends does not hold the test up.
const TIMEOUT_MS: &str = "5000";

/// What a client does. Ten of thirty hang up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Photo,
    Form,
    Json,
    /// Written in three pieces, with pauses.
    Slow,
    /// Half a body, and then nothing: 408.
    Stalled,
    Corrupt,
    /// No format that is served.
    Text,
    WrongType,
    BrokenJson,
    TooManyPixels,
    NoSuchModel,
    WrongMethod,
    /// Waits for a millisecond at most.
    Impatient,
    HangsUpInTheHead,
    HangsUpInTheBody,
    HangsUpBeforeTheAnswer,
}

fn kind(index: usize) -> Kind {
    match index % 30 {
        0..=6 => Kind::Photo,
        7 => Kind::Form,
        8 => Kind::Json,
        9 | 10 => Kind::Slow,
        11 if index % 10 == 1 && index % 300 < 30 => Kind::Stalled,
        11 | 12 => Kind::Corrupt,
        13 => Kind::Text,
        14 => Kind::WrongType,
        15 => Kind::BrokenJson,
        16 => Kind::TooManyPixels,
        17 => Kind::NoSuchModel,
        18 => Kind::WrongMethod,
        19 => Kind::Impatient,
        20 | 21 => Kind::HangsUpInTheHead,
        22..=24 => Kind::HangsUpInTheBody,
        _ => Kind::HangsUpBeforeTheAnswer,
    }
}

/// The material of the requests.
struct Material {
    photos: Vec<Vec<u8>>,
    /// The label that each photo gets alone.
    labels: Vec<String>,
    corrupt: Vec<u8>,
    too_large: Vec<u8>,
}

/// What the clients saw.
#[derive(Default)]
struct Seen {
    /// Answers by status and `error.code` (empty for 200).
    answers: Mutex<BTreeMap<(u16, String), usize>>,
    /// Requests whose head was sent whole.
    sent: AtomicUsize,
    /// Clients that left after their whole request was sent.
    left_waiting: AtomicUsize,
}

impl Seen {
    fn count(&self, answer: &Answer) {
        let code = if answer.status == 200 { String::new() } else { answer.code() };
        *self.answers.lock().expect("unpoisoned").entry((answer.status, code)).or_default() += 1;
    }

    fn of(&self, status: u16, code: &str) -> usize {
        self.answers.lock().expect("unpoisoned").get(&(status, code.to_owned())).copied().unwrap_or(0)
    }
}

fn best(answer: &Answer) -> String {
    let json = answer.json();
    json["predictions"][0]["label"].as_str().unwrap_or_else(|| panic!("{json}")).to_owned()
}

/// One client's request, and its answer if it stays for one.
fn request(address: SocketAddr, index: usize, material: &Material, seen: &Seen) {
    let which = index % material.photos.len();
    let photo = &material.photos[which];
    let mut connection = Connection::open(address);
    let head = |length: usize| Connection::head("POST", "/classify", &[], length);
    let mut post = |path: &str, headers: &[(&str, &str)], body: &[u8]| {
        seen.sent.fetch_add(1, Ordering::Relaxed);
        let answer = connection.send("POST", path, headers, body);
        seen.count(&answer);
        answer
    };
    let kind = kind(index);
    let expect = |answer: &Answer, status: u16, code: &str| {
        assert_eq!(answer.row(), (status, code.to_owned()), "{kind:?}");
    };
    match kind {
        Kind::Photo => assert_eq!(best(&post("/classify", &[], photo)), material.labels[which]),
        Kind::Form => {
            let answer = post("/classify", &[("content-type", FORM)], &photos::form(&[("a", photo)]));
            assert_eq!(best(&answer), material.labels[which]);
        }
        Kind::Json => {
            let body = photos::json(photo, "");
            let answer = post("/classify", &[("content-type", "application/json")], &body);
            assert_eq!(best(&answer), material.labels[which]);
        }
        Kind::Slow => {
            seen.sent.fetch_add(1, Ordering::Relaxed);
            connection.write(&head(photo.len()));
            for piece in photo.chunks(photo.len().div_ceil(3)) {
                std::thread::sleep(Duration::from_millis(10));
                connection.write(piece);
            }
            let answer = connection.read_answer("POST").expect("an answer");
            seen.count(&answer);
            assert_eq!(best(&answer), material.labels[which]);
        }
        Kind::Stalled => {
            seen.sent.fetch_add(1, Ordering::Relaxed);
            connection.write(&head(photo.len()));
            connection.write(&photo[..photo.len() / 2]);
            let answer = connection.read_answer("POST").expect("an answer");
            seen.count(&answer);
            expect(&answer, 408, "request_timeout");
        }
        Kind::Corrupt => expect(&post("/classify", &[], &material.corrupt), 422, "undecodable_image"),
        Kind::Text => expect(&post("/classify", &[], b"no photo"), 415, "unsupported_media_type"),
        Kind::WrongType => {
            let answer = post("/classify", &[("content-type", "video/mp4")], photo);
            expect(&answer, 415, "unsupported_media_type");
        }
        Kind::BrokenJson => {
            let answer = post("/classify", &[("content-type", "application/json")], b"{\"inputs\": ");
            expect(&answer, 400, "bad_request");
        }
        Kind::TooManyPixels => expect(&post("/classify", &[], &material.too_large), 422, "too_many_pixels"),
        Kind::NoSuchModel => expect(&post("/classify/none", &[], photo), 404, "model_not_found"),
        Kind::WrongMethod => {
            seen.sent.fetch_add(1, Ordering::Relaxed);
            let answer = connection.send("GET", "/classify", &[], b"");
            seen.count(&answer);
            expect(&answer, 405, "method_not_allowed");
        }
        Kind::Impatient => {
            let answer = post("/classify", &[("x-request-timeout-ms", "1")], photo);
            // Answered all the same, refused at once, too late in the queue, or before its body was there.
            let allowed =
                [(200, ""), (503, "overloaded"), (504, "deadline_exceeded"), (408, "request_timeout")];
            let row = if answer.status == 200 { (200, String::new()) } else { answer.row() };
            assert!(allowed.contains(&(row.0, &*row.1)), "{row:?}");
        }
        Kind::HangsUpInTheHead => {
            let _ = connection.try_write(b"POST /classify HTTP/1.1\r\nhost: te");
            connection.hang_up();
        }
        Kind::HangsUpInTheBody => {
            seen.sent.fetch_add(1, Ordering::Relaxed);
            connection.write(&head(photo.len()));
            let _ = connection.try_write(&photo[..photo.len() / 2]);
            connection.hang_up();
        }
        Kind::HangsUpBeforeTheAnswer => {
            seen.sent.fetch_add(1, Ordering::Relaxed);
            seen.left_waiting.fetch_add(1, Ordering::Relaxed);
            connection.write(&[head(photo.len()), photo.clone()].concat());
            connection.hang_up();
        }
    }
}

/// Every series of a metric: its labels and its value.
fn series(text: &str, name: &str) -> BTreeMap<String, f64> {
    let line = |line: &str| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.split_once("} ")?;
        Some((labels.to_owned(), value.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}

#[test]
#[ignore = "slow"]
fn ten_thousand_mixed_requests_are_answered_right_and_accounted_for_to_the_unit() {
    let flags = ["--request-timeout-ms", TIMEOUT_MS, "--max-pixels", "50000000"];
    let mut served = Served::start(&data("../models/demo"), &flags);
    let address = served.address;
    let metrics = || Connection::open(address).send("GET", "/metrics", &[], b"").text();
    let mut paths = hostile::under(&data("data/sign-digits"));
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "jpg"));
    let photos: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).expect("a photo")).collect();
    let alone = |photo: &Vec<u8>| best(&Connection::open(address).send("POST", "/classify", &[], photo));
    let labels: Vec<String> = photos.iter().map(alone).collect();
    let corrupt = photos[0][..photos[0].len() / 2].to_vec();
    let material = Material { photos, labels, corrupt, too_large: photos::too_large() };

    let before = metrics();
    let (seen, next) = (Seen::default(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= REQUESTS {
                        return;
                    }
                    request(address, index, &material, &seen);
                }
            });
        }
    });

    // At rest: nothing under way but the question itself.
    let settled = std::time::Instant::now() + Duration::from_secs(30);
    let after = loop {
        let text = metrics();
        if metric(&text, "featherlight_http_requests_in_flight") == 1.0
            && metric(&text, "featherlight_queue_size") == 0.0
        {
            break text;
        }
        assert!(std::time::Instant::now() < settled, "never at rest:\n{text}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let grown = |name: &str| {
        let (old, new) = (series(&before, name), series(&after, name));
        let grown = new.into_iter().map(|(labels, value)| {
            let before = old.get(&labels).copied().unwrap_or(0.0);
            (labels, value - before)
        });
        grown.filter(|(_, value)| *value != 0.0).collect::<BTreeMap<_, _>>()
    };
    let classify = |labels: &str| labels.contains("route=\"/classify");
    let sum = |series: &BTreeMap<String, f64>, wanted: &dyn Fn(&str) -> bool| -> f64 {
        series.iter().filter(|(labels, _)| wanted(labels)).map(|(_, value)| value).sum()
    };

    // Received is answered, to the unit, and is what was sent: a client that hangs up with its last byte is counted as well.
    let (received, answered) =
        (grown("featherlight_http_requests_received_total"), grown("featherlight_http_requests_total"));
    let sent = seen.sent.load(Ordering::Relaxed) as f64;
    let (received, ended) = (sum(&received, &classify), sum(&answered, &classify));
    assert_eq!((received, ended), (sent, sent), "{answered:?}");

    // Each status is what the clients saw; those that left are 499, or were answered before that was known.
    let answers = seen.answers.lock().expect("unpoisoned").clone();
    let left_waiting = seen.left_waiting.load(Ordering::Relaxed) as f64;
    let status = |status: u16| {
        sum(&answered, &|labels| classify(labels) && labels.contains(&format!("status=\"{status}\"")))
    };
    let saw = |status: u16| {
        answers.iter().filter(|((found, _), _)| *found == status).map(|(_, count)| *count as f64).sum::<f64>()
    };
    for refused in [400, 404, 405, 408, 415, 422, 503, 504] {
        assert_eq!(status(refused), saw(refused), "{refused}: {answers:?}\n{answered:?}");
    }
    assert_eq!(status(500) + status(413) + status(401), 0.0);
    assert!(status(200) >= saw(200) && status(200) <= saw(200) + left_waiting, "{answered:?}");
    assert_eq!(
        status(200) + status(499),
        received
            - answers
                .iter()
                .filter(|((found, _), _)| *found != 200)
                .map(|(_, count)| *count as f64)
                .sum::<f64>()
    );

    // Every reason, and no other.
    let rejected = grown("featherlight_rejected_total");
    let wanted: BTreeMap<String, f64> = answers
        .iter()
        .filter(|((status, code), _)| {
            *status != 200 && !matches!(&**code, "deadline_exceeded" | "method_not_allowed")
        })
        .map(|((_, code), count)| (format!("reason=\"{code}\""), *count as f64))
        .collect();
    assert_eq!(rejected, wanted);
    let dropped = grown("featherlight_dropped_total");
    let disconnected = dropped.get("reason=\"disconnected\"").copied().unwrap_or(0.0);
    assert!(disconnected > 0.0 && disconnected <= left_waiting, "{dropped:?} of {left_waiting}");
    let late = dropped.get("reason=\"deadline\"").copied().unwrap_or(0.0);
    assert!(late <= seen.of(504, "deadline_exceeded") as f64, "{dropped:?}");
    let predicted =
        metric(&after, "featherlight_predictions_total") - metric(&before, "featherlight_predictions_total");
    assert!(predicted >= saw(200), "{predicted} predictions");
    assert!(
        predicted + disconnected <= saw(200) + left_waiting + saw(504),
        "{predicted} predictions, {dropped:?}"
    );
    for stage in ["decode", "inference"] {
        assert_eq!(metric(&after, &format!("featherlight_engine_panics_total{{stage=\"{stage}\"}}")), 0.0);
    }
    println!("{answers:?}\n{answered:?}\n{rejected:?}\n{dropped:?}");
    served.terminate();
    assert_eq!(served.exit_status(), Some(0));
}
