//! `ftrepl model`: what to do with models; the work is done by `model::hub`.

use super::Status;
use super::arguments::ModelAction;
use super::output::Output;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::model::hub::Cache;
use crate::model::hub_info::{ModelInfo, ModelSummary};
use serde_json::{Value, json};

pub(super) fn run(action: &ModelAction, output: &Output) -> Status {
    match perform(action, &Control::new(super::signals::flag(), output.bars())) {
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

/// Gives the text for a terminal and the document for `--json`.
fn perform(action: &ModelAction, control: &Control) -> Result<(String, Value)> {
    let cache = Cache::from_env()?;
    Ok(match action {
        ModelAction::List => {
            let models = cache.list()?;
            let line = |m: &ModelSummary| {
                let here = if m.present { "here" } else { "not here yet" };
                format!("{:24} {:>9}  {:12} {here}\n    {}", m.name, megabytes(m.size), m.license, m.description)
            };
            (models.iter().map(line).collect::<Vec<_>>().join("\n"), json!(models))
        }
        ModelAction::Pull { name } => {
            let files = cache.pull(name, control)?;
            (format!("{name}: {}\nfrom {}", files.path.display(), files.origin), json!(files))
        }
        ModelAction::Info { name } => {
            let info = cache.info(name)?;
            (describe(&info), json!(info))
        }
        ModelAction::Path { name } => {
            let path = cache.path(name)?;
            (path.display().to_string(), json!(path))
        }
        ModelAction::Rm { name } => {
            cache.remove(name)?;
            (format!("{name} removed"), json!({ "removed": name }))
        }
    })
}

fn megabytes(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

/// One fact a line; what is not known is left out.
fn describe(info: &ModelInfo) -> String {
    let mut lines = vec![info.name.clone()];
    let mut fact = |name: &str, value: Option<String>| lines.extend(value.map(|v| format!("  {name:13} {v}")));
    fact("description", info.description.clone());
    fact("license", info.license.clone());
    fact("architecture", info.architecture.clone());
    fact("parameters", info.parameters.map(|n| n.to_string()));
    fact("stored as", info.stored_as.clone());
    match &info.files {
        Some(files) => {
            fact("path", Some(files.path.display().to_string()));
            fact("from", Some(files.origin.clone()));
        }
        None => fact("path", Some(format!("not on this machine; fetch it: ftrepl model pull {}", info.name))),
    }
    for (file, size) in &info.sizes {
        fact("file", Some(format!("{file} ({})", megabytes(*size))));
    }
    lines.join("\n")
}
