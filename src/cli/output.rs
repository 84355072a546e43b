//! Where text goes: results to standard output, everything else to standard error; with `--json` only the one document.

use super::Status;
use super::arguments::Common;
use super::progress::Bars;
use crate::script::display;
use rhai::Dynamic;
use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::sync::Arc;

/// The output of a command.
#[derive(Clone)]
pub struct Output {
    json: bool,
    bars: Arc<Bars>,
    color: bool,
}

impl Output {
    pub(super) fn new(common: &Common) -> Self {
        let color = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { json: common.json, bars: Arc::new(Bars::new(common.quiet)), color }
    }

    /// Whether standard output is to be one JSON document.
    pub fn json(&self) -> bool {
        self.json
    }

    /// Whether errors may be coloured.
    pub fn color(&self) -> bool {
        self.color
    }

    pub(super) fn bars(&self) -> Arc<Bars> {
        self.bars.clone()
    }

    /// A line of the script or the command: standard output, or standard error with `--json`.
    pub fn text(&self, text: &str) {
        match self.json {
            true => self.bars.suspend(|| eprintln(text)),
            false => self.bars.suspend(|| println(text)),
        }
    }

    /// A line beside the results.
    pub fn note(&self, text: &str) {
        self.bars.suspend(|| eprintln(text));
    }

    /// The document of `--json`; nothing without it.
    pub fn document(&self, value: &Value) {
        if self.json {
            print_document(value);
        }
    }

    /// The value of a script as the document of `--json`.
    pub fn value(&self, value: &Dynamic) {
        if self.json {
            self.document(&display::json(value));
        }
    }

    /// An error that is already in words; with `--json` the document is `{"error": ..}`.
    pub fn error(&self, text: &str) {
        self.note(text);
        if self.json {
            error_document(&without_color(text));
        }
    }

    /// What was asked for failed.
    pub fn failure(&self, message: &str) -> Status {
        self.error(&format!("error: {message}"));
        Status::Failed
    }

    /// What was asked for makes no sense.
    pub fn usage(&self, message: &str) -> Status {
        self.error(&format!("error: {message}"));
        Status::Usage
    }
}

/// The document of `--json` for an error in words.
pub(super) fn error_document(text: &str) {
    print_document(&serde_json::json!({ "error": text.strip_prefix("error: ").unwrap_or(text) }));
}

fn print_document(value: &Value) {
    println(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// To standard output. A reader that has gone away (`| head`) ends the program without a word.
pub(crate) fn println(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush());
    if let Err(error) = written {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            std::process::exit(0);
        }
        eprintln(&format!("error: cannot write to standard output: {error}"));
        std::process::exit(1);
    }
}

/// The text without the terminal's colour sequences.
fn without_color(text: &str) -> String {
    let mut out = String::new();
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => drop(letters.by_ref().find(|c| c.is_ascii_alphabetic())),
            other => out.push(other),
        }
    }
    out
}

/// To standard error, where nobody can be told about a failure.
pub(super) fn eprintln(text: &str) {
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.write_all(b"\n"));
}
