//! Files are written whole or not at all: to a temporary name in the same folder, flushed, renamed.

use crate::error::{Error, Result};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes a file through `fill`; the file appears under its name only when `fill` and the flush succeeded.
///
/// # Errors
/// The folder cannot be created or written, the disk is full, or `fill` fails; nothing is left behind then.
pub fn write_whole(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
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
    std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))
}
