//! `ftrepl doctor`: what this machine and this build can do.

use super::Status;
use super::arguments::Common;
use super::output::Output;
use crate::kernel::install;
use crate::machine::{available_memory, resident_memory};
use serde_json::{Map, Value};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// A hub that does not answer in this time is as good as out of reach for a check.
const HUB_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) fn run(common: &Common, output: &Output) -> Status {
    let cards = crate::device::cards::found();
    let findings: Vec<(&str, Value)> = vec![
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH).into()),
        ("cpu features", cpu_features().into()),
        ("switches in use", switches().into()),
        ("threads", rayon::current_num_threads().into()),
        ("device", device(&common.device).into()),
        ("gpu support in this build", gpu_features().into()),
        ("nvidia driver", cards.driver.clone().unwrap_or_else(|| "none".into()).into()),
        ("nvidia cards", cards.names.clone().into()),
        ("nvidia cards usable", cards.usable().into()),
        ("memory of this process, MB", resident_memory().0.round().into()),
        ("memory available, MB", memory()),
        ("hub cache", path_and_state(hub_cache()).into()),
        ("hub", hub().into()),
        ("pip", pip().into()),
        ("jupyter kernel", jupyter_kernel().into()),
    ];
    if output.json() {
        let document: Map<String, Value> = findings.into_iter().map(|(name, value)| (name.replace(' ', "_"), value)).collect();
        output.document(&Value::Object(document));
        return Status::Done;
    }
    for (name, value) in findings {
        let shown = match &value {
            Value::String(text) => text.clone(),
            Value::Array(items) if items.is_empty() => "none".into(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        output.text(&format!("{name:28} {shown}"));
    }
    Status::Done
}

fn memory() -> Value {
    match available_memory() {
        Ok(Some(bytes)) => (bytes / 1_000_000).into(),
        Ok(None) => "unknown".into(),
        Err(error) => error.to_string().into(),
    }
}

fn jupyter_kernel() -> String {
    match install::installed(None) {
        Ok(Some(program)) => format!("installed, starts {program}"),
        Ok(None) => "not installed; `ftrepl jupyter install` installs it".into(),
        Err(error) => error.to_string(),
    }
}

fn cpu_features() -> Vec<&'static str> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_x86_feature_detected!($name) { found.push($name); })* };
        }
        detect!("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vnni", "avx512bf16");
        // The standard library does not know it yet: whether the processor has its tiles and bf16 products.
        let leaf = std::arch::x86_64::__cpuid_count(7, 0);
        if leaf.edx & (1 << 22) != 0 && leaf.edx & (1 << 24) != 0 {
            found.push("amx-bf16");
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! detect {
            ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name); })* };
        }
        detect!("neon", "fp16", "dotprod", "bf16", "i8mm");
    }
    if found.is_empty() {
        found.push("none that matter here");
    }
    found
}

/// The environment variables that are set and change what of the machine is used.
fn switches() -> Vec<String> {
    let names = ["FTREPL_SIMD", "FTREPL_AMX", "FTREPL_BF16", "FTREPL_FUSED", "FTREPL_MEMORY_CHECK", "FTREPL_MEMORY_LIMIT"];
    names.iter().filter_map(|name| Some(format!("{name}={}", std::env::var(name).ok()?))).collect()
}

fn gpu_features() -> Vec<&'static str> {
    let all = [
        ("cuda", cfg!(feature = "cuda")),
        ("cudnn", cfg!(feature = "cudnn")),
        ("nccl", cfg!(feature = "nccl")),
        ("metal", cfg!(feature = "metal")),
        ("accelerate", cfg!(feature = "accelerate")),
        ("mkl", cfg!(feature = "mkl")),
    ];
    all.into_iter().filter_map(|(name, built)| built.then_some(name)).collect()
}

fn device(name: &str) -> String {
    match crate::device::parse(name) {
        Ok(device) => crate::device::name(&device),
        Err(error) => error.to_string(),
    }
}

/// Where the Hugging Face libraries keep what they download.
fn hub_cache() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("HF_HUB_CACHE")
        .or_else(|| folder("HF_HOME").map(|home| home.join("hub")))
        .or_else(|| etcetera::home_dir().ok().map(|home| home.join(".cache/huggingface/hub")))
}

fn path_and_state(path: Option<PathBuf>) -> String {
    match path {
        Some(path) if path.is_dir() => path.display().to_string(),
        Some(path) => format!("{} (not there yet)", path.display()),
        None => "unknown: no home folder".into(),
    }
}

fn hub() -> String {
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| !matches!(value.as_str(), "" | "0")) {
        return "not asked: HF_HUB_OFFLINE is set".into();
    }
    let endpoint = std::env::var("HF_ENDPOINT").ok().filter(|value| !value.is_empty());
    let endpoint = endpoint.unwrap_or_else(|| "https://huggingface.co".into());
    let host = endpoint.split("://").last().unwrap_or(&endpoint).trim_end_matches('/').to_string();
    let default_port = if endpoint.starts_with("http://") { 80 } else { 443 };
    let address = if host.contains(':') { host.clone() } else { format!("{host}:{default_port}") };
    // Looking a name up has no timeout of its own, so it happens beside.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let reached = address.to_socket_addrs().ok().and_then(|mut all| all.next());
        let reached = reached.is_some_and(|to| TcpStream::connect_timeout(&to, HUB_TIMEOUT).is_ok());
        let _ = sender.send(reached);
    });
    match receiver.recv_timeout(HUB_TIMEOUT) {
        Ok(true) => format!("{host} answers"),
        _ => format!("{host} cannot be reached; models in folders, .gguf files and the cache still work"),
    }
}

fn pip() -> String {
    for program in ["pip3", "pip"] {
        if let Ok(result) = Command::new(program).arg("--version").output()
            && result.status.success()
        {
            let text = String::from_utf8_lossy(&result.stdout);
            return text.split(" from ").next().unwrap_or(&text).trim().to_string();
        }
    }
    "not found".into()
}
