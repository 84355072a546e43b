//! The kernel, driven by Jupyter's own client and by jupyter_kernel_test: Python's pip installs them beside the build.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const PYTHON: &str = if cfg!(windows) { "python" } else { "python3" };

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel")
}

/// The folder with Jupyter's packages, installed once a build folder.
fn packages() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let wanted = std::fs::read_to_string(here().join("requirements.txt")).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("jupyter");
        let installed = folder.join("installed.txt");
        if std::fs::read_to_string(&installed).is_ok_and(|text| text == wanted) {
            return folder;
        }
        let _ = std::fs::remove_dir_all(&folder);
        let output = Command::new(PYTHON)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(&folder)
            .arg("-r")
            .arg(here().join("requirements.txt"))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        std::fs::write(installed, wanted).unwrap();
        folder
    })
}

/// Runs a file of Python tests with the kernel installed in a folder of its own.
#[track_caller]
fn passes(file: &str) {
    passes_with(file, &[]);
}

/// As [`passes`], with more arguments for the installation.
#[track_caller]
fn passes_with(file: &str, arguments: &[&str]) {
    let place = tempfile::tempdir().unwrap();
    let mut install = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
    install.args(["jupyter", "install", "--prefix"]).arg(place.path()).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    // Cargo names the compiler's libraries there, which a user's shell does not.
    let installed = install.env_remove("LD_LIBRARY_PATH").status().unwrap();
    assert!(installed.success());
    let output = Command::new(PYTHON)
        .arg(here().join(file))
        .current_dir(place.path())
        .env_remove("LD_LIBRARY_PATH")
        .env("PYTHONPATH", packages())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("JUPYTER_PATH", place.path().join("share/jupyter"))
        .env("JUPYTER_RUNTIME_DIR", place.path().join("runtime"))
        .env("JUPYTER_PLATFORM_DIRS", "1")
        .env("FTREPL_NOTEBOOKS", here().join("../../notebooks"))
        .env("FTREPL_PROGRAM", env!("CARGO_BIN_EXE_ftrepl"))
        .env("FTREPL_FEATURES", if cfg!(feature = "rust-cells") { "rust" } else { "" })
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}");
    // That tests ran at all, and that none was left out.
    assert!(told.contains("OK") && told.contains("Ran ") && !told.contains("Ran 0"), "{told}");
    assert!(!told.contains("skipped"), "{told}");
}

#[test]
fn the_suite_of_jupyter_passes() {
    passes("suite.py");
}

#[test]
fn cells_behave_as_users_expect() {
    passes("behaviour.py");
}

/// As between Jupyter and evcxr.
#[cfg(unix)]
#[test]
fn another_kernel_has_our_progress() {
    passes("relay.py");
}

#[test]
fn the_notebooks_are_those_of_the_scripts() {
    passes("notebooks.py");
}

#[test]
#[ignore = "needs evcxr_jupyter, and builds this library once more: minutes"]
fn notebooks_in_rust_have_a_lab() {
    passes_with("evcxr.py", &["--rust"]);
}

/// With evcxr, which compiles each cell: minutes.
#[cfg(feature = "rust-cells")]
#[test]
fn cells_of_rust_run_and_values_cross() {
    passes("rust_cells.py");
}
