//! The settings of the service: what the flags of `serve` mean, without how they are typed.
//!
//! `cli.rs` converts the command line into this once; engine and HTTP read it. Nothing here parses text.

use std::time::Duration;

use crate::engine::EngineSettings;

/// Everything that shapes the running service. The model, its device and the log are `main`'s own business.
#[derive(Debug, Clone)]
pub struct ServeSettings {
    /// `--host`: the address to listen on.
    pub host: String,
    /// `--port`; 0 lets the system choose.
    pub port: u16,
    /// `--max-batch-size`, `--max-queue-delay-ms`, `--max-queue-size`, `--decode-threads`.
    pub engine: EngineSettings,
    /// `--request-timeout-ms`: from the request's head to its answer.
    pub request_timeout: Duration,
    /// How long a body may take to arrive; never more than `request_timeout`.
    pub body_timeout: Duration,
    /// How long a request's head may take, and how long an idle connection is kept.
    pub header_timeout: Duration,
    /// `--max-body-bytes`: one request's body.
    pub max_body_bytes: u64,
    /// `--max-inflight-bytes`: all bodies in memory together.
    pub max_inflight_bytes: u64,
    /// `--max-pixels` of one photo, from its header.
    pub max_pixels: u64,
    /// `--decode-memory-bytes`: all pixels being decoded together.
    pub decode_memory_bytes: u64,
    /// `--api-key`; with none the service is open.
    pub api_keys: Vec<String>,
    /// `--cors-allow-origin`: origins whose pages may call; `*` is any.
    pub cors_allow_origins: Vec<String>,
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
            engine: EngineSettings::default(),
            request_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(30),
            max_body_bytes: 20 * 1024 * 1024,
            max_inflight_bytes: 512 * 1024 * 1024,
            max_pixels: 178_956_970,
            // A photo at the limit of pixels takes this much in the hungriest format.
            decode_memory_bytes: 2 * 1024 * 1024 * 1024,
            api_keys: Vec::new(),
            cors_allow_origins: Vec::new(),
            drain_delay: Duration::ZERO,
            shutdown_grace: Duration::from_secs(25),
        }
    }
}
