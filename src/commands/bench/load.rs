//! A running service under a closed loop: a number of clients, each sending its next photo when the last is answered.

use super::figures::{Times, rounded};
use bytes::Bytes;
use featherlight::predict::{Client, Refusal};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Labels asked for: what a client gets that asks for no number.
const TOP_K: usize = 5;
/// A client that gets no connection waits a little: a loop of refusals measures nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// What is measured.
pub struct Setup<'a> {
    /// `http://host:port`.
    pub server: &'a str,
    /// Sent with each request.
    pub api_key: Option<&'a str>,
    /// Clients.
    pub concurrency: usize,
    /// How long.
    pub time: Duration,
}

/// What was measured.
pub struct Figures {
    concurrency: usize,
    photos_per_second: f64,
    /// Of requests that were answered with predictions.
    times: Times,
    /// Of the others, how many for which `error.code`.
    errors: BTreeMap<String, u64>,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    times: Vec<Duration>,
    errors: BTreeMap<String, u64>,
    useless: Option<String>,
}

/// Sends `photos` round and round.
///
/// # Errors
/// If the service cannot be used at all, or not one request got predictions.
pub fn measure(setup: &Setup<'_>, photos: &[Bytes]) -> Result<Figures, Box<dyn Error>> {
    let client = Client::new(setup.server, setup.api_key, setup.concurrency)?;
    let (next, begin) = (AtomicUsize::new(0), Instant::now());
    let seen = thread::scope(|scope| {
        let clients = (0..setup.concurrency).map(|number| {
            let work = || one_client(&client, photos, &next, begin + setup.time);
            thread::Builder::new().name(format!("client-{number}")).spawn_scoped(scope, work)
        });
        let clients = clients.collect::<Result<Vec<_>, _>>()?;
        let seen = clients.into_iter().map(|client| client.join().map_err(|_| "a client panicked".into()));
        seen.collect::<Result<Vec<Seen>, Box<dyn Error>>>()
    })?;
    let time = begin.elapsed().as_secs_f64();
    let (mut times, mut errors) = (Vec::new(), BTreeMap::new());
    for seen in seen {
        if let Some(problem) = seen.useless {
            return Err(format!("{}: {problem}", setup.server).into());
        }
        times.extend(seen.times);
        for (code, count) in seen.errors {
            *errors.entry(code).or_insert(0) += count;
        }
    }
    if times.is_empty() {
        return Err(format!("{}: no photo was classified; errors: {errors:?}", setup.server).into());
    }
    let photos_per_second = times.len() as f64 / time;
    Ok(Figures { concurrency: setup.concurrency, photos_per_second, times: Times::new(times), errors })
}

fn one_client(client: &Client, photos: &[Bytes], next: &AtomicUsize, end: Instant) -> Seen {
    let mut seen = Seen::default();
    while Instant::now() < end {
        let index = next.fetch_add(1, Ordering::Relaxed) % photos.len().max(1);
        let Some(photo) = photos.get(index) else { break };
        let start = Instant::now();
        let code = match client.classify(photo, TOP_K) {
            Ok(_) => {
                seen.times.push(start.elapsed());
                continue;
            }
            Err(Refusal::Useless(problem)) => {
                seen.useless = Some(problem);
                break;
            }
            Err(Refusal::Unreachable(_)) => {
                thread::sleep(PAUSE);
                "no_answer".to_owned()
            }
            Err(Refusal::Photo { code, .. } | Refusal::Late { code, .. } | Refusal::Busy { code, .. }) => {
                code
            }
        };
        *seen.errors.entry(code).or_insert(0) += 1;
    }
    seen
}

impl Figures {
    pub fn to_json(&self) -> Value {
        json!({
            "concurrency": self.concurrency,
            "photos_per_second": rounded(self.photos_per_second),
            "answers": self.times.count(),
            "p50_ms": rounded(self.times.percentile(50.0)),
            "p90_ms": rounded(self.times.percentile(90.0)),
            "p99_ms": rounded(self.times.percentile(99.0)),
            "max_ms": rounded(self.times.percentile(100.0)),
            "errors": self.errors,
        })
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} in flight: {:.2} photos/s; {} answers, p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms, at most {:.2} ms; errors: ",
            self.concurrency,
            self.photos_per_second,
            self.times.count(),
            self.times.percentile(50.0),
            self.times.percentile(90.0),
            self.times.percentile(99.0),
            self.times.percentile(100.0)
        )?;
        if self.errors.is_empty() {
            return f.write_str("none");
        }
        let errors: Vec<String> = self.errors.iter().map(|(code, count)| format!("{count} {code}")).collect();
        f.write_str(&errors.join(", "))
    }
}
