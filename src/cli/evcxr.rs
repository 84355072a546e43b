//! `ftrepl jupyter install --rust`: what notebooks in Rust need to start soon.
//!
//! evcxr builds this library for its cells. Jupyter starts it by way of this program, which gives it a build folder that stays and that no
//! other notebook uses meanwhile. A configuration beside the notebooks says how to build, and a first notebook is run here, so that the
//! user's find everything built.

use super::build_folder::Taken;
use super::output::{self, Output};
use crate::error::{Error, Result};
use crate::kernel::client::run_cells;
use crate::kernel::relay::relay;
use crate::model::hub::Cache;
use crate::session::notebook::SETUP;
use serde_json::{Map, json};
use std::ffi::OsString;
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

/// What the settings beside our notebooks begin with.
const HEADER: &str = "# Made by `ftrepl jupyter install --rust`";

/// evcxr's settings. `offline`: of the versions that are there already, so
/// that a notebook starts without a network, and what was built is not built again because a newer version has come out.
fn configuration(offline: bool) -> String {
    format!(
        "{HEADER}; evcxr reads it when a notebook in this folder starts.\n\
         [evcxr]\n\
         # Nothing is fetched; a notebook with further dependencies begins with a line `:offline 0`.\n\
         offline_mode = {offline}\n\
         # Unoptimised, a model would take minutes for a sentence.\n\
         opt_level = \"2\"\n"
    )
}

/// Cargo's settings for what a notebook depends on: evcxr compiles everything as it compiles a cell, with checks in every loop, which
/// makes training take twice as long. Cells keep the checks.
const PROFILE: &str = "# Made by `ftrepl jupyter install --rust`, for what notebooks depend on.\n\
    [profile.dev.package.\"*\"]\n\
    opt-level = 3\n\
    debug-assertions = false\n\
    overflow-checks = false\n";

/// Variables of a kernel's environment.
type Variables = Vec<(&'static str, String)>;

/// Where a system looks for libraries that a program loads.
const LIBRARY_PATH: &str = if cfg!(target_os = "macos") { "DYLD_FALLBACK_LIBRARY_PATH" } else { "LD_LIBRARY_PATH" };

/// Where the compiler keeps the standard library. Cells are libraries that load it, and they say where it is by a path from the folder
/// they were built in; evcxr moves them one folder up, so that the path misses wherever both lie below the user's folder.
fn standard_library(notebooks: &Path) -> Result<String> {
    let mut compiler = Command::new("rustc");
    compiler.args(["--print", "target-libdir"]).current_dir(notebooks);
    let told = compiler.output().map_err(|e| Error::io("start", "rustc", e))?;
    if !told.status.success() {
        return Err(Error::Missing(format!("rustc --print target-libdir: {}", String::from_utf8_lossy(&told.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&told.stdout).trim().to_string())
}

/// What the kernel's environment must hold; `before` is what is in the library path already.
fn environment(notebooks: &Path, threads: Option<usize>, before: &str) -> Result<Variables> {
    let mut paths = vec![standard_library(notebooks)?];
    paths.extend((!before.is_empty()).then(|| before.to_string()));
    let mut variables = vec![(LIBRARY_PATH, paths.join(":"))];
    if let Some(threads) = threads {
        variables.extend(["CARGO_BUILD_JOBS", "RAYON_NUM_THREADS"].map(|name| (name, threads.to_string())));
    }
    Ok(variables)
}

/// Our command that starts evcxr.
const LAUNCH: &str = "rust-kernel";

/// Sets variables in the description that evcxr has written, and has it started by `launcher`.
fn set_environment(written: &str, launcher: &Path, variables: Variables) -> Result<()> {
    let description = written.lines().filter_map(|line| line.strip_prefix("Writing ")).find(|path| path.ends_with("kernel.json"));
    let file = Path::new(description.ok_or_else(|| Error::Missing(format!("{PROGRAM} --install does not say what it wrote")))?);
    let wrong = |e: serde_json::Error| Error::format(file, format!("is no JSON: {e}"));
    let mut spec: serde_json::Value = serde_json::from_str(&crate::files::read_text(file)?).map_err(wrong)?;
    spec["env"] = variables.into_iter().map(|(name, value)| (name.to_string(), value.into())).collect::<Map<_, _>>().into();
    let evcxr = spec["argv"].as_array().cloned().unwrap_or_default();
    let command = [launcher.display().to_string().into(), LAUNCH.into()].into_iter().chain(evcxr);
    spec["argv"] = command.collect::<Vec<serde_json::Value>>().into();
    crate::files::write_text(file, &format!("{spec:#}\n"))
}

/// Where build folders are.
fn place() -> Result<PathBuf> {
    Ok(Cache::from_env()?.root().join("evcxr"))
}

/// What stands before the connection file in the command that Jupyter gives.
const CONNECTION: &str = "--control_file";

/// Runs evcxr, in a build folder of its own where the notebooks here are ours, else in the one that evcxr chooses, until it ends.
pub(super) fn launch(command: &[OsString]) -> Result<()> {
    let [program, arguments @ ..] = command else { return Err(Error::Argument("the kernel's program is missing".into())) };
    let ours = std::fs::read_to_string("evcxr.toml").is_ok_and(|text| text.starts_with(HEADER));
    let folder = if ours { Some(Taken::take(&place()?)?.keep()?) } else { None };
    let connection = arguments.windows(2).find(|pair| pair[0] == CONNECTION).map(|pair| Path::new(&pair[1]));
    let evcxr = |inner: Option<&Path>| {
        let mut evcxr = Command::new(program);
        for argument in arguments {
            match inner {
                Some(inner) if connection.is_some_and(|outer| outer.as_os_str() == argument) => evcxr.arg(inner),
                _ => evcxr.arg(argument),
            };
        }
        evcxr.envs(folder.iter().map(|folder| ("EVCXR_TMPDIR", folder)));
        end_with_this_process(&mut evcxr);
        evcxr
    };
    let status = match connection {
        Some(connection) => relay(connection, |inner| evcxr(Some(inner)))?,
        None => evcxr(None).status().map_err(|e| Error::io("start", Path::new(program), e))?,
    };
    match status.success() {
        true => Ok(()),
        false => Err(Error::Missing(format!("{} has ended: {status}", Path::new(program).display()))),
    }
}

/// Has a program killed when this process ends before it, however that comes about. Elsewhere than on Linux Jupyter sees to it, which
/// ends all processes of a kernel together.
fn end_with_this_process(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        use std::os::unix::process::CommandExt;
        let set = || match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        };
        // SAFETY: between fork and exec only a system call is made, which allocates nothing.
        unsafe { command.pre_exec(set) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
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
    let launcher = super::jupyter::program()?;
    let place = place()?;
    let settings = notebooks.join("evcxr.toml");
    crate::files::write_text(&settings, &configuration(false))?;
    // Cargo reads it on its way up from the build folders, in which evcxr writes its own.
    let profile = place.join(".cargo");
    std::fs::create_dir_all(&profile).map_err(|e| Error::io("create the folder", &profile, e))?;
    crate::files::write_text(&profile.join("config.toml"), PROFILE)?;
    // Jupyter puts in the value that the variable has when the kernel starts.
    let kept = environment(&notebooks, choice.threads, &format!("${{{LIBRARY_PATH}}}"))?;
    set_environment(&String::from_utf8_lossy(&registered.stdout), &launcher, kept)?;
    output.note("building this library for notebooks; the first time takes minutes");
    let cells = [SETUP, "lab.run(\"1 + 1\")", "lab.run(\"2 + 2\")"];
    let variables = environment(&notebooks, choice.threads, &std::env::var(LIBRARY_PATH).unwrap_or_default())?;
    let kernel = || {
        let mut kernel = Command::new(&launcher);
        kernel
            .arg(LAUNCH)
            .arg(&program)
            .arg(CONNECTION)
            .current_dir(&notebooks)
            .envs(variables.iter().map(|(name, value)| (name, value)));
        kernel
    };
    let told = |text: &str| output::eprintln(text);
    let first = run_cells(kernel(), &cells, told)?;
    crate::files::write_text(&settings, &configuration(true))?;
    let again = run_cells(kernel(), &cells, told)?;
    let seconds = |duration: std::time::Duration| (duration.as_secs_f64() * 10.0).round() / 10.0;
    let (built, start, cell) = (seconds(first.first), seconds(again.first), seconds(again.last));
    match output.json() {
        true => output.document(&json!({
            "program": program, "configuration": settings, "build_folder": place.join("build"),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_told_where_the_standard_library_is() {
        let variables = environment(Path::new("."), Some(3), "/opt/lib").unwrap();
        let of = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.clone()).unwrap();
        let library = of(LIBRARY_PATH);
        let (folder, before) = library.split_once(':').unwrap();
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().to_string());
        assert!(names.into_iter().any(|name| name.starts_with("libstd-") && !name.ends_with(".rlib")), "{folder}");
        assert_eq!((before, of("CARGO_BUILD_JOBS").as_str(), of("RAYON_NUM_THREADS").as_str()), ("/opt/lib", "3", "3"));
        // An empty part would name the folder that the kernel runs in.
        assert!(!environment(Path::new("."), None, "").unwrap()[0].1.contains(':'));
    }

    #[test]
    fn variables_and_the_launcher_are_added_to_what_evcxr_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kernel.json");
        std::fs::write(&file, r#"{"argv": ["evcxr_jupyter"], "language": "rust"}"#).unwrap();
        let written = format!("Writing {}\nWriting {}\n", folder.path().join("kernel.js").display(), file.display());
        set_environment(&written, Path::new("/bin/ftrepl"), vec![("A", "1".into()), ("B", "x:y".into())]).unwrap();
        let spec: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(
            spec,
            json!({
                "argv": ["/bin/ftrepl", "rust-kernel", "evcxr_jupyter"], "language": "rust", "env": { "A": "1", "B": "x:y" },
            })
        );
        assert!(
            set_environment("nothing", Path::new("x"), Vec::new())
                .unwrap_err()
                .to_string()
                .contains("does not say what it wrote")
        );
    }
}
