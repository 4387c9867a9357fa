//! The program `featherlight`: parses the command line and runs one subcommand.
//!
//! Exit status: 0 done, 1 the run failed, 2 the command line was wrong.

mod cli;
mod serve;

use clap::Parser;
use featherlight::model::{Inspection, ModelFolder, verify};
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let outcome = match cli::Cli::parse().command {
        cli::Command::Serve(arguments) => serve::run(*arguments).map(|()| ExitCode::SUCCESS),
        cli::Command::Inspect(arguments) => inspect(&arguments),
        cli::Command::Verify(arguments) => run_verify(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

fn inspect(arguments: &cli::Inspect) -> Result<ExitCode, Box<dyn Error>> {
    let mut inspection = Inspection::of(ModelFolder::open(&arguments.model)?.config())?;
    if let Some(rank) = arguments.lora_rank {
        inspection.adapt(rank as usize, &arguments.lora_target)?;
    }
    if arguments.json {
        writeln!(std::io::stdout(), "{}", inspection.to_json())?;
    } else {
        writeln!(std::io::stdout(), "{inspection}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_verify(arguments: &cli::Verify) -> Result<ExitCode, Box<dyn Error>> {
    let difference = verify(&ModelFolder::open(&arguments.model)?, &arguments.expected)?;
    // Written so that a NaN fails.
    let within = difference <= arguments.tolerance;
    writeln!(
        std::io::stdout(),
        "largest difference {difference:.3e}, tolerance {:.1e}: {}",
        arguments.tolerance,
        if within { "same" } else { "DIFFERENT" }
    )?;
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
