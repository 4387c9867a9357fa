//! `featherlight inspect` and `featherlight verify`.

use crate::{cli, demo};
use featherlight::model::{self, Inspection, ModelFolder};
use featherlight::ops::device::Placement;
use std::error::Error;
use std::io::Write;
use std::process::ExitCode;

/// Prints what a model amounts to.
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
        inspection.adapt(rank as usize, &arguments.lora_target)?;
    }
    if arguments.json {
        writeln!(std::io::stdout(), "{}", inspection.to_json())?;
    } else {
        writeln!(std::io::stdout(), "{inspection}")?;
    }
    Ok(())
}

/// Compares a model's logits with a file's; a difference beyond the tolerance is a failure.
///
/// # Errors
/// If a folder or the file cannot be read.
pub fn verify(arguments: &cli::Verify) -> Result<ExitCode, Box<dyn Error>> {
    let folder = ModelFolder::open(&arguments.model)?.with_adapter(arguments.adapter.as_deref())?;
    let difference = model::verify(&folder, &arguments.expected, &Placement::CPU)?;
    // Written so that a NaN fails.
    let within = difference <= arguments.tolerance;
    let cli::Compute { device, dtype } = arguments.compute;
    writeln!(
        std::io::stdout(),
        "largest difference {difference:.3e} ({} {}), tolerance {:.1e}: {}",
        device.name(),
        dtype.name(),
        arguments.tolerance,
        if within { "same" } else { "DIFFERENT" }
    )?;
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
