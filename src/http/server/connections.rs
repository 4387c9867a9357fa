//! The accept loop of one port, and its connections.
//!
//! `mod.rs` has one of these for each port. A connection is a task; what it may take of time is `socket.rs`'s business.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::response::Response;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use prometheus::IntGauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};

use super::malformed::HEAD_BYTES;
use super::socket::{Conversation, Socket};
use crate::http::access::Peer;
use crate::http::state::Service;

/// A pause after a failed accept (no more file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// hyper's buffer for one connection, at most, each way: with this, all connections together stay within a few hundred MB.
const BUFFER_BYTES: usize = 64 * 1024;
/// How often the log says the same of a port's connections.
const NEWS: Duration = Duration::from_secs(60);

/// One port at work.
pub(super) struct Connections {
    service: Service,
    router: Router,
    port: &'static str,
    places: Arc<Semaphore>,
    /// Whether all of them are taken; sockets look at it.
    full: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    graceful: GracefulShutdown,
    said: Option<Instant>,
}

/// A connection's place among those of its port.
struct Place {
    gauge: IntGauge,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Connections {
    /// For the port called `port` in the metrics, with so many connections at most.
    pub(super) fn new(service: Service, router: Router, port: &'static str, limit: usize) -> Self {
        let places = Arc::new(Semaphore::new(limit.min(Semaphore::MAX_PERMITS)));
        let (full, tasks, graceful) = (Arc::default(), JoinSet::new(), GracefulShutdown::new());
        Self { service, router, port, places, full, tasks, graceful, said: None }
    }

    /// Accepts until `end`. At the limit new connections wait with the system until one has ended, and those that are idle soon
    /// do: they are late, not lost.
    pub(super) async fn accept_until(&mut self, listener: &TcpListener, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            // No permit is held here for a connection that is still to come.
            let full = self.places.available_permits() == 0;
            self.full.store(full, Ordering::Relaxed);
            if full {
                self.say(|port| tracing::warn!(port, "at the limit of its connections: new ones wait"));
            }
            tokio::select! {
                () = &mut end => return,
                (permit, accepted) = accept(self.places.clone(), listener) => match accepted {
                    Ok((stream, client)) => self.start(stream, client, permit),
                    Err(error) => {
                        self.say(|port| tracing::warn!(port, %error, "connections cannot be accepted"));
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Reaps tasks that ended, so that the set does not grow.
                Some(ended) = self.tasks.join_next() => self.ended(ended),
            }
        }
    }

    /// Takes what the system has accepted on our behalf: closing the port would reset it.
    pub(super) async fn accept_waiting(&mut self, listener: &TcpListener) {
        loop {
            let next = poll_fn(|context| match listener.poll_accept(context) {
                Poll::Ready(Ok(accepted)) => Poll::Ready(Some(accepted)),
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
            });
            match next.await {
                Some((stream, client)) => self.start(stream, client, None),
                None => return,
            }
        }
    }

    /// Lets every connection give its answer, then closes it; what takes longer than `patience` is cut.
    pub(super) async fn finish(self, patience: Duration) {
        if tokio::time::timeout(patience, self.graceful.shutdown()).await.is_err() {
            tracing::warn!(port = self.port, "connections that did not end are cut");
        }
    }

    fn start(&mut self, stream: TcpStream, client: SocketAddr, permit: Option<OwnedSemaphorePermit>) {
        // Answers are small and written whole; a failure costs milliseconds, nothing else.
        let _ = stream.set_nodelay(true);
        let gauge = self.service.metrics().connections.with_label_values(&[self.port]);
        gauge.inc();
        let place = Place { gauge, _permit: permit };
        let (peer, conversation) = (Peer(client), Conversation::new());
        let socket = Socket::new(stream, conversation.clone(), self.service.clone(), peer, self.full.clone());
        let router = TowerToHyperService::new(self.router.clone());
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let answering = conversation.answering();
            request.extensions_mut().insert(peer);
            let answer = router.call(request);
            async move {
                answering.begin();
                let answer: Result<Response, Infallible> = answer.await;
                drop(answering);
                answer
            }
        });
        let connection = http1::Builder::new()
            // The socket keeps the time.
            .header_read_timeout(None)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(socket), answer);
        let connection = self.graceful.watch(connection);
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%client, %error, "a connection ended early");
            }
            drop(place);
        });
    }

    fn ended(&self, ended: Result<(), JoinError>) {
        // Handlers are caught further in: this would be a bug of the connection itself.
        if ended.is_err_and(|error| error.is_panic()) {
            self.service.metrics().panics.inc();
        }
    }

    /// Says it, unless something was said within the last minute: what a client can cause must not fill the log.
    fn say(&mut self, news: impl FnOnce(&'static str)) {
        if self.said.is_none_or(|said| said.elapsed() >= NEWS) {
            self.said = Some(Instant::now());
            news(self.port);
        }
    }
}

/// The next connection, once there is a place for it.
async fn accept(
    places: Arc<Semaphore>,
    listener: &TcpListener,
) -> (Option<OwnedSemaphorePermit>, std::io::Result<(TcpStream, SocketAddr)>) {
    // Fails only where the semaphore is closed, and nobody closes it.
    let permit = places.acquire_owned().await.ok();
    (permit, listener.accept().await)
}
