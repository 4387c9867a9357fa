//! `featherlight inspect` and `featherlight verify`.

use super::devices::{Inventory, find};
use crate::{cli, demo};
use featherlight::model::{self, Inspection, ModelFolder};
use featherlight::ops::device::Precision;
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

/// Prints what a model amounts to, and which devices there are for it.
///
/// # Errors
/// If the folder or the adapter cannot be read.
pub fn inspect(arguments: &cli::Inspect) -> Result<(), Box<dyn Error>> {
    let folder = demo::open(arguments.model.as_ref())?.with_adapter(arguments.adapter.as_deref())?;
    let mut inspection = Inspection::of(folder.config())?;
    if let Some(adapter) = folder.adapter() {
        inspection.attach(adapter)?;
    }
    if let Some(rank) = arguments.lora_rank {
        let usual = || folder.config().architecture.default_targets().map(str::to_owned).to_vec();
        let targets = if arguments.lora_target.is_empty() { usual() } else { arguments.lora_target.clone() };
        inspection.adapt(rank as usize, &targets)?;
    }
    let devices = Inventory::take();
    if arguments.json {
        let mut figures = inspection.to_json();
        devices.add_to(&mut figures);
        writeln!(std::io::stdout(), "{figures}")?;
    } else {
        writeln!(std::io::stdout(), "{inspection}\n{devices}")?;
    }
    Ok(())
}

/// Compares a model's logits with a file's; a difference beyond the tolerance is a failure.
///
/// # Errors
/// If a folder or the file cannot be read, or the device cannot be used.
pub fn verify(arguments: &cli::Verify) -> Result<ExitCode, Box<dyn Error>> {
    let folder = ModelFolder::open(&arguments.model)?.with_adapter(arguments.adapter.as_deref())?;
    let choice = find(&arguments.compute)?.tell_one();
    let placement = choice.device.place(choice.precision)?;
    let difference = model::verify(&folder, &arguments.expected, &placement)?;
    let tolerance = arguments.tolerance.unwrap_or(match choice.precision {
        Precision::F32 => 1e-4,
        Precision::F16 => 1e-2,
        Precision::Bf16 => 1e-1,
    });
    // Written so that a NaN fails.
    let within = difference <= tolerance;
    writeln!(
        std::io::stdout(),
        "largest difference {difference:.3e} ({} {}), tolerance {:.1e}: {}",
        choice.device.name(),
        choice.precision,
        tolerance,
        if within { "same" } else { "DIFFERENT" }
    )?;
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
