//! `ftrepl doc`: the reference.

use super::Status;
use super::arguments::{Common, DocFormat};
use super::output::Output;
use crate::script::docs::{render, sections};
use crate::session::{Session, help};
use crate::show::terminal_width;
use serde_json::{Value, json};
use std::path::Path;

pub(super) fn run(name: Option<&str>, format: DocFormat, common: &Common, output: &Output) -> Status {
    let session = match Session::builder().device("cpu").build() {
        Ok(session) => session,
        Err(error) => return output.failure(&error.to_string()),
    };
    let reference = session.reference();
    let entries = match name {
        None => render::listed(&reference),
        Some(name) => reference.find(name),
    };
    if let Some(text) = name.and_then(help::of_global).filter(|_| entries.is_empty()) {
        let name = name.unwrap_or_default().trim();
        let document = json!([{ "name": name, "kind": "variable", "signatures": [], "doc": text, "examples": [] }]);
        match common.json || format == DocFormat::Json {
            true => print_json(&document, output),
            false => output.text(text),
        }
        return Status::Done;
    }
    if let (Some(name), true) = (name, entries.is_empty()) {
        return output.failure(&reference.unknown(name));
    }
    if common.json {
        output.document(&render::json(&entries));
        return Status::Done;
    }
    match (format, name) {
        (DocFormat::Markdown, None) => return write_pages(&sections::pages(&reference), common, output),
        (DocFormat::Lsp, _) => return definitions(&session, common, output),
        (DocFormat::Json, _) => print_json(&render::json(&entries), output),
        (DocFormat::Markdown, Some(_)) => output.text(&render::markdown(&entries)),
        (DocFormat::Text, Some(name)) => output.text(&help::about(&reference, session.options(), name)),
        (DocFormat::Text, None) => output.text(&render::overview(&reference, terminal_width())),
    }
    Status::Done
}

/// The one document of `--json`, or that of `--format json`.
fn print_json(value: &Value, output: &Output) {
    match output.json() {
        true => output.document(value),
        false => output.text(&serde_json::to_string_pretty(value).unwrap_or_default()),
    }
}

/// The pages of the reference, below the folder for files.
fn write_pages(pages: &[(String, String)], common: &Common, output: &Output) -> Status {
    let folder = common.out.join("docs/reference");
    for (name, text) in pages {
        if let Err(error) = crate::files::write_text(&folder.join(name), text) {
            return output.failure(&error.to_string());
        }
    }
    output.text(&format!("{}: {} pages", folder.display(), pages.len()));
    Status::Done
}

/// What the Rhai language server reads: one file for all global functions, one for each module, in the folder for files; on
/// standard output all of it in one.
fn definitions(session: &Session, common: &Common, output: &Output) -> Status {
    let definitions = session.engine().definitions();
    if common.out == Path::new(".") {
        output.text(definitions.single_file().trim_end());
        return Status::Done;
    }
    for (name, text) in definitions.iter_files() {
        if let Err(error) = crate::files::write_text(&common.out.join(&name), &text) {
            return output.failure(&error.to_string());
        }
    }
    output.text(&format!("{}: definitions for the Rhai language server", common.out.display()));
    Status::Done
}
