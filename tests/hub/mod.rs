//! A small hub for tests: `resolve` paths with commits, etags and redirects, a server of contents on a port of its own, and faults on request.
//!
//! Settings files are answered as the hub answers them (a redirect within the hub, git's sha1 as etag), large ones with a
//! redirect to the other server (sha256 as linked etag). Every request is written down.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]

pub mod files;

use sha1::{Digest, Sha1};
use sha2::Sha256;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const REPOSITORY: &str = "org/beit-tiny";

/// Where large files begin.
const LARGE: &str = ".safetensors .bin";

/// What goes wrong with the contents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// The connection of the next so many deliveries is cut after so many bytes.
    Cut { times: u32, after: usize },
    /// One byte in the middle is another.
    Corrupt,
    /// The server of contents takes no ranges.
    NoRanges,
    /// The next so many answers of the contents are 503.
    Busy { times: u32 },
}

/// One request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Whether the server of contents got it.
    pub contents: bool,
    pub headers: BTreeMap<String, String>,
    /// Bytes of the body that were sent.
    pub sent: usize,
}

impl Request {
    pub fn range(&self) -> Option<&str> {
        self.headers.get("range").map(String::as_str)
    }
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Vec<u8>>,
    commit: String,
    token: Option<String>,
    fault: Fault,
    requests: Vec<Request>,
}

pub struct Hub {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Hub {
    pub fn start(files: &[(&str, Vec<u8>)]) -> Self {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone())).collect();
        let state = State { files, commit: COMMIT.to_owned(), ..State::default() };
        let state = Arc::new(Mutex::new(state));
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, contents) = (listen(), listen());
        let address = hub.local_addr().expect("an address");
        let content_address = contents.local_addr().expect("an address");
        for (listener, is_contents) in [(hub, false), (contents, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    std::thread::spawn(move || serve(&stream, &state, is_contents, content_address));
                }
            });
        }
        Self { address, state }
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().expect("unpoisoned"))
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn fault(&self, fault: Fault) {
        self.with(|state| state.fault = fault);
    }

    pub fn want_token(&self, token: &str) {
        self.with(|state| state.token = Some(token.to_owned()));
    }

    /// A new commit in which a file is another.
    pub fn change(&self, file: &str, bytes: Vec<u8>) {
        self.with(|state| {
            state.files.insert(file.to_owned(), bytes);
            state.commit = COMMIT.chars().rev().collect();
        });
    }

    /// A new commit without a file.
    pub fn remove(&self, file: &str) {
        self.with(|state| {
            state.files.remove(file);
            state.commit = COMMIT.chars().rev().collect();
        });
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        self.with(|state| std::mem::take(&mut state.requests))
    }

    /// Those of them that fetched bytes of large files.
    pub fn deliveries(&self) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.contents && request.sent > 0).collect()
    }
}

/// An answer: status, headers, body.
struct Reply {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn new(status: &'static str, headers: Vec<(&'static str, String)>, body: Vec<u8>) -> Self {
        Self { status, headers, body }
    }

    fn refusal(status: &'static str, code: &str) -> Self {
        Self::new(status, vec![("x-error-code", code.to_owned())], b"no".to_vec())
    }
}

fn serve(stream: &TcpStream, state: &Mutex<State>, contents: bool, content_address: SocketAddr) {
    let mut reader = BufReader::new(stream);
    while let Some(mut request) = read(&mut reader, contents) {
        let mut state = state.lock().expect("unpoisoned");
        let reply =
            if contents { deliver(&request, &mut state) } else { resolve(&request, &state, content_address) };
        let mut head = format!("HTTP/1.1 {}\r\ncontent-length: {}\r\n", reply.status, reply.body.len());
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let body = if request.method == "HEAD" { &[][..] } else { &reply.body[..] };
        let mut cut = false;
        let body = match &mut state.fault {
            Fault::Cut { times, after } if contents && *times > 0 && body.len() > *after => {
                (*times, cut) = (*times - 1, true);
                &body[..*after]
            }
            _ => body,
        };
        request.sent = body.len();
        state.requests.push(request);
        drop(state);
        let mut out = stream;
        let sent = out.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| out.write_all(body));
        if cut || sent.is_err() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read(reader: &mut impl BufRead, contents: bool) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let (first, rest) = lines.split_first()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let headers = rest.iter().filter_map(|line| line.split_once(':'));
    let headers = headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect();
    Some(Request { method, path, contents, headers, sent: 0 })
}

/// The hub itself.
fn resolve(request: &Request, state: &State, contents: SocketAddr) -> Reply {
    let commit = || ("x-repo-commit", state.commit.clone());
    if let Some(file) = request.path.strip_prefix("/api/resolve-cache/") {
        let bytes = state.files.get(file).expect("a file that was pointed to").clone();
        return Reply::new("200 OK", vec![commit(), ("etag", format!("\"{}\"", git(&bytes)))], bytes);
    }
    let known = request.headers.get("authorization");
    if state.token.as_ref().is_some_and(|token| known != Some(&format!("Bearer {token}"))) {
        return Reply::refusal("401 Unauthorized", "GatedRepo");
    }
    let Some(rest) = request.path.strip_prefix(&format!("/{REPOSITORY}/resolve/")) else {
        // The hub tells strangers nothing of what does not exist.
        return Reply::refusal("401 Unauthorized", "RepoNotFound");
    };
    let (revision, file) = rest.split_once('/').expect("a file");
    if !["main", "refs%2Fpr%2F1", &state.commit].contains(&revision) {
        return Reply::refusal("404 Not Found", "RevisionNotFound");
    }
    let Some(bytes) = state.files.get(file) else {
        return Reply::refusal("404 Not Found", "EntryNotFound");
    };
    if !LARGE.split(' ').any(|suffix| file.ends_with(suffix)) {
        let location = format!("/api/resolve-cache/{file}");
        return Reply::new("307 Temporary Redirect", vec![commit(), ("location", location)], Vec::new());
    }
    let headers = vec![
        commit(),
        ("etag", "\"of-the-redirect\"".to_owned()),
        ("x-linked-etag", format!("\"{}\"", hex(&Sha256::digest(bytes)))),
        ("x-linked-size", bytes.len().to_string()),
        ("location", format!("http://{contents}/{file}?signature=%22secret%22")),
    ];
    Reply::new("302 Found", headers, b"elsewhere".to_vec())
}

/// The server of contents, which must never see the token.
fn deliver(request: &Request, state: &mut State) -> Reply {
    assert_eq!(request.method, "GET", "an address that is signed for GET");
    let file = request.path.trim_start_matches('/').split('?').next().expect("a file");
    let mut bytes = state.files.get(file).expect("a file that was pointed to").clone();
    match &mut state.fault {
        Fault::Corrupt => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Fault::Busy { times } if *times > 0 => {
            *times -= 1;
            return Reply::new("503 Service Unavailable", vec![("retry-after", "0".to_owned())], Vec::new());
        }
        _ => {}
    }
    let etag = ("etag", "\"the-bucket's-own\"".to_owned());
    let start = request.range().map(|range| range.strip_prefix("bytes=").and_then(|r| r.strip_suffix('-')));
    match start {
        Some(start) if state.fault != Fault::NoRanges => {
            let start: usize = start.and_then(|start| start.parse().ok()).expect("bytes=N-");
            let total = bytes.len();
            let range = ("content-range", format!("bytes {start}-{}/{total}", total - 1));
            Reply::new("206 Partial Content", vec![etag, range], bytes.split_off(start))
        }
        _ => Reply::new("200 OK", vec![etag], bytes),
    }
}

/// The name that git gives to content.
pub fn git(bytes: &[u8]) -> String {
    let blob = [format!("blob {}\0", bytes.len()).as_bytes(), bytes].concat();
    hex(&Sha1::digest(blob))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
