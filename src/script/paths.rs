//! Where a script's files are: results go under `--out`, and are found there again.

use super::context::context;
use super::error::ScriptResult;
use rhai::NativeCallContext;
use std::path::PathBuf;

/// Where a file that a script writes goes: a relative path is below `--out`.
///
/// # Errors
/// The engine has no session.
pub fn output_path(call: &NativeCallContext, path: &str) -> ScriptResult<PathBuf> {
    Ok(context(call)?.out.join(path))
}

/// Where a file that a script reads is: the path as given, or below `--out` if it is only there.
///
/// # Errors
/// The engine has no session.
pub fn input_path(call: &NativeCallContext, path: &str) -> ScriptResult<PathBuf> {
    let given = PathBuf::from(path);
    let below = context(call)?.out.join(path);
    Ok(if !given.exists() && below.exists() { below } else { given })
}
