//! `/classify` with `{"url": …}`: what is fetched, and what never is.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;
mod web;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use featherlight::http::{Addresses, PublicAddresses, ServeSettings, UrlInput};
use serde_json::json;
use service::{Answer, Running, photos};
use web::Server;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

/// Names of the tests' own. What a name leads to may change with every look-up; the last stays.
#[derive(Debug, Default)]
struct Names {
    known: Mutex<BTreeMap<String, Vec<Vec<IpAddr>>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    fn set(&self, name: &str, answers: &[&[&str]]) {
        let parse = |texts: &&[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect();
        self.known.lock().expect("unpoisoned").insert(name.to_owned(), answers.iter().map(parse).collect());
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("unpoisoned").clone()
    }
}

impl Addresses for Names {
    fn look_up(&self, name: &str) -> std::io::Result<Vec<IpAddr>> {
        self.asked.lock().expect("unpoisoned").push(name.to_owned());
        let mut known = self.known.lock().expect("unpoisoned");
        let answers = known.get_mut(name).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() })
    }

    /// The service's own policy, and 127.0.0.1 beside it, where the tests' servers are.
    fn allows(&self, address: IpAddr) -> bool {
        address == IpAddr::from([127, 0, 0, 1]) || PublicAddresses.allows(address)
    }
}

fn start(change: impl FnOnce(&mut ServeSettings)) -> (Running, Arc<Names>) {
    let names = Arc::new(Names::default());
    names.set("photos.example.com", &[&["127.0.0.1"]]);
    let running = Running::with_settings(|settings| {
        settings.url_input = Some(UrlInput::with_addresses(Duration::from_secs(20), names.clone()));
        change(settings);
    });
    (running, names)
}

fn ask(service: &Running, url: &str) -> Answer {
    service.classify("", &JSON, json!({"url": url}).to_string().as_bytes())
}

fn row(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
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
fn without_the_flag_nothing_is_fetched_and_the_answer_names_it() {
    let service = Running::start();
    let web = Server::of(photos::plain([9, 0, 0]));
    let answer = ask(&service, &web.url("photos.example.com"));
    assert_eq!(answer.row(), row(400, "url_not_allowed"));
    assert!(message(&answer).contains("--allow-url-input"), "{answer:?}");
    assert_eq!(web.connections(), 0);
    assert_eq!(service.metric("featherlight_rejected_total{reason=\"url_not_allowed\"}"), 1.0);
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
fn the_programs_own_policy_reaches_no_server_of_this_machine() {
    let web = Server::of(photos::plain([9, 0, 0]));
    let port = web.address.port();
    let service =
        Running::with_settings(|settings| settings.url_input = Some(UrlInput::new(Duration::from_secs(20))));
    let hosts = [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "017700000001",
        "0177.0.0.1",
        "0x7f.1",
        "0",
        "0.0.0.0",
        "localhost",
        "localhost.",
        "localhost.localdomain",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "user@127.0.0.1",
        "127.0.0.1.",
    ];
    for host in hosts {
        let answer = ask(&service, &format!("http://{host}:{port}/photo.png"));
        assert_eq!(answer.row(), row(400, "url_not_allowed"), "{host}");
    }
    for url in [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fd00:ec2::254]/",
        "http://100.100.100.200/",
        "http://10.0.0.1/",
    ] {
        assert_eq!(ask(&service, url).row(), row(400, "url_not_allowed"), "{url}");
    }
    assert_eq!(web.connections(), 0, "not even a connection");
}

#[test]
fn a_name_that_leads_inside_and_one_that_leads_nowhere_get_the_same_words() {
    let (service, names) = start(|_| {});
    names.set("inside.example.com", &[&["10.1.2.3"]]);
    names.set("metadata.example.com", &[&["169.254.169.254"]]);
    names.set("mixed.example.com", &[&["127.0.0.1", "192.168.0.1"]]);
    names.set("six.example.com", &[&["127.0.0.1", "::1"]]);
    let web = Server::of(photos::plain([9, 0, 0]));
    let nowhere = ask(&service, &web.url("nowhere.example.com"));
    assert_eq!(nowhere.row(), row(400, "url_not_allowed"));
    for name in [
        "inside.example.com",
        "metadata.example.com",
        "mixed.example.com",
        "six.example.com",
        "[::1]",
        "10.0.0.1",
    ] {
        let answer = ask(&service, &web.url(name));
        assert_eq!((answer.row(), message(&answer)), (nowhere.row(), message(&nowhere)), "{name}");
    }
    assert_eq!(web.connections(), 0, "one bad address is enough");
}

#[test]
fn the_address_that_was_judged_is_the_one_that_is_asked() {
    let (service, names) = start(|_| {});
    let web = Server::of(photos::plain([9, 0, 0]));
    // A second look-up, between judgement and connection, would lead elsewhere.
    names.set("rebound.example.com", &[&["127.0.0.1"], &["10.1.2.3"]]);
    assert_eq!(ask(&service, &web.url("rebound.example.com")).status, 200);
    assert_eq!(names.asked(), ["rebound.example.com"], "looked up once");
    assert_eq!(ask(&service, &web.url("rebound.example.com")).row(), row(400, "url_not_allowed"));
    names.set("rebound.example.com", &[&["10.1.2.3"], &["127.0.0.1"]]);
    assert_eq!(ask(&service, &web.url("rebound.example.com")).row(), row(400, "url_not_allowed"));
    assert_eq!(web.connections(), 1);
}

#[test]
fn each_redirect_is_judged_like_a_url() {
    let (service, names) = start(|_| {});
    let web = Server::of(photos::plain([9, 0, 0]));
    for status in [301, 302, 303, 307, 308] {
        let here = Server::to(status, &web.url("photos.example.com"));
        assert_eq!(ask(&service, &here.url("photos.example.com")).status, 200, "{status}");
    }
    names.set("inside.example.com", &[&["10.1.2.3"]]);
    // Good the first time, for the redirect itself, and inside the second.
    names.set("rebound.example.com", &[&["127.0.0.1"], &["169.254.169.254"]]);
    let asked = web.connections();
    for location in [
        format!("http://127.1:{}/", web.address.port()),
        format!("http://[::1]:{}/", web.address.port()),
        format!("http://user:pw@127.0.0.1:{}/", web.address.port()),
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "http://inside.example.com/".to_owned(),
        "//10.0.0.1/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "ftp://photos.example.com/".to_owned(),
        "http://rebound.example.com:8080/".to_owned(),
    ] {
        let here = Server::to(302, &location);
        let name = if location.contains("rebound") { "rebound.example.com" } else { "photos.example.com" };
        let answer = ask(&service, &here.url(name));
        assert_eq!(answer.row(), row(400, "url_not_allowed"), "{location}");
        assert_eq!(here.connections(), 1);
    }
    assert_eq!(web.connections(), asked);
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
fn how_far_a_connection_came_is_not_told() {
    let (service, names) = start(|_| {});
    let closed = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("bound").port()
    };
    names.set("photos.example.com", &[&["127.0.0.1"]]);
    let refused = ask(&service, &format!("http://photos.example.com:{closed}/"));
    assert_eq!(refused.row(), row(422, "url_unreachable"));
    let hangs_up = Server::start(|_, _| Ok(()));
    let no_http = Server::start(|_, stream| stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n"));
    let no_tls = format!("https://photos.example.com:{}/", no_http.address.port());
    let cut =
        Server::start(|_, stream| stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nhalf"));
    for url in [
        hangs_up.url("photos.example.com"),
        no_http.url("photos.example.com"),
        no_tls,
        cut.url("photos.example.com"),
    ] {
        let answer = ask(&service, &url);
        assert_eq!((answer.row(), message(&answer)), (refused.row(), message(&refused)), "{url}");
    }
    for status in [204, 206, 304, 403, 404, 500] {
        let web = Server::start(move |_, stream| {
            stream.write_all(format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n").as_bytes())
        });
        let answer = ask(&service, &web.url("photos.example.com"));
        assert_eq!((answer.row(), message(&answer)), (refused.row(), message(&refused)), "{status}");
    }
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

#[test]
fn a_proxy_of_the_environment_is_not_asked() {
    // In a process of its own: the environment belongs to all tests of this one.
    const INNER: &str = "FEATHERLIGHT_TEST_PROXY";
    if std::env::var_os(INNER).is_some() {
        let (service, _) = start(|_| {});
        let web = Server::of(photos::plain([9, 0, 0]));
        let answer = ask(&service, &web.url("photos.example.com"));
        assert_eq!(answer.status, 200, "{answer:?}");
        return;
    }
    let proxy = Server::of(b"no photo".to_vec());
    let mut again = std::process::Command::new(std::env::current_exe().expect("this test"));
    again.args(["--exact", "a_proxy_of_the_environment_is_not_asked", "--nocapture"]).env(INNER, "1");
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"] {
        again.env(name, format!("http://{}", proxy.address));
    }
    let said = again.output().expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
    assert_eq!(proxy.connections(), 0);
}
