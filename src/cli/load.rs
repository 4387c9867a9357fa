//! How `featherlight bench --server` calls the service.

use super::values::{Key, count};
use super::{Typed, usage_error};
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use clap::Args;
use std::time::Duration;

/// How the service is loaded; nothing here means anything without `--server`.
#[derive(Clone, Debug, Args)]
pub struct Load {
    /// Requests in flight, with --server: each client sends its next photo when the last is answered; a list is measured in turn
    #[arg(
        long, env = "FEATHERLIGHT_CONCURRENCY", value_name = "N,N", value_delimiter = ',', default_value = "8",
        value_parser = count(1024)
    )]
    concurrency: Vec<u32>,
    /// Requests a second instead, with --server: sent on a fixed schedule that waits for no answer, and timed from their place in it;
    /// a list is measured in turn
    #[arg(long, env = "FEATHERLIGHT_RATE", value_name = "R,R", value_delimiter = ',', value_parser = rate)]
    pub(super) rate: Vec<f64>,
    /// Requests without an answer at any time, at most, with --rate; what the schedule would send beyond is counted and never sent
    #[arg(long, env = "FEATHERLIGHT_MAX_IN_FLIGHT", value_name = "N", default_value_t = 512, value_parser = count(65_000))]
    max_in_flight: u32,
    /// Time for each request, with --server: told to the service (x-request-timeout-ms), which has a second more to say that it passed
    /// [default: the service's own, and 60 s here]
    #[arg(long, env = "FEATHERLIGHT_TIMEOUT_MS", value_name = "MS", value_parser = count(3_600_000))]
    timeout_ms: Option<u32>,
    /// Where photos are posted to, with --server
    #[arg(long, env = "FEATHERLIGHT_PATH", value_name = "PATH", default_value = "/classify", value_parser = path)]
    pub path: String,
    /// Labels asked for, with --server [default: the service's own]
    #[arg(long, env = "FEATHERLIGHT_TOP_K", value_name = "K", value_parser = count(100_000))]
    pub top_k: Option<u32>,
    /// Where the service's metrics are, with --server [default: /metrics of the service]
    #[arg(long, env = "FEATHERLIGHT_METRICS_URL", value_name = "URL", value_parser = url)]
    pub metrics_url: Option<String>,
    /// Key of the service
    #[command(flatten)]
    pub key: Key,
}

/// When requests are sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Pattern {
    /// So many clients, each sending when it has its answer; one after another of these numbers.
    Closed(Vec<u32>),
    /// On a schedule.
    Open {
        /// Requests a second, one after another of these.
        rates: Vec<f64>,
        /// Without an answer at any time, at most.
        max_in_flight: usize,
    },
}

impl Load {
    /// The flags that mean nothing without a service.
    pub(super) const FLAGS: [&str; 8] =
        ["concurrency", "rate", "max_in_flight", "timeout_ms", "path", "top_k", "metrics_url", Key::FLAG];

    /// When requests are sent.
    pub fn pattern(&self) -> Pattern {
        if self.rate.is_empty() {
            return Pattern::Closed(self.concurrency.clone());
        }
        Pattern::Open { rates: self.rate.clone(), max_in_flight: self.max_in_flight as usize }
    }

    /// What the service is told of a request's time.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.map(|time| Duration::from_millis(time.into()))
    }

    /// Requests go out on a schedule or as others are answered; of two where one is from the environment the typed one holds.
    pub(super) fn settle(&mut self, typed: &Typed<'_>) -> Result<(), clap::Error> {
        let (rate, concurrency) = (typed.has("rate"), typed.has("concurrency"));
        if rate && concurrency {
            return Err(usage_error(
                "the argument '--rate' cannot be used with '--concurrency': requests are sent on a schedule, or as others are answered",
            ));
        }
        if concurrency {
            self.rate.clear();
        }
        typed.refuse_without("rate", !self.rate.is_empty(), &["max_in_flight"])
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.01..=100_000.0).contains(number));
    number.ok_or_else(|| "a number of requests a second from 0.01 to 100000 wanted".to_owned())
}

fn path(text: &str) -> Result<String, String> {
    let sound = text.starts_with('/') && !text.contains('#') && text.parse::<PathAndQuery>().is_ok();
    if sound { Ok(text.to_owned()) } else { Err("a path like /classify/NAME wanted".to_owned()) }
}

fn url(text: &str) -> Result<String, String> {
    let known = text.parse::<Uri>().is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
    if known {
        Ok(text.to_owned())
    } else {
        Err("an address like http://127.0.0.1:9000/metrics wanted".to_owned())
    }
}
