//! The settings of the service: what the flags of `serve` mean, without how they are typed.
//!
//! `cli.rs` converts the command line into this once; engine and HTTP read it. Nothing here parses text.

use std::time::Duration;

use super::cors::Origin;
use super::remote_photo::UrlInput;
use crate::engine::EngineSettings;

/// Everything that shapes the running service. The model, its device and the log are `main`'s own business.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// `--host`: the address to listen on.
    pub host: String,
    /// `--port`; 0 lets the system choose.
    pub port: u16,
    /// `--admin-host`: the address of the admin port; `None` is `host`.
    pub admin_host: Option<String>,
    /// `--admin-port`: health, metrics and reloads listen there and no longer on `port`.
    pub admin_port: Option<u16>,
    /// `--max-batch-size`, `--max-queue-delay-ms`, `--max-queue-size`, `--decode-threads`.
    pub engine: EngineSettings,
    /// `--request-timeout-ms`: from the request's head to its answer.
    pub request_timeout: Duration,
    /// `--body-timeout-ms`: how long a body may take to arrive; never more than `request_timeout`.
    pub body_timeout: Duration,
    /// `--header-timeout-ms`: from the first byte of a request's head to its last.
    pub header_timeout: Duration,
    /// `--idle-timeout-ms`: how long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// `--write-timeout-ms`: how long an answer may wait for its client to take it, all of it.
    pub write_timeout: Duration,
    /// `--max-connections` of the public port; further ones wait with the system.
    pub max_connections: usize,
    /// `--max-body-bytes`: one request's body; see [`ServeSettings::body_limit`].
    pub max_body_bytes: u64,
    /// `--max-inflight-bytes`: all bodies in memory together.
    pub max_inflight_bytes: u64,
    /// `--max-pixels` of one photo, from its header.
    pub max_pixels: u64,
    /// `--decode-memory-bytes`: all pixels being decoded together.
    pub decode_memory_bytes: u64,
    /// `--max-photos-per-request`; see [`ServeSettings::photos_per_request`].
    pub max_photos_per_request: usize,
    /// `--api-key`, `--api-key-file`; with none the service is open.
    pub api_keys: Vec<String>,
    /// `--admin-key`, `--admin-key-file`: for what changes the service; with none that is off.
    pub admin_keys: Vec<String>,
    /// `--protect-all`: metrics, documentation and the page want a key too.
    pub protect_all: bool,
    /// `--allow-url-input`, `--url-timeout-ms`: photos that the service fetches itself; `None`: none are.
    pub url_input: Option<UrlInput>,
    /// `--cors-allow-origin`: origins whose pages may call.
    pub cors_allow_origins: Vec<Origin>,
    /// `--access-log`: a log line for each request.
    pub access_log: bool,
    /// `--drain-delay-ms`: how long the service still works, unready, after the signal to end.
    pub drain_delay: Duration,
    /// `--shutdown-grace-ms`: how long admitted photos are waited for after that.
    pub shutdown_grace: Duration,
}

impl Default for ServeSettings {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            admin_host: None,
            admin_port: None,
            engine: EngineSettings::default(),
            request_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            // More than the minute for which load balancers keep their side, so that theirs closes first.
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            // Far beyond what the queue admits at once: this is a bound on memory and files, not on load.
            max_connections: 4096,
            max_body_bytes: 20 * 1024 * 1024,
            max_inflight_bytes: 512 * 1024 * 1024,
            max_pixels: 178_956_970,
            // A photo at the limit of pixels takes this much in the hungriest format.
            decode_memory_bytes: 2 * 1024 * 1024 * 1024,
            max_photos_per_request: 64,
            api_keys: Vec::new(),
            admin_keys: Vec::new(),
            protect_all: false,
            url_input: None,
            cors_allow_origins: Vec::new(),
            access_log: true,
            drain_delay: Duration::ZERO,
            shutdown_grace: Duration::from_secs(25),
        }
    }
}

/// The most that `--max-photos-per-request` may say: what a JSON list may cost before its length is known stays small.
pub const MOST_PHOTOS_PER_REQUEST: usize = 1024;

impl ServeSettings {
    /// Bytes of one body, at most: what is copied out of it (a form's files, base64, tensors) needs as much again, and would never
    /// find that in a memory of less than twice its size.
    pub fn body_limit(&self) -> u64 {
        self.max_body_bytes.min(self.max_inflight_bytes / 2)
    }

    /// Photos of one request, at most: those of a larger one would never find room in the queue together.
    pub fn photos_per_request(&self) -> usize {
        self.max_photos_per_request.min(self.engine.max_queue_size).min(MOST_PHOTOS_PER_REQUEST)
    }
}
