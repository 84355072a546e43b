//! `ftrepl convert`: a script in cells as a notebook, and back. One source, the script; the notebook is made from it.

use super::Status;
use super::arguments::{Common, NotebookFormat, NotebookKernel};
use super::output::Output;
use crate::error::{Error, Result};
use crate::session::notebook::{self, Language};
use serde_json::{Value, json};
use std::path::Path;

/// Runs the command.
pub(super) fn run(
    file: &Path,
    (to, kernel): (NotebookFormat, NotebookKernel),
    target: Option<&Path>,
    common: &Common,
    output: &Output,
) -> Status {
    let suffix = match to {
        NotebookFormat::Ipynb => "ipynb",
        NotebookFormat::Rhai => "rhai",
    };
    let out = (common.out != Path::new(".")).then_some(&common.out);
    let target = match (target, out) {
        (Some(target), Some(out)) => out.join(target),
        (Some(target), None) => target.to_path_buf(),
        (None, Some(out)) => out.join(file.with_extension(suffix).file_name().unwrap_or_default()),
        (None, None) => file.with_extension(suffix),
    };
    if target == file && !file.is_dir() {
        return output.usage(&format!("{} is a .{suffix} file already; name another with --output", file.display()));
    }
    match convert(file, to, kernel).and_then(|text| crate::files::write_text(&target, &text)) {
        Ok(()) if output.json() => {
            output.document(&json!({ "written": target }));
            Status::Done
        }
        Ok(()) => {
            output.text(&format!("{} -> {}", file.display(), target.display()));
            Status::Done
        }
        Err(error) => output.failure(&error.to_string()),
    }
}

fn convert(file: &Path, to: NotebookFormat, kernel: NotebookKernel) -> Result<String> {
    let text = crate::files::read_text(file)?;
    match to {
        NotebookFormat::Ipynb if is_notebook(&text) => {
            Err(Error::format(file, "is a notebook already; --to rhai makes a script of it"))
        }
        NotebookFormat::Ipynb => {
            let language = match kernel {
                NotebookKernel::Ftrepl => Language::Rhai,
                NotebookKernel::Rust => Language::Rust,
            };
            Ok(notebook::of_script(&text, language))
        }
        NotebookFormat::Rhai => notebook::to_script(&text, file),
    }
}

fn is_notebook(text: &str) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|document| document.get("nbformat").is_some())
}
