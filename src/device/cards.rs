//! The machine's NVIDIA cards and whether this build can use them.

use crate::machine::readable_size;
use std::path::Path;

/// The oldest driver that runs what CUDA 13.0 compiled.
const OLDEST_DRIVER: u32 = 580;

/// The driver's version and the cards' names, as the system tells them without CUDA.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cards {
    /// "580.65.06"; nothing where there is no driver.
    pub driver: Option<String>,
    /// The cards' names.
    pub names: Vec<String>,
}

/// What the driver tells in `/proc/driver/nvidia`.
pub fn found() -> Cards {
    found_in(Path::new("/proc/driver/nvidia"))
}

fn found_in(folder: &Path) -> Cards {
    let version = std::fs::read_to_string(folder.join("version")).unwrap_or_default();
    // "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun ...": the first word that is a number with a point.
    let is_version = |word: &&str| word.contains('.') && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let driver = version.lines().next().and_then(|line| line.split_whitespace().find(is_version)).map(str::to_string);
    let mut names: Vec<(std::path::PathBuf, String)> = Vec::new();
    for entry in std::fs::read_dir(folder.join("gpus")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path().join("information")).unwrap_or_default();
        if let Some(name) = text.lines().find_map(|line| line.strip_prefix("Model:")) {
            names.push((entry.path(), name.trim().to_string()));
        }
    }
    // By bus number, as CUDA counts them.
    names.sort();
    Cards { driver, names: names.into_iter().map(|(_, name)| name).collect() }
}

impl Cards {
    /// Whether this build can use them, in words.
    pub fn usable(&self) -> String {
        let built = cfg!(feature = "cuda");
        match &self.driver {
            None if built => "no: this machine has no NVIDIA driver".into(),
            None => "no: this machine has no NVIDIA driver, and this build no CUDA".into(),
            Some(_) if !built => {
                "not by this build: scripts/with-cuda cargo build --release --features cuda --target-dir target/cuda makes one that can"
                    .into()
            }
            Some(driver) if major(driver).is_some_and(|major| major < OLDEST_DRIVER) => {
                format!("no: driver {driver} is older than {OLDEST_DRIVER}, which CUDA 13.0 needs; update it")
            }
            Some(_) => opened(),
        }
    }
}

fn major(driver: &str) -> Option<u32> {
    driver.split('.').next()?.parse().ok()
}

/// The first card as CUDA opens it.
fn opened() -> String {
    let device = match super::parse("cuda") {
        Ok(device) => device,
        Err(error) => return format!("no: {error}"),
    };
    let memory = match super::memory(&device) {
        Some((free, total)) => format!("{} of {} free", readable_size(free), readable_size(total)),
        None => "memory unknown".into(),
    };
    let (name, capability) = described(&device);
    format!("yes: {} is {name}, compute capability {capability}, {memory}", super::name(&device))
}

#[cfg(feature = "cuda")]
fn described(device: &candle_core::Device) -> (String, String) {
    let unknown = || ("a card".to_string(), "unknown".to_string());
    let Ok(cuda) = device.as_cuda_device() else { return unknown() };
    let stream = cuda.cuda_stream();
    let context = stream.context();
    match (context.name(), context.compute_capability()) {
        (Ok(name), Ok((major, minor))) => (name, format!("{major}.{minor}")),
        _ => unknown(),
    }
}

#[cfg(not(feature = "cuda"))]
fn described(_: &candle_core::Device) -> (String, String) {
    ("a card".into(), "unknown".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn driver_and_cards_are_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(found_in(folder.path()), Cards::default());
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "version",
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\nGCC version: gcc 12.2.0\n",
        );
        write("gpus/0000:02:00.0/information", "Model: \t\t NVIDIA L4\nIRQ: 1\n");
        write("gpus/0000:01:00.0/information", "Model: \t\t NVIDIA H200\nIRQ: 2\n");
        let cards = found_in(folder.path());
        assert_eq!(cards, Cards { driver: Some("580.65.06".into()), names: vec!["NVIDIA H200".into(), "NVIDIA L4".into()] });
        assert!(Cards::default().usable().contains("no NVIDIA driver"));
        if cfg!(feature = "cuda") {
            let old = Cards { driver: Some("550.1".into()), names: vec![] };
            assert!(old.usable().contains("older than 580"), "{}", old.usable());
        } else {
            assert!(cards.usable().contains("--features cuda"));
        }
    }
}
