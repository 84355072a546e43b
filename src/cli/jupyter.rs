//! `ftrepl jupyter` and `ftrepl kernel`: the kernel that notebooks start.

use super::arguments::{Common, JupyterAction};
use super::output::Output;
use super::{CALL_LEVELS, Status, evcxr};
use crate::error::{Error, Result};
use crate::kernel::{self, install};
use crate::session::Session;
use serde_json::json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Installs, removes or tells about the kernel.
pub(super) fn run(action: JupyterAction, rust: Option<evcxr::Choice<'_>>, prefix: Option<&Path>, output: &Output) -> Status {
    let done = match (action, rust) {
        (JupyterAction::Install, Some(choice)) => evcxr::install(&choice, output),
        (_, Some(_)) => return output.usage("--rust goes with `install`; `evcxr_jupyter --uninstall` removes evcxr's kernel"),
        (action, None) => act(action, prefix, output),
    };
    match done {
        Ok(()) => Status::Done,
        Err(error) => output.failure(&error.to_string()),
    }
}

/// Starts the kernel of a notebook in Rust.
pub(super) fn start_rust(command: &[OsString], output: &Output) -> Status {
    match evcxr::launch(command) {
        Ok(()) => Status::Done,
        Err(error) => output.failure(&error.to_string()),
    }
}

/// This program, which Jupyter is to start.
pub(super) fn program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|e| Error::io("find", "this program", e))
}

fn act(action: JupyterAction, prefix: Option<&Path>, output: &Output) -> Result<()> {
    let folder = install::folder(prefix)?;
    let (words, document) = match action {
        JupyterAction::Install => {
            let program = program()?;
            install::install(&program, prefix)?;
            let words = format!(
                "the kernel \"ftrepl\" is installed in {}\nit starts {}; `jupyter lab` offers it",
                folder.display(),
                program.display()
            );
            (words, json!({ "installed": true, "folder": folder, "program": program }))
        }
        JupyterAction::Uninstall => {
            let removed = install::uninstall(prefix)?.is_some();
            let words = match removed {
                true => format!("removed {}", folder.display()),
                false => format!("there is no kernel in {}", folder.display()),
            };
            (words, json!({ "removed": removed, "folder": folder }))
        }
        JupyterAction::Status => {
            let installed = install::installed(prefix)?;
            let words = match &installed {
                None => format!("not installed in {}; `ftrepl jupyter install` installs it", folder.display()),
                Some(program) if !Path::new(program).exists() => {
                    format!("installed in {}, but {program} is not there; `ftrepl jupyter install` mends it", folder.display())
                }
                Some(program) => format!("installed in {}; it starts {program}", folder.display()),
            };
            (words, json!({ "installed": installed.is_some(), "folder": folder, "program": installed }))
        }
    };
    match output.json() {
        true => output.document(&document),
        false => output.text(&words),
    }
    Ok(())
}

/// Serves one notebook.
pub(super) fn serve(connection: &Path, common: &Common, output: &Output) -> Status {
    #[cfg(unix)]
    // SAFETY: to ignore a signal has no conditions. Jupyter interrupts by a message; a signal to the whole terminal is not for us.
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_IGN);
    }
    let mut builder = Session::builder()
        .seed(common.seed)
        .device(&common.device)
        .out(&common.out)
        .parameters(common.parameters.iter().cloned())
        .call_levels(CALL_LEVELS);
    if let Some(threads) = common.threads {
        builder = builder.threads(threads);
    }
    match kernel::run(connection, builder) {
        Ok(()) => Status::Done,
        Err(error) => output.failure(&error.to_string()),
    }
}
