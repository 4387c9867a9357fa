//! The program `featherlight`: reads the command line and runs one subcommand.
//!
//! Exit status: 0 done, 1 the run failed, 2 the command line was wrong.

mod cli;
mod commands;
mod demo;

use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match cli::Cli::read(std::env::args_os()) {
        Ok(cli) => commands::run(cli.command),
        Err(error) => error.exit(),
    };
    outcome.unwrap_or_else(|error| match error.downcast::<clap::Error>() {
        Ok(usage) => usage.exit(),
        Err(error) => {
            // A closed standard error must not turn the status into a panic's.
            let _ = writeln!(std::io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    })
}
