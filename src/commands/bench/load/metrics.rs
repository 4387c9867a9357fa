//! Prometheus' text format, as far as a measurement reads it: gauges and histograms, summed over their labels.
//!
//! Read here by hand: crates for it build every family with its labels and bring a regex engine for the eighty lines that this takes.

use super::histogram::Histogram;
use std::collections::HashMap;

/// One page of metrics.
#[derive(Debug, Default)]
pub struct Metrics(HashMap<String, Vec<Sample>>);

#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    /// The label `le` of a histogram's bucket.
    le: Option<f64>,
    value: f64,
}

impl Metrics {
    /// Reads a page; lines that are none of the format are left out.
    pub fn parse(page: &str) -> Self {
        let mut samples: HashMap<String, Vec<Sample>> = HashMap::new();
        for line in page.lines() {
            if let Some((name, sample)) = sample(line.trim()) {
                match samples.get_mut(name) {
                    Some(known) => known.push(sample),
                    None => drop(samples.insert(name.to_owned(), vec![sample])),
                }
            }
        }
        Self(samples)
    }

    /// The sum over all labels; `None` where there is no such metric.
    pub fn value(&self, name: &str) -> Option<f64> {
        Some(self.0.get(name)?.iter().map(|sample| sample.value).sum())
    }

    /// The sum over all labels; `None` where there is no such histogram.
    pub fn histogram(&self, name: &str) -> Option<Histogram> {
        let (sum, count) = (self.value(&format!("{name}_sum"))?, self.value(&format!("{name}_count"))?);
        let buckets = self.0.get(&format!("{name}_bucket")).map_or(&[][..], Vec::as_slice);
        let buckets = buckets.iter().filter_map(|sample| Some((sample.le?, sample.value)));
        Some(Histogram::new(buckets, sum, count))
    }
}

/// `name{label="text",…} value`, with a timestamp or an exemplar after it perhaps.
fn sample(line: &str) -> Option<(&str, Sample)> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(|letter: char| letter == '{' || letter.is_whitespace())?;
    let (name, mut rest) = line.split_at(end);
    let mut le = None;
    if let Some(labels) = rest.strip_prefix('{') {
        rest = labels.trim_start();
        while !rest.starts_with('}') {
            let (label, text) = rest.split_once('=')?;
            let text = text.trim_start().strip_prefix('"')?;
            let close = closing_quote(text)?;
            let (value, after) = (text.get(..close)?, text.get(close + 1..)?.trim_start());
            if label.trim() == "le" {
                le = Some(value.parse().ok()?);
            }
            rest = after.strip_prefix(',').unwrap_or(after).trim_start();
        }
        rest = rest.get(1..)?;
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    (!name.is_empty()).then_some((name, Sample { le, value }))
}

/// Where a text ends whose quote is open; `\"` and `\\` are of it.
fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let ends = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        ends
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_with_labels_escapes_and_timestamps() {
        let page = r#"
# HELP a_total A counter, with {braces} and 7
# TYPE a_total counter
a_total 3
b{model="m"} 1.5e3 1700000000000
b{model="with \"quotes\", a \\ and } in it",x="1",} +Inf
 c{ d = "e" , } 2 # {trace="f"} 1
no value
{x="y"} 1
d{x="unclosed 4
e{x} 4
f{le="much"} 4
process_resident_memory_bytes 12345678
"#;
        let metrics = Metrics::parse(page);
        assert_eq!(metrics.value("a_total"), Some(3.0));
        assert_eq!(metrics.value("b"), Some(f64::INFINITY));
        assert_eq!(metrics.0["b"][0], Sample { le: None, value: 1500.0 });
        assert_eq!(metrics.value("c"), Some(2.0));
        assert_eq!(metrics.value("process_resident_memory_bytes"), Some(12_345_678.0));
        let mut names: Vec<&str> = metrics.0.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["a_total", "b", "c", "process_resident_memory_bytes"], "and nothing else");
    }

    #[test]
    fn histograms_of_several_models_are_one() {
        let page = r#"
h_bucket{model="a",le="0.5"} 1
h_bucket{model="a",le="1"} 3
h_bucket{model="a",le="+Inf"} 4
h_sum{model="a"} 5
h_count{model="a"} 4
h_bucket{le="0.5",model="b"} 2
h_bucket{le="1",model="b"} 2
h_bucket{le="+Inf",model="b"} 2
h_sum{model="b"} 0.5
h_count{model="b"} 2
"#;
        let histogram = Metrics::parse(page).histogram("h").expect("a histogram");
        let buckets = [(0.5, 3.0), (1.0, 5.0), (f64::INFINITY, 6.0)];
        assert_eq!(histogram, Histogram::new(buckets, 5.5, 6.0));
        assert!(Metrics::parse(page).histogram("none").is_none());
    }

    #[test]
    fn the_pages_of_the_service_itself_are_read() {
        use prometheus::{Encoder, TextEncoder};
        let telemetry = featherlight::telemetry::Telemetry::new().expect("a registry");
        let meters = featherlight::engine::EngineMetrics::register(&telemetry.registry).expect("registered");
        for time in [0.002, 0.004, 40.0] {
            meters.decode_duration.observe(time);
        }
        meters.queue_size.set(7);
        let mut page = Vec::new();
        TextEncoder::new().encode(&telemetry.registry.gather(), &mut page).expect("written");
        let metrics = Metrics::parse(&String::from_utf8(page).expect("text"));
        assert_eq!(metrics.value("featherlight_queue_size"), Some(7.0));
        assert!(metrics.value("process_resident_memory_bytes") > Some(1e6));
        let decode = metrics.histogram("featherlight_decode_duration_seconds").expect("a histogram");
        assert_eq!((decode.count(), decode.mean()), (3.0, Some(40.006 / 3.0)));
        let queue = metrics.histogram("featherlight_queue_duration_seconds").expect("a histogram");
        assert_eq!((queue.count(), queue.mean()), (0.0, None));
    }
}
