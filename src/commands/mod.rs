//! The subcommands: each puts rooms of the library together and talks to the person who started it.
//!
//! `main` calls [`run`] with what `cli` read. Nothing here computes.

mod bench;
mod devices;
mod keys;
mod model;
mod open_files;
mod predict;
#[cfg(feature = "pull")]
mod pull;
mod serve;

use crate::cli::Command;
use std::error::Error;
use std::process::ExitCode;

/// Runs one subcommand to its end.
///
/// # Errors
/// Whatever made it fail; a [`clap::Error`] where the command line was wrong.
pub fn run(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Serve(arguments) => serve::run(*arguments).map(|()| ExitCode::SUCCESS),
        Command::Predict(arguments) => predict::run(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Inspect(arguments) => model::inspect(&arguments).map(|()| ExitCode::SUCCESS),
        Command::Verify(arguments) => model::verify(&arguments),
        Command::Bench(arguments) => bench::run(&arguments).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "pull")]
        Command::Pull(arguments) => pull::run(arguments).map(|()| ExitCode::SUCCESS),
    }
}
