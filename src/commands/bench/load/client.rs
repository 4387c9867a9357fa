//! Requests to a service: one thread for all, connections that are kept, bodies that are shared and never copied.
//!
//! What an answer means is `answer`'s business, when to ask `closed`'s and `open`'s. No proxy is used and no redirect followed: what is
//! measured is the service that was named.

use axum::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as Connections;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::error::Error;
use std::time::Duration;

/// Longest time to get a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(5);
/// No answer is read beyond this.
const LONGEST_ANSWER: usize = 64 << 20;
const X_REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Silence {
    /// It did not come in time.
    Timeout,
    /// There is no connection, or it broke; the reason.
    Broken(String),
}

/// One kind of request to one address. Connections are its own, and end with it.
pub struct Client {
    connections: Connections<HttpsConnector<HttpConnector>, Full<Bytes>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    patience: Duration,
}

impl Client {
    /// Posts photos to `uri`. The service is told of `timeout`; after `patience` nobody waits any more.
    ///
    /// # Errors
    /// If the key cannot stand in a header.
    pub fn of_photos(
        uri: &Uri,
        api_key: Option<&str>,
        timeout: Option<Duration>,
        patience: Duration,
    ) -> Result<Self, String> {
        let mut headers = headers(api_key)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        if let Some(timeout) = timeout {
            let milliseconds = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            headers.insert(X_REQUEST_TIMEOUT_MS, HeaderValue::from(milliseconds));
        }
        Ok(Self { connections: connections(), method: Method::POST, uri: uri.clone(), headers, patience })
    }

    /// Reads a page.
    ///
    /// # Errors
    /// If the key cannot stand in a header.
    pub fn of_page(uri: &Uri, api_key: Option<&str>, patience: Duration) -> Result<Self, String> {
        let mut headers = headers(api_key)?;
        headers.insert(ACCEPT, HeaderValue::from_static("text/plain"));
        Ok(Self { connections: connections(), method: Method::GET, uri: uri.clone(), headers, patience })
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn ask(&self, body: Bytes) -> Result<Reply, Silence> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let answer = async {
            let response = self.connections.request(request).await.map_err(|error| reason(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            let body = body.map_err(|error| reason(error.as_ref()))?.to_bytes();
            Ok(Reply { status, body })
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(answer) => answer.map_err(Silence::Broken),
            Err(_) => Err(Silence::Timeout),
        }
    }
}

fn headers(api_key: Option<&str>) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("featherlight/", env!("CARGO_PKG_VERSION"))));
    if let Some(key) = api_key {
        let value = HeaderValue::try_from(format!("Bearer {key}"));
        let mut value = value.map_err(|_| "the API key holds characters that no header may hold")?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(headers)
}

fn connections() -> Connections<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(CONNECT));
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Connections::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        // Sooner than a service ends an idle connection: a request must not meet that end.
        .pool_idle_timeout(IDLE)
        // A request that a closed connection lost is a figure, not something to try again in silence.
        .retry_canceled_requests(false)
        .build(connector)
}

/// An error with what caused it, which hyper's own words leave out.
fn reason(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A port on which `serve` is called for each connection.
    fn listen(serve: impl Fn(std::net::TcpStream) + Send + Sync + 'static) -> (Uri, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let uri = format!("http://{}/classify", listener.local_addr().expect("an address"));
        let (connections, serve) = (Arc::new(AtomicUsize::new(0)), Arc::new(serve));
        let seen = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                seen.fetch_add(1, Ordering::SeqCst);
                let serve = serve.clone();
                std::thread::spawn(move || serve(stream));
            }
        });
        (uri.parse().expect("an address"), connections)
    }

    /// Reads requests without a body and answers each in two pieces.
    fn answer_all(stream: std::net::TcpStream) {
        let mut lines = BufReader::new(stream);
        loop {
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                if lines.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
            }
            let stream = lines.get_mut();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n");
            let _ = stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n");
        }
    }

    fn client(uri: &Uri, patience: Duration) -> Client {
        Client::of_page(uri, Some("k"), patience).expect("a client")
    }

    #[tokio::test]
    async fn one_connection_serves_requests_that_follow_each_other() {
        let (uri, connections) = listen(answer_all);
        let client = client(&uri, Duration::from_secs(30));
        for _ in 0..20 {
            let reply = client.ask(Bytes::new()).await.expect("an answer");
            assert_eq!((reply.status, &reply.body[..]), (200, &b"onetwo"[..]));
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn silence_is_a_timeout_or_a_broken_connection_with_its_reason() {
        let (hung, _) = listen(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
        let answer = client(&hung, Duration::from_millis(50)).ask(Bytes::new()).await;
        assert_eq!(answer.expect_err("none"), Silence::Timeout);

        let (closed, _) = listen(drop);
        let answer = client(&closed, Duration::from_secs(30)).ask(Bytes::new()).await;
        assert!(matches!(answer.expect_err("none"), Silence::Broken(_)));

        let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("an address");
        let nobody: Uri = format!("http://{port}/").parse().expect("an address");
        let answer = client(&nobody, Duration::from_secs(30)).ask(Bytes::new()).await;
        let Err(Silence::Broken(reason)) = answer else { unreachable!("nobody listens") };
        assert!(reason.contains("refused"), "the system's own words: {reason}");
    }

    #[tokio::test]
    async fn https_is_spoken_where_it_is_asked_for() {
        let (sender, first) = std::sync::mpsc::channel();
        let (uri, _) = listen(move |mut stream| {
            let mut byte = [0];
            let _ = stream.read_exact(&mut byte);
            let _ = sender.send(byte);
        });
        let uri: Uri = uri.to_string().replace("http://", "https://").parse().expect("an address");
        let answer = client(&uri, Duration::from_secs(30)).ask(Bytes::new()).await;
        assert!(matches!(answer, Err(Silence::Broken(_))));
        assert_eq!(first.recv().expect("a byte"), [0x16], "a TLS handshake, and the key not in the clear");
    }

    #[test]
    fn a_key_that_no_header_can_hold_is_refused() {
        let uri = Uri::from_static("http://a/");
        assert!(Client::of_page(&uri, Some("a\nb"), CONNECT).is_err());
    }
}
