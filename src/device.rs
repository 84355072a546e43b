//! Where tensors live: from the words users write ("auto", "cpu", "cuda:1", "metal") to a candle device.

use crate::error::{Error, Result};
use candle_core::Device;

/// The device that a name stands for. "auto" is the first GPU that this build can use, else the CPU.
///
/// # Errors
/// An unknown name, a device this build has no support for, or one that this machine does not have.
pub fn parse(name: &str) -> Result<Device> {
    let (kind, ordinal) = match name.split_once(':') {
        Some((kind, ordinal)) => (
            kind,
            ordinal
                .parse()
                .map_err(|_| Error::argument(format!("device \"{name}\": after the colon comes a number, as in \"cuda:0\"")))?,
        ),
        None => (name, 0),
    };
    match kind {
        "auto" => Ok(automatic()),
        "cpu" => Ok(Device::Cpu),
        "cuda" | "gpu" if cfg!(feature = "cuda") => open("CUDA", Device::new_cuda(ordinal)),
        "metal" | "mps" if cfg!(feature = "metal") => open("Metal", Device::new_metal(ordinal)),
        "cuda" | "gpu" => Err(not_built(name, "cuda")),
        "metal" | "mps" => Err(not_built(name, "metal")),
        _ => Err(Error::argument(format!("unknown device \"{name}\"; known are auto, cpu, cuda, cuda:N, metal"))),
    }
}

/// The name of a device as PyTorch prints it: "cpu", "cuda:0", "metal:0".
pub fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}

fn automatic() -> Device {
    if cfg!(feature = "cuda")
        && let Ok(device) = Device::new_cuda(0)
    {
        return device;
    }
    if cfg!(feature = "metal")
        && let Ok(device) = Device::new_metal(0)
    {
        return device;
    }
    Device::Cpu
}

fn open(what: &str, device: candle_core::Result<Device>) -> Result<Device> {
    device.map_err(|e| Error::Missing(format!("no {what} device can be opened: {}", Error::from(e))))
}

fn not_built(name: &str, feature: &str) -> Error {
    Error::argument(format!(
        "device \"{name}\" is not in this build; build with `cargo install ftrepl --features {feature}`, or use \"cpu\" or \"auto\""
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_explained() {
        assert!(parse("cpu").unwrap().is_cpu());
        assert!(parse("tpu").unwrap_err().to_string().contains("known are auto, cpu"));
        assert!(parse("cuda:x").unwrap_err().to_string().contains("a number"));
        #[cfg(not(feature = "cuda"))]
        assert!(parse("cuda:1").unwrap_err().to_string().contains("--features cuda"));
        assert_eq!(name(&Device::Cpu), "cpu");
    }
}
