//! The folder predictor against a service over real sockets: order, retries, refusals, ends.

#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

mod service;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use featherlight::engine::BatchLimit;
use featherlight::predict::{Patience, PhotoFile, PredictError, Remote, RemoteSettings, Row};
use featherlight::scores::{Function, predictions};
use service::photos::{plain, three_megabytes, truncated};
use service::{Running, Setup, labels};
use tempfile::TempDir;

/// Files of these bytes, named by their place.
fn files(contents: &[Vec<u8>]) -> (TempDir, Vec<PhotoFile>) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |(index, bytes): (usize, &Vec<u8>)| {
        let (file, path) = (index.to_string(), folder.path().join(format!("{index}.png")));
        std::fs::write(&path, bytes).expect("written");
        PhotoFile { file, path }
    };
    let photos = contents.iter().enumerate().map(file).collect();
    (folder, photos)
}

fn settings(server: String) -> RemoteSettings {
    RemoteSettings { server, api_key: None, concurrency: 4, top_k: 2, patience: Patience::default() }
}

fn rows(settings: RemoteSettings, photos: &[PhotoFile]) -> Result<Vec<Row>, PredictError> {
    let mut rows = Vec::new();
    Remote::new(settings)?.run(photos, &mut |row| {
        rows.push(row);
        Ok(())
    })?;
    Ok(rows)
}

fn address(running: &Running) -> String {
    format!("http://{}", running.address)
}

/// Colours whose scores are all different, since each differs from grey by a little more.
fn colours(count: u8) -> Vec<[u8; 3]> {
    (0..count).map(|step| [100, 101 + step % 7, 100 + step / 7]).collect()
}

/// The rows that the service's model gives to photos of these colours.
fn assert_answers(rows: &[Row], colours: &[[u8; 3]]) {
    assert_eq!(rows.len(), colours.len());
    let labels = labels().map(str::to_owned);
    for (index, (row, colour)) in rows.iter().zip(colours).enumerate() {
        assert_eq!(row.file, index.to_string());
        let got = row.outcome.as_ref().unwrap_or_else(|error| panic!("{}: {error}", row.file));
        let want = predictions(&colour.map(f32::from), &labels, Function::Softmax, 2);
        assert_eq!(got.len(), 2);
        for (got, want) in got.iter().zip(want) {
            assert_eq!(got.label, want.label, "{colour:?}");
            // The model's means are sums of many floats.
            assert!((got.score - want.score).abs() < 1e-3, "{colour:?}: {got:?}, {want:?}");
        }
    }
}

#[test]
fn every_photo_gets_its_own_answer_in_the_order_of_the_input() {
    let running = Running::start();
    let colours = colours(40);
    let (_folder, photos) = files(&colours.iter().map(|colour| plain(*colour)).collect::<Vec<_>>());
    assert_answers(&rows(settings(address(&running)), &photos).expect("rows"), &colours);
}

#[test]
fn photos_refused_by_a_full_queue_are_sent_again_until_they_are_taken() {
    let running = Running::with_settings(|settings| {
        settings.engine.max_queue_size = 1;
        settings.engine.max_batch_size = BatchLimit::Fixed(1);
    });
    let colours = colours(6);
    let (_folder, photos) = files(&colours.iter().map(|colour| plain(*colour)).collect::<Vec<_>>());
    running.hand.hold();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| rows(settings(address(&running)), &photos));
        running.until(|running| running.metric("featherlight_rejected_total{reason=\"overloaded\"}") >= 1.0);
        running.hand.release();
        assert_answers(&run.join().expect("no panic").expect("rows"), &colours);
    });
}

#[test]
fn a_service_that_is_still_starting_is_waited_for_and_one_that_never_does_is_given_up() {
    let running = Running::with(Setup { cold: true, ..Setup::default() });
    let colours = colours(2);
    let (_folder, photos) = files(&colours.iter().map(|colour| plain(*colour)).collect::<Vec<_>>());
    let patience = Patience { busy: Duration::from_millis(50), ..Patience::default() };
    let error =
        rows(RemoteSettings { patience, ..settings(address(&running)) }, &photos).expect_err("never ready");
    assert!(error.to_string().contains("has taken no photo"), "{error}");
    assert!(error.to_string().contains("not loaded yet"), "{error}");

    let before = running.metric("featherlight_rejected_total{reason=\"not_ready\"}");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| rows(settings(address(&running)), &photos));
        running.until(|running| running.metric("featherlight_rejected_total{reason=\"not_ready\"}") > before);
        running.hand.release();
        assert_answers(&run.join().expect("no panic").expect("rows"), &colours);
    });
}

#[test]
fn a_photo_that_the_service_refuses_has_its_reason_in_its_row_and_harms_no_other() {
    let running = Running::with_settings(|settings| settings.max_body_bytes = 2_000_000);
    let contents =
        [plain([9, 8, 7]), b"text".to_vec(), three_megabytes(), truncated(), Vec::new(), plain([9, 8, 7])];
    let (_folder, photos) = files(&contents);
    let rows = rows(settings(address(&running)), &photos).expect("rows");
    let reason = |index: usize| rows[index].outcome.as_ref().err().map(String::as_str).unwrap_or_default();
    assert!(reason(1).contains("this is text"), "{}", reason(1));
    assert!(reason(2).contains("larger than 2000000 bytes"), "{}", reason(2));
    assert!(reason(3).contains("PNG picture cannot be decoded"), "{}", reason(3));
    assert!(reason(4).contains("no bytes"), "{}", reason(4));
    assert_eq!(rows[0].outcome, rows[5].outcome);
    assert!(rows[0].outcome.is_ok());
}

#[test]
fn a_key_that_is_missing_or_wrong_ends_the_run() {
    let running = Running::with_settings(|settings| settings.api_keys = vec!["right".to_owned()]);
    let (_folder, photos) = files(&[plain([1, 1, 1]), plain([2, 2, 2])]);
    let with = |key: Option<&str>| {
        rows(RemoteSettings { api_key: key.map(str::to_owned), ..settings(address(&running)) }, &photos)
    };
    assert!(with(None).expect_err("no key").to_string().contains("wants an API key"));
    assert!(with(Some("wrong")).expect_err("a wrong key").to_string().contains("does not know this API key"));
    assert_eq!(with(Some("right")).expect("rows").len(), 2);
}

#[test]
fn an_address_without_a_service_ends_the_run() {
    let running = Running::start();
    let (_folder, photos) = files(&[plain([1, 1, 1])]);
    let error = rows(settings(format!("{}/elsewhere", address(&running))), &photos).expect_err("not found");
    assert!(error.to_string().contains("/elsewhere/classify answers 404"), "{error}");

    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let patience = Patience { unreachable: Duration::from_millis(50), ..Patience::default() };
    let error = rows(RemoteSettings { patience, ..settings(format!("http://{free}")) }, &photos);
    let error = error.expect_err("nobody listens").to_string();
    assert!(error.contains(&format!("http://{free}: cannot be reached")), "{error}");
}

#[test]
fn a_connection_that_breaks_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let server = format!("http://{}", listener.local_addr().expect("its address"));
    let (_folder, photos) = files(&[plain([1, 1, 1])]);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| rows(settings(server), &photos));
        // Gone without an answer, then gone in the middle of one.
        drop(listener.accept().expect("a client"));
        answer(
            listener.accept().expect("a client").0,
            "HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{\"pred",
        );
        let body = r#"{"model": "m", "predictions": [{"label": "whole", "score": 0.5}]}"#;
        let whole = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        answer(listener.accept().expect("a client").0, &whole);
        let rows = run.join().expect("no panic").expect("rows");
        assert_eq!(rows[0].outcome.as_ref().expect("predictions")[0].label, "whole");
    });
}

/// Reads a whole request and answers with `text`.
fn answer(stream: TcpStream, text: &str) {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a head");
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("a body");
    reader.get_mut().write_all(text.as_bytes()).expect("answered");
}

#[test]
fn rows_that_cannot_be_written_end_the_run_before_the_rest_is_sent() {
    // Slow enough that the end of the run comes long before that of the photos.
    let mut setup = Setup { pace: Duration::from_millis(20), ..Setup::default() };
    setup.settings.engine.max_batch_size = BatchLimit::Fixed(1);
    let running = Running::with(setup);
    let contents: Vec<Vec<u8>> = (0..200).map(|_| plain([9, 9, 9])).collect();
    let (_folder, photos) = files(&contents);
    let taken = AtomicUsize::new(0);
    let full = |_: Row| {
        taken.fetch_add(1, Ordering::Relaxed);
        Err(PredictError::Internal("the disk is full".to_owned()))
    };
    let remote = Remote::new(settings(address(&running))).expect("an address");
    let error = remote.run(&photos, &mut { full }).expect_err("full");
    assert!(error.to_string().contains("the disk is full"));
    assert_eq!(taken.load(Ordering::Relaxed), 1);
    assert!(running.metric("featherlight_predictions_total") < 200.0);
}
