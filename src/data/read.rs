//! Files to rows: JSON Lines, JSON arrays, CSV, Parquet and plain text.

use super::{Dataset, Row, delimited, json, parquet};
use crate::error::{Error, Result};
use crate::files::read_text;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// What a file is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// JSON Lines or a JSON array of objects.
    Json,
    /// Comma-separated values with a header line.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// Plain text: rows with one field, `text`.
    Text,
}

impl FileFormat {
    /// The format of this name: "json", "csv", "parquet" or "text".
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "json" | "jsonl" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            "text" => Some(Self::Text),
            _ => None,
        }
    }

    /// The format that a file's suffix stands for.
    pub fn from_path(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "json" | "jsonl" | "ndjson" => Some(Self::Json),
            "csv" | "tsv" => Some(Self::Csv),
            "parquet" => Some(Self::Parquet),
            "txt" | "md" | "text" => Some(Self::Text),
            _ => None,
        }
    }
}

/// What one row of a text file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleBy {
    /// A line; blank lines are skipped.
    #[default]
    Line,
    /// The lines between two blank lines.
    Paragraph,
    /// The whole file.
    Document,
}

/// How files are read.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// What separates CSV fields; default: a tab for `.tsv`, otherwise a comma.
    pub delimiter: Option<u8>,
    /// What one row of a text file is.
    pub sample_by: SampleBy,
}

/// Reads files one after the other into one data set.
///
/// # Errors
/// A file is missing, is not what it should be (with line and column), or holds no rows.
pub fn read_files(format: FileFormat, paths: &[PathBuf], options: ReadOptions) -> Result<Dataset> {
    let mut rows = Vec::new();
    for path in paths {
        let found = read_file(format, path, options)?;
        if found.is_empty() {
            return Err(Error::format(path, "the file holds no rows"));
        }
        rows.extend(found);
    }
    Ok(Dataset::from_list(rows))
}

fn read_file(format: FileFormat, path: &Path, options: ReadOptions) -> Result<Vec<Row>> {
    match format {
        FileFormat::Json => json::parse(path, &read_text(path)?),
        FileFormat::Csv => {
            let tabs = path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("tsv"));
            delimited::parse(path, &read_text(path)?, options.delimiter.unwrap_or(if tabs { b'\t' } else { b',' }))
        }
        FileFormat::Parquet => parquet::read(path),
        FileFormat::Text => Ok(text_rows(&read_text(path)?, options.sample_by)),
    }
}

fn text_rows(text: &str, sample_by: SampleBy) -> Vec<Row> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let pieces: Vec<String> = match sample_by {
        SampleBy::Line => text.lines().map(str::to_string).collect(),
        SampleBy::Document => vec![text],
        SampleBy::Paragraph => {
            let mut paragraphs = vec![String::new()];
            for line in text.lines() {
                if line.trim().is_empty() {
                    paragraphs.push(String::new());
                } else if let Some(last) = paragraphs.last_mut() {
                    if !last.is_empty() {
                        last.push('\n');
                    }
                    last.push_str(line);
                }
            }
            paragraphs
        }
    };
    let row = |piece: String| Row::from_iter([("text".to_string(), serde_json::Value::String(piece))]);
    pieces.into_iter().filter(|piece| !piece.trim().is_empty()).map(row).collect()
}
