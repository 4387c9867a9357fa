//! When a request that failed is tried again, and when no more.
//!
//! Whatever came in between starts the count anew: a large file over a poor line may break off many times.

use super::hub::Failure;
use super::{Event, Observer, PullError};
use std::time::Duration;

/// A server that asks for more time than this is believed for so long.
const LONGEST_ASKED: Duration = Duration::from_secs(300);

/// How long a server that does not answer is tried.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Tries in a row without success, at least 1.
    pub tries: u32,
    /// The pause before the second; doubled from one to the next.
    pub pause: Duration,
}

impl Default for Patience {
    /// Half a minute with the pauses: long enough for a router that starts anew, short enough to sit through.
    fn default() -> Self {
        Self { tries: 6, pause: Duration::from_secs(1) }
    }
}

/// The tries of one question.
pub(super) struct Tries<'a> {
    patience: Patience,
    file: &'a str,
    failed: u32,
}

impl<'a> Tries<'a> {
    pub(super) fn new(patience: Patience, file: &'a str) -> Self {
        Self { patience, file, failed: 0 }
    }

    /// Something came: what failed before no longer counts.
    pub(super) fn progress(&mut self) {
        self.failed = 0;
    }

    /// Waits until the next try; `kept` bytes of the file stay for another run if there is none.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn wait(
        &mut self,
        failure: Failure,
        kept: u64,
        observer: &mut Observer<'_>,
    ) -> Result<(), PullError> {
        let (reason, retry_after) = match failure {
            Failure::Passing { reason, retry_after } => (reason, retry_after),
            Failure::Final(error) => return Err(error),
        };
        self.failed += 1;
        if self.failed >= self.patience.tries {
            let file = self.file.to_owned();
            return Err(PullError::Unreachable { file, reason, tries: self.failed, kept });
        }
        let own = self.patience.pause * 2u32.saturating_pow(self.failed - 1);
        let pause = retry_after.map_or(own, |asked| asked.clamp(own, LONGEST_ASKED.max(own)));
        observer(Event::Waiting { reason: &reason, pause });
        std::thread::sleep(pause);
        Ok(())
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// If there is none, or one that will not change.
    pub(super) fn until<T>(
        mut self,
        observer: &mut Observer<'_>,
        mut ask: impl FnMut() -> Result<T, Failure>,
    ) -> Result<T, PullError> {
        loop {
            match ask() {
                Ok(answer) => return Ok(answer),
                Err(failure) => self.wait(failure, 0, observer)?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(seconds: Option<u64>) -> Failure {
        Failure::Passing { reason: "busy".to_owned(), retry_after: seconds.map(Duration::from_secs) }
    }

    #[test]
    fn pauses_double_and_the_last_try_ends_it() {
        let (mut pauses, mut asked) = (Vec::new(), 0);
        let patience = Patience { tries: 4, pause: Duration::from_millis(1) };
        let outcome = Tries::new(patience, "x").until(
            &mut |event| {
                if let Event::Waiting { pause, .. } = event {
                    pauses.push(pause.as_millis());
                }
            },
            || -> Result<(), Failure> {
                asked += 1;
                Err(busy(Some(0)))
            },
        );
        let error = outcome.expect_err("never an answer").to_string();
        assert!(error.contains("x: busy; given up after 4 tries"), "{error}");
        assert_eq!((asked, pauses), (4, vec![1, 2, 4]), "a server's 0 seconds do not undercut the pause");
    }

    #[test]
    fn progress_counts_from_the_start() {
        let mut tries = Tries::new(Patience { tries: 2, pause: Duration::ZERO }, "x");
        for _ in 0..5 {
            tries.wait(busy(None), 7, &mut |_| {}).expect("another try");
            tries.progress();
        }
        tries.wait(busy(None), 7, &mut |_| {}).expect("another try");
        let error = tries.wait(busy(None), 7, &mut |_| {}).expect_err("the end").to_string();
        assert!(error.contains("7 bytes are kept"), "{error}");
    }
}
