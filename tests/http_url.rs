//! `/classify` with `{"url": …}`: what is fetched, and within which limits.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;
mod web;

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use featherlight::http::UrlInput;
use serde_json::json;
use service::{Running, photos};
use web::Server;
use web::names::{JSON, Names, ask, message, start};

fn row(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[test]
fn a_photo_by_url_gets_the_answer_of_the_photo_itself() {
    let (service, _) = start(|_| {});
    let photo = photos::plain([10, 30, 20]);
    let web = Server::start({
        let photo = photo.clone();
        move |head, stream| {
            assert!(head.starts_with("GET /photo.png HTTP/1.1\r\n"), "{head}");
            let lower = head.to_ascii_lowercase();
            assert!(!lower.contains("authorization") && !lower.contains("secret"), "{head}");
            web::whole(stream, &photo)
        }
    });
    let want = service.classify("?top_k=2", &[("content-type", "image/png")], &photo).json();
    let url = web.url("photos.example.com");
    let body = json!({"url": url, "parameters": {"top_k": 2}}).to_string();
    assert_eq!(service.classify("", &JSON, body.as_bytes()).json(), want);
    let with_key = [("x-api-key", "secret"), ("authorization", "Bearer secret")];
    let untyped = service.classify("?top_k=2", &with_key, json!({"url": url}).to_string().as_bytes());
    assert_eq!(untyped.json(), want);
    assert_eq!(ask(&service, &format!("http://127.0.0.1:{}/photo.png", web.address.port())).status, 200);
}

#[test]
fn a_request_holds_photos_or_a_url() {
    let (service, _) = start(|_| {});
    for body in [
        json!({"url": "http://photos.example.com/", "inputs": "AAAA"}),
        json!({"url": 5}),
        json!({"url": null}),
        json!({"urls": []}),
    ] {
        let answer = service.classify("", &JSON, body.to_string().as_bytes());
        assert_eq!(answer.row(), row(400, "bad_request"), "{body}");
    }
}

#[test]
fn three_redirects_are_followed_and_a_fourth_is_not() {
    let (service, _) = start(|_| {});
    let mut url = Server::of(photos::plain([9, 0, 0])).url("photos.example.com");
    let mut chain = Vec::new();
    for _ in 0..4 {
        let here = Server::to(302, &url);
        url = here.url("photos.example.com");
        chain.push(here);
    }
    assert_eq!(ask(&service, &chain[2].url("photos.example.com")).status, 200);
    let answer = ask(&service, &chain[3].url("photos.example.com"));
    assert_eq!(answer.row(), row(422, "url_unreachable"));
    assert!(message(&answer).contains("3 redirects"), "{answer:?}");
    let to_itself = Server::start(|_, stream| {
        stream.write_all(
            b"HTTP/1.1 302 Found\r\nlocation: photo.png\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        )
    });
    assert_eq!(ask(&service, &to_itself.url("photos.example.com")).row(), row(422, "url_unreachable"));
    assert_eq!(to_itself.connections(), 4);
}

#[test]
fn a_photo_over_the_limit_of_bodies_is_refused_by_its_length_or_when_it_is_crossed() {
    let (service, _) = start(|settings| settings.max_body_bytes = 100_000);
    let declared = Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100001\r\n\r\n")?;
        std::thread::sleep(Duration::from_secs(30));
        Ok(())
    });
    assert_eq!(ask(&service, &declared.url("photos.example.com")).row(), row(413, "body_too_large"));
    let endless = Server::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
        loop {
            stream.write_all(format!("2710\r\n{}\r\n", "x".repeat(10_000)).as_bytes())?;
        }
    });
    assert_eq!(ask(&service, &endless.url("photos.example.com")).row(), row(413, "body_too_large"));
    let exact = Server::of(vec![b'x'; 100_000]);
    assert_eq!(ask(&service, &exact.url("photos.example.com")).row(), row(415, "unsupported_media_type"));
}

#[test]
fn what_unpacks_into_more_than_the_limit_is_refused() {
    let (service, _) = start(|settings| settings.max_body_bytes = 100_000);
    // 10 MB of zeros, packed by gzip into 10 kB.
    let packed = include_bytes!("web/zeros.gz");
    assert!(packed.len() < 100_000);
    let bomb = Server::start(|_, stream| {
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {}\r\n\r\n", packed.len());
        stream.write_all(head.as_bytes())?;
        stream.write_all(packed)
    });
    assert_eq!(ask(&service, &bomb.url("photos.example.com")).row(), row(413, "body_too_large"));
}

#[test]
fn a_server_that_trickles_is_given_up_when_the_time_is_over() {
    let names = Arc::new(Names::default());
    names.set("photos.example.com", &[&["127.0.0.1"]]);
    let service = Running::with_settings(|settings| {
        settings.url_input = Some(UrlInput::with_addresses(Duration::from_millis(600), names.clone()));
    });
    let drop_by_drop = |beginning: &'static str| {
        Server::start(move |_, stream| {
            stream.write_all(beginning.as_bytes())?;
            loop {
                stream.write_all(b"x")?;
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let silent = Server::start(|_, _| {
        std::thread::sleep(Duration::from_secs(30));
        Ok(())
    });
    for web in [
        drop_by_drop("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n"),
        drop_by_drop("HTTP/1.1 200 OK\r\nx-slow: "),
        drop_by_drop("HTTP/1.1 200 "),
        silent,
    ] {
        let start = Instant::now();
        let answer = ask(&service, &web.url("photos.example.com"));
        assert_eq!(answer.row(), row(422, "url_unreachable"));
        assert!(start.elapsed() >= Duration::from_millis(600), "the whole time is given");
        assert_eq!(web.connections(), 1);
    }
    let quicker = Running::with_settings(|settings| {
        settings.request_timeout = Duration::from_millis(300);
        settings.url_input = Some(UrlInput::with_addresses(Duration::from_secs(60), names.clone()));
    });
    let web = drop_by_drop("HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n");
    assert_eq!(ask(&quicker, &web.url("photos.example.com")).row(), row(504, "deadline_exceeded"));
}

#[test]
fn more_downloads_than_there_are_places_are_a_503() {
    let (service, _) = start(|_| {});
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let web = Server::start({
        let gate = gate.clone();
        move |_, stream| {
            let open = gate.0.lock().expect("unpoisoned");
            drop(gate.1.wait_while(open, |open| !*open).expect("unpoisoned"));
            web::whole(stream, &photos::plain([9, 0, 0]))
        }
    });
    let url = web.url("photos.example.com");
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..32).map(|_| scope.spawn(|| ask(&service, &url).status)).collect();
        service.until(|_| web.connections() == 32);
        let refused = ask(&service, &url);
        assert_eq!(refused.row(), row(503, "overloaded"));
        assert!(refused.header("retry-after").is_some());
        *gate.0.lock().expect("unpoisoned") = true;
        gate.1.notify_all();
        assert!(waiting.into_iter().all(|thread| thread.join().expect("an answer") == 200));
    });
    service.until(|service| ask(service, &url).status == 200);
}

#[test]
fn what_is_fetched_is_judged_like_an_upload() {
    let (service, _) = start(|_| {});
    for (body, want) in [
        (b"<html>not found</html>".to_vec(), row(415, "unsupported_media_type")),
        (photos::truncated(), row(422, "undecodable_image")),
        (photos::too_large(), row(422, "too_many_pixels")),
        (Vec::new(), row(415, "unsupported_media_type")),
    ] {
        let web = Server::of(body);
        assert_eq!(ask(&service, &web.url("photos.example.com")).row(), want);
    }
    // JSON that comes back is no request of its own.
    let web = Server::of(photos::json(&photos::plain([9, 0, 0]), ""));
    assert_eq!(ask(&service, &web.url("photos.example.com")).row(), row(415, "unsupported_media_type"));
}

#[test]
fn a_client_that_leaves_ends_the_download() {
    let (service, _) = start(|_| {});
    let ended = Arc::new(Mutex::new(false));
    let web = Server::start({
        let ended = ended.clone();
        move |_, stream| {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n")?;
            while stream.write_all(&[0; 100]).is_ok() {
                std::thread::sleep(Duration::from_millis(5));
            }
            *ended.lock().expect("unpoisoned") = true;
            Ok(())
        }
    });
    let body = json!({"url": web.url("photos.example.com")}).to_string();
    let mut connection = service.connect();
    connection.write(&service::Connection::head("POST", "/classify", &JSON, body.len()));
    connection.write(body.as_bytes());
    service.until(|_| web.connections() == 1);
    connection.hang_up();
    service.until(|_| *ended.lock().expect("unpoisoned"));
}
