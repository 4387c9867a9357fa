//! What one measurement has seen so far: counts that add up, and the times of each kind of answer.
//!
//! `closed` and `open` write it as requests go and come; `row` reads it when the measurement ends, which may be at any moment.

use super::answer::Outcome;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// A record that all requests of a measurement share; they run on one thread.
pub type SharedRecord = Rc<RefCell<Record>>;

/// Counts and times. `sent` = `answered` + `refused` + `unanswered` + in flight.
#[derive(Debug, Default)]
pub struct Record {
    /// Requests sent.
    pub sent: u64,
    /// Requests that were due and not sent, as too many had no answer.
    pub unsent: u64,
    /// Times of those answered with 200.
    pub answered: Vec<Duration>,
    /// Times of all other answers.
    pub refused: Vec<Duration>,
    /// Requests without an answer: timed out, or their connection broke.
    pub unanswered: u64,
    /// Refused and unanswered ones by code.
    pub errors: BTreeMap<String, u64>,
    /// How late requests were sent that had a place in a schedule.
    pub lags: Vec<Duration>,
    /// When the last request was sent.
    pub last_sent: Option<Instant>,
    /// When the last 200 came.
    pub last_answer: Option<Instant>,
}

impl Record {
    /// Requests that have neither an answer nor an error.
    pub fn in_flight(&self) -> u64 {
        self.sent - self.answered.len() as u64 - self.refused.len() as u64 - self.unanswered
    }

    /// Counts a request that is sent now.
    pub fn send(&mut self) {
        self.sent += 1;
        self.last_sent = Some(Instant::now());
    }

    /// Counts an outcome, `since` when its time is counted.
    pub fn take(&mut self, outcome: Outcome, since: Instant) {
        let now = Instant::now();
        let time = now.saturating_duration_since(since);
        match outcome {
            Outcome::Answered => {
                self.answered.push(time);
                self.last_answer = Some(now);
            }
            Outcome::Refused(code) => {
                self.refused.push(time);
                self.error(&code);
            }
            Outcome::Unanswered(code) => {
                self.unanswered += 1;
                self.error(code);
            }
        }
    }

    fn error(&mut self, code: &str) {
        match self.errors.get_mut(code) {
            Some(count) => *count += 1,
            None => {
                self.errors.insert(code.to_owned(), 1);
            }
        }
    }
}
