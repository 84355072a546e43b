//! What messages call a row: "3", or "3 (rows.jsonl, line 4)" where it comes from a file.

use super::Dataset;
use std::path::Path;

/// The place of a row of a data set; the line is looked up only where it is shown.
#[derive(Debug, Clone, Copy)]
pub struct RowPlace<'a> {
    pub(super) data: &'a Dataset,
    pub(super) index: usize,
}

impl std::fmt::Display for RowPlace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.data.origin(self.index) {
            Some((path, line)) => write_place(f, self.index, &path, line),
            None => write!(f, "{}", self.index),
        }
    }
}

pub(super) fn write_place(f: &mut std::fmt::Formatter<'_>, row: usize, path: &Path, line: Option<u64>) -> std::fmt::Result {
    write!(f, "{row} ({}", path.display())?;
    if let Some(line) = line {
        write!(f, ", line {line}")?;
    }
    f.write_str(")")
}
