//! Where rows lie: in memory, in a file of lines with an index, in several tables after another, or in one whose columns are
//! changed as rows are read. A table never changes.

use super::columns::{ColumnChange, Columns};
use super::line_file::{self, LineFile};
use super::{Dataset, Row};
use crate::error::Result;
use std::path::PathBuf;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Storage,
    origin: Option<Origin>,
}

#[derive(Debug)]
enum Storage {
    Memory(Vec<Arc<Row>>),
    Lines(LineFile),
    Joined { parts: Vec<Dataset>, starts: Vec<usize> },
    Changed { base: Dataset, change: ColumnChange },
}

impl Default for Storage {
    fn default() -> Self {
        Self::Memory(Vec::new())
    }
}

/// The file that a table was read from.
#[derive(Debug)]
pub(super) struct Origin {
    pub(super) path: PathBuf,
    pub(super) lines: Lines,
}

/// The line of every row, counted from 1.
#[derive(Debug)]
pub(super) enum Lines {
    /// The format has none.
    None,
    /// As they were read; 0 where it is not known.
    Known(Vec<u32>),
    /// The table is an index of the file itself: the line breaks before a row are counted when they are asked for.
    Counted,
}

impl Table {
    pub(super) fn in_memory(rows: Vec<Arc<Row>>) -> Self {
        Self { rows: Storage::Memory(rows), origin: None }
    }

    pub(super) fn of_lines(file: LineFile) -> Self {
        Self { rows: Storage::Lines(file), origin: None }
    }

    pub(super) fn joined(parts: Vec<Dataset>) -> Self {
        let mut starts = Vec::with_capacity(parts.len());
        parts.iter().fold(0, |start, part| {
            starts.push(start);
            start + part.len()
        });
        Self { rows: Storage::Joined { parts, starts }, origin: None }
    }

    pub(super) fn changed(base: Dataset, change: ColumnChange) -> Self {
        Self { rows: Storage::Changed { base, change }, origin: None }
    }

    pub(super) fn read_from(mut self, origin: Origin) -> Self {
        self.origin = Some(origin);
        self
    }

    pub(super) fn len(&self) -> usize {
        match &self.rows {
            Storage::Memory(rows) => rows.len(),
            Storage::Lines(file) => file.len(),
            Storage::Joined { parts, .. } => parts.iter().map(Dataset::len).sum(),
            Storage::Changed { base, .. } => base.len(),
        }
    }

    pub(super) fn row(&self, index: usize) -> Result<Arc<Row>> {
        match &self.rows {
            Storage::Memory(rows) => Ok(rows[index].clone()),
            Storage::Lines(file) => file.row(index).map(Arc::new),
            Storage::Joined { parts, starts } => {
                let (part, index) = part_of(starts, index);
                parts[part].row(index)
            }
            Storage::Changed { base, change } => base.row(index).map(|row| Arc::new(change.apply(&row))),
        }
    }

    /// The names that these rows have; of a table on disk, or where no row is left, those that any row has.
    pub(super) fn columns(&self, rows: impl Iterator<Item = usize>) -> Vec<String> {
        match &self.rows {
            Storage::Memory(all) => {
                let (mut columns, mut rows) = (Columns::default(), rows.peekable());
                if rows.peek().is_some() {
                    rows.flat_map(|index| all[index].keys()).for_each(|name| columns.add(name));
                } else {
                    all.iter().flat_map(|row| row.keys()).for_each(|name| columns.add(name));
                }
                columns.into_names()
            }
            Storage::Lines(file) => file.columns().to_vec(),
            Storage::Joined { parts, .. } => {
                let mut columns = Columns::default();
                parts.iter().flat_map(Dataset::columns).for_each(|name| columns.add(&name));
                columns.into_names()
            }
            Storage::Changed { base, change } => change.names(&base.columns()),
        }
    }

    pub(super) fn origin(&self, index: usize) -> Option<(PathBuf, Option<u64>)> {
        if let Some(Origin { path, lines }) = &self.origin {
            let line = match (lines, &self.rows) {
                (Lines::Known(lines), _) => lines.get(index).filter(|line| **line > 0).map(|line| u64::from(*line)),
                (Lines::Counted, Storage::Lines(file)) => line_file::line_at(path, file.start(index)),
                _ => None,
            };
            return Some((path.clone(), line));
        }
        match &self.rows {
            Storage::Joined { parts, starts } => {
                let (part, index) = part_of(starts, index);
                parts[part].origin(index)
            }
            Storage::Changed { base, .. } => base.origin(index),
            Storage::Memory(_) | Storage::Lines(_) => None,
        }
    }
}

/// The part that a row of a joined table lies in, and its number there.
fn part_of(starts: &[usize], index: usize) -> (usize, usize) {
    // Of empty parts, which start where the next does, the last is the one with rows.
    let part = starts.partition_point(|start| *start <= index).saturating_sub(1);
    (part, index - starts[part])
}
