//! `ftrepl model`: what to do with models; the work is done by `model::hub`.

use super::Status;
use super::arguments::{Common, ModelAction};
use super::output::Output;
use crate::error::{Error, Result};
use serde_json::Value;

pub(super) fn run(action: &ModelAction, _: &Common, output: &Output) -> Status {
    match perform(action) {
        Ok((text, document)) => {
            if output.json() {
                output.document(&document);
            } else {
                output.text(&text);
            }
            Status::Done
        }
        Err(Error::Interrupted) => Status::Interrupted,
        Err(error) => output.failure(&error.to_string()),
    }
}

/// The one place that calls the library: gives the text for a terminal and the document for `--json`.
fn perform(action: &ModelAction) -> Result<(String, Value)> {
    let what = match action {
        ModelAction::List => "list".to_string(),
        ModelAction::Pull { name } => format!("pull {name}"),
        ModelAction::Info { name } => format!("info {name}"),
        ModelAction::Path { name } => format!("path {name}"),
        ModelAction::Rm { name } => format!("rm {name}"),
    };
    Err(Error::Missing(format!("`ftrepl model {what}`: not built yet")))
}
