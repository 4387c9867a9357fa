//! The download itself: blocking, on a thread of its own, hop by hop.
//!
//! Redirects are followed here and not by the HTTP client, so that each is judged like the URL a client sent. Of each hop's
//! name all addresses are looked up once, judged, and handed to the connection: between the judgement and the use there is no
//! second look-up that could say something else.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use ureq::Agent;
use ureq::config::Config;
use ureq::http::{Uri, header};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{Connector, NextTimeout, RustlsConnector, TcpConnector};

use super::addresses::Addresses;
use super::target::{Host, Refusal, Target};
use crate::http::budget::{ByteBudget, Gathering};

/// Redirects that are followed.
pub(super) const REDIRECTS: usize = 3;
/// Bytes read at a time.
const CHUNK: usize = 64 * 1024;
/// The head of an answer.
const HEAD: usize = 64 * 1024;
/// Addresses of one name that are tried.
const TRIED: usize = 4;

/// One photo to be fetched.
pub(super) struct Download {
    pub(super) addresses: Arc<dyn Addresses>,
    /// The last moment for the last byte.
    pub(super) end: Instant,
    /// Bytes, at most.
    pub(super) limit: u64,
    /// The memory that all bodies share.
    pub(super) budget: ByteBudget,
    /// Nobody waits for it any more.
    pub(super) withdrawn: Arc<AtomicBool>,
}

/// Why there are no bytes. The text is for the log alone: how far a connection came would make the service a scanner of ports.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("not allowed: {0}")]
    NotAllowed(Refusal),
    #[error("the server answered {0}")]
    Status(u16),
    #[error("more than {REDIRECTS} redirects")]
    TooManyRedirects,
    #[error("larger than {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the memory for bodies is in use")]
    NoMemory,
    #[error("it took too long, or nobody waited any more")]
    Late,
    #[error("{0}")]
    Unreachable(String),
}

impl Download {
    /// Fetches the bytes.
    pub(super) fn run(self, mut target: Target) -> Result<Bytes, Failure> {
        for _ in 0..=REDIRECTS {
            let response = self.ask(&target)?;
            let status = response.status().as_u16();
            if status == 200 {
                return self.read(response.into_body());
            }
            let location = response
                .headers()
                .get(header::LOCATION)
                .filter(|_| matches!(status, 301 | 302 | 303 | 307 | 308));
            let location = location.ok_or(Failure::Status(status))?.to_str();
            let location = location.map_err(|_| Failure::NotAllowed(Refusal::Malformed))?;
            target = target.redirect(location).map_err(Failure::NotAllowed)?;
        }
        Err(Failure::TooManyRedirects)
    }

    /// One request; redirects come back as answers.
    fn ask(&self, target: &Target) -> Result<ureq::http::Response<ureq::Body>, Failure> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() || self.withdrawn.load(Ordering::Acquire) {
            return Err(Failure::Late);
        }
        let config = Agent::config_builder()
            .proxy(None)
            .timeout_global(Some(left))
            .http_status_as_error(false)
            .max_redirects(0)
            .max_response_header_size(HEAD)
            .max_idle_connections(0)
            .accept("image/*")
            // A small body that unpacks into a large one costs time, and no photo gets smaller by it.
            .accept_encoding("identity")
            .user_agent(concat!("featherlight/", env!("CARGO_PKG_VERSION")))
            .build();
        let (host, port) = target.server();
        let resolver = Checked { addresses: self.addresses.clone(), host: host.clone(), port };
        // Without the client's connectors for proxies.
        let connector = ().chain(TcpConnector::default()).chain(RustlsConnector::default());
        let answer = Agent::with_parts(config, connector, resolver).get(target.uri().clone()).call();
        answer.map_err(|error| match error {
            ureq::Error::Other(inner) if inner.is::<Refusal>() => Failure::NotAllowed(Refusal::Address),
            ureq::Error::Timeout(_) => Failure::Late,
            error => Failure::Unreachable(error.to_string()),
        })
    }

    fn read(self, body: ureq::Body) -> Result<Bytes, Failure> {
        let limit = self.limit;
        if body.content_length().is_some_and(|length| length > limit) {
            return Err(Failure::TooLarge { limit });
        }
        let mut reader = body.into_reader();
        let (mut gathering, mut chunk) = (Gathering::new(&self.budget), vec![0; CHUNK]);
        loop {
            if self.withdrawn.load(Ordering::Acquire) {
                return Err(Failure::Late);
            }
            let count = match reader.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Unreachable(error.to_string())),
            };
            if gathering.len() + count as u64 > limit {
                return Err(Failure::TooLarge { limit });
            }
            if !gathering.keep(&chunk[..count], limit) {
                return Err(Failure::NoMemory);
            }
        }
        Ok(gathering.finish())
    }
}

/// Gives the client of one hop its addresses, or none.
#[derive(Debug)]
struct Checked {
    addresses: Arc<dyn Addresses>,
    host: Host,
    port: u16,
}

impl Resolver for Checked {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found: Vec<IpAddr> = match &self.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => self.addresses.look_up(name).unwrap_or_default(),
        };
        // One bad address among good ones is no accident: it would be tried when the others fail.
        if found.is_empty() || !found.iter().all(|address| self.addresses.allows(*address)) {
            return Err(ureq::Error::Other(Box::new(Refusal::Address)));
        }
        let mut resolved = self.empty();
        for address in found.into_iter().take(TRIED) {
            resolved.push(SocketAddr::new(address, self.port));
        }
        Ok(resolved)
    }
}
