//! The open loop: requests go out when they are due, whether or not others have been answered.
//!
//! Each is timed from when it was due, not from when it was sent: a service that falls behind, or a machine that sends late, cannot
//! hide it (no coordinated omission).

use super::answer::Outcome;
use super::record::SharedRecord;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

/// Sends what is due until the schedule ends, then waits for the answers on their way. A request that is due while
/// `max_in_flight` have no answer is counted as unsent, and not sent later. Dropped, it ends at once.
///
/// # Errors
/// If a request panicked.
pub async fn run<S, F>(
    send: S,
    mut due: UnboundedReceiver<std::time::Instant>,
    max_in_flight: usize,
    record: SharedRecord,
) -> Result<(), JoinError>
where
    S: Fn(usize) -> F,
    F: Future<Output = Outcome> + 'static,
{
    let (mut requests, mut number) = (JoinSet::new(), 0);
    loop {
        tokio::select! {
            biased;
            Some(ended) = requests.join_next() => ended?,
            due = due.recv() => {
                let Some(due) = due.map(Instant::from_std) else { break };
                if requests.len() >= max_in_flight {
                    record.borrow_mut().unsent += 1;
                    continue;
                }
                record.borrow_mut().send();
                record.borrow_mut().lags.push(due.elapsed());
                let (request, record) = (send(number), record.clone());
                number += 1;
                requests.spawn_local(async move {
                    let outcome = request.await;
                    record.borrow_mut().take(outcome, due);
                });
            }
        }
    }
    while let Some(ended) = requests.join_next().await {
        ended?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use std::time::Duration;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::sync::watch;
    use tokio::task::{LocalSet, yield_now};

    /// Lets everything run that can.
    async fn settle() {
        for _ in 0..50 {
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn nothing_waits_for_answers_and_what_is_beyond_the_bound_is_counted_and_never_sent() {
        let (clock, dues) = unbounded_channel();
        let (hand, released) = watch::channel(false);
        let released = Rc::new(released);
        let send = move |_| {
            let mut released = (*released).clone();
            async move {
                released.wait_for(|released| *released).await.expect("the hand lives");
                Outcome::Answered
            }
        };
        let record = SharedRecord::default();
        let counts = || {
            let record = record.borrow();
            (record.sent, record.unsent, record.answered.len())
        };
        let steps = async {
            for (due, expected) in [(2, (2, 0, 0)), (3, (4, 1, 0)), (5, (4, 6, 0))] {
                for _ in 0..due {
                    clock.send(std::time::Instant::now()).expect("the loop listens");
                }
                settle().await;
                assert_eq!(counts(), expected);
            }
            hand.send_replace(true);
            settle().await;
            assert_eq!(counts(), (4, 6, 4));
            clock.send(std::time::Instant::now()).expect("the loop listens");
            settle().await;
            assert_eq!(counts(), (5, 6, 5), "there is room again");
            drop(clock);
        };
        let run = run(send, dues, 4, record.clone());
        let (ended, ()) = LocalSet::new().run_until(async { tokio::join!(run, steps) }).await;
        ended.expect("no request panics");
        assert_eq!(counts(), (5, 6, 5));
    }

    #[tokio::test]
    async fn a_request_is_timed_from_when_it_was_due() {
        let (clock, dues) = unbounded_channel();
        let late = Duration::from_secs(7);
        let due = std::time::Instant::now().checked_sub(late).expect("the machine has run for a while");
        clock.send(due).expect("the loop listens");
        drop(clock);
        let record = SharedRecord::default();
        let run = run(|_| async { Outcome::Answered }, dues, 4, record.clone());
        LocalSet::new().run_until(run).await.expect("no request panics");
        assert!(record.borrow().answered[0] >= late && record.borrow().lags[0] >= late);
    }
}
