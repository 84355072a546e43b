//! Where the REPL keeps what it remembers: `$FTREPL_STATE`, else the user's state folder.

use crate::error::{Error, Result};
use etcetera::BaseStrategy;
use std::path::PathBuf;

/// The folder, made if it is not there.
///
/// # Errors
/// There is no place for it, or it cannot be made.
pub(super) fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("FTREPL_STATE").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let base = etcetera::choose_base_strategy().map_err(|_| Error::Missing("there is no home folder".into()))?;
            base.state_dir().unwrap_or_else(|| base.data_dir()).join("ftrepl")
        }
    };
    crate::files::create_folder(&folder)?;
    Ok(folder)
}
