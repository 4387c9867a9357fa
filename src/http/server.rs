//! The accept loop and the end of the service.
//!
//! `main` calls [`serve`] with a bound listener and a future that resolves at the signal to end; so do tests. axum's own
//! loop closes the port first at shutdown, has no deadline and sets no header timeout, so this one is ours. HTTP/1.1
//! only: the service stands behind a proxy where HTTP/2 is wanted.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::router::router;
use super::state::{Phase, Service};
use crate::engine::EngineStatus;

/// After the port is closed: time for requests already on their way over open connections to be read.
const LINGER: Duration = Duration::from_millis(250);
/// After the last answer is decided: time for it to be written to slow clients.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// A pause after a failed accept (no more file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `shutdown` resolves and everything accepted is answered.
///
/// At the signal readiness turns 503 at once; after the drain delay classifications are refused and the queue is
/// drained; the port closes when that is done or the grace is over; then open connections end, each after its answer. After a
/// device has failed there is nothing to wait for: whoever calls [`serve`] gives the signal, and neither delay nor grace applies.
pub async fn serve(listener: TcpListener, service: Service, shutdown: impl Future<Output = ()>) {
    let mut connections = Connections::new(service.clone());
    connections.accept_until(&listener, shutdown).await;

    service.enter(Phase::Leaving);
    let settings = service.settings();
    tracing::info!(delay = ?settings.drain_delay, "leaving: not ready any more");
    let mut status = service.engine().status();
    let delay = async {
        tokio::select! {
            () = tokio::time::sleep(settings.drain_delay) => {}
            _ = status.wait_for(|status| matches!(status, EngineStatus::Failed(_))) => {}
        }
    };
    connections.accept_until(&listener, delay).await;

    service.enter(Phase::Draining);
    tracing::info!(queued = service.engine().queued(), "draining: no more photos are accepted");
    let drained = async {
        if !service.engine().drain(settings.shutdown_grace).await {
            tracing::warn!("the grace is over, or a device failed: photos still waiting are refused");
        }
    };
    connections.accept_until(&listener, drained).await;
    connections.accept_waiting(&listener).await;
    drop(listener);
    connections.finish().await;
    tracing::info!("stopped");
}

struct Connections {
    service: Service,
    router: axum::Router,
    tasks: JoinSet<()>,
    graceful: GracefulShutdown,
}

impl Connections {
    fn new(service: Service) -> Self {
        let router = router(service.clone());
        Self { service, router, tasks: JoinSet::new(), graceful: GracefulShutdown::new() }
    }

    async fn accept_until(&mut self, listener: &TcpListener, end: impl Future<Output = ()>) {
        let mut end = pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.start(stream),
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                // Reaps tasks that ended, so that the set does not grow.
                Some(_) = self.tasks.join_next() => {}
            }
        }
    }

    /// Takes what the system has accepted on our behalf: closing the port would reset it.
    async fn accept_waiting(&mut self, listener: &TcpListener) {
        loop {
            let next = poll_fn(|context| match listener.poll_accept(context) {
                Poll::Ready(Ok((stream, _))) => Poll::Ready(Some(stream)),
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
            });
            match next.await {
                Some(stream) => self.start(stream),
                None => return,
            }
        }
    }

    fn start(&mut self, stream: TcpStream) {
        // Answers are small and written whole; a failure costs milliseconds, nothing else.
        let _ = stream.set_nodelay(true);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.service.settings().header_timeout)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(self.router.clone()));
        let connection = self.graceful.watch(connection);
        self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended early");
            }
        });
    }

    /// Lets every connection give its answer, then closes it; what takes too long is cut.
    async fn finish(self) {
        tokio::time::sleep(LINGER).await;
        if tokio::time::timeout(LAST_WORDS, self.graceful.shutdown()).await.is_err() {
            tracing::warn!("connections that did not end are cut");
        }
    }
}
