//! Photos → rows through a running service.
//!
//! [`Remote`] keeps a number of requests in flight, one blocking thread each, tries again where that helps, and hands out the
//! rows in the order of the input. What an answer means is `client`'s business.

use super::client::{Client, Refusal};
use super::read::{FILES_IN_MEMORY, read};
use super::{Attempt, PhotoFile, PredictError, Row, Rows};
use crate::image::MemoryBudget;
use crate::scores::Prediction;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// The pause before a second try where the service names none; doubled up to [`LONGEST_OWN_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_OWN_PAUSE: Duration = Duration::from_secs(2);
/// However long the service says.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tries for a photo whose answer comes too late for the service's own deadline.
const LATE_TRIES: u32 = 3;

/// How long one photo is tried again before the run ends.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While the service says that it is busy, starting or ending.
    pub busy: Duration,
    /// While it does not answer.
    pub unreachable: Duration,
}

impl Default for Patience {
    /// Long enough for a queue to empty, and for a service to be replaced.
    fn default() -> Self {
        Self { busy: Duration::from_secs(300), unreachable: Duration::from_secs(15) }
    }
}

/// How photos are sent.
#[derive(Clone, Debug)]
pub struct RemoteSettings {
    /// `http://host:port`.
    pub server: String,
    /// Sent with each request.
    pub api_key: Option<String>,
    /// Requests in flight.
    pub concurrency: usize,
    /// Labels a photo.
    pub top_k: usize,
    /// When to give up.
    pub patience: Patience,
}

/// A service that classifies in place of a model of one's own.
pub struct Remote {
    client: Client,
    settings: RemoteSettings,
}

/// What one thread has to report: a row's place and the row, or the end of the run.
type Report = Result<(usize, Row), PredictError>;

impl Remote {
    /// Prepares; nothing is sent yet.
    ///
    /// # Errors
    /// If the address is none.
    pub fn new(settings: RemoteSettings) -> Result<Self, PredictError> {
        let client = Client::new(&settings.server, settings.api_key.as_deref(), settings.concurrency)?;
        Ok(Self { client, settings })
    }

    /// Classifies the photos and hands out their rows in order.
    ///
    /// # Errors
    /// If the service cannot be used, or `rows` fails.
    pub fn run(&self, photos: &[PhotoFile], rows: &mut Rows<'_>) -> Result<(), PredictError> {
        let (next, stop) = (AtomicUsize::new(0), Stop::default());
        let budget = Arc::new(MemoryBudget::new(FILES_IN_MEMORY));
        thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            for number in 0..self.settings.concurrency.clamp(1, photos.len().max(1)) {
                let (sender, next, stop, budget) = (sender.clone(), &next, &stop, &budget);
                let work = move || {
                    while let Some(report) = self.next_row(photos, next, stop, budget) {
                        // A closed channel: the run has ended meanwhile.
                        if sender.send(report).is_err() {
                            break;
                        }
                    }
                };
                let spawned =
                    thread::Builder::new().name(format!("client-{number}")).spawn_scoped(scope, work);
                if let Err(error) = spawned {
                    stop.set();
                    return Err(PredictError::Internal(format!("no thread for a request: {error}")));
                }
            }
            drop(sender);
            let outcome = in_order(&receiver, rows);
            stop.set();
            outcome
        })
    }

    /// The next photo that nobody has taken; `None`: there is none, or the run has ended.
    fn next_row(
        &self,
        photos: &[PhotoFile],
        next: &AtomicUsize,
        stop: &Stop,
        budget: &Arc<MemoryBudget>,
    ) -> Option<Report> {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let photo = photos.get(index).filter(|_| !stop.is_set())?;
        let outcome = match read(&photo.path, budget) {
            Ok(bytes) => self.persist(&bytes, stop)?,
            Err(reason) => Ok(Err(reason)),
        };
        Some(outcome.map(|outcome| (index, Row { file: photo.file.clone(), outcome })))
    }

    /// Asks until there is an answer or patience ends; `None`: the run ended meanwhile.
    fn persist(&self, photo: &[u8], stop: &Stop) -> Option<Attempt<Vec<Prediction<String>>>> {
        let patience = self.settings.patience;
        let (mut busy, mut silent) = (Spell::default(), Spell::default());
        let (mut pause, mut late) = (FIRST_PAUSE, 0);
        loop {
            let wanted = match self.client.classify(photo, self.settings.top_k) {
                Ok(predictions) => return Some(Ok(Ok(predictions))),
                Err(Refusal::Photo { message, .. }) => return Some(Ok(Err(message))),
                Err(Refusal::Useless(problem)) => return Some(Err(self.client.fault(problem))),
                Err(Refusal::Late { message, .. }) => {
                    late += 1;
                    if late >= LATE_TRIES {
                        return Some(Ok(Err(message)));
                    }
                    pause
                }
                Err(Refusal::Busy { message, retry_after, .. }) => {
                    silent = Spell::default();
                    let wanted = retry_after.unwrap_or(pause).min(LONGEST_PAUSE);
                    let Some(wanted) = busy.pause(wanted, patience.busy) else {
                        let seconds = patience.busy.as_secs();
                        let problem = format!("has taken no photo for {seconds} s: {message}");
                        return Some(Err(self.client.fault(problem)));
                    };
                    wanted
                }
                Err(Refusal::Unreachable(reason)) => {
                    let Some(wanted) = silent.pause(pause, patience.unreachable) else {
                        let problem = format!("cannot be reached: {reason}");
                        return Some(Err(self.client.fault(problem)));
                    };
                    wanted
                }
            };
            if stop.wait(wanted) {
                return None;
            }
            pause = (2 * pause).min(LONGEST_OWN_PAUSE);
        }
    }
}

/// A time in which every try failed in the same way.
#[derive(Default)]
struct Spell(Option<Instant>);

impl Spell {
    /// The pause before the next try, cut at the end of `patience`; `None`: that has ended.
    fn pause(&mut self, wanted: Duration, patience: Duration) -> Option<Duration> {
        let since = *self.0.get_or_insert_with(Instant::now);
        let left = patience.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
        Some(wanted.min(left))
    }
}

/// The rows in the order of the photos, whatever order they come in.
fn in_order(reports: &mpsc::Receiver<Report>, rows: &mut Rows<'_>) -> Result<(), PredictError> {
    let (mut early, mut turn) = (BTreeMap::new(), 0);
    for report in reports {
        let (index, row) = report?;
        early.insert(index, row);
        while let Some(row) = early.remove(&turn) {
            rows(row)?;
            turn += 1;
        }
    }
    Ok(())
}

/// Tells waiting threads that the run has ended.
#[derive(Default)]
struct Stop {
    ended: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    fn set(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    fn is_set(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; says whether the run has ended.
    fn wait(&self, time: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let woken = self.changed.wait_timeout_while(ended, time, |ended| !*ended);
        *woken.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spell_ends_with_its_patience_and_cuts_the_last_pause() {
        let mut spell = Spell::default();
        assert_eq!(spell.pause(Duration::from_secs(9), Duration::ZERO), None);
        let mut spell = Spell::default();
        let pause = spell.pause(Duration::from_secs(9), Duration::from_secs(3)).expect("patience");
        assert!(pause <= Duration::from_secs(3));
    }

    #[test]
    fn rows_that_come_early_wait_for_their_turn() {
        let (sender, receiver) = mpsc::channel();
        for index in [2, 0, 3, 1] {
            let row = Row { file: index.to_string(), outcome: Err(String::new()) };
            sender.send(Ok((index, row))).expect("sent");
        }
        drop(sender);
        let mut order = Vec::new();
        in_order(&receiver, &mut |row| {
            order.push(row.file);
            Ok(())
        })
        .expect("rows");
        assert_eq!(order, ["0", "1", "2", "3"]);
    }
}
