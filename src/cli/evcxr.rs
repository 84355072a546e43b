//! `ftrepl jupyter install --rust`: what notebooks in Rust need to start soon.
//!
//! evcxr builds this library for its cells. A configuration beside the notebooks gives it a build folder that stays, and a first
//! notebook is run here, so that the user's find everything built.

use super::output::{self, Output};
use crate::error::{Error, Result};
use crate::kernel::client::run_cells;
use crate::model::hub::Cache;
use crate::session::notebook::SETUP;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program of evcxr that serves notebooks.
const PROGRAM: &str = "evcxr_jupyter";

/// Where to install, and for which notebooks.
#[derive(Debug)]
pub(super) struct Choice<'a> {
    /// The folder of the notebooks.
    pub(super) notebooks: &'a Path,
    /// A Python environment; for the user unless given.
    pub(super) prefix: Option<&'a Path>,
    /// Threads that compile and compute in a notebook; all cores unless given.
    pub(super) threads: Option<usize>,
}

fn find() -> Result<PathBuf> {
    let cargo =
        std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(cargo.map(|cargo| cargo.join("bin")));
    folders.map(|folder| folder.join(PROGRAM)).find(|program| program.is_file()).ok_or_else(|| {
        Error::Missing(format!(
            "{PROGRAM} is not installed; `cargo install --locked {PROGRAM}` installs it, in about six minutes"
        ))
    })
}

/// evcxr's settings: the build folder stays, and with it everything that was built.
fn configuration(build: &Path) -> String {
    let folder = toml::Value::String(build.display().to_string());
    format!(
        "# Made by `ftrepl jupyter install --rust`; evcxr reads it when a notebook in this folder starts.\n\
         [evcxr]\n\
         # Dependencies stay built between notebooks.\n\
         tmpdir = {folder}\n\
         # Unoptimised, a model would take minutes for a sentence.\n\
         opt_level = \"2\"\n"
    )
}

/// Sets how many threads compile and compute in a notebook, in the description that evcxr has written.
fn limit_threads(written: &str, threads: usize) -> Result<()> {
    let description = written.lines().filter_map(|line| line.strip_prefix("Writing ")).find(|path| path.ends_with("kernel.json"));
    let file = Path::new(description.ok_or_else(|| Error::Missing(format!("{PROGRAM} --install does not say what it wrote")))?);
    let wrong = |e: serde_json::Error| Error::format(file, format!("is no JSON: {e}"));
    let mut spec: serde_json::Value = serde_json::from_str(&crate::files::read_text(file)?).map_err(wrong)?;
    let count = threads.to_string();
    spec["env"] = json!({ "CARGO_BUILD_JOBS": count, "RAYON_NUM_THREADS": count });
    crate::files::write_text(file, &format!("{spec:#}\n"))
}

/// Installs; tells how long the building took and how long a notebook will take from now on.
pub(super) fn install(choice: &Choice<'_>, output: &Output) -> Result<()> {
    let program = find()?;
    let notebooks = choice.notebooks.canonicalize().map_err(|e| Error::io("find", choice.notebooks, e))?;
    let crate_folder = notebooks.join("..");
    if !crate_folder.join("Cargo.toml").is_file() {
        let place = notebooks.display();
        return Err(Error::Argument(format!(
            "{place} is not beside this project's Cargo.toml, which its notebooks depend on; name the project's folder `notebooks` with --notebooks"
        )));
    }
    let mut register = Command::new(&program);
    register.arg("--install");
    if let Some(prefix) = choice.prefix {
        register.env("JUPYTER_PATH", prefix.join("share/jupyter"));
    }
    let registered = register.output().map_err(|e| Error::io("start", &program, e))?;
    if !registered.status.success() {
        let words = String::from_utf8_lossy(&registered.stderr);
        return Err(Error::Missing(format!("{} --install fails: {}", program.display(), words.trim())));
    }
    let build = Cache::from_env()?.root().join("evcxr");
    let settings = notebooks.join("evcxr.toml");
    crate::files::write_text(&settings, &configuration(&build))?;
    if let Some(threads) = choice.threads {
        limit_threads(&String::from_utf8_lossy(&registered.stdout), threads)?;
    }
    output.note("building this library for notebooks; the first time takes minutes");
    let cells = [SETUP, "lab.run(\"1 + 1\")", "lab.run(\"2 + 2\")"];
    let arguments = ["--control_file"];
    let told = |text: &str| output::eprintln(text);
    let first = run_cells(&program, &arguments, &notebooks, &cells, told)?;
    let again = run_cells(&program, &arguments, &notebooks, &cells, told)?;
    let seconds = |duration: std::time::Duration| (duration.as_secs_f64() * 10.0).round() / 10.0;
    let (built, start, cell) = (seconds(first.first), seconds(again.first), seconds(again.last));
    match output.json() {
        true => output.document(&json!({
            "program": program, "configuration": settings, "build_folder": build,
            "first_start_s": built, "start_s": start, "cell_s": cell,
        })),
        false => output.text(&format!(
            "{} serves the notebooks of {}\nthe first start took {built} s; from now on a notebook starts in {start} s, and a small cell takes {cell} s\nsettings: {}",
            program.display(),
            notebooks.display(),
            settings.display()
        )),
    }
    Ok(())
}
