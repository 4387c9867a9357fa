//! What a person asks for with `--device` and `--dtype`, and what that comes to on this machine.

use super::{CudaInfo, DeviceError, DeviceInfo, Precision, cuda_devices, least_compute_capability};
use std::fmt;
use std::str::FromStr;

/// `--device`: auto, cpu, cuda, cuda:N or cuda:N,M.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceRequest {
    /// The first CUDA device, else the CPU.
    Auto,
    /// The processor.
    Cpu,
    /// These CUDA devices, in this order, none twice.
    Cuda(Vec<usize>),
}

/// The devices that answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At least one.
    pub devices: Vec<DeviceInfo>,
    /// In a build with CUDA, that and why `auto` came to the CPU: a line for the person who started the program.
    pub fallback: Option<String>,
}

impl DeviceRequest {
    /// The devices asked for.
    ///
    /// # Errors
    /// If a CUDA device is asked for and is not there. `auto` never fails.
    pub fn find(&self) -> Result<Found, DeviceError> {
        self.find_among(cuda_devices, least_compute_capability())
    }

    /// Refuses a list, for a job that computes on one device.
    ///
    /// # Errors
    /// In words for the person who typed it.
    pub fn single(self) -> Result<Self, String> {
        match &self {
            Self::Cuda(devices) if devices.len() > 1 => {
                Err("a single device wanted: auto, cpu, cuda or cuda:N".to_owned())
            }
            _ => Ok(self),
        }
    }

    fn find_among(
        &self,
        cuda: impl FnOnce() -> Result<Vec<CudaInfo>, DeviceError>,
        least: (u32, u32),
    ) -> Result<Found, DeviceError> {
        let cpu = |reason: Option<String>| {
            let fallback = reason.map(|reason| format!("running on the CPU: {reason}"));
            Found { devices: vec![DeviceInfo::Cpu], fallback }
        };
        match self {
            Self::Cpu => Ok(cpu(None)),
            Self::Auto => Ok(match cuda() {
                Ok(found) => {
                    let usable: Vec<_> = found.into_iter().map(|info| usable(info, least)).collect();
                    let refused = usable.iter().find_map(|info| info.as_ref().err().map(ToString::to_string));
                    match usable.into_iter().find_map(Result::ok) {
                        Some(first) => Found { devices: vec![DeviceInfo::Cuda(first)], fallback: None },
                        None => cpu(refused.or(Some("the driver lists no CUDA device".to_owned()))),
                    }
                }
                Err(DeviceError::NotSupported { .. }) => cpu(None),
                Err(error) => cpu(Some(error.to_string())),
            }),
            Self::Cuda(wanted) => {
                let found = cuda().map_err(|error| match error {
                    DeviceError::NotSupported { .. } => {
                        DeviceError::NotSupported { wanted: self.to_string() }
                    }
                    other => other,
                })?;
                let one = |wanted: &usize| {
                    let info = found.iter().find(|info| info.ordinal == *wanted).cloned();
                    let info = info.map(|info| usable(info, least)).transpose()?;
                    info.map(DeviceInfo::Cuda).ok_or_else(|| {
                        let names: Vec<String> = found
                            .iter()
                            .map(|info| format!("cuda:{} ({})", info.ordinal, info.name))
                            .collect();
                        let known =
                            if names.is_empty() { "no CUDA device".to_owned() } else { names.join(", ") };
                        DeviceError::Unknown { wanted: *wanted, known }
                    })
                };
                Ok(Found { devices: wanted.iter().map(one).collect::<Result<_, _>>()?, fallback: None })
            }
        }
    }
}

/// The device, if kernels compiled for the compute capability `least` run on it.
fn usable(info: CudaInfo, least: (u32, u32)) -> Result<CudaInfo, DeviceError> {
    let (major, minor) = info.compute_capability;
    if (major, minor) >= least {
        return Ok(info);
    }
    Err(DeviceError::TooOld {
        device: format!("cuda:{}", info.ordinal),
        name: info.name,
        has: format!("{major}.{minor}"),
        needs: format!("{}.{}", least.0, least.1),
        cap: format!("{major}{minor}"),
    })
}

impl FromStr for DeviceRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || "auto, cpu, cuda, cuda:N or cuda:N,M wanted (N, M: numbers of CUDA devices)".to_owned();
        match text {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => return Ok(Self::Cuda(vec![0])),
            _ => {}
        }
        let list = text.strip_prefix("cuda:").ok_or_else(wrong)?;
        let mut ordinals = Vec::new();
        for part in list.split(',') {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            let ordinal = part.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
            if ordinals.contains(&ordinal) {
                return Err(format!("cuda:{ordinal} is named twice"));
            }
            ordinals.push(ordinal);
        }
        Ok(Self::Cuda(ordinals))
    }
}

impl fmt::Display for DeviceRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinals) => {
                let list: Vec<String> = ordinals.iter().map(usize::to_string).collect();
                write!(f, "cuda:{}", list.join(","))
            }
        }
    }
}

/// `--dtype`: auto, f32, bf16 or f16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrecisionRequest {
    /// bf16 on a CUDA device of compute capability 8.0 and above, f16 on one below, f32 on the CPU.
    Auto,
    /// This one.
    Exactly(Precision),
}

impl PrecisionRequest {
    /// What it comes to on `device`.
    ///
    /// # Errors
    /// If bf16 is asked for of a CUDA device that does not compute in it.
    pub fn on(self, device: &DeviceInfo) -> Result<Precision, DeviceError> {
        /// The first compute capability with bf16 in its matrix units.
        const AMPERE: (u32, u32) = (8, 0);
        let has_bf16 = device.cuda().is_none_or(|cuda| cuda.compute_capability >= AMPERE);
        match (self, device.cuda()) {
            (Self::Auto, None) => Ok(Precision::F32),
            (Self::Auto, Some(_)) => Ok(if has_bf16 { Precision::Bf16 } else { Precision::F16 }),
            (Self::Exactly(Precision::Bf16), Some(cuda)) if !has_bf16 => Err(DeviceError::NoBf16 {
                device: device.name(),
                name: cuda.name.clone(),
                major: cuda.compute_capability.0,
                minor: cuda.compute_capability.1,
            }),
            (Self::Exactly(precision), _) => Ok(precision),
        }
    }
}

impl FromStr for PrecisionRequest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::Exactly(Precision::F32)),
            "bf16" => Ok(Self::Exactly(Precision::Bf16)),
            "f16" => Ok(Self::Exactly(Precision::F16)),
            _ => Err("auto, f32, bf16 or f16 wanted".to_owned()),
        }
    }
}

impl fmt::Display for PrecisionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Exactly(precision) => f.write_str(precision.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(ordinal: usize, compute_capability: (u32, u32)) -> CudaInfo {
        CudaInfo { ordinal, name: format!("card {ordinal}"), compute_capability, total_memory: 1 << 34 }
    }

    fn two() -> Result<Vec<CudaInfo>, DeviceError> {
        Ok(vec![card(0, (7, 5)), card(1, (9, 0))])
    }

    #[test]
    fn a_request_reads_as_it_is_written() {
        for (text, shown) in [
            ("auto", "auto"),
            ("cpu", "cpu"),
            ("cuda", "cuda:0"),
            ("cuda:2", "cuda:2"),
            ("cuda:1,0", "cuda:1,0"),
        ] {
            assert_eq!(text.parse::<DeviceRequest>().expect("a request").to_string(), shown);
        }
        for text in ["", "gpu", "cuda:", "cuda:a", "cuda:0,", "cuda:+1", "cuda:-1", "cuda:0,0", "cuda:0;1"] {
            assert!(text.parse::<DeviceRequest>().is_err(), "{text}");
        }
    }

    #[test]
    fn auto_takes_the_first_cuda_device_and_says_why_when_there_is_none() {
        let found = DeviceRequest::Auto.find_among(two, (0, 0)).expect("devices");
        assert_eq!((found.devices[0].name().as_str(), found.fallback), ("cuda:0", None));
        let missing = || Err(DeviceError::NoCuda { reason: "no driver".to_owned() });
        let found = DeviceRequest::Auto.find_among(missing, (0, 0)).expect("the CPU");
        assert_eq!(found.devices, [DeviceInfo::Cpu]);
        assert!(found.fallback.is_some_and(|line| line.contains("no driver")));
        let cpu_build = || Err(DeviceError::NotSupported { wanted: String::new() });
        assert_eq!(DeviceRequest::Auto.find_among(cpu_build, (0, 0)).expect("the CPU").fallback, None);
    }

    #[test]
    fn devices_come_in_the_order_asked_for_and_an_unknown_one_is_named_with_those_there_are() {
        let found = DeviceRequest::Cuda(vec![1, 0]).find_among(two, (0, 0)).expect("devices");
        let names: Vec<String> = found.devices.iter().map(DeviceInfo::name).collect();
        assert_eq!(names, ["cuda:1", "cuda:0"]);
        let error = DeviceRequest::Cuda(vec![2]).find_among(two, (0, 0)).expect_err("no third").to_string();
        assert!(error.contains("cuda:2") && error.contains("cuda:1 (card 1)"), "{error}");
        let missing = || Err(DeviceError::NoCuda { reason: "no driver".to_owned() });
        assert!(DeviceRequest::Cuda(vec![0]).find_among(missing, (0, 0)).is_err());
    }

    #[test]
    fn a_card_below_the_build_s_compute_capability_is_no_device_of_it() {
        let found = DeviceRequest::Auto.find_among(two, (8, 0)).expect("devices");
        assert_eq!(found.devices[0].name(), "cuda:1");
        let found = DeviceRequest::Auto.find_among(two, (10, 0)).expect("the CPU");
        assert_eq!(found.devices, [DeviceInfo::Cpu]);
        assert!(found.fallback.is_some_and(|line| line.contains("7.5") && line.contains("10.0")));
        let error = DeviceRequest::Cuda(vec![0]).find_among(two, (8, 0)).expect_err("too old").to_string();
        assert!(error.contains("7.5") && error.contains("CUDA_COMPUTE_CAP=75"), "{error}");
    }

    #[test]
    fn the_device_decides_what_auto_computes_in() {
        let on = |request: PrecisionRequest, device: &DeviceInfo| request.on(device).map(Precision::name);
        let (old, new) = (DeviceInfo::Cuda(card(0, (7, 5))), DeviceInfo::Cuda(card(1, (8, 0))));
        assert_eq!(on(PrecisionRequest::Auto, &old).expect("a format"), "f16");
        assert_eq!(on(PrecisionRequest::Auto, &new).expect("a format"), "bf16");
        assert_eq!(on(PrecisionRequest::Auto, &DeviceInfo::Cpu).expect("a format"), "f32");
        let bf16 = PrecisionRequest::Exactly(Precision::Bf16);
        assert_eq!(on(bf16, &DeviceInfo::Cpu).expect("a format"), "bf16");
        let error = on(bf16, &old).expect_err("no bf16 there").to_string();
        assert!(error.contains("7.5") && error.contains("f16"), "{error}");
    }
}
