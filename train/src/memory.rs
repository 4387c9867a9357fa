//! Main memory: what this process has held, and what it could still get. Linux says both; elsewhere nothing is known.

use std::fs::{read_to_string, write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// The most that was held before the last [`taken_by`] began.
static BEFORE: AtomicU64 = AtomicU64::new(0);

/// The most memory this process has held, in bytes.
pub(crate) fn peak() -> Option<u64> {
    Some(status("VmHWM:")?.max(BEFORE.load(Ordering::Relaxed)))
}

/// Runs `work` and gives what the process held in it at most beyond what it held before, where the system tells. One at a time.
pub(crate) fn taken_by<T>(work: impl FnOnce() -> T) -> (T, Option<u64>) {
    let before = status("VmRSS:").filter(|_| {
        BEFORE.fetch_max(status("VmHWM:").unwrap_or(0), Ordering::Relaxed);
        write("/proc/self/clear_refs", "5").is_ok() // the system's own peak begins anew
    });
    let result = work();
    let taken = before.and_then(|before| Some(status("VmHWM:")?.saturating_sub(before)));
    (result, taken)
}

fn status(name: &str) -> Option<u64> {
    kibibytes(&read_to_string("/proc/self/status").ok()?, name)
}

/// Bytes that this process could still get: what the machine has, or less where a limit of its control group (a container's) is
/// nearer, or one of its own.
pub(crate) fn available() -> Option<u64> {
    let machine = kibibytes(&read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limits = read_to_string("/proc/self/limits").unwrap_or_default();
    let left = [
        Some(machine),
        left_in_groups(&groups, Path::new("/sys/fs/cgroup")),
        left_of_limit(&limits, "Max address space", status("VmSize:")),
        left_of_limit(&limits, "Max data size", status("VmData:")),
    ];
    left.into_iter().flatten().min()
}

/// What is left of a limit of the process (`ulimit`), of which so much is used.
fn left_of_limit(limits: &str, name: &str, used: Option<u64>) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    let soft: u64 = line.split_whitespace().next()?.parse().ok()?; // or "unlimited"
    Some(soft.saturating_sub(used?))
}

/// The line of `text` that begins with `name` says so many kB.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let count: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(count * 1024)
}

/// The least that is left in one of the groups that `/proc/self/cgroup` lists, or in one above it; pages of files that can be dropped
/// count as free. `None`: no limit.
fn left_in_groups(groups: &str, mount: &Path) -> Option<u64> {
    let folders = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let first = path.strip_prefix('/')?;
        match controllers {
            "" => Some((mount.join(first), mount.to_owned(), ["memory.max", "memory.current"])),
            _ if controllers.split(',').any(|name| name == "memory") => {
                let mount = mount.join("memory");
                Some((mount.join(first), mount, ["memory.limit_in_bytes", "memory.usage_in_bytes"]))
            }
            _ => None,
        }
    });
    let left = |folder: &Path, [limit, usage]: [&str; 2]| {
        let number =
            |name: &str| -> Option<u64> { read_to_string(folder.join(name)).ok()?.trim().parse().ok() };
        let (limit, usage) = (number(limit)?, number(usage)?);
        let statistics = read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let droppable = statistics.lines().find_map(|line| line.strip_prefix("inactive_file "));
        let droppable = droppable.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(usage.saturating_sub(droppable)))
    };
    folders
        .flat_map(|(folder, mount, files)| {
            // Inside a container the path is the host's, and the group itself is what is mounted.
            let above = folder.ancestors().take_while(|above| above.starts_with(&mount));
            above
                .map(Path::to_owned)
                .chain([mount.clone()])
                .map(|folder| left(&folder, files))
                .collect::<Vec<_>>()
        })
        .flatten()
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_peak_memory_is_at_least_what_was_just_touched() {
        let touched = std::hint::black_box(vec![1u8; 64 << 20]);
        assert!(peak().unwrap() >= touched.len() as u64);
        assert!(available().unwrap() > 0);
        drop(touched);
        let before = peak().unwrap();
        let (_, taken) = taken_by(|| std::hint::black_box(vec![1u8; 32 << 20]));
        assert!(taken.unwrap() >= 24 << 20, "{taken:?}"); // other tests give memory back meanwhile
        assert!(peak().unwrap() >= before);
    }

    #[test]
    fn a_limit_of_the_process_counts_where_there_is_one() {
        let limits = "Limit       Soft Limit  Hard Limit  Units\nMax data size      unlimited   unlimited  bytes\n\
                      Max address space  1000        2000       bytes\n";
        assert_eq!(left_of_limit(limits, "Max address space", Some(400)), Some(600));
        assert_eq!(left_of_limit(limits, "Max address space", Some(4000)), Some(0));
        assert_eq!(left_of_limit(limits, "Max data size", Some(400)), None);
    }

    fn group(files: &[(&str, &str)]) -> tempfile::TempDir {
        let mount = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let file = mount.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        mount
    }

    #[test]
    fn the_nearest_limit_counts_and_files_pages_are_free() {
        let mount = group(&[
            ("a/memory.max", "1000\n"),
            ("a/memory.current", "700\n"),
            ("a/memory.stat", "anon 5\ninactive_file 300\n"),
            ("a/b/memory.max", "max\n"),
            ("a/b/memory.current", "10\n"),
        ]);
        assert_eq!(left_in_groups("0::/a/b\n", mount.path()), Some(600));
        assert_eq!(left_in_groups("0::/\n", mount.path()), None);
        let inside = group(&[("memory.max", "50\n"), ("memory.current", "60\n")]);
        assert_eq!(left_in_groups("0::/docker/of-the-host\n", inside.path()), Some(0));
    }

    #[test]
    fn the_older_control_groups_are_read_as_well() {
        let mount = group(&[
            ("memory/c/memory.limit_in_bytes", "4096\n"),
            ("memory/c/memory.usage_in_bytes", "96\n"),
        ]);
        assert_eq!(left_in_groups("3:cpu,memory:/c\n2:pids:/c\n", mount.path()), Some(4000));
    }
}
