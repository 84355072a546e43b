//! Where the REPL keeps what it remembers: `$FTREPL_STATE`, else the user's state folder.

use etcetera::BaseStrategy;
use std::path::PathBuf;

/// The folder, made if it is not there; `None` where no place can be found or made.
pub(super) fn folder() -> Option<PathBuf> {
    let folder = match std::env::var_os("FTREPL_STATE").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => {
            let base = etcetera::choose_base_strategy().ok()?;
            base.state_dir().unwrap_or_else(|| base.data_dir()).join("ftrepl")
        }
    };
    std::fs::create_dir_all(&folder).ok()?;
    Some(folder)
}
