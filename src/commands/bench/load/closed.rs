//! The closed loop: a number of clients, each sending its next photo when the last is answered.

use super::answer::Outcome;
use super::record::SharedRecord;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

/// A client that gets no connection waits a little: a loop of refusals measures nothing.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs `concurrency` clients until `end`, then waits for the answers on their way. `send` gets a running number. Dropped, it ends at once.
///
/// # Errors
/// If a client panicked.
pub async fn run<S, F>(
    send: S,
    concurrency: usize,
    end: Instant,
    record: SharedRecord,
) -> Result<(), JoinError>
where
    S: Fn(usize) -> F + 'static,
    F: Future<Output = Outcome> + 'static,
{
    let (send, next) = (Rc::new(send), Rc::new(Cell::new(0)));
    let mut clients = JoinSet::new();
    for _ in 0..concurrency {
        let (send, next, record) = (send.clone(), next.clone(), record.clone());
        clients.spawn_local(async move {
            while Instant::now() < end {
                let start = Instant::now();
                record.borrow_mut().send();
                let outcome = send(next.replace(next.get() + 1)).await;
                let broken = outcome == Outcome::Unanswered("no_answer");
                record.borrow_mut().take(outcome, start);
                if broken {
                    sleep_until(end.min(Instant::now() + PAUSE)).await;
                }
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use tokio::task::LocalSet;
    use tokio::time::sleep;

    /// Runs clients for 100 ms of a clock that jumps, against a service that takes `time` and gives `outcome`.
    async fn record(concurrency: usize, time: Duration, outcome: Outcome) -> SharedRecord {
        let record = SharedRecord::default();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let send = {
            let seen = seen.clone();
            move |index| {
                seen.borrow_mut().push(index);
                let outcome = outcome.clone();
                async move {
                    sleep(time).await;
                    outcome
                }
            }
        };
        let end = Instant::now() + Duration::from_millis(100);
        let run = run(send, concurrency, end, record.clone());
        LocalSet::new().run_until(run).await.expect("no client panics");
        let numbers: Vec<usize> = (0..seen.borrow().len()).collect();
        assert_eq!(*seen.borrow(), numbers, "photos go round robin");
        record
    }

    #[tokio::test(start_paused = true)]
    async fn each_client_sends_when_it_has_its_answer_and_the_last_are_waited_for() {
        let time = Duration::from_millis(30);
        let record = record(3, time, Outcome::Answered).await;
        let record = record.borrow();
        // At 0, 30, 60 and 90 ms, three each; the last are answered at 120.
        assert_eq!((record.sent, record.answered.len(), record.in_flight()), (12, 12, 0));
        assert!(record.answered.iter().all(|answer| *answer == time), "{:?}", record.answered);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_without_a_connection_pauses_and_one_that_is_refused_does_not() {
        let time = Duration::from_millis(1);
        let broken = record(2, time, Outcome::Unanswered("no_answer")).await;
        assert_eq!((broken.borrow().sent, broken.borrow().unanswered), (2, 2));
        let refused = record(2, time, Outcome::Refused("overloaded".to_owned())).await;
        assert_eq!((refused.borrow().sent, refused.borrow().refused.len()), (200, 200));
        assert_eq!(refused.borrow().errors["overloaded"], 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_is_dropped_leaves_what_was_measured_so_far() {
        let record = SharedRecord::default();
        let send = |_| async {
            sleep(Duration::from_millis(40)).await;
            Outcome::Answered
        };
        let end = Instant::now() + Duration::from_secs(100);
        let clients = run(send, 5, end, record.clone());
        let cut = async {
            tokio::time::timeout(Duration::from_millis(100), clients).await.expect_err("it goes on")
        };
        LocalSet::new().run_until(cut).await;
        let record = record.borrow();
        assert_eq!((record.answered.len(), record.in_flight()), (10, 5));
    }
}
