//! What the service itself says of the time of a measurement: the difference of its metrics, and what they showed in between.

use super::client::{Client, Silence};
use super::histogram::Histogram;
use super::metrics::Metrics;
use crate::commands::bench::figures::rounded;
use bytes::Bytes;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How often gauges are looked at: often enough for a queue, too seldom to cost anything.
const EVERY: Duration = Duration::from_millis(250);

const QUEUE: &str = "featherlight_queue_duration_seconds";
const DECODE: &str = "featherlight_decode_duration_seconds";
const INFERENCE: &str = "featherlight_inference_duration_seconds";
const BATCH: &str = "featherlight_batch_size";
const WAITING: &str = "featherlight_queue_size";
const MEMORY: &str = "process_resident_memory_bytes";
const STARTED: &str = "process_start_time_seconds";

/// Where the metrics are read.
#[derive(Clone)]
pub struct Monitor(Rc<Client>);

/// A measurement being watched.
pub struct Watch {
    monitor: Monitor,
    before: Metrics,
    peaks: Rc<RefCell<Peaks>>,
    sampler: JoinSet<()>,
}

/// The largest that was seen.
#[derive(Clone, Copy, Debug, Default)]
struct Peaks {
    waiting: f64,
    memory: f64,
}

/// What the service measured meanwhile, of whoever called it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSide {
    /// Waiting before the forward pass, of each photo.
    pub queue: Histogram,
    /// Decoding of each photo.
    pub decode: Histogram,
    /// Each forward pass.
    pub inference: Histogram,
    /// Photos in each forward pass.
    pub batch: Histogram,
    /// Most photos waiting that were seen.
    pub most_waiting: f64,
    /// Resident memory in bytes at the start, at the end, and the largest seen; where the system tells.
    pub memory: Option<[f64; 3]>,
}

impl Monitor {
    /// Reads through `client`.
    pub fn new(client: Client) -> Self {
        Self(Rc::new(client))
    }

    async fn read(&self) -> Result<Metrics, String> {
        let reply = self.0.ask(Bytes::new()).await.map_err(|silence| match silence {
            Silence::Timeout => "no answer in time".to_owned(),
            Silence::Broken(reason) => reason,
        })?;
        if reply.status != 200 {
            return Err(format!("the answer is {}", reply.status));
        }
        let metrics = Metrics::parse(&String::from_utf8_lossy(&reply.body));
        match metrics.histogram(INFERENCE) {
            Some(_) => Ok(metrics),
            None => Err(format!("no {INFERENCE} there")),
        }
    }

    /// Looks at the service, and from then on now and then.
    ///
    /// # Errors
    /// Why its metrics cannot be read.
    pub async fn watch(&self) -> Result<Watch, String> {
        let before = self.read().await?;
        let peaks = Rc::new(RefCell::new(Peaks::default()));
        peaks.borrow_mut().see(&before);
        let (monitor, seen, mut sampler) = (self.clone(), peaks.clone(), JoinSet::new());
        sampler.spawn_local(async move {
            loop {
                sleep(EVERY).await;
                // One that is missed is one look less; what cannot be read at the end is said.
                if let Ok(metrics) = monitor.read().await {
                    seen.borrow_mut().see(&metrics);
                }
            }
        });
        Ok(Watch { monitor: self.clone(), before, peaks, sampler })
    }
}

impl Watch {
    /// Looks for the last time.
    ///
    /// # Errors
    /// Why the metrics cannot be read any more, or cannot be compared.
    pub async fn end(mut self) -> Result<ServerSide, String> {
        self.sampler.abort_all();
        let after = self.monitor.read().await?;
        self.peaks.borrow_mut().see(&after);
        let peaks = *self.peaks.borrow();
        ServerSide::between(&self.before, &after, peaks)
            .ok_or_else(|| "the service was started anew, or is not the same behind one address".to_owned())
    }
}

impl Peaks {
    fn see(&mut self, metrics: &Metrics) {
        self.waiting = self.waiting.max(metrics.value(WAITING).unwrap_or(0.0));
        self.memory = self.memory.max(metrics.value(MEMORY).unwrap_or(0.0));
    }
}

impl ServerSide {
    /// `None` where the two looks are of two processes.
    fn between(before: &Metrics, after: &Metrics, peaks: Peaks) -> Option<Self> {
        if before.value(STARTED) != after.value(STARTED) {
            return None;
        }
        let grown = |name| {
            let earlier = before.histogram(name).unwrap_or_default();
            after.histogram(name).unwrap_or_default().since(&earlier)
        };
        let memory = before.value(MEMORY).zip(after.value(MEMORY));
        Some(Self {
            queue: grown(QUEUE)?,
            decode: grown(DECODE)?,
            inference: grown(INFERENCE)?,
            batch: grown(BATCH)?,
            most_waiting: peaks.waiting,
            memory: memory.map(|(start, end)| [start, end, peaks.memory]),
        })
    }

    pub fn to_json(&self) -> Value {
        let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| rounded(seconds * 1000.0));
        let stage = |times: &Histogram| {
            json!({
                "count": times.count() as u64,
                "mean": milliseconds(times.mean()),
                "p50": milliseconds(times.percentile(50.0)),
                "p99": milliseconds(times.percentile(99.0)),
            })
        };
        json!({
            "queue_ms": stage(&self.queue),
            "decode_ms": stage(&self.decode),
            "inference_ms": stage(&self.inference),
            "batches": self.batch.count() as u64,
            "mean_batch": self.batch.mean().map(rounded),
            "max_queue_size": self.most_waiting as u64,
            "memory_bytes": self.memory.map(|[start, end, max]| {
                json!({ "start": start as u64, "end": end as u64, "max": max as u64 })
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(photos: f64, memory: f64, waiting: f64) -> Metrics {
        Metrics::parse(&text(photos, memory, waiting))
    }

    fn text(photos: f64, memory: f64, waiting: f64) -> String {
        let mut page = format!("{MEMORY} {memory}\n{WAITING} {waiting}\n");
        for name in [QUEUE, DECODE, INFERENCE, BATCH] {
            page += &format!("{name}_bucket{{le=\"10\"}} {photos}\n{name}_bucket{{le=\"+Inf\"}} {photos}\n");
            page += &format!("{name}_sum {}\n{name}_count {photos}\n", 2.0 * photos);
        }
        page
    }

    #[test]
    fn the_split_is_of_the_time_between_two_looks() {
        let (before, after) = (page(10.0, 100.0, 0.0), page(110.0, 150.0, 1.0));
        let mut peaks = Peaks::default();
        for seen in [&before, &page(60.0, 900.0, 33.0), &after] {
            peaks.see(seen);
        }
        let side = ServerSide::between(&before, &after, peaks).expect("it grew").to_json();
        assert_eq!(side["queue_ms"], json!({"count": 100, "mean": 2000.0, "p50": 5000.0, "p99": 9900.0}));
        assert_eq!((&side["batches"], &side["mean_batch"]), (&json!(100), &json!(2.0)));
        assert_eq!(side["max_queue_size"], 33);
        assert_eq!(side["memory_bytes"], json!({"start": 100, "end": 150, "max": 900}));
        assert_eq!(ServerSide::between(&after, &before, peaks), None, "a new process");
        let started =
            |at: u32, photos| Metrics::parse(&format!("{STARTED} {at}\n{}", text(photos, 1.0, 0.0)));
        assert!(ServerSide::between(&started(7, 10.0), &started(7, 110.0), peaks).is_some());
        assert_eq!(
            ServerSide::between(&started(7, 10.0), &started(8, 110.0), peaks),
            None,
            "a new one that did more"
        );
    }
}
