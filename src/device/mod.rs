//! Where tensors live: from the words users write ("auto", "cpu", "cuda:1", "metal") to a candle device.

pub mod cards;
#[cfg(feature = "cuda")]
mod cuda;

use crate::error::{Error, Result};
use crate::machine::readable_size;
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
        "auto" if kind == name => Ok(automatic()),
        "cpu" => Ok(Device::Cpu),
        "cuda" | "gpu" if cfg!(feature = "cuda") => open("CUDA", open_cuda(ordinal)),
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
        && let Ok(device) = open_cuda(0)
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

/// A CUDA device, the same one for all who ask: tensors of two devices on one card do not go together. All work on it is in one order,
/// whichever thread asks for it.
#[cfg(feature = "cuda")]
fn open_cuda(ordinal: usize) -> candle_core::Result<Device> {
    use std::collections::HashMap;
    use std::sync::{Mutex, PoisonError};
    static OPEN: Mutex<Option<HashMap<usize, Device>>> = Mutex::new(None);
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    if let Some(device) = open.get(&ordinal) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda_with_stream(ordinal)?;
    cuda::without_events(device.as_cuda_device()?);
    cuda::keep_freed(device.as_cuda_device()?)?;
    open.insert(ordinal, device.clone());
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(ordinal: usize) -> candle_core::Result<Device> {
    Device::new_cuda(ordinal)
}

/// Free and total bytes of a device's memory; nothing where that is not known, as on the CPU.
pub fn memory(device: &Device) -> Option<(u64, u64)> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::free_and_total(device).ok();
    }
    let _ = device;
    None
}

/// Megabytes (of a million bytes) that tensors hold on a device now, and the most that they held; nothing where that is not known, as on
/// the CPU.
pub fn used_memory(device: &Device) -> Option<(f64, f64)> {
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = device {
        return cuda::used(device).ok().map(|(now, most)| (now as f64 / 1e6, most as f64 / 1e6));
    }
    let _ = device;
    None
}

/// What to tell about an error that says that a device's memory is full; nothing about others.
pub fn out_of_memory(message: &str) -> Option<String> {
    let full = ["CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory"];
    if !full.iter().any(|text| message.contains(text)) {
        return None;
    }
    let needed = message.split_once(ALLOCATION).and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok());
    let needed =
        needed.map_or_else(|| "more was needed at once".into(), |bytes| format!("{} were needed at once", readable_size(bytes)));
    let left = match open_cuda(0).ok().and_then(|device| memory(&device)) {
        Some((free, total)) => format!("{} of {} are free now", readable_size(free), readable_size(total)),
        None => "how much is free is not known".into(),
    };
    Some(format!(
        "the device is out of memory: {needed}, {left}. The model and the variables are still there. Less is needed with a smaller \
         per_device_train_batch_size or max_length, gradient_checkpointing: true, dtype: \"bf16\", or LoRA instead of full fine-tuning"
    ))
}

/// What stands before the number of bytes in the error of an allocation that failed.
pub const ALLOCATION: &str = "allocation of bytes: ";

fn open(what: &str, device: candle_core::Result<Device>) -> Result<Device> {
    device.map_err(|e| Error::Missing(format!("no {what} device can be opened: {}", Error::from(e))))
}

fn not_built(name: &str, feature: &str) -> Error {
    let build = match feature {
        "cuda" => "scripts/with-cuda cargo build --release --features cuda --target-dir target/cuda",
        _ => "cargo build --release --features metal",
    };
    Error::argument(format!("device \"{name}\" is not in this build; build with `{build}`, or use \"cpu\" or \"auto\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_explained() {
        assert!(parse("cpu").unwrap().is_cpu());
        assert!(parse("tpu").unwrap_err().to_string().contains("known are auto, cpu"));
        assert!(parse("cuda:x").unwrap_err().to_string().contains("a number"));
        assert!(parse("auto:1").unwrap_err().to_string().contains("unknown device \"auto:1\""));
        #[cfg(not(feature = "cuda"))]
        assert!(parse("cuda:1").unwrap_err().to_string().contains("--features cuda"));
        assert_eq!(name(&Device::Cpu), "cpu");
    }

    #[test]
    fn a_full_device_is_explained() {
        let text =
            out_of_memory("kernel: allocation of bytes: 2000000000 failed: DriverError(CUDA_ERROR_OUT_OF_MEMORY)").unwrap();
        assert!(text.contains("2.0 GB were needed") && text.contains("gradient_checkpointing"), "{text}");
        assert!(out_of_memory("shape mismatch").is_none());
    }
}
