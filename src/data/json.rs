//! JSON Lines and JSON arrays of objects.

use super::Row;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

/// Rows of a JSON array, or of JSON Lines (one object a line, blank lines skipped). `path` is for messages.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Row>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim_start().starts_with('[') { array(path, text) } else { lines(path, text) }
}

fn array(path: &Path, text: &str) -> Result<Vec<Row>> {
    let values: Vec<Value> = serde_json::from_str(text).map_err(|e| {
        let what = reason(&e);
        Error::format(path, format!("line {}, column {}: {what}; expected a JSON array of objects", e.line(), e.column()))
    })?;
    let rows = values.into_iter().enumerate().map(|(i, value)| match value {
        Value::Object(row) => Ok(row),
        other => Err(Error::format(path, format!("item {i} of the array is {}, but every row must be an object", kind(&other)))),
    });
    rows.collect()
}

fn lines(path: &Path, text: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let number = i + 1;
        match serde_json::from_str(line) {
            Ok(Value::Object(row)) => rows.push(row),
            Ok(other) => {
                let message = format!("line {number}: every line must be an object such as {{\"text\": \"..\"}}, but this is");
                return Err(Error::format(path, format!("{message} {}", kind(&other))));
            }
            Err(e) if e.is_eof() && rows.is_empty() && serde_json::from_str::<Row>(text).is_ok() => {
                let message = "this is one JSON object over several lines, but JSON Lines has one object a line";
                return Err(Error::format(path, format!("{message}; for several rows write an array: [{{..}}, {{..}}]")));
            }
            Err(e) => {
                let message = format!("line {number}, column {}: {}; expected one JSON object a line", e.column(), reason(&e));
                return Err(Error::format(path, message));
            }
        }
    }
    Ok(rows)
}

/// serde_json's message without its own position, which counts from the line we gave it.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.clone(), |end| text[..end].to_string())
}

/// A value's kind in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
