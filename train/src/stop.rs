//! The signals that ask a long job to end, as a flag that the job looks at.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A flag that SIGINT, SIGTERM and SIGHUP raise from now on, instead of ending the process.
///
/// # Errors
/// If the system refuses.
pub fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// The same for SIGINT and SIGTERM, but a second one ends the process as it would have without: for whoever does not want to wait.
/// SIGHUP keeps its meaning, so that `nohup` keeps its own.
///
/// # Errors
/// If the system refuses.
pub fn stop_on_first_signal() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Before the flag is raised: the first signal finds it down.
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
