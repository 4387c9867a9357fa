//! The devices that a command runs on: what was asked for with `--device` and `--dtype`, found on this machine.

use crate::cli::Compute;
use featherlight::engine::DeviceChoice;
use featherlight::ops::device::{CudaInfo, DeviceError, DeviceInfo, Precision, cuda_devices};
use serde_json::{Value, json};
use std::fmt;
use std::io::Write;

/// What answers to the flags.
pub struct Found {
    /// At least one.
    pub choices: Vec<DeviceChoice>,
    /// Why `auto` came to the CPU in a build with CUDA: a line for the person who started the program.
    pub fallback: Option<String>,
}

/// Looks for the devices of `compute`; opens none.
///
/// # Errors
/// If one is not there, or does not compute in the format asked for.
pub fn find(compute: &Compute) -> Result<Found, DeviceError> {
    let found = compute.device.find()?;
    let choice = |device| {
        let precision = compute.dtype.on(&device)?;
        Ok(DeviceChoice { device, precision })
    };
    let choices = found.devices.into_iter().map(choice).collect::<Result<_, DeviceError>>()?;
    Ok(Found { choices, fallback: found.fallback })
}

impl Found {
    /// Says on standard error why the CPU was taken, for commands without a log.
    pub fn tell(self) -> Vec<DeviceChoice> {
        if let Some(line) = &self.fallback {
            // A closed standard error is no reason to stop.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        self.choices
    }

    /// The same for a command that runs on one device: the first.
    pub fn tell_one(self) -> DeviceChoice {
        let first = self.tell().into_iter().next();
        first.unwrap_or(DeviceChoice { device: DeviceInfo::Cpu, precision: Precision::F32 })
    }
}

/// The devices that this build finds on this machine, for `inspect`.
pub struct Inventory(Result<Vec<CudaInfo>, DeviceError>);

impl Inventory {
    /// Asks the driver, if there is one.
    pub fn take() -> Self {
        Self(cuda_devices())
    }

    fn devices(&self) -> impl Iterator<Item = DeviceInfo> {
        let cuda = self.0.iter().flatten().cloned().map(DeviceInfo::Cuda);
        std::iter::once(DeviceInfo::Cpu).chain(cuda)
    }

    /// As a list of objects, the CPU first.
    pub fn to_json(&self) -> Value {
        self.devices().map(|device| device.to_json()).collect()
    }

    /// Why there is no CUDA device, if there is none.
    pub fn cuda_missing(&self) -> Option<String> {
        match &self.0 {
            Ok(devices) if devices.is_empty() => Some("the driver lists no CUDA device".to_owned()),
            Ok(_) => None,
            Err(DeviceError::NotSupported { .. }) => Some("CUDA is not in this build".to_owned()),
            Err(error) => Some(error.to_string()),
        }
    }

    /// What `to_json` and `cuda_missing` say, into an object of figures.
    pub fn add_to(&self, figures: &mut Value) {
        if let Some(figures) = figures.as_object_mut() {
            figures.insert("devices".to_owned(), self.to_json());
            if let Some(reason) = self.cuda_missing() {
                figures.insert("cuda_missing".to_owned(), json!(reason));
            }
        }
    }
}

impl fmt::Display for Inventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let missing = self.cuda_missing().map_or_else(String::new, |reason| format!(" ({reason})"));
        for (index, device) in self.devices().enumerate() {
            match index {
                0 => write!(f, "devices               {device}{missing}")?,
                _ => write!(f, "\n                      {device}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inventory_names_every_device_and_why_there_are_no_more() {
        let card = CudaInfo {
            ordinal: 0,
            name: "a card".to_owned(),
            compute_capability: (9, 0),
            total_memory: 80 << 30,
        };
        let inventory = Inventory(Ok(vec![card]));
        let shown = inventory.to_string();
        assert!(
            shown.contains("cpu\n") && shown.contains("cuda:0 (a card, compute capability 9.0"),
            "{shown}"
        );
        let mut figures = json!({});
        inventory.add_to(&mut figures);
        assert_eq!(figures["devices"][0], json!({ "name": "cpu" }));
        assert_eq!(figures["devices"][1]["compute_capability"], "9.0");
        assert_eq!(figures["devices"][1]["total_memory"], 80_u64 << 30);
        let inventory = Inventory(Err(DeviceError::NoCuda { reason: "no driver".to_owned() }));
        assert!(inventory.to_string().ends_with("cpu (CUDA cannot be used here: no driver)"), "{inventory}");
        inventory.add_to(&mut figures);
        assert_eq!(figures["cuda_missing"], "CUDA cannot be used here: no driver");
    }
}
