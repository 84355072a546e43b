//! Files to rows: JSON Lines, JSON arrays, CSV, Parquet and plain text, compressed with gzip or not.
//!
//! A data set of a small file lies in memory. Of a long JSON Lines file only an index does, and what else is long goes through a
//! temporary file, so that a data set of any size costs about as much memory as a small one.

use super::line_file::LineFile;
use super::row_writer::RowWriter;
use super::table::{Lines, Origin, Table};
use super::{Dataset, Row, delimited, input, json, parquet, text};
use crate::control::Control;
use crate::error::{Error, Result};
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

    /// The format that a file's suffix stands for; that of `rows.jsonl.gz` is the one before `.gz`.
    pub fn from_path(path: &Path) -> Option<Self> {
        match input::inner_name(path).extension()?.to_str()?.to_ascii_lowercase().as_str() {
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
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// What separates CSV fields; default: a tab for `.tsv`, otherwise a comma.
    pub delimiter: Option<u8>,
    /// What one row of a text file is.
    pub sample_by: SampleBy,
    /// Of JSON files that are one object: the field that holds the rows.
    pub field: Option<String>,
    /// The interrupt flag and progress.
    pub control: Control,
}

/// A row of a file with its line, counted from 1; 0 where it has none.
pub(super) struct FileRow {
    pub(super) row: Row,
    pub(super) line: u64,
}

/// The rows of a file in order, read as they are asked for; after an error there are no more.
pub(super) type FileRows = Box<dyn Iterator<Item = Result<FileRow>>>;

/// JSON Lines files from this size on are not read but indexed.
const INDEXED: u64 = 8 << 20;
/// Rows between two looks at the interrupt flag.
pub(super) const OFTEN: usize = 1024;

/// Reads files one after the other into one data set.
///
/// # Errors
/// A file is missing, is not what it should be (with line and column), or holds no rows; Ctrl-C.
pub fn read_files(format: FileFormat, paths: &[PathBuf], options: &ReadOptions) -> Result<Dataset> {
    let parts = paths.iter().map(|path| {
        let data = read_file(format, path, options)?;
        if data.is_empty() { Err(no_rows(path)) } else { Ok(data) }
    });
    Ok(Dataset::concatenate(&parts.collect::<Result<Vec<_>>>()?))
}

pub(super) fn no_rows(path: &Path) -> Error {
    Error::format(path, "the file holds no rows")
}

fn read_file(format: FileFormat, path: &Path, options: &ReadOptions) -> Result<Dataset> {
    let size = std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?.len();
    let lines = format == FileFormat::Json && options.field.is_none();
    if lines && size >= INDEXED && !input::is_compressed(path)? && !json::is_array(path)? {
        let origin = Origin { path: path.to_path_buf(), lines: Lines::Counted };
        return Ok(Dataset::of_table(Table::of_lines(LineFile::index(path, &options.control)?).read_from(origin)));
    }
    let mut writer = RowWriter::new(options.control.clone());
    for (i, row) in file_rows(format, path, options)?.enumerate() {
        if i % OFTEN == 0 {
            options.control.check()?;
        }
        let FileRow { row, line } = row?;
        writer.push_from_file(row, line)?;
    }
    writer.finish_file(path)
}

/// The rows of one file, read as they are asked for.
pub(super) fn file_rows(format: FileFormat, path: &Path, options: &ReadOptions) -> Result<FileRows> {
    match format {
        FileFormat::Json => match &options.field {
            Some(field) => json::rows_of_field(path, field),
            None => json::rows(path),
        },
        FileFormat::Csv => delimited::rows(path, options.delimiter.unwrap_or_else(|| delimiter_of(path)), &options.control),
        FileFormat::Parquet => parquet::rows(path),
        FileFormat::Text => text::rows(path, options.sample_by),
    }
}

/// What separates the fields of a CSV file of this name: a tab for `.tsv`, otherwise a comma.
pub(super) fn delimiter_of(path: &Path) -> u8 {
    let tabs = input::inner_name(path).extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("tsv"));
    if tabs { b'\t' } else { b',' }
}
