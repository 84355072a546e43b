//! The data sets inside the program: small, so that lessons run without a network.

use super::{Dataset, json};
use crate::error::{Error, Result};
use std::path::Path;

/// A bundled data set: name, what it is, JSON Lines.
#[derive(Debug)]
pub struct Bundled {
    /// The name that `load_dataset` takes.
    pub name: &'static str,
    /// One sentence about it.
    pub about: &'static str,
    text: &'static str,
}

/// Every bundled data set.
pub const BUNDLED: &[Bundled] = &[
    Bundled {
        name: "drug_qa",
        about: "questions and answers about medicines, each worded twice: the narrow task to fine-tune on",
        text: include_str!("../../stdlib/data/drug_qa.jsonl"),
    },
    Bundled {
        name: "general_qa",
        about: "general questions with short answers, by category: measures what training made a model forget",
        text: include_str!("../../stdlib/data/general_qa.jsonl"),
    },
    Bundled {
        name: "general_text",
        about: "general instructions with answers: rows to mix in against forgetting",
        text: include_str!("../../stdlib/data/general_text.jsonl"),
    },
];

/// The bundled data set of this name, or nothing.
///
/// # Errors
/// The embedded text is not JSON Lines.
pub fn load(name: &str) -> Result<Option<Dataset>> {
    let Some(found) = BUNDLED.iter().find(|data| data.name == name) else { return Ok(None) };
    Ok(Some(Dataset::from_list(json::parse(Path::new(found.name), found.text)?)))
}

/// The error for a name that is neither bundled nor a format.
pub fn unknown(name: &str) -> Error {
    let names: Vec<_> = BUNDLED.iter().map(|data| data.name).collect();
    let formats = ["json", "csv", "parquet", "text"];
    let closest =
        names.iter().chain(&formats).max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
    let hint = match closest {
        Some(close) if strsim::jaro_winkler(close, name) > 0.8 => format!("; did you mean \"{close}\""),
        _ => String::new(),
    };
    Error::Missing(format!(
        "there is no data set \"{name}\"{hint}. Bundled: {}. Own files: load_dataset(\"json\", #{{ data_files: \"my.jsonl\" }}), or {}; \
         of the hub: load_dataset(\"org/name\")",
        names.join(", "),
        formats[1..].join(", ")
    ))
}
