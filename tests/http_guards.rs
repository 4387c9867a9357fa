//! Clients that take too long, send too much, or do not speak HTTP: each gets an answer or its end, and holds nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use service::photos::{self, FORM};
use service::{Answer, Connection, Running};

const OPEN: &str = "featherlight_http_connections{port=\"public\"}";

fn row(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn timeouts(service: &Running, waiting: &str) -> f64 {
    service.metric(&format!("featherlight_http_connection_timeouts_total{{waiting=\"{waiting}\"}}"))
}

#[test]
fn a_head_that_does_not_end_in_time_ends_its_connection_however_it_trickles() {
    let service = Running::with_settings(|settings| settings.header_timeout = Duration::from_millis(300));
    let mut silent = service.connect();
    silent.write(b"POST /classify HT");
    assert!(silent.closed());
    let mut trickling = service.connect();
    trickling.write(b"GET /health HTTP/1.1\r\nhost: test\r\nx-slow: ");
    // A byte now and then: each would start the time anew if only silence counted.
    while trickling.try_write(b"a").is_ok() {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!((timeouts(&service, "header"), timeouts(&service, "idle")), (2.0, 0.0));
    let whole = service.connect().send("GET", "/health", &[], b"");
    assert_eq!(whole.status, 200);
}

#[test]
fn an_idle_connection_has_a_time_of_its_own() {
    let service = Running::with_settings(|settings| {
        settings.header_timeout = Duration::from_secs(600);
        settings.idle_timeout = Duration::from_millis(300);
    });
    let mut unused = service.connect();
    let mut used = service.connect();
    assert_eq!(used.send("GET", "/health", &[], b"").status, 200);
    assert!(unused.closed());
    assert!(used.closed());
    assert_eq!((timeouts(&service, "idle"), timeouts(&service, "header")), (2.0, 0.0));
}

#[test]
fn a_request_that_is_being_answered_is_not_idle() {
    let service = Running::with_settings(|settings| settings.idle_timeout = Duration::from_millis(100));
    service.hand.hold();
    let photo = photos::plain([90, 0, 0]);
    let mut waiting = service.connect();
    waiting.write(&Connection::head("POST", "/classify", &[], photo.len()));
    waiting.write(&photo);
    // Another connection outlives its time, while this one waits for the device for longer.
    let mut idle = service.connect();
    assert!(idle.closed());
    std::thread::sleep(Duration::from_millis(200));
    service.hand.release();
    assert_eq!(waiting.read_answer("POST").expect("an answer").status, 200);
}

#[test]
fn a_client_that_does_not_read_its_answers_does_not_keep_its_connection() {
    let service = Running::with_settings(|settings| {
        settings.write_timeout = Duration::from_secs(1);
        settings.idle_timeout = Duration::from_secs(600);
    });
    // Asks for the page until nothing goes in any more, and never reads: the answers fill what lies between.
    let mut stream = TcpStream::connect(service.address).expect("the port is open");
    stream.set_write_timeout(Some(Duration::from_millis(200))).expect("a socket");
    let requests = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".repeat(1000);
    while stream.write_all(&requests).is_ok() {}
    service.until(|service| timeouts(service, "write") == 1.0);
    service.until(|service| service.metric(OPEN) == 1.0);
    assert_eq!(timeouts(&service, "idle"), 0.0);
    drop(stream);
}

#[test]
fn a_refusal_of_a_photo_keeps_its_connection() {
    let service = Running::with_settings(|settings| settings.api_keys = vec!["key".to_owned()]);
    let photo = vec![0; 100_000];
    // On a machine that is busy with other things a body may come too late for it; a few tries are no proof, all of them are.
    let kept = (0..50).any(|_| {
        let mut connection = service.connect();
        let refused = connection.send("POST", "/classify", &[], &photo);
        assert_eq!(refused.row(), row(401, "unauthorized"));
        if refused.header("connection") == Some("close") {
            return false;
        }
        assert_eq!(connection.send("GET", "/health", &[], b"").status, 200);
        true
    });
    assert!(kept, "each refusal cost its connection");
}

#[test]
fn a_body_that_trickles_is_a_408_after_the_whole_time() {
    let service = Running::with_settings(|settings| settings.body_timeout = Duration::from_millis(300));
    let mut connection = service.connect();
    connection.write(&Connection::head("POST", "/classify", &[], 1_000_000));
    let mut writer = connection.second();
    let trickle = std::thread::spawn(move || {
        while writer.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let answer = connection.read_answer("POST").expect("an answer while the body still comes");
    assert_eq!(answer.row(), row(408, "request_timeout"));
    assert_eq!(answer.header("connection"), Some("close"));
    trickle.join().expect("the connection is closed at last");
}

#[test]
fn connections_beyond_the_limit_wait_and_are_served_when_others_end() {
    let service = Running::with_settings(|settings| {
        settings.max_connections = 4;
        settings.idle_timeout = Duration::from_millis(500);
    });
    // Everyone connects, nobody leaves by itself; the idle give way in time.
    let mut clients: Vec<Connection> = (0..12).map(|_| service.connect()).collect();
    for client in clients.iter_mut().rev() {
        client.write(&Connection::head("GET", "/health", &[], 0));
    }
    for client in &mut clients {
        assert_eq!(client.read_answer("GET").expect("late, not lost").status, 200);
    }
}

#[test]
fn clients_that_take_all_places_and_say_nothing_make_room_after_a_second() {
    let service = Running::with_settings(|settings| {
        settings.max_connections = 4;
        settings.idle_timeout = Duration::from_secs(600);
    });
    let mut used = service.connect();
    assert_eq!(used.send("GET", "/health", &[], b"").status, 200);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(used.send("GET", "/health", &[], b"").status, 200, "not while there are places");

    let silent: Vec<Connection> = (0..3).map(|_| service.connect()).collect();
    assert_eq!(service.get("/health/live").status, 200);
    // How many went is chance: with the first of them there is a place again.
    assert!(timeouts(&service, "idle") >= 1.0);
    drop(silent);
}

/// What comes back to bytes that are no request.
fn answer(service: &Running, bytes: &[u8]) -> Answer {
    let mut connection = service.connect();
    connection.write(bytes);
    let answer = connection.read_answer("GET").expect("an answer");
    assert!(connection.closed(), "and then the end, in good order");
    answer
}

#[test]
fn what_is_no_http_is_a_400_with_everything_that_an_error_has() {
    let service = Running::start();
    let malformed: [&[u8]; 5] = [
        b"GET /health\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost test\r\n\r\n",
        b"GET / HTTP/9.9\r\nhost: test\r\n\r\n",
        b"POST /classify HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS spoken to a port that has none",
    ];
    for bytes in malformed {
        let answer = answer(&service, bytes);
        assert_eq!(answer.row(), row(400, "bad_request"), "{}", String::from_utf8_lossy(bytes));
        assert_eq!(answer.header("x-request-id").map(str::len), Some(36), "a UUID");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("connection"), Some("close"));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert!(answer.header("date").is_some());
    }
    let count = |line: &str| service.metric(line);
    assert_eq!(count("featherlight_http_requests_total{route=\"other\",status=\"400\"}"), 5.0);
    assert_eq!(count("featherlight_http_requests_received_total{route=\"other\"}"), 5.0);
    assert_eq!(count("featherlight_rejected_total{reason=\"bad_request\"}"), 5.0);
    assert_eq!(count("featherlight_http_requests_in_flight"), 1.0, "the one that asks");
}

#[test]
fn the_opening_words_of_http_2_get_no_answer_but_the_end() {
    let service = Running::start();
    let mut connection = service.connect();
    connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert!(connection.read_answer("GET").is_err());
    assert_eq!(service.metric("featherlight_http_requests_received_total{route=\"other\"}"), 0.0);
}

#[test]
fn after_good_requests_on_a_connection_a_malformed_one_is_answered_as_well() {
    let service = Running::start();
    let mut connection = service.connect();
    assert_eq!(connection.send("GET", "/health", &[], b"").status, 200);
    assert_eq!(connection.send("POST", "/classify", &[], b"no photo").status, 415);
    connection.write(b"nonsense\r\n\r\n");
    assert_eq!(connection.read_answer("GET").expect("an answer").row(), row(400, "bad_request"));
    assert!(connection.closed());
}

#[test]
fn a_head_that_is_too_large_is_a_431_that_its_client_sees() {
    let service = Running::start();
    let many: String = (0..101).map(|n| format!("x-{n}: 1\r\n")).collect();
    let many = format!("GET /health HTTP/1.1\r\n{many}\r\n");
    let large = format!("GET /health HTTP/1.1\r\nx-large: {}\r\n\r\n", "a".repeat(33_000));
    // Far more than is read: the rest is on its way when the answer is given.
    let huge = format!("GET /health HTTP/1.1\r\nx-huge: {}\r\n\r\n", "a".repeat(300_000));
    for head in [&many, &large, &huge] {
        let answer = answer(&service, head.as_bytes());
        assert_eq!(answer.row(), row(431, "headers_too_large"), "{} bytes", head.len());
    }
    assert_eq!(service.metric("featherlight_rejected_total{reason=\"headers_too_large\"}"), 3.0);
    let hundred: String = (0..99).map(|n| format!("x-{n}: 1\r\n")).collect();
    let mut connection = service.connect();
    connection.write(format!("GET /health HTTP/1.1\r\nhost: test\r\n{hundred}\r\n").as_bytes());
    assert_eq!(connection.read_answer("GET").expect("an answer").status, 200, "a hundred are taken");
}

#[test]
fn an_address_that_is_too_long_is_a_414() {
    let service = Running::start();
    let path = |length: usize| format!("/{}", "a".repeat(length - 1));
    assert_eq!(service.get(&path(8193)).row(), row(414, "uri_too_long"));
    assert_eq!(service.get(&format!("/health?{}", "a".repeat(9000))).row(), row(414, "uri_too_long"));
    // The rest of its body is read on for a while, but no further request: the answer says so.
    let mut post = service.connect();
    post.write(&Connection::head("POST", &path(8193), &[], 1000));
    let answer = post.read_answer("POST").expect("an answer before the body was sent");
    assert_eq!(answer.row(), row(414, "uri_too_long"));
    assert_eq!(answer.header("connection"), Some("close"));
    let long = service.get(&path(8192));
    assert_eq!(long.row(), row(404, "not_found"));
    assert!(long.body.len() < 1000, "the answer does not repeat it whole");
    assert_eq!(service.metric("featherlight_rejected_total{reason=\"uri_too_long\"}"), 3.0);
}

#[test]
fn more_photos_than_a_request_may_hold_are_a_413_and_as_many_are_served() {
    let service = Running::with_settings(|settings| settings.max_photos_per_request = 3);
    let photo = photos::plain([90, 0, 0]);
    let (form, json) = ([("content-type", FORM)], [("content-type", "application/json")]);
    let files = |count: usize| photos::form(&vec![("a.png", photo.as_slice()); count]);
    let list = |count: usize| {
        let one = photos::json(&photo, "");
        let text = &one[11..one.len() - 1];
        [b"{\"inputs\": [", vec![text; count].join(&b", "[..]).as_slice(), b"]}"].concat()
    };
    for (headers, three, four) in [(form, files(3), files(4)), (json, list(3), list(4))] {
        let served = service.classify("", &headers, &three);
        assert_eq!(served.json()["results"].as_array().map(Vec::len), Some(3), "{served:?}");
        let refused = service.classify("", &headers, &four);
        assert_eq!(refused.row(), row(413, "too_many_photos"));
        assert!(refused.text().contains('3'), "{refused:?}");
    }
    // A list so long that its entries alone would fill the memory is never kept.
    let endless = [b"{\"inputs\": [".as_slice(), &b"\"\",".repeat(2_000_000), b"\"\"]}"].concat();
    assert_eq!(service.classify("", &json, &endless).row(), row(413, "too_many_photos"));
    assert_eq!(service.metric("featherlight_rejected_total{reason=\"too_many_photos\"}"), 3.0);
    assert_eq!(service.get("/info").json()["limits"]["max_photos_per_request"], 3);
}

#[test]
fn a_form_of_many_or_large_fields_is_a_400_that_stays_small() {
    let service = Running::start();
    let part = |head: &str, value: &str| {
        format!("--xXxXx\r\ncontent-disposition: form-data; {head}\r\n\r\n{value}\r\n").into_bytes()
    };
    let end = b"--xXxXx--\r\n".to_vec();
    let empty = part("name=\"file\"; filename=\"\"", "");
    let long = "n".repeat(1_000_000);
    let photo = part("name=\"file\"; filename=\"a.png\"", "x");
    let cases = [
        (empty.repeat(200), "fields"),
        ([photo.clone(), part("name=\"top_k\"", &"1".repeat(2000))].concat(), "top_k"),
        (part(&format!("name=\"{long}\""), "1"), "name"),
        (part(&format!("name=\"file\"; filename=\"{long}\""), "x"), "name"),
    ];
    for (parts, word) in cases {
        let answer = service.classify("", &[("content-type", FORM)], &[parts, end.clone()].concat());
        assert_eq!(answer.row(), row(400, "bad_request"), "{word}");
        assert!(answer.text().contains(word) && answer.body.len() < 1000, "{word}: {}", answer.text());
    }
    let echo = format!("{{\"inputs\": \"\", \"{long}\": 1}}");
    let answer = service.classify("", &[("content-type", "application/json")], echo.as_bytes());
    assert_eq!(answer.row(), row(400, "bad_request"));
    assert!(answer.body.len() < 2500, "{} bytes", answer.body.len());
    let form = [("content-type", FORM)];
    let beyond = [empty.repeat(32), photo.clone(), part("name=\"top_k\"", "1"), end.clone()].concat();
    let answer = service.classify("", &form, &beyond);
    assert_eq!(answer.row(), row(400, "bad_request"));
    assert!(answer.text().contains("32 fields beside its photos"), "{answer:?}");
    let within = [empty.repeat(31), photo, part("name=\"top_k\"", "1"), end].concat();
    assert_eq!(
        service.classify("", &form, &within).row(),
        row(415, "unsupported_media_type"),
        "a photo that is none"
    );
}
