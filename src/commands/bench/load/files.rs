//! A socket a request in flight: more than the system's usual limit of open files may allow.

/// Sockets and files beside those of requests.
const OTHERS: u64 = 64;

/// Raises the process's own limit as far as `requests` need and the system allows. Says how many there is room for where that is less.
#[cfg(unix)]
pub fn make_room(requests: u64) -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = requests + OTHERS;
    let limit = getrlimit(Resource::Nofile);
    let enough = |limit: Option<u64>| limit.is_none_or(|limit| limit >= needed);
    if enough(limit.current) {
        return None;
    }
    let wanted = limit.maximum.map_or(needed, |maximum| maximum.min(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit });
    let now = if raised.is_ok() { Some(wanted) } else { limit.current };
    (!enough(now)).then(|| now.unwrap_or(needed).saturating_sub(OTHERS))
}

/// Other systems have no such limit.
#[cfg(not(unix))]
pub fn make_room(_requests: u64) -> Option<u64> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use rustix::process::{Resource, getrlimit};

    #[test]
    fn room_is_made_for_what_is_needed_and_its_lack_is_said() {
        assert_eq!(make_room(8), None);
        let limit = getrlimit(Resource::Nofile);
        if let Some(maximum) = limit.maximum.filter(|maximum| *maximum > OTHERS) {
            assert_eq!(make_room(maximum - OTHERS), None);
            assert_eq!(getrlimit(Resource::Nofile).current, Some(maximum));
            assert_eq!(make_room(maximum), Some(maximum - OTHERS));
        }
    }
}
