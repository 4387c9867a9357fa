//! How many files the process may open: each connection of `serve` and each request under way of `bench --server` is one.
//!
//! Many systems allow 1024 at first and more on request. What is not granted is told to the caller, which then takes fewer, so
//! that the system never refuses what the process itself needs.

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
    connections.min(usize::try_from(files.saturating_sub(OTHERS)).unwrap_or(connections)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_made_for_what_is_needed_and_its_lack_is_said() {
        assert_eq!(room_for(8), 8);
        let most = getrlimit(Resource::Nofile).maximum.and_then(|most| usize::try_from(most).ok());
        if let Some(most) = most.filter(|most| *most > OTHERS as usize) {
            let room = most - OTHERS as usize;
            assert_eq!(room_for(room), room);
            assert_eq!(getrlimit(Resource::Nofile).current, Some(most as u64));
            assert_eq!(room_for(most), room);
        }
    }
}
