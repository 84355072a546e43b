//! Rows that are read from front to back and never held: for files larger than memory, and for what a function makes of them.

use super::columns::ColumnChange;
use super::place::write_place;
use super::read::{FileFormat, ReadOptions, file_rows, no_rows};
use super::{Dataset, Row, RowFormat};
use crate::error::{Error, Result};
use crate::random::Random;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What a function makes of a row and its number among those that reach it, counted from 0.
pub type RowMap = Rc<dyn Fn(usize, &Row) -> Result<Row>>;
/// Where the file of this number is, which may have to be fetched first.
pub type FileFetch = Rc<dyn Fn(usize) -> Result<PathBuf>>;
/// Whether a row is kept, by its number and itself.
pub type RowTest = Rc<dyn Fn(usize, &Row) -> Result<bool>>;

/// Rows in the order in which they are read, and what happens to them on the way. Cheap to copy; nothing is read before rows
/// are asked for.
#[derive(Clone)]
pub struct IterableDataset {
    source: Source,
    stages: Vec<Stage>,
    format: Option<RowFormat>,
}

#[derive(Clone)]
enum Source {
    Files { format: FileFormat, paths: Rc<[PathBuf]>, fetch: Option<FileFetch>, options: ReadOptions },
    Rows(Dataset),
}

#[derive(Clone)]
enum Stage {
    Map(RowMap),
    Filter(RowTest),
    Shuffle { seed: u64, buffer: usize },
    Skip(usize),
    Take(usize),
    Columns(ColumnChange),
}

/// A row on its way and where it comes from.
#[derive(Debug, Clone)]
pub struct StreamedRow {
    /// The row.
    pub row: Row,
    /// What messages call it.
    pub place: StreamPlace,
}

/// The number of a row in its file or data set, the file and the line.
#[derive(Debug, Clone)]
pub struct StreamPlace {
    number: usize,
    file: Option<(Rc<Path>, u64)>,
}

impl Display for StreamPlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.file {
            Some((path, line)) => write_place(f, self.number, path, (*line > 0).then_some(*line)),
            None => write!(f, "{}", self.number),
        }
    }
}

/// The rows of one pass; after an error there are no more.
pub type StreamRows = Box<dyn Iterator<Item = Result<StreamedRow>>>;

impl IterableDataset {
    /// The rows of files, one after the other.
    ///
    /// # Errors
    /// A file is missing.
    pub fn of_files(format: FileFormat, paths: Vec<PathBuf>, options: ReadOptions) -> Result<Self> {
        for path in &paths {
            std::fs::metadata(path).map_err(|e| Error::io("read", path, e))?;
        }
        let source = Source::Files { format, paths: paths.into(), fetch: None, options };
        Ok(Self { source, stages: Vec::new(), format: None })
    }

    /// The rows of files, one after the other, each of which is fetched when the rows before it have been read.
    pub fn of_fetched_files(format: FileFormat, names: Vec<PathBuf>, fetch: FileFetch, options: ReadOptions) -> Self {
        let source = Source::Files { format, paths: names.into(), fetch: Some(fetch), options };
        Self { source, stages: Vec::new(), format: None }
    }

    /// The rows of a data set.
    pub fn of_dataset(data: Dataset) -> Self {
        let format = data.format();
        Self { source: Source::Rows(data), stages: Vec::new(), format }
    }

    fn then(&self, stage: Stage) -> Self {
        let stages = self.stages.iter().cloned().chain([stage]).collect();
        Self { source: self.source.clone(), stages, format: self.format }
    }

    /// What the function makes of every row, when it is asked for.
    #[must_use]
    pub fn map(&self, change: RowMap) -> Self {
        self.then(Stage::Map(change)).with_format(None)
    }

    /// The rows that pass the test.
    #[must_use]
    pub fn filter(&self, test: RowTest) -> Self {
        self.then(Stage::Filter(test))
    }

    /// The rows in an approximately random order: `buffer` rows are held, each time one of them is given out at random and the
    /// next row takes its place, and at the end those that are left come in random order. Numbers are those of
    /// `torch.randint` and `torch.randperm` of a generator seeded `seed` plus the number of the pass.
    #[must_use]
    pub fn shuffle(&self, seed: u64, buffer: usize) -> Self {
        self.then(Stage::Shuffle { seed, buffer: buffer.max(1) })
    }

    /// The rows after the first `count`.
    #[must_use]
    pub fn skip(&self, count: usize) -> Self {
        self.then(Stage::Skip(count))
    }

    /// The first `count` rows.
    #[must_use]
    pub fn take(&self, count: usize) -> Self {
        self.then(Stage::Take(count))
    }

    /// The rows with their columns renamed, left out or chosen.
    #[must_use]
    pub fn with_columns(&self, change: ColumnChange) -> Self {
        self.then(Stage::Columns(change)).with_format(None)
    }

    /// What its rows are for training; none: each row is what its own fields say.
    pub fn format(&self) -> Option<RowFormat> {
        self.format
    }

    /// The same rows, all of which training takes for this.
    #[must_use]
    pub fn with_format(mut self, format: Option<RowFormat>) -> Self {
        self.format = format;
        self
    }

    /// Number of rows where it is known without reading them: files are not counted, and what a filter leaves is not either.
    pub fn known_len(&self) -> Option<usize> {
        let Source::Rows(data) = &self.source else { return None };
        self.stages.iter().try_fold(data.len(), |length, stage| match stage {
            Stage::Filter(_) => None,
            Stage::Skip(count) => Some(length.saturating_sub(*count)),
            Stage::Take(count) => Some(length.min(*count)),
            Stage::Map(_) | Stage::Shuffle { .. } | Stage::Columns(_) => Some(length),
        })
    }

    /// The columns of the first row.
    ///
    /// # Errors
    /// The first row cannot be read; a stream without rows has no columns.
    pub fn columns(&self) -> Result<Vec<String>> {
        let first = self.rows(0).next().transpose()?;
        Ok(first.map(|first| first.row.keys().cloned().collect()).unwrap_or_default())
    }

    /// The rows from the start. Every pass, counted from 0, has its own order where there is a shuffle.
    pub fn rows(&self, pass: u64) -> StreamRows {
        let source: StreamRows = match &self.source {
            Source::Files { format, paths, fetch, options } => {
                let (format, options, count) = (*format, options.clone(), paths.len());
                let (paths, fetch) = (paths.clone(), fetch.clone());
                let path = move |i: usize| fetch.as_ref().map_or_else(|| Ok(paths[i].clone()), |fetch| fetch(i));
                let each = move |i: usize| {
                    let rows = path(i).and_then(|path| rows_of_file(format, &path, &options));
                    rows.unwrap_or_else(|e| Box::new(std::iter::once(Err(e))))
                };
                Box::new((0..count).flat_map(each))
            }
            Source::Rows(data) => {
                let (data, count) = (data.clone(), data.len());
                let one = move |number: usize| {
                    let row = data.row(number)?;
                    Ok(StreamedRow { row: (*row).clone(), place: StreamPlace { number, file: None } })
                };
                Box::new((0..count).map(one))
            }
        };
        let rows = self.stages.iter().fold(source, |rows, stage| stage.apply(rows, pass));
        // What comes after an error would be a guess.
        Box::new(rows.scan(false, |failed, row| {
            if *failed {
                return None;
            }
            *failed = row.is_err();
            Some(row)
        }))
    }
}

fn rows_of_file(format: FileFormat, path: &Path, options: &ReadOptions) -> Result<StreamRows> {
    let mut rows = file_rows(format, path, options)?.enumerate().peekable();
    if rows.peek().is_none() {
        return Err(no_rows(path));
    }
    let (path, control) = (Rc::<Path>::from(path), options.control.clone());
    Ok(Box::new(rows.map(move |(number, row)| {
        control.check()?;
        row.map(|found| StreamedRow { row: found.row, place: StreamPlace { number, file: Some((path.clone(), found.line)) } })
    })))
}

impl Stage {
    fn apply(&self, rows: StreamRows, pass: u64) -> StreamRows {
        match self {
            Self::Map(change) => {
                let change = change.clone();
                Box::new(rows.enumerate().map(move |(number, row)| {
                    let found = row?;
                    let row = change(number, &found.row).map_err(|e| at("map", &found.place, e))?;
                    Ok(StreamedRow { row, ..found })
                }))
            }
            Self::Filter(test) => {
                let test = test.clone();
                Box::new(rows.enumerate().filter_map(move |(number, row)| match row {
                    Ok(found) => match test(number, &found.row) {
                        Ok(true) => Some(Ok(found)),
                        Ok(false) => None,
                        Err(e) => Some(Err(at("filter", &found.place, e))),
                    },
                    Err(e) => Some(Err(e)),
                }))
            }
            Self::Shuffle { seed, buffer } => Box::new(Shuffled {
                rows,
                random: Random::new(seed.wrapping_add(pass)),
                size: *buffer,
                held: Vec::new(),
                last: false,
            }),
            Self::Skip(count) => {
                let mut left = *count;
                // Only rows are skipped: an error among them is one.
                Box::new(rows.filter(move |row| {
                    let skipped = left > 0 && row.is_ok();
                    left -= usize::from(skipped);
                    !skipped
                }))
            }
            Self::Take(count) => Box::new(rows.take(*count)),
            Self::Columns(change) => {
                let change = change.clone();
                Box::new(rows.map(move |row| row.map(|found| StreamedRow { row: change.apply(&found.row), ..found })))
            }
        }
    }
}

fn at(stage: &str, place: &StreamPlace, error: Error) -> Error {
    match error {
        Error::Callback(message) => Error::Callback(format!("{stage}: row {place}: {message}")),
        other => other,
    }
}

struct Shuffled {
    rows: StreamRows,
    random: Random,
    size: usize,
    held: Vec<StreamedRow>,
    /// All rows are read; those that are held are in their order, the next one last.
    last: bool,
}

impl Iterator for Shuffled {
    type Item = Result<StreamedRow>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.last {
            match self.rows.next() {
                Some(Ok(row)) if self.held.len() < self.size => self.held.push(row),
                Some(Ok(row)) => {
                    let chosen = self.random.below(self.size as u64) as usize;
                    return Some(Ok(std::mem::replace(&mut self.held[chosen], row)));
                }
                Some(Err(e)) => return Some(Err(e)),
                None => {
                    let order = self.random.randperm(self.held.len());
                    let mut rows: Vec<Option<StreamedRow>> = std::mem::take(&mut self.held).into_iter().map(Some).collect();
                    self.held = order.into_iter().rev().filter_map(|i| rows[i].take()).collect();
                    self.last = true;
                }
            }
        }
        self.held.pop().map(Ok)
    }
}

impl std::fmt::Debug for IterableDataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Display for IterableDataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.source {
            Source::Files { paths, .. } if paths.len() == 1 => write!(f, "IterableDataset({}", paths[0].display())?,
            Source::Files { paths, .. } => write!(f, "IterableDataset({} files", paths.len())?,
            Source::Rows(data) => write!(f, "IterableDataset({} rows", data.len())?,
        }
        for stage in &self.stages {
            f.write_str(match stage {
                Stage::Map(_) => ", map",
                Stage::Filter(_) => ", filter",
                Stage::Shuffle { .. } => ", shuffle",
                Stage::Skip(_) => ", skip",
                Stage::Take(_) => ", take",
                Stage::Columns(_) => ", columns",
            })?;
        }
        f.write_str(")")
    }
}
