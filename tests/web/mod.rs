//! Web servers for tests of photos by URL: each does one thing, well or badly, and counts who came.
#![allow(clippy::expect_used, clippy::panic, reason = "a failed step of a test is its failure")]
#![allow(dead_code, reason = "each test program uses its own part of this harness")]

pub mod names;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What a server does with each connection, once it has read the head of the request.
type Act = dyn Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync;

pub struct Server {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub fn start(act: impl Fn(&str, &mut TcpStream) -> std::io::Result<()> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let connections = Arc::new(AtomicUsize::new(0));
        let (act, counted): (Arc<Act>, _) = (Arc::new(act), connections.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                counted.fetch_add(1, Ordering::SeqCst);
                let act = act.clone();
                std::thread::spawn(move || {
                    // A client that leaves is no failure of the server.
                    let _ = serve(&*act, stream);
                });
            }
        });
        Self { address, connections }
    }

    /// Gives everybody these bytes.
    pub fn of(body: Vec<u8>) -> Self {
        Self::start(move |_, stream| whole(stream, &body))
    }

    /// Sends everybody elsewhere.
    pub fn to(status: u16, location: &str) -> Self {
        let answer =
            format!("HTTP/1.1 {status} Elsewhere\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        Self::start(move |_, stream| stream.write_all(answer.as_bytes()))
    }

    /// Its URL, by a name that the test's own look-ups know.
    pub fn url(&self, name: &str) -> String {
        format!("http://{name}:{}/photo.png", self.address.port())
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A whole answer of status 200.
pub fn whole(stream: &mut TcpStream, body: &[u8]) -> std::io::Result<()> {
    stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len()).as_bytes())?;
    stream.write_all(body)
}

fn serve(act: &Act, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    act(&head, &mut stream)
}
