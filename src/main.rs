//! The program `featherlight`: reads the command line and runs one subcommand.
//!
//! Exit status: 0 done, 1 the run failed, 2 the command line was wrong.

mod cli;
mod commands;
mod demo;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// The time that the process's last steps may take once it has failed.
const LAST_PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    featherlight::ops::keep_freed_memory();
    let outcome = match cli::Cli::read(std::env::args_os()) {
        Ok(cli) => commands::run(cli.command),
        Err(error) => error.exit(),
    };
    outcome.unwrap_or_else(|error| match error.downcast::<clap::Error>() {
        Ok(usage) => usage.exit(),
        Err(error) => {
            // A closed standard error must not turn the status into a panic's.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            bound_the_end();
            ExitCode::FAILURE
        }
    })
}

/// From now on the process ends, come what may: the driver of a lost device can hang in the process's last steps. It then ends by
/// a signal, which is a failure all the same.
fn bound_the_end() {
    let watch = std::thread::Builder::new().name("end".to_owned()).spawn(|| {
        std::thread::sleep(LAST_PATIENCE);
        std::process::abort();
    });
    // Without a thread there is no bound, and still an end wherever the driver does not hang.
    drop(watch);
}
