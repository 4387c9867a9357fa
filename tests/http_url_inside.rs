//! `/classify` with `{"url": …}`: what is never asked, and what no answer tells.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed step of a test is its failure"
)]

mod service;
mod web;

use std::io::Write;
use std::time::Duration;

use featherlight::http::UrlInput;
use service::{Running, photos};
use web::Server;
use web::names::{ask, message, start};

fn row(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
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
