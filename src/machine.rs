//! What the machine has: the memory of this process, and what is left for it.
//!
//! `FTREPL_MEMORY_LIMIT` ("2GB", "500MB", "1.5GiB") says how much the process may use instead of asking the system;
//! `FTREPL_MEMORY_CHECK=off` lets work start that is known not to fit.

use crate::error::{Error, Result};

/// Resident memory now and at its highest, in MB of a million bytes.
pub fn resident_memory() -> (f64, f64) {
    #[cfg(target_os = "linux")]
    if let Ok(status) = std::fs::read_to_string("/proc/self/status")
        && let (Some(now), Some(peak)) = (field(&status, "VmRSS:"), field(&status, "VmHWM:"))
    {
        return (now as f64 / 1e6, peak as f64 / 1e6);
    }
    #[cfg(unix)]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: getrusage fills the struct it is given; all-zero bytes are a valid rusage in case it fails.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        // macOS counts bytes, the others kilobytes.
        let unit = if cfg!(target_os = "macos") { 1.0 } else { 1024.0 };
        let peak = usage.ru_maxrss as f64 * unit / 1e6;
        (peak, peak)
    }
    #[cfg(not(unix))]
    (0.0, 0.0)
}

/// The bytes that this process can still take, beside what it has: what `FTREPL_MEMORY_LIMIT` leaves, else the least of what the
/// system and the control groups that the process is in have free. `None` where the system does not say.
///
/// # Errors
/// `FTREPL_MEMORY_LIMIT` is no number of bytes.
pub fn available_memory() -> Result<Option<u64>> {
    let Some(text) = variable("FTREPL_MEMORY_LIMIT") else { return Ok(system_memory()) };
    match parse_size(&text) {
        Some(limit) => Ok(Some(limit.saturating_sub((resident_memory().0 * 1e6) as u64))),
        None => Err(Error::argument(format!(
            "FTREPL_MEMORY_LIMIT must be a number of bytes such as \"8GB\", \"500MB\" or \"1.5GiB\", but it is \"{text}\"; \
             unset it to ask the system"
        ))),
    }
}

/// Whether work that does not fit is refused: not with `FTREPL_MEMORY_CHECK=off`.
///
/// # Errors
/// `FTREPL_MEMORY_CHECK` is neither "on" nor "off".
pub fn checks_memory() -> Result<bool> {
    match variable("FTREPL_MEMORY_CHECK").as_deref() {
        None | Some("on") => Ok(true),
        Some("off") => Ok(false),
        Some(other) => Err(Error::argument(format!("FTREPL_MEMORY_CHECK must be \"on\" or \"off\", but it is \"{other}\""))),
    }
}

/// The variables of the environment that choose instructions and operations, and what each may say.
const SWITCHES: [(&str, &[&str]); 4] = [
    ("FTREPL_SIMD", &["avx512", "avx2", "off"]),
    ("FTREPL_AMX", &["on", "off"]),
    ("FTREPL_BF16", &["on", "off"]),
    ("FTREPL_FUSED", &["1", "0"]),
];

/// Checks what the environment says about instructions and operations: a slip would otherwise compute what nobody asked for.
///
/// # Errors
/// A variable says what it may not.
pub fn check_switches() -> Result<()> {
    for (name, allowed) in SWITCHES {
        if let Some(value) = variable(name).filter(|value| !allowed.contains(&value.as_str())) {
            let allowed: Vec<String> = allowed.iter().map(|value| format!("\"{value}\"")).collect();
            let allowed = allowed.join(" or ");
            return Err(Error::argument(format!("{name} must be {allowed}, or unset, but it is \"{value}\"")));
        }
    }
    Ok(())
}

/// A variable of the environment; one that is empty counts as unset.
fn variable(name: &str) -> Option<String> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
}

/// A number of bytes as people write it: "573 MB", "26.2 GB".
pub fn readable_size(bytes: u64) -> String {
    let bytes = bytes as f64;
    match bytes {
        b if b < 1e6 => format!("{:.0} kB", b / 1e3),
        // As 1000 MB it would be a GB.
        b if b < 999.5e6 => format!("{:.0} MB", b / 1e6),
        b if b < 99.95e9 => format!("{:.1} GB", b / 1e9),
        b => format!("{:.0} GB", b / 1e9),
    }
}

/// Bytes from "2GB", "500 MB", "1.5GiB", "1000000"; `None` for anything else.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let unit = match text[end..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" | "k" => 1e3,
        "mb" | "m" => 1e6,
        "gb" | "g" => 1e9,
        "tb" | "t" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some((number * unit) as u64)
}

/// A field of a file such as /proc/meminfo, in bytes.
#[cfg(target_os = "linux")]
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
}

#[cfg(target_os = "linux")]
fn system_memory() -> Option<u64> {
    let of_machine = field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:");
    of_machine.into_iter().chain(cgroup_memory()).min()
}

/// What the process's control group, or one around it, leaves. Files that are only cached give way and do not count as used.
#[cfg(target_os = "linux")]
fn cgroup_memory() -> Option<u64> {
    use std::path::{Path, PathBuf};
    let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let cached = |folder: &Path| -> u64 {
        let stat = std::fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
        let of = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok()).unwrap_or(0);
        of("inactive_file ") + of("active_file ")
    };
    let left = |folder: &Path, limit: &str, used: &str| {
        let used = number(folder.join(used))?.saturating_sub(cached(folder));
        Some(number(folder.join(limit))?.saturating_sub(used))
    };
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let group = |controllers: &str| {
        groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let found = parts.next()?;
            (found.split(',').any(|name| name == controllers)).then(|| parts.next().unwrap_or("/").trim_start_matches('/'))
        })
    };
    // In a container the group's path is that of the machine outside, and the files are at the top.
    let all = |root: &str, group: &str, limit: &str, used: &str| {
        let folders: Vec<PathBuf> = Path::new(group).ancestors().map(|folder| Path::new(root).join(folder)).collect();
        folders.iter().filter_map(|folder| left(folder, limit, used)).min()
    };
    let second = group("").and_then(|group| all("/sys/fs/cgroup", group, "memory.max", "memory.current"));
    let first =
        group("memory").and_then(|group| all("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", "memory.usage_in_bytes"));
    second.into_iter().chain(first).min()
}

/// All that the machine has: what is free of it changes by the second.
#[cfg(target_os = "macos")]
fn system_memory() -> Option<u64> {
    let (mut bytes, mut length) = (0u64, size_of::<u64>());
    // SAFETY: the name ends in a zero, and the value has the size that is given.
    let failed =
        unsafe { libc::sysctlbyname(c"hw.memsize".as_ptr(), (&raw mut bytes).cast(), &raw mut length, std::ptr::null_mut(), 0) };
    (failed == 0).then_some(bytes)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn system_memory() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written_as_people_do() {
        let read = ["2GB", "500 MB", "1.5GiB", "1000", "2 parsecs", "GB"].map(parse_size);
        assert_eq!(read, [Some(2_000_000_000), Some(500_000_000), Some(1_610_612_736), Some(1000), None, None]);
        assert_eq!(["1.5.2GB", "-1GB", "1e9", "0x10", ".", "inf"].map(parse_size), [None; 6]);
        let written = [12_300, 573_400_000, 999_600_000, 26_240_000_000, 140_000_000_000].map(readable_size);
        assert_eq!(written, ["12 kB", "573 MB", "1.0 GB", "26.2 GB", "140 GB"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_system_says_what_is_left() {
        assert!(available_memory().unwrap().is_some_and(|bytes| bytes > 1_000_000));
    }
}
