//! The access log: one line a request, at level INFO under the target `featherlight::access`.
//!
//! `observe.rs` keeps an [`Entry`] while a request is under way and has it written at the end, inside the request's span, which
//! holds method, route and ids. Probes that went well are left out. Nothing a client sends can break a line: texts are
//! written quoted and escaped.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderValue, Uri, header};

use super::lingering::Reading;

/// The address at the other end of the connection. A proxy's, where there is one: what `x-forwarded-for` says anyone can say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// What the line of a request says beside its span. Kept by reference counts, not copied.
#[derive(Debug)]
pub(super) struct Entry {
    uri: Uri,
    client: Option<Peer>,
    user_agent: Option<HeaderValue>,
}

/// How a request ended.
#[derive(Debug)]
pub(super) struct Outcome<'a> {
    pub(super) route: &'a str,
    pub(super) status: u16,
    pub(super) duration: Duration,
    /// What was read of its body.
    pub(super) reading: Option<&'a Arc<Reading>>,
    /// The answer's body; `None` where its length was not known beforehand.
    pub(super) bytes_out: Option<u64>,
}

impl Entry {
    pub(super) fn of(request: &Request) -> Self {
        Self {
            uri: request.uri().clone(),
            client: request.extensions().get().copied(),
            user_agent: request.headers().get(header::USER_AGENT).cloned(),
        }
    }

    /// Writes the line.
    pub(super) fn write(&self, outcome: &Outcome<'_>) {
        if is_probe(outcome.route) && outcome.status < 400 {
            return;
        }
        // To the microsecond: more digits are noise.
        let duration_ms = outcome.duration.as_micros() as f64 / 1000.0;
        let path = short(self.uri.path(), LONGEST_PATH);
        let user_agent = self.user_agent.as_ref().map(|value| String::from_utf8_lossy(value.as_bytes()));
        tracing::info!(
            target: TARGET,
            path,
            status = outcome.status,
            duration_ms,
            bytes_in = outcome.reading.map(|reading| reading.bytes()),
            bytes_out = outcome.bytes_out,
            client = self.client.map(|Peer(address)| tracing::field::display(address)),
            user_agent = user_agent.as_deref().map(|text| short(text, LONGEST_USER_AGENT)),
        );
    }
}

/// Writes the line of what came over a connection and was no request.
pub(super) fn malformed(request_id: &str, status: u16, Peer(client): Peer) {
    tracing::info!(target: TARGET, request_id, status, client = tracing::field::display(client), "malformed");
}

/// `RUST_LOG=info,featherlight::access=off` turns it off as `--access-log off` does.
pub(super) const TARGET: &str = "featherlight::access";

const LONGEST_PATH: usize = 256;
const LONGEST_USER_AGENT: usize = 128;

/// Routes that machines ask for every few seconds.
fn is_probe(route: &str) -> bool {
    route == "/metrics" || route.starts_with("/health") || route.starts_with("/v2/health")
}

/// The beginning of a text, at most `length` bytes.
fn short(text: &str, length: usize) -> &str {
    let end = (0..=length.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(short("agent", 9), "agent");
        assert_eq!(short("agent", 2), "ag");
        assert_eq!(short("aé", 2), "a");
    }
}
