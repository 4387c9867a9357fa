//! Photos → rows through a running service.
//!
//! [`Client`] asks `/classify` once and sorts the answers: good, bad for this photo, try again, or no use at all. [`Remote`]
//! keeps a number of requests in flight, one blocking thread each, tries again where that helps, and hands out the rows in the
//! order of the input. The benchmark uses [`Client`] alone: a refusal is a figure there.

use super::read::{FILES_IN_MEMORY, read};
use super::{Attempt, PhotoFile, PredictError, Row, Rows};
use crate::image::MemoryBudget;
use crate::scores::Prediction;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};
use ureq::Agent;

/// A body longer than this is announced first (`Expect: 100-continue`), so that a service that takes none so large can say so
/// before it is sent.
const ANNOUNCED: usize = 1 << 20;

/// Longest time from connecting to the last byte of an answer.
const REQUEST: Duration = Duration::from_secs(600);
const CONNECT: Duration = Duration::from_secs(10);

/// The pause before a second try where the service names none; doubled up to [`LONGEST_OWN_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_OWN_PAUSE: Duration = Duration::from_secs(2);
/// However long the service says.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Tries for a photo whose answer comes too late for the service's own deadline.
const LATE_TRIES: u32 = 3;

/// A service's address, and the connections to it.
pub struct Client {
    agent: Agent,
    /// As people gave it, for messages.
    server: String,
    url: String,
    authorization: Option<String>,
}

/// Why a request got no predictions.
#[derive(Clone, Debug, PartialEq)]
pub enum Refusal {
    /// This photo is none for the service; others may be.
    Photo {
        /// `error.code`, or the status.
        code: String,
        /// The reason.
        message: String,
    },
    /// The service's deadline passed; the next try may be faster.
    Late {
        /// `error.code`, or the status.
        code: String,
        /// The reason.
        message: String,
    },
    /// The service takes no photo now.
    Busy {
        /// `error.code`, or the status.
        code: String,
        /// The reason.
        message: String,
        /// When it would, if it says so.
        retry_after: Option<Duration>,
    },
    /// No answer at all: no connection, or one that broke.
    Unreachable(String),
    /// No photo will get an answer here: no such host, no such key, no such service.
    Useless(String),
}

#[derive(Deserialize)]
struct Answer {
    predictions: Vec<Prediction<String>>,
}

#[derive(Deserialize)]
struct Envelope {
    error: ErrorBody,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: String,
    message: String,
}

impl Client {
    /// A client of the service at `server` (`http://host:port`), with at most `connections` kept open.
    ///
    /// # Errors
    /// If that is no address of the web.
    pub fn new(server: &str, api_key: Option<&str>, connections: usize) -> Result<Self, PredictError> {
        let base = server.trim_end_matches('/');
        let base = base.strip_suffix("/classify").unwrap_or(base);
        if !["http://", "https://"].iter().any(|scheme| base.len() > scheme.len() && base.starts_with(scheme))
        {
            let problem = "is no address of a service; wanted is one like http://127.0.0.1:8080".to_owned();
            return Err(PredictError::Server { server: server.to_owned(), problem });
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_global(Some(REQUEST))
            .max_idle_connections(connections)
            .max_idle_connections_per_host(connections)
            .user_agent(concat!("featherlight/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.new_agent(),
            server: base.to_owned(),
            url: format!("{base}/classify"),
            authorization: api_key.map(|key| format!("Bearer {key}")),
        })
    }

    /// Asks once for the `top_k` best labels of a photo, best first.
    ///
    /// # Errors
    /// What the service, or the way to it, says instead.
    pub fn classify(&self, photo: &[u8], top_k: usize) -> Result<Vec<Prediction<String>>, Refusal> {
        let mut request = self.agent.post(&self.url).query("top_k", top_k.to_string());
        request = request.content_type("application/octet-stream");
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        if photo.len() > ANNOUNCED {
            request = request.header("expect", "100-continue");
        }
        let mut response = request.send(photo).map_err(unanswered)?;
        let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let status = response.status().as_u16();
        let body = response.body_mut().read_to_string().map_err(unanswered)?;
        self.judge(status, retry_after, &body)
    }

    fn judge(
        &self,
        status: u16,
        retry_after: Option<Duration>,
        body: &str,
    ) -> Result<Vec<Prediction<String>>, Refusal> {
        if status == 200 {
            return match serde_json::from_str::<Answer>(body) {
                Ok(answer) => Ok(answer.predictions),
                Err(error) => Err(Refusal::Useless(format!("answers, but not with predictions: {error}"))),
            };
        }
        let (code, message) = match serde_json::from_str::<Envelope>(body) {
            Ok(Envelope { error }) => (error.code, error.message),
            Err(_) => (status.to_string(), format!("the service answers {status}")),
        };
        Err(match (status, &self.authorization) {
            (401 | 403, None) => Refusal::Useless("wants an API key (--api-key KEY)".to_owned()),
            (401 | 403, Some(_)) => Refusal::Useless("does not know this API key".to_owned()),
            (404 | 405 | 300..=399, _) => {
                Refusal::Useless(format!("there is no service here: {} answers {status}", self.url))
            }
            (408 | 504, _) => Refusal::Late { code, message },
            (429 | 502 | 503, _) => Refusal::Busy { code, message, retry_after },
            _ => Refusal::Photo { code, message },
        })
    }

    /// The end of a run, with the service's address.
    fn fault(&self, problem: String) -> PredictError {
        PredictError::Server { server: self.server.clone(), problem }
    }
}

fn unanswered(error: ureq::Error) -> Refusal {
    use ureq::Error::{ConnectionFailed, Io, Protocol, Timeout};
    match error {
        Io(_) | Timeout(_) | ConnectionFailed | Protocol(_) => Refusal::Unreachable(error.to_string()),
        _ => Refusal::Useless(error.to_string()),
    }
}

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
    fn an_address_needs_its_scheme_and_may_name_classify() {
        for server in ["127.0.0.1:8080", "ftp://a", "http://", ""] {
            let error = Client::new(server, None, 1).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("http://127.0.0.1:8080"), "{server}: {error}");
        }
        for server in ["http://a:1/x", "http://a:1/x/", "http://a:1/x/classify"] {
            assert_eq!(Client::new(server, None, 1).expect("an address").url, "http://a:1/x/classify");
        }
    }

    #[test]
    fn answers_are_sorted_into_photo_late_busy_and_useless() {
        let client = Client::new("http://a", None, 1).expect("an address");
        let error = r#"{"error": {"code": "c", "message": "m", "request_id": "r"}}"#;
        let (code, message) = ("c".to_owned(), "m".to_owned());
        let judge = |status| client.judge(status, Some(Duration::from_secs(7)), error).expect_err("refused");
        for status in [400, 413, 415, 422, 500] {
            assert_eq!(judge(status), Refusal::Photo { code: code.clone(), message: message.clone() });
        }
        for status in [408, 504] {
            assert_eq!(judge(status), Refusal::Late { code: code.clone(), message: message.clone() });
        }
        let retry_after = Some(Duration::from_secs(7));
        for status in [429, 502, 503] {
            let busy = Refusal::Busy { code: code.clone(), message: message.clone(), retry_after };
            assert_eq!(judge(status), busy);
        }
        for status in [301, 308, 401, 403, 404, 405] {
            assert!(matches!(judge(status), Refusal::Useless(_)), "{status}");
        }
        assert!(matches!(client.judge(200, None, "<html>"), Err(Refusal::Useless(_))));
        let plain = client.judge(413, None, "<html>").expect_err("refused");
        assert_eq!(
            plain,
            Refusal::Photo { code: "413".to_owned(), message: "the service answers 413".to_owned() }
        );
    }

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
