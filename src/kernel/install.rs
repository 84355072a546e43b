//! Making the kernel known to Jupyter: a folder with a `kernel.json` in the user's data folder.

use crate::error::{Error, Result};
use serde_json::json;
use std::path::{Path, PathBuf};

/// The name by which Jupyter knows the kernel.
const NAME: &str = "ftrepl";

/// Where the kernel is described: in `prefix/share/jupyter` (an environment of Python), else in `JUPYTER_DATA_DIR`, else in the
/// platform's place for the user.
///
/// # Errors
/// The system has no place for it.
pub fn folder(prefix: Option<&Path>) -> Result<PathBuf> {
    let data = match (prefix, std::env::var_os("JUPYTER_DATA_DIR").filter(|folder| !folder.is_empty())) {
        (Some(prefix), _) => prefix.join("share/jupyter"),
        (None, Some(folder)) => PathBuf::from(folder),
        (None, None) => jupyter_zmq_client::dirs::user_data_dir().map_err(|error| {
            Error::Missing(format!("there is no folder for Jupyter's kernels: {error}; set JUPYTER_DATA_DIR"))
        })?,
    };
    Ok(data.join("kernels").join(NAME))
}

/// Writes the description; gives its folder. `program` is this program's path.
///
/// # Errors
/// The folder cannot be written.
pub fn install(program: &Path, prefix: Option<&Path>) -> Result<PathBuf> {
    let folder = folder(prefix)?;
    let spec = json!({
        "argv": [program, "kernel", "{connection_file}"],
        "display_name": "ftrepl",
        "language": "rhai",
        "interrupt_mode": "message",
        "metadata": { "debugger": false },
    });
    crate::files::write_text(&folder.join("kernel.json"), &format!("{spec:#}\n"))?;
    Ok(folder)
}

/// Removes the description; gives its folder, or nothing where there was none.
///
/// # Errors
/// It cannot be removed.
pub fn uninstall(prefix: Option<&Path>) -> Result<Option<PathBuf>> {
    let folder = folder(prefix)?;
    if !folder.exists() {
        return Ok(None);
    }
    std::fs::remove_dir_all(&folder).map_err(|e| Error::io("remove", &folder, e))?;
    Ok(Some(folder))
}

/// The program that the installed description starts, or nothing where none is installed.
///
/// # Errors
/// The description cannot be read.
pub fn installed(prefix: Option<&Path>) -> Result<Option<String>> {
    let file = folder(prefix)?.join("kernel.json");
    if !file.exists() {
        return Ok(None);
    }
    let text = crate::files::read_text(&file)?;
    let spec: serde_json::Value = serde_json::from_str(&text).map_err(|e| Error::format(&file, format!("is no JSON: {e}")))?;
    Ok(Some(spec["argv"][0].as_str().unwrap_or_default().to_string()))
}
