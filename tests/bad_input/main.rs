//! Bad input through the real binary: exit status 1, words that say what, where and what to do, no panic, nothing half-written.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod adapters;
mod checklist;
mod data;
mod evaluation;
mod files;
mod models;
mod options;
mod reading;
mod training;

use std::path::Path;
use std::process::{Command, Output, Stdio};

const MODEL: &str = "let model = AutoModelForCausalLM::from_pretrained(\"tiny-random\");\n";
const ROWS: &str = "let rows = [#{ text: \"on the hill\" }, #{ text: \"in the hall\" }];\n";

/// A working folder of its own, in which scripts run.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// A copy of tiny-random in the folder `name`.
    fn model(&self, name: &str) {
        self.works(&format!("{MODEL}model.save_pretrained(\"{name}\");"));
    }

    fn run(&self, script: &str) -> Output {
        std::fs::write(self.path().join("script.rhai"), script).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
        command.current_dir(self.path()).env("HF_HUB_OFFLINE", "1").stdin(Stdio::null());
        command.args(["run", "script.rhai"]).output().unwrap()
    }

    #[track_caller]
    fn works(&self, script: &str) -> String {
        let output = self.run(script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{script}\n{errors}");
        assert!(!errors.contains("panicked"), "{script}\n{errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The script fails with status 1, its message has all the words and shows no innards, and no file is left half-written.
    #[track_caller]
    fn fails(&self, script: &str, words: &[&str]) {
        let output = self.run(script);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{script}\n{errors}");
        for word in words {
            assert!(errors.contains(word), "{script}\n{errors}\nlacks {word:?}");
        }
        let innards =
            ["panicked", "RUST_BACKTRACE", "Some(", "Err(", "ErrorRuntime", "anon$", "untagged", "variant", "Mutex", "Dynamic"];
        for word in innards {
            assert!(!errors.contains(word), "{script}\n{errors}\nshows {word:?}");
        }
        assert_eq!(leftovers(self.path()), Vec::<String>::new(), "{script}");
    }
}

/// Temporary files anywhere below a folder.
fn leftovers(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(".ftrepl-") || name.starts_with(".checkpoint-") {
            found.push(name);
        } else if entry.path().is_dir() {
            found.extend(leftovers(&entry.path()));
        }
    }
    found
}

/// A script after the lines that load tiny-random and name two rows.
fn with_model(script: &str) -> String {
    format!("{MODEL}{ROWS}{script}")
}

fn with_args(args: &str, rest: &str) -> String {
    with_model(&format!("Trainer(#{{ model: model, train_dataset: rows, args: TrainingArguments(#{{ {args} }}) }}){rest};"))
}
