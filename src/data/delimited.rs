//! CSV files: a header row, then one row a line. A column whose cells are all numbers becomes numbers.

use super::Row;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

pub(super) fn parse(path: &Path, text: &str, delimiter: u8) -> Result<Vec<Row>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(text.as_bytes());
    let header: Vec<String> = reader.headers().map_err(|e| fault(path, &e))?.iter().map(|name| name.trim().to_string()).collect();
    for (i, name) in header.iter().enumerate() {
        if name.is_empty() || header[..i].contains(name) {
            let what = if name.is_empty() { "has no name".to_string() } else { format!("`{name}` appears twice") };
            return Err(Error::format(path, format!("line 1: column {} {what}; the first line must name every column", i + 1)));
        }
    }
    let mut records = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|e| fault(path, &e))?;
        if record.len() != header.len() {
            let line = record.position().map_or(0, csv::Position::line);
            let message = format!("line {line} has {} fields, but the header names {}", record.len(), header.len());
            return Err(Error::format(path, format!("{message}; a field with a comma or a line break needs double quotes")));
        }
        records.push(record);
    }
    let kinds: Vec<Kind> = (0..header.len()).map(|i| Kind::of(records.iter().filter_map(|r| r.get(i)))).collect();
    let row = |record: &csv::StringRecord| {
        let cells = record.iter().zip(&kinds).map(|(cell, kind)| kind.value(cell));
        header.iter().cloned().zip(cells).collect()
    };
    Ok(records.iter().map(row).collect())
}

fn fault(path: &Path, error: &csv::Error) -> Error {
    let line = error.position().map_or(String::new(), |at| format!("line {}: ", at.line()));
    Error::format(path, format!("{line}{error}; expected CSV with a header line"))
}

/// What all non-empty cells of a column are.
enum Kind {
    Integer,
    Float,
    Bool,
    Text,
}

impl Kind {
    fn of<'a>(cells: impl Iterator<Item = &'a str> + Clone) -> Self {
        let mut filled = cells.filter(|cell| !cell.is_empty()).peekable();
        if filled.peek().is_none() {
            return Self::Text;
        }
        // "007" is a code, not a number: reading it as 7 would lose it.
        let padded = |cell: &str| {
            let digits = cell.trim_start_matches('-');
            digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
        };
        let numeric = |cell: &str| !padded(cell) && cell.bytes().any(|b| b.is_ascii_digit());
        let (mut integer, mut float, mut bool) = (true, true, true);
        for cell in filled {
            integer &= numeric(cell) && cell.parse::<i64>().is_ok();
            float &= numeric(cell) && cell.parse::<f64>().is_ok_and(f64::is_finite);
            bool &= matches!(cell, "true" | "false" | "True" | "False");
        }
        match (integer, float, bool) {
            (true, ..) => Self::Integer,
            (_, true, _) => Self::Float,
            (.., true) => Self::Bool,
            _ => Self::Text,
        }
    }

    fn value(&self, cell: &str) -> Value {
        let parsed = match self {
            _ if cell.is_empty() => Some(Value::Null),
            Self::Integer => cell.parse::<i64>().ok().map(Value::from),
            Self::Float => cell.parse::<f64>().ok().map(Value::from),
            Self::Bool => Some(Value::Bool(cell.eq_ignore_ascii_case("true"))),
            Self::Text => None,
        };
        parsed.unwrap_or_else(|| Value::String(cell.to_string()))
    }
}
