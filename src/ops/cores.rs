//! The CPU's cores, and two ways to give them a forward pass.
//!
//! A photo alone has every kernel split over all cores. Where each core can have photos of its own, each takes them through the
//! whole model by itself: the cores meet once a pass instead of once a kernel, where each meeting waits for the slowest and costs
//! most on a machine that decodes photos at the same time. Called by whoever runs passes; knows nothing of models.

use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Threads for the passes of one CPU worker.
pub struct Cores {
    /// For kernels that split their work; without, rayon's global pool.
    all: Option<ThreadPool>,
    /// As many pools of one thread: what a kernel splits in there stays there.
    each: Vec<ThreadPool>,
}

impl Cores {
    /// Those of worker `index` among `workers` that share out the process's cores; made when they are first asked for, and kept: models
    /// that take turns on a worker have them together.
    ///
    /// # Errors
    /// If the system has no more threads.
    pub fn of_worker(index: usize, workers: usize) -> Result<Arc<Self>, ThreadPoolBuildError> {
        static MADE: Mutex<BTreeMap<(usize, usize), Arc<Cores>>> = Mutex::new(BTreeMap::new());
        // Whoever panicked holding the lock left a whole map.
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cores) = made.get(&(index, workers)) {
            return Ok(cores.clone());
        }
        let all = rayon::current_num_threads();
        let cores = if workers > 1 {
            Self::some((all / workers).max(1))?
        } else {
            Self { all: None, each: pools_of_one(all)? }
        };
        let cores = Arc::new(cores);
        made.insert((index, workers), cores.clone());
        Ok(cores)
    }

    fn some(count: usize) -> Result<Self, ThreadPoolBuildError> {
        let all = ThreadPoolBuilder::new().num_threads(count).build()?;
        Ok(Self { all: Some(all), each: pools_of_one(count)? })
    }

    /// The rows that `pass` makes of `photos`, in order, one each. `pass` is called once with all of them, or at the same time with a part
    /// of them for each core, where those parts are of nearly equal size.
    ///
    /// # Errors
    /// The first of `pass`.
    pub fn run<P: Sync, R: Send, E: Send>(
        &self,
        photos: &[P],
        pass: impl Fn(&[P]) -> Result<Vec<R>, E> + Sync,
    ) -> Result<Vec<R>, E> {
        let Some(size) = part(photos.len(), self.each.len()) else {
            return match &self.all {
                Some(all) => all.install(|| pass(photos)),
                None => pass(photos),
            };
        };
        let mut parts: Vec<_> = photos.chunks(size).map(|part| (part, None)).collect();
        side_by_side(&self.each, &mut parts, &pass);
        let rows = parts.into_iter().filter_map(|(_, rows)| rows).collect::<Result<Vec<_>, E>>()?;
        Ok(rows.into_iter().flatten().collect())
    }
}

fn pools_of_one(count: usize) -> Result<Vec<ThreadPool>, ThreadPoolBuildError> {
    let count = if count > 1 { count } else { 0 };
    let pool = |number| {
        ThreadPoolBuilder::new().num_threads(1).thread_name(move |_| format!("core-{number}")).build()
    };
    (0..count).map(pool).collect()
}

/// Photos for each core, where at most an eighth of the cores' time is lost because they do not divide.
fn part(photos: usize, cores: usize) -> Option<usize> {
    let size = photos.div_ceil(cores.max(1));
    (cores > 1 && 8 * photos >= 7 * cores * size && photos > 0).then_some(size)
}

/// A part of a pass, and what came of it.
type Part<'a, P, R, E> = (&'a [P], Option<Result<Vec<R>, E>>);

/// Each part in a pool of its own, until all are done. The calling thread sleeps meanwhile, where a worker of rayon's would look
/// for other work and take time from those that have some.
fn side_by_side<P: Sync, R: Send, E: Send>(
    pools: &[ThreadPool],
    parts: &mut [Part<'_, P, R, E>],
    pass: &(impl Fn(&[P]) -> Result<Vec<R>, E> + Sync),
) {
    let (Some((pool, pools)), Some(((photos, rows), parts))) = (pools.split_first(), parts.split_first_mut())
    else {
        return;
    };
    pool.in_place_scope(|scope| {
        scope.spawn(|_| *rows = Some(pass(photos)));
        side_by_side(pools, parts, pass);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::sync::Condvar;
    use std::time::Duration;

    #[test]
    fn photos_are_shared_out_only_where_the_cores_get_about_as_many_each() {
        assert_eq!(
            [1, 2, 3, 5, 7, 8].map(|photos| part(photos, 2)),
            [None, Some(1), None, None, Some(4), Some(4)]
        );
        assert_eq!([3, 4, 5, 8].map(|photos| part(photos, 4)), [None, Some(1), None, Some(2)]);
        assert_eq!(part(8, 1), None);
        assert_eq!(part(8, 16), None);
        assert_eq!(part(0, 2), None);
    }

    #[test]
    fn parts_run_at_the_same_time_each_on_one_thread_and_rows_keep_their_order() {
        let cores = Cores::some(3).expect("threads");
        let (arrived, all) = (Mutex::new(0), Condvar::new());
        let rows = cores.run(&[1, 2, 3, 4, 5, 6], |part| {
            assert_eq!((part.len(), rayon::current_num_threads()), (2, 1));
            let mut count = arrived.lock().expect("no panic");
            *count += 1;
            all.notify_all();
            let (_count, waited) =
                all.wait_timeout_while(count, Duration::from_secs(30), |count| *count < 3).expect("no panic");
            let rows = part.iter().map(|photo| photo * 10).collect();
            if waited.timed_out() { Err("the others do not run") } else { Ok(rows) }
        });
        assert_eq!(rows, Ok(vec![10, 20, 30, 40, 50, 60]));
    }

    #[test]
    fn models_of_a_worker_have_the_same_cores_and_workers_have_their_own() {
        let of = |index, workers| Cores::of_worker(index, workers).expect("threads");
        assert!(Arc::ptr_eq(&of(0, 2), &of(0, 2)));
        assert!(!Arc::ptr_eq(&of(0, 2), &of(1, 2)));
        assert!(!Arc::ptr_eq(&of(0, 2), &of(0, 1)));
    }

    #[test]
    fn a_photo_alone_has_all_cores_and_an_error_of_a_part_is_that_of_the_pass() {
        let cores = Cores::some(2).expect("threads");
        let threads = cores.run(&[0], |_| Ok::<_, Infallible>(vec![rayon::current_num_threads()]));
        assert_eq!(threads, Ok(vec![2]));
        let pass = |part: &[i32]| if part.contains(&4) { Err("the fourth") } else { Ok(part.to_vec()) };
        assert_eq!(cores.run(&[1, 2, 3, 4], pass), Err("the fourth"));
        assert_eq!(cores.run(&[1, 2], pass), Ok(vec![1, 2]), "usable after an error");
    }
}
