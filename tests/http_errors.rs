//! Every row of the error table, and that a refused client sees its answer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;

use std::time::Duration;

use service::photos::{self, FORM};
use service::{Connection, DEVICE_LOSS, Running, Setup, TOO_LARGE};

const PNG: [(&str, &str); 1] = [("content-type", "image/png")];
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// Query, headers, body, and a word that the message must hold.
type Malformed<'a> = (&'a str, &'a [(&'a str, &'a str)], Vec<u8>, &'a str);

fn row(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn what_is_malformed_is_a_400_that_names_the_fault() {
    let service = Running::start();
    let photo = photos::plain([90, 0, 0]);
    let form = [("content-type", FORM)];
    let unknown_field =
        b"--xXxXx\r\ncontent-disposition: form-data; name=\"colour\"\r\n\r\nred\r\n--xXxXx--\r\n";
    let cases: [Malformed<'_>; 16] = [
        ("", &JSON, b"{\"inputs\": ".to_vec(), "JSON"),
        ("", &JSON, b"{}".to_vec(), "inputs"),
        ("", &JSON, b"{\"inputs\": 5}".to_vec(), "base64"),
        ("", &JSON, b"{\"inputs\": \"*?*\"}".to_vec(), "base64"),
        ("", &JSON, b"{\"inputs\": []}".to_vec(), "no photo"),
        ("", &JSON, photos::json(&photo, ", \"colour\": 1"), "colour"),
        ("", &JSON, photos::json(&photo, ", \"parameters\": {\"topk\": 1}"), "topk"),
        ("", &JSON, photos::json(&photo, ", \"parameters\": {\"top_k\": 0}"), "top_k"),
        ("", &JSON, photos::json(&photo, ", \"parameters\": {\"top_k\": 1.5}"), "top_k"),
        ("?top_k=0", &PNG, photo.clone(), "top_k"),
        ("?top_k=all", &PNG, photo.clone(), "top_k"),
        ("?function_to_apply=relu", &PNG, photo.clone(), "sigmoid"),
        ("?topk=1", &PNG, photo.clone(), "topk"),
        ("", &form, b"--xXxXx\r\nnonsense".to_vec(), "multipart"),
        ("", &form, unknown_field.to_vec(), "colour"),
        ("", &[("content-type", "multipart/form-data")], photos::form(&[("a", &photo)]), "boundary"),
    ];
    for (query, headers, body, word) in cases {
        let answer = service.classify(query, headers, &body);
        assert_eq!(answer.row(), row(400, "bad_request"), "{query} {word}");
        let message = answer.json()["error"]["message"].as_str().map(str::to_owned);
        assert!(message.is_some_and(|message| message.contains(word)), "{word}: {answer:?}");
    }
    assert_eq!(service.metric("featherlight_rejected_total{reason=\"bad_request\"}"), 16.0);
}

#[test]
fn without_its_key_a_request_is_a_401_and_with_it_served() {
    let service =
        Running::with_settings(|settings| settings.api_keys = vec!["first".into(), "second".into()]);
    let photo = photos::plain([90, 0, 0]);
    let none = service.classify("", &PNG, &photo);
    assert_eq!(none.row(), row(401, "unauthorized"));
    assert_eq!(none.header("www-authenticate"), Some("Bearer"));
    for wrong in [("authorization", "Bearer firs"), ("x-api-key", "firsts"), ("authorization", "first")] {
        assert_eq!(service.classify("", &[wrong], &photo).status, 401, "{wrong:?}");
    }
    for right in
        [("authorization", "Bearer second"), ("authorization", "bearer first"), ("x-api-key", "first")]
    {
        assert_eq!(service.classify("", &[right], &photo).status, 200, "{right:?}");
    }
    for open in ["/", "/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(service.get(open).status, 200, "{open}");
    }
    assert_eq!(service.get("/info").status, 401);
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405_with_the_right_ones() {
    let service = Running::start();
    assert_eq!(service.get("/clasify").row(), row(404, "not_found"));
    let get = service.get("/classify");
    assert_eq!(get.row(), row(405, "method_not_allowed"));
    assert_eq!(get.header("allow"), Some("POST"));
    let post = service.connect().send("POST", "/health", &[], b"");
    assert_eq!(post.row(), row(405, "method_not_allowed"));
    assert_eq!(post.header("allow"), Some("GET,HEAD"));
    let head = service.connect().send("HEAD", "/classify", &[], b"");
    assert_eq!((head.status, head.body.len()), (405, 0));
}

#[test]
fn a_body_that_comes_too_slowly_is_a_408() {
    let service = Running::with_settings(|settings| settings.body_timeout = Duration::from_millis(200));
    let mut connection = service.connect();
    connection.write(&Connection::head("POST", "/classify", &PNG, 1000));
    connection.write(b"only the beginning");
    let answer = connection.read_answer("POST").expect("an answer");
    assert_eq!(answer.row(), row(408, "request_timeout"));
}

#[test]
fn a_body_over_the_limit_is_a_413_at_once_or_when_it_is_crossed() {
    let service = Running::with_settings(|settings| settings.max_body_bytes = 1000);
    let mut declared = service.connect();
    declared.write(&Connection::head("POST", "/classify", &PNG, 1001));
    let answer = declared.read_answer("POST").expect("an answer before the body was sent");
    assert_eq!(answer.row(), row(413, "body_too_large"));

    let mut chunked = service.connect();
    let head = b"POST /classify HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    chunked.write(head);
    chunked.write(format!("258\r\n{0}\r\n258\r\n{0}\r\n", "x".repeat(600)).as_bytes());
    let answer = chunked.read_answer("POST").expect("an answer before the body ended");
    assert_eq!(answer.row(), row(413, "body_too_large"));
    assert_eq!(answer.header("connection"), Some("close"));

    assert_eq!(service.classify("", &PNG, &[b'x'; 1000]).row(), row(415, "unsupported_media_type"));
}

#[test]
fn a_form_that_would_never_find_room_is_a_413_that_names_the_limit_and_one_within_it_is_served() {
    let photo = photos::three_megabytes();
    let form = photos::form(&[("a.png", &photo)]);
    for (memory, status) in [(2 * form.len() as u64, 200), (2 * form.len() as u64 - 2, 413)] {
        let service = Running::with_settings(|settings| settings.max_inflight_bytes = memory);
        let answer = service.classify("", &[("content-type", FORM)], &form);
        assert_eq!(answer.status, status, "{answer:?}");
        let limit = memory / 2;
        assert_eq!(service.get("/info").json()["limits"]["max_body_bytes"], limit);
        if status == 413 {
            assert!(answer.text().contains(&format!("larger than {limit} bytes")), "{answer:?}");
        }
    }
}

#[test]
fn a_chunked_photo_within_the_limit_is_served() {
    let service = Running::start();
    let photo = photos::three_megabytes();
    let mut connection = service.connect();
    connection.write(b"POST /classify HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n");
    for part in photo.chunks(70_000) {
        connection.write(format!("{:x}\r\n", part.len()).as_bytes());
        connection.write(part);
        connection.write(b"\r\n");
    }
    connection.write(b"0\r\n\r\n");
    assert_eq!(connection.read_answer("POST").expect("an answer").status, 200);
}

#[test]
fn chunks_that_are_malformed_are_a_400_and_the_end_of_the_connection() {
    let service = Running::start();
    let head = "POST /classify HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n";
    for chunks in ["zz\r\n", "4\r\nwxyz-\r\n", "f0000000000000003\r\n"] {
        let mut connection = service.connect();
        connection.write(format!("{head}{chunks}").as_bytes());
        let answer = connection.read_answer("POST").expect("an answer");
        assert_eq!(answer.row(), row(400, "bad_request"), "{chunks}");
        assert!(answer.text().contains("chunk"), "{answer:?}");
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(connection.closed());
    }
    let left = "featherlight_http_requests_total{route=\"/classify\",status=\"499\"}";
    assert_eq!(service.metric(left), 0.0, "nobody left");
    let mut connection = service.connect();
    connection.write(format!("{head}4\r\nwx").as_bytes());
    connection.hang_up();
    service.until(|service| service.metric(left) == 1.0);
}

#[test]
fn types_and_formats_that_are_not_served_are_415() {
    let service = Running::start();
    let text = service.classify("", &[("content-type", "text/plain")], b"hello");
    assert_eq!(text.row(), row(415, "unsupported_media_type"));
    let svg = service.classify("", &[("content-type", "image/svg+xml")], b"<svg/>");
    assert_eq!(svg.row(), row(415, "unsupported_media_type"));
}

#[test]
fn photos_that_cannot_be_decoded_are_422() {
    let service = Running::start();
    assert_eq!(service.classify("", &PNG, &photos::truncated()).row(), row(422, "undecodable_image"));
    assert_eq!(service.classify("", &PNG, &photos::too_large()).row(), row(422, "too_many_pixels"));
    assert_eq!(service.classify("", &PNG, &photos::plain([0, 90, 0])).status, 200);
}

#[test]
fn a_full_queue_is_a_503_with_the_time_to_come_back() {
    let service = Running::with_settings(|settings| settings.engine.max_queue_size = 1);
    let photo = photos::plain([90, 0, 0]);
    service.hand.hold();
    std::thread::scope(|scope| {
        let taken = scope.spawn(|| service.classify("", &PNG, &photo));
        // The first photo is on the device and held there; the second fills the queue.
        let received = "featherlight_queue_duration_seconds_count";
        service.until(|service| service.metric(received) == 1.0);
        let waiting = scope.spawn(|| service.classify("", &PNG, &photo));
        service.until(|service| service.service.engine().queued() == 1);
        let refused = service.classify("", &PNG, &photo);
        assert_eq!(refused.row(), row(503, "overloaded"));
        let seconds = refused.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds >= 1), "{refused:?}");
        service.hand.release();
        assert_eq!(taken.join().expect("no panic").status, 200);
        assert_eq!(waiting.join().expect("no panic").status, 200);
    });
    let several: [(&str, &[u8]); 2] = [("a", &photo), ("b", &photo)];
    let several = service.classify("", &[("content-type", FORM)], &photos::form(&several));
    assert_eq!(several.row(), row(413, "too_many_photos"), "two photos never fit into a queue of one");
}

#[test]
fn bodies_beyond_the_memory_for_them_are_a_503() {
    let service = Running::with_settings(|settings| settings.max_inflight_bytes = 8_000_000);
    let photo = photos::three_megabytes();
    service.until(|service| {
        let mut slow: Vec<Connection> = (0..2).map(|_| service.connect()).collect();
        for connection in &mut slow {
            connection.write(&Connection::head("POST", "/classify", &PNG, 3_900_000));
            connection.write(&vec![b'x'; 3_800_000]);
        }
        // Until they have arrived, which nothing shows: a photo that comes earlier is served, and it all begins anew.
        std::thread::sleep(Duration::from_millis(100));
        let answer = service.classify("", &PNG, &photo);
        slow.into_iter().for_each(Connection::hang_up);
        answer.status == 503 && answer.row() == row(503, "overloaded")
    });
    service.until(|service| service.classify("", &PNG, &photo).status == 200);
}

#[test]
fn bodies_that_are_announced_and_never_come_keep_nobody_out() {
    let service = Running::with_settings(|settings| settings.max_inflight_bytes = 8_000_000);
    let mut stalled: Vec<Connection> = (0..30).map(|_| service.connect()).collect();
    for connection in &mut stalled {
        connection.write(&Connection::head("POST", "/classify", &PNG, 3_900_000));
        connection.write(b"only the beginning");
    }
    let received = "featherlight_http_requests_received_total{route=\"/classify\"}";
    service.until(|service| service.metric(received) == 30.0);
    assert_eq!(service.classify("", &PNG, &photos::three_megabytes()).status, 200);
}

#[test]
fn a_cold_engine_is_a_503_until_it_is_warm() {
    let service = Running::with(Setup { cold: true, ..Setup::default() });
    let photo = photos::plain([90, 0, 0]);
    assert_eq!(service.classify("", &PNG, &photo).row(), row(503, "not_ready"));
    assert_eq!(service.get("/health/live").status, 200);
    for path in ["/health", "/health/ready"] {
        assert_eq!(service.get(path).status, 503);
    }
    assert_eq!(service.metric("featherlight_ready"), 0.0);
    service.hand.release();
    service.until(|service| service.get("/health/ready").status == 200);
    assert_eq!(service.metric("featherlight_ready"), 1.0);
    assert_eq!(service.classify("", &PNG, &photo).status, 200);
}

#[test]
fn after_a_lost_device_the_service_answers_what_is_under_way_and_ends_by_itself() {
    let mut service = Running::start();
    // Connections that were there before, each in the midst of its request: the port closes with the device.
    let begun = |head: &[u8]| {
        let mut connection = service.connect();
        connection.write(&head[..head.len() - 2]);
        connection
    };
    let mut photo = begun(&Connection::head("POST", "/classify", &PNG, 10));
    let mut ready = begun(&Connection::head("GET", "/health/ready", &[], 0));
    let mut live = begun(&Connection::head("GET", "/health/live", &[], 0));
    let open = "featherlight_http_connections{port=\"public\"}";
    service.until(|service| service.metric(open) == 4.0);

    assert_eq!(service.classify("", &PNG, &photos::plain(DEVICE_LOSS)).row(), row(503, "device_unavailable"));
    for connection in [&mut photo, &mut ready, &mut live] {
        connection.write(b"\r\n");
    }
    let later = photo.read_answer("POST").expect("an answer");
    assert_eq!(later.row(), row(503, "device_unavailable"));
    assert!(later.header("retry-after").is_some());
    assert!(!later.text().contains("bus"), "no details to the client");
    let ready = ready.read_answer("GET").expect("an answer");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("failed")));
    assert_eq!(live.read_answer("GET").expect("an answer").status, 200);
    assert!(service.ended_by_itself(), "nobody gave a signal");
    assert!(Connection::try_open(service.address).is_err(), "the port is closed");
}

#[test]
fn a_photo_that_finds_no_memory_is_a_503_with_the_time_to_come_back_and_the_service_works_on() {
    let service = Running::start();
    let too_large = photos::plain(TOO_LARGE);
    let refused = service.classify("", &PNG, &too_large);
    assert_eq!(refused.row(), row(503, "overloaded"));
    let seconds = refused.header("retry-after").and_then(|value| value.parse::<u64>().ok());
    assert!(seconds.is_some_and(|seconds| seconds >= 1), "{refused:?}");
    assert!(!refused.text().contains("no room"), "no details to the client");
    assert_eq!(service.metric("featherlight_rejected_total{reason=\"overloaded\"}"), 1.0);
    assert_eq!(service.classify("", &PNG, &photos::plain([90, 0, 0])).status, 200);
    assert_eq!(service.get("/health/ready").status, 200);
    let form = [("content-type", FORM)];
    let both =
        service.classify("", &form, &photos::form(&[("a", &too_large), ("b", &photos::plain([9, 0, 0]))]));
    assert_eq!(both.status, 200);
    assert_eq!(both.json()["results"][0]["error"]["code"], "overloaded");
    assert!(both.json()["results"][1]["predictions"].is_array(), "{both:?}");
}

#[test]
fn a_device_that_hangs_is_a_504_at_the_deadline() {
    let service = Running::with_settings(|settings| settings.request_timeout = Duration::from_millis(300));
    service.hand.hold();
    let answer = service.classify("", &PNG, &photos::plain([90, 0, 0]));
    assert_eq!(answer.row(), row(504, "deadline_exceeded"));
    let behind = service.classify("", &PNG, &photos::plain([91, 0, 0]));
    assert_eq!(behind.row(), row(504, "deadline_exceeded"));
    service.hand.release();
    service.until(|service| service.metric("featherlight_dropped_total{reason=\"deadline\"}") == 1.0);
    assert_eq!(service.classify("", &PNG, &photos::plain([90, 0, 0])).status, 200);
}

#[test]
fn a_client_that_writes_everything_before_it_reads_sees_its_refusal() {
    let keys = |settings: &mut featherlight::http::ServeSettings| settings.api_keys = vec!["key".into()];
    let small = |settings: &mut featherlight::http::ServeSettings| settings.max_body_bytes = 1_000_000;
    let photo = photos::three_megabytes();
    let text = [("content-type", "text/plain")];
    for _ in 0..5 {
        assert_eq!(Running::with_settings(keys).classify("", &PNG, &photo).status, 401);
        assert_eq!(Running::with_settings(small).classify("", &PNG, &photo).status, 413);
    }
    let service = Running::start();
    assert_eq!(service.classify("", &text, &photo).status, 415);
    assert_eq!(service.connect().send("POST", "/nowhere", &PNG, &photo).status, 404);
    assert_eq!(service.connect().send("POST", "/health", &PNG, &photo).status, 405);
    let cold = Running::with(Setup { cold: true, ..Setup::default() });
    assert_eq!(cold.classify("", &PNG, &photo).status, 503);
}

#[test]
fn a_client_that_waits_to_be_asked_for_its_body_is_asked_or_refused() {
    let service = Running::start();
    let photo = photos::plain([90, 0, 0]);
    let asked = [("content-type", "image/png"), ("expect", "100-continue")];
    let mut connection = service.connect();
    connection.write(&Connection::head("POST", "/classify", &asked, photo.len()));
    assert_eq!(connection.read_answer("POST").expect("the question").status, 100);
    connection.write(&photo);
    assert_eq!(connection.read_answer("POST").expect("the answer").status, 200);

    let refused = [("content-type", "text/plain"), ("expect", "100-continue")];
    let mut connection = service.connect();
    connection.write(&Connection::head("POST", "/classify", &refused, photo.len()));
    assert_eq!(connection.read_answer("POST").expect("the answer, unasked").status, 415);
}
