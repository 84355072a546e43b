//! Files are written whole or not at all: to a temporary name in the same folder, flushed, renamed.

use crate::error::{Error, Result};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Where what can be made or fetched again is kept: `FTREPL_CACHE`, else `ftrepl` in the system's cache folder (`XDG_CACHE_HOME`).
///
/// # Errors
/// Neither is set and the user has no home folder.
pub fn cache_folder() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("FTREPL_CACHE").filter(|root| !root.is_empty()) {
        return std::path::absolute(&root).map_err(|e| Error::io("find", Path::new(&root), e));
    }
    match etcetera::choose_base_strategy() {
        Ok(strategy) => Ok(etcetera::BaseStrategy::cache_dir(&strategy).join("ftrepl")),
        Err(_) => Err(Error::Missing("there is no home folder to keep models in; set FTREPL_CACHE to a folder".into())),
    }
}

/// Writes a file through `fill`; the file appears under its name only when `fill` and the flush succeeded.
///
/// # Errors
/// The folder cannot be created or written, the disk is full, or `fill` fails; nothing is left behind then.
pub fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if let Ok(found) = std::fs::metadata(path) {
        if found.is_dir() {
            return Err(Error::argument(format!("cannot write {}: it is a folder; give the name of a file", path.display())));
        }
        if !found.is_file() {
            return write_device(path, fill);
        }
    }
    // A link stays a link: what it points to is replaced.
    let target = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_symlink() => std::fs::canonicalize(path).map_err(|e| Error::io("write", path, e))?,
        _ => path.to_path_buf(),
    };
    let path = target.as_path();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_folder(folder)?;
    let mut file =
        tempfile::Builder::new().prefix(".ftrepl-").tempfile_in(folder).map_err(|e| Error::io("write into", folder, e))?;
    {
        let mut writer = BufWriter::new(file.as_file_mut());
        fill(&mut writer)?;
        writer.flush().map_err(|e| Error::io("write", path, e))?;
    }
    file.as_file().sync_all().map_err(|e| Error::io("write", path, e))?;
    // A temporary file is private to its owner; a result is as readable as any file the user makes.
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let permissions = std::fs::Permissions::from_mode(0o644);
        file.as_file().set_permissions(permissions).map_err(|e| Error::io("write", path, e))?;
    }
    file.persist(path).map_err(|e| Error::io("write", path, e.error))?;
    Ok(())
}

/// Writes to a device or a pipe, which must not be replaced by a file.
fn write_device(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let device = std::fs::OpenOptions::new().write(true).open(path).map_err(|e| Error::io("write", path, e))?;
    let mut writer = BufWriter::new(device);
    fill(&mut writer)?;
    writer.flush().map_err(|e| Error::io("write", path, e))
}

/// Creates a folder and those it lies in.
///
/// # Errors
/// Something on the way is a file, or the system refuses.
pub fn create_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| match folder.ancestors().find(|part| part.exists()) {
        Some(part) if !part.is_dir() => Error::argument(format!(
            "cannot create the folder {}: {} is not a folder; choose another place",
            folder.display(),
            part.display()
        )),
        _ => Error::io("create the folder", folder, error),
    })
}

/// Writes text to a file, whole or not at all.
///
/// # Errors
/// As [`write_whole`].
pub fn write_text(path: &Path, text: &str) -> Result<()> {
    write_whole(path, |out| out.write_all(text.as_bytes()).map_err(|e| Error::io("write", path, e)))
}

/// Reads a text file.
///
/// # Errors
/// The file is missing, unreadable or not UTF-8.
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
        let line = 1 + before.filter(|byte| **byte == b'\n').count();
        Error::format(path, format!("line {line}: not valid UTF-8; save the file as UTF-8"))
    })
}

/// The files below a folder, by their paths from it with `/` between the parts, sorted; hidden ones are left out.
pub fn names_below(folder: &Path, names: &mut Vec<String>) {
    fn walk(folder: &Path, prefix: &str, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path();
            match name.starts_with('.') {
                true => {}
                // A link to a folder may lead back up.
                false if path.is_dir() && !path.is_symlink() => walk(&path, &format!("{prefix}{name}/"), names),
                false if path.is_file() => names.push(format!("{prefix}{name}")),
                false => {}
            }
        }
    }
    walk(folder, "", names);
    names.sort();
}
