//! `ftrepl doc`: the reference.

use super::Status;
use super::arguments::{Common, DocFormat};
use super::output::Output;
use crate::script::docs::render;
use crate::session::Session;

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
    if let (Some(name), true) = (name, entries.is_empty()) {
        return output.failure(&reference.unknown(name));
    }
    if common.json {
        output.document(&render::json(&entries));
        return Status::Done;
    }
    match (format, name) {
        (DocFormat::Json, _) => output.text(&serde_json::to_string_pretty(&render::json(&entries)).unwrap_or_default()),
        (DocFormat::Markdown, _) => output.text(&render::markdown(&entries)),
        (DocFormat::Text, Some(_)) => output.text(&render::text(&entries)),
        (DocFormat::Text, None) => output.text(&render::overview(&reference)),
    }
    Status::Done
}
