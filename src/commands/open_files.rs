//! How many files `serve` may open: each connection is one.
//!
//! Many systems allow 1024 at first and more on request. What is not granted lowers the limit of connections, so that it is
//! reached before the system refuses what the service itself needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside connections: weights, sockets of the admin port, the runtime's own.
const OTHERS: u64 = 160;

/// Asks the system for as many files as `connections` need; returns the connections there is room for.
pub fn room_for(connections: usize) -> usize {
    let need = connections as u64 + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // `None` is no limit.
    if current.is_none_or(|current| current >= need) {
        return connections;
    }
    let granted = maximum.map_or(need, |maximum| maximum.min(need));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(granted), maximum }).is_ok();
    let files = if raised { granted } else { current.unwrap_or(need) };
    let room = connections.min(usize::try_from(files.saturating_sub(OTHERS)).unwrap_or(connections)).max(1);
    if room < connections {
        tracing::warn!(
            files,
            connections = room,
            "the system allows few open files: fewer connections are taken than asked for"
        );
    }
    room
}
