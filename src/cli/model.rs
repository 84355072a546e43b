//! `ftrepl model`: what to do with models; the work is done by `model::hub`.

use super::Status;
use super::arguments::ModelAction;
use super::output::Output;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::model::hub::Cache;
use crate::model::hub_info::ModelSummary;
use crate::model::memory::MemoryOptions;
use crate::model::report::ModelReport;
use crate::show::terminal_width;
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
        Err(Error::Interrupted) => {
            output.error("interrupted");
            Status::Interrupted
        }
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
        ModelAction::Info { name, batch, length, rank, targets, dtype } => {
            let options = MemoryOptions {
                batch_size: *batch,
                max_length: *length,
                r: *rank,
                target_modules: targets.clone(),
                dtype: dtype.clone(),
            };
            let report = cache.report(name, &options, control)?;
            (describe(&report), json!(report))
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

/// One fact a line, and the table of the memory that is needed.
fn describe(report: &ModelReport) -> String {
    let facts = report.facts().into_iter().map(|(name, value)| format!("  {name:13} {value}"));
    let mut lines: Vec<String> = std::iter::once(report.info.name.clone()).chain(facts).collect();
    lines.extend(report.memory.as_ref().map(|memory| format!("\n{}", memory.table().text(terminal_width()))));
    lines.join("\n")
}
