//! Where the time goes in a pass, op by op. Off unless somebody asks, and then it waits for the device around every op: the
//! parts are true, the whole is slower than an unwatched pass.

use candle_core::{Device, Result};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

thread_local! {
    /// What this thread's ops have taken, while somebody profiles them.
    static TIMES: RefCell<Option<Profile>> = const { RefCell::new(None) };
}

/// Calls and time of each op.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Profile(BTreeMap<&'static str, (u64, Duration)>);

impl Profile {
    /// Each op with its calls and the time they took together, the longest first.
    pub fn ops(&self) -> Vec<(&'static str, u64, Duration)> {
        let mut ops: Vec<_> = self.0.iter().map(|(op, (calls, time))| (*op, *calls, *time)).collect();
        ops.sort_by_key(|(_, _, time)| std::cmp::Reverse(*time));
        ops
    }

    /// The same, and what of `whole` was none: candle's operations, copies, whatever else lay between.
    pub fn parts(&self, whole: Duration) -> Vec<(&'static str, u64, Duration)> {
        let mut parts = self.ops();
        let total = parts.iter().map(|(_, _, time)| *time).sum();
        parts.push(("other", 1, whole.saturating_sub(total)));
        parts
    }
}

/// Runs `work` on this thread and gives what its ops took beside its result.
pub fn profiled<T>(work: impl FnOnce() -> T) -> (T, Profile) {
    let before = TIMES.replace(Some(Profile::default()));
    let result = work();
    let profile = TIMES.replace(before);
    (result, profile.unwrap_or_default())
}

/// Runs an op, timed if this thread is profiled.
pub(super) fn timed<T>(op: &'static str, device: &Device, work: impl FnOnce() -> Result<T>) -> Result<T> {
    if TIMES.with_borrow(Option::is_none) {
        return work();
    }
    device.synchronize()?;
    let start = Instant::now();
    let result = work()?;
    device.synchronize()?;
    let time = start.elapsed();
    TIMES.with_borrow_mut(|times| {
        if let Some(Profile(times)) = times {
            let (calls, total) = times.entry(op).or_default();
            *calls += 1;
            *total += time;
        }
    });
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_counts_the_ops_of_its_own_work_alone() {
        let one =
            || timed("one", &Device::Cpu, || candle_core::Tensor::new(1f32, &Device::Cpu)).expect("a tensor");
        one();
        let ((), profile) = profiled(|| {
            one();
            one();
        });
        let ops: Vec<_> = profile.ops().into_iter().map(|(op, calls, _)| (op, calls)).collect();
        assert_eq!(ops, [("one", 2)]);
        assert!(TIMES.with_borrow(Option::is_none));
    }
}
