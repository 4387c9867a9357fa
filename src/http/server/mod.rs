//! The ports and the end of the service.
//!
//! `main` calls [`serve`] with bound listeners and a future that resolves at the signal to end; so do tests. axum's own
//! loop closes the port first at shutdown, has no deadline and sets no header timeout, so this one is ours. HTTP/1.1
//! only: the service stands behind a proxy where HTTP/2 is wanted.

mod connections;
mod malformed;
mod socket;

use std::future::{Future, pending};
use std::time::Duration;

use tokio::net::TcpListener;

use self::connections::Connections;
use super::metrics::PORTS;
use super::router::routers;
use super::state::{Phase, Service};
use crate::engine::EngineStatus;

/// After the port is closed: time for requests already on their way over open connections to be read.
const LINGER: Duration = Duration::from_millis(250);
/// After the last answer is decided: time for it to be written to slow clients.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// The same on the admin port, where clients are few and near.
const ADMIN_LAST_WORDS: Duration = Duration::from_secs(1);
/// Connections of the admin port, at most: a scraper, probes, and a person or two.
const ADMIN_CONNECTIONS: usize = 64;

/// The sockets that a service listens on.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub public: TcpListener,
    /// Where there is one, health, metrics and reloads are here and nowhere else.
    pub admin: Option<TcpListener>,
}

impl From<TcpListener> for Listeners {
    /// One port for everything.
    fn from(public: TcpListener) -> Self {
        Self { public, admin: None }
    }
}

/// Serves until `shutdown` resolves, or the engine fails, and everything accepted is answered.
///
/// At the signal readiness turns 503 at once; after the drain delay classifications are refused and the queue is
/// drained; the port closes when that is done or the grace is over; then open connections end, each after its answer. After a
/// device has failed there is nothing to wait for: neither delay nor grace applies. The admin port is open until the last
/// connection of the public one has ended.
pub async fn serve(listeners: impl Into<Listeners>, service: Service, shutdown: impl Future<Output = ()>) {
    let Listeners { public, admin } = listeners.into();
    let routers = routers(&service, admin.is_some());
    let [public_name, admin_name] = PORTS;
    let limit = service.settings().max_connections;
    let connections = Connections::new(service.clone(), routers.public, public_name, limit);
    let whole_life = live(public, connections, &service, shutdown);
    match admin.zip(routers.admin) {
        None => whole_life.await,
        Some((listener, router)) => {
            let mut connections = Connections::new(service.clone(), router, admin_name, ADMIN_CONNECTIONS);
            tokio::select! {
                () = whole_life => {}
                () = connections.accept_until(&listener, pending()) => {}
            }
            connections.accept_waiting(&listener).await;
            drop(listener);
            connections.finish(ADMIN_LAST_WORDS).await;
        }
    }
    tracing::info!("stopped");
}

/// The life of the public port.
async fn live(
    listener: TcpListener,
    mut connections: Connections,
    service: &Service,
    shutdown: impl Future<Output = ()>,
) {
    let either = async {
        tokio::select! {
            () = shutdown => {}
            () = failed(service) => {}
        }
    };
    connections.accept_until(&listener, either).await;

    service.enter(Phase::Leaving);
    let settings = service.settings();
    tracing::info!(delay = ?settings.drain_delay, "leaving: not ready any more");
    let delay = async {
        tokio::select! {
            () = tokio::time::sleep(settings.drain_delay) => {}
            () = failed(service) => {}
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
    tokio::time::sleep(LINGER).await;
    connections.finish(LAST_WORDS).await;
}

/// Resolves when the engine has failed, if it ever does.
async fn failed(service: &Service) {
    let mut status = service.engine().status();
    if status.wait_for(|status| matches!(status, EngineStatus::Failed(_))).await.is_err() {
        pending().await
    }
}
