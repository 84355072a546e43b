//! Rows on their way into a data set: in memory as long as they are few, then in a temporary file that has no name and goes with
//! the data set.

use super::columns::Columns;
use super::line_file::LineFile;
use super::row_starts::RowStarts;
use super::table::{Lines, Origin, Table};
use super::{Dataset, Row};
use crate::control::Control;
use crate::error::{Error, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

/// Bytes of rows that are kept in memory.
const KEPT: usize = 32 << 20;

/// Takes rows one at a time.
#[derive(Debug, Default)]
pub struct RowWriter {
    kept: Vec<Arc<Row>>,
    size: usize,
    lines: Vec<u32>,
    columns: Columns,
    spilled: Option<Spilled>,
    control: Control,
}

#[derive(Debug)]
struct Spilled {
    file: BufWriter<File>,
    starts: RowStarts,
    end: u64,
}

impl RowWriter {
    /// For rows that Ctrl-C may interrupt when they are read again.
    pub fn new(control: Control) -> Self {
        Self { control, ..Self::default() }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn push(&mut self, row: Row) -> Result<()> {
        row.keys().for_each(|name| self.columns.add(name));
        if let Some(spilled) = &mut self.spilled {
            return spilled.push(&row);
        }
        self.size += size_of_row(&row);
        self.kept.push(Arc::new(row));
        if self.size > KEPT {
            let mut spilled = Spilled::new()?;
            for row in std::mem::take(&mut self.kept) {
                spilled.push(&row)?;
            }
            self.spilled = Some(spilled);
        }
        Ok(())
    }

    /// Adds a row of a file with its line, 0 where that is not known.
    pub(super) fn push_from_file(&mut self, row: Row, line: u64) -> Result<()> {
        self.lines.push(u32::try_from(line).unwrap_or(0));
        self.push(row)
    }

    /// The data set of all rows.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn finish(self) -> Result<Dataset> {
        self.table().map(Dataset::of_table)
    }

    /// The data set of the rows of this file.
    pub(super) fn finish_file(mut self, path: &Path) -> Result<Dataset> {
        let lines = std::mem::take(&mut self.lines);
        let lines = if lines.iter().all(|line| *line == 0) { Lines::None } else { Lines::Known(lines) };
        Ok(Dataset::of_table(self.table()?.read_from(Origin { path: path.to_path_buf(), lines })))
    }

    fn table(self) -> Result<Table> {
        let Some(spilled) = self.spilled else { return Ok(Table::in_memory(self.kept)) };
        let folder = std::env::temp_dir();
        let fault = |e| Error::io("write a temporary file in", &folder, e);
        let mut starts = spilled.starts;
        starts.end(spilled.end, &folder)?;
        super::check_count(&folder, starts.len())?;
        let file = spilled.file.into_inner().map_err(|e| fault(e.into_error()))?;
        Ok(Table::of_lines(LineFile::new(&folder, file, starts, self.columns.into_names(), self.control)))
    }
}

impl Spilled {
    fn new() -> Result<Self> {
        let file = tempfile::tempfile().map_err(|e| Error::io("write a temporary file in", std::env::temp_dir(), e))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 18, file), starts: RowStarts::default(), end: 0 })
    }

    fn push(&mut self, row: &Row) -> Result<()> {
        let fault = |e: std::io::Error| Error::io("write a temporary file in", std::env::temp_dir(), e);
        let mut line = serde_json::to_vec(row).map_err(|e| fault(e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(fault)?;
        self.starts.begin(self.end, &std::env::temp_dir())?;
        self.end += line.len() as u64;
        Ok(())
    }
}

/// About the bytes that a row takes in memory.
fn size_of_row(row: &Row) -> usize {
    let entry = std::mem::size_of::<(String, Value)>() + 2 * std::mem::size_of::<usize>();
    let fields: usize = row.iter().map(|(name, value)| entry + name.len() + size_of_value(value)).sum();
    std::mem::size_of::<Row>() + fields
}

fn size_of_value(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| std::mem::size_of::<Value>() + size_of_value(item)).sum(),
        Value::Object(fields) => size_of_row(fields),
        _ => 0,
    }
}
