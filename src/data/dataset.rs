//! An ordered list of rows that is cheap to copy: rows are shared, never changed in place. Few rows lie in memory; many stay in a
//! file and are parsed as they are asked for, see [`super::table`].

use super::RowFormat;
use super::columns::ColumnChange;
use super::place::RowPlace;
use super::table::Table;
use crate::error::{Error, Result};
use crate::random::Random;
use std::path::PathBuf;
use std::sync::Arc;

/// One row: field name to value, in the order of the file.
pub type Row = serde_json::Map<String, serde_json::Value>;

/// An ordered list of rows. Every method gives a new data set that shares the rows.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    table: Arc<Table>,
    order: Order,
    format: Option<RowFormat>,
}

/// Which rows of the table, in which order.
#[derive(Debug, Clone)]
enum Order {
    Range { start: usize, end: usize },
    // 4 bytes a row: an order of millions of rows is what a shuffle costs.
    Picked(Arc<Vec<u32>>),
}

impl Default for Order {
    fn default() -> Self {
        Self::Range { start: 0, end: 0 }
    }
}

/// How large the test part of a split is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TestSize {
    /// A share of the rows between 0 and 1, rounded up.
    Fraction(f64),
    /// A number of rows.
    Count(usize),
}

impl Dataset {
    /// A data set of these rows.
    pub fn from_list(rows: Vec<Row>) -> Self {
        Self::of_table(Table::in_memory(rows.into_iter().map(Arc::new).collect()))
    }

    pub(super) fn of_table(table: Table) -> Self {
        let order = Order::Range { start: 0, end: table.len() };
        Self { table: Arc::new(table), order, format: None }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        match &self.order {
            Order::Range { start, end } => end - start,
            Order::Picked(rows) => rows.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What its rows are for training; none: each row is what its own fields say.
    pub fn format(&self) -> Option<RowFormat> {
        self.format
    }

    /// The same rows, all of which training takes for this; none: each row for what its own fields say.
    #[must_use]
    pub fn with_format(mut self, format: Option<RowFormat>) -> Self {
        self.format = format;
        self
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Result<Arc<Row>>> + '_ {
        (0..self.len()).map(|index| self.row(index))
    }

    /// Row `index`, counted from 0.
    ///
    /// # Errors
    /// There is no such row, or the file that it lies in cannot be read any more.
    pub fn row(&self, index: usize) -> Result<Arc<Row>> {
        if index >= self.len() {
            return Err(self.no_row(index as i64));
        }
        self.table.row(self.in_table(index))
    }

    /// Row `index`; a negative index counts from the end.
    ///
    /// # Errors
    /// As [`Dataset::row`].
    pub fn get(&self, index: i64) -> Result<Arc<Row>> {
        self.row(self.position(index)?)
    }

    /// What messages call row `index`: its number, and where it comes from a file that file and the line.
    pub fn place(&self, index: usize) -> RowPlace<'_> {
        RowPlace { data: self, index }
    }

    /// The file and the line, counted from 1, that a row comes from, as far as is known. Long files are counted through.
    pub fn origin(&self, index: usize) -> Option<(PathBuf, Option<u64>)> {
        if index < self.len() { self.table.origin(self.in_table(index)) } else { None }
    }

    /// The data set itself, unless it has no rows.
    ///
    /// # Errors
    /// The data set is empty; `purpose` says what it is needed for ("training").
    pub fn non_empty(&self, purpose: &str) -> Result<&Self> {
        if self.is_empty() { Err(Error::argument(format!("{purpose} needs rows, but the data set is empty"))) } else { Ok(self) }
    }

    /// The field names, in the order in which rows first name them.
    pub fn columns(&self) -> Vec<String> {
        let picked = (0..self.len()).map(|index| self.in_table(index));
        self.table.columns(picked)
    }

    /// One field of every row; null where a row lacks it.
    ///
    /// # Errors
    /// No row has the field.
    pub fn column(&self, name: &str) -> Result<Vec<serde_json::Value>> {
        self.check_columns([name])?;
        self.iter().map(|row| Ok(row?.get(name).cloned().unwrap_or(serde_json::Value::Null))).collect()
    }

    /// Whether there are such columns.
    ///
    /// # Errors
    /// Names the first that no row has.
    pub fn check_columns<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let columns = self.columns();
        match names.into_iter().find(|name| !columns.iter().any(|column| column == name)) {
            None => Ok(()),
            Some(name) => {
                Err(Error::argument(format!("no row has the column `{name}`; the columns are: {}", columns.join(", "))))
            }
        }
    }

    /// The rows in random order, that of `torch.randperm`.
    #[must_use]
    pub fn shuffle(&self, random: &mut Random) -> Self {
        let mut rows = self.rows_in_table(0..self.len());
        random.shuffle(&mut rows);
        self.picked(rows)
    }

    /// The rows at these positions, in this order; a negative index counts from the end.
    ///
    /// # Errors
    /// There is no such row.
    pub fn select(&self, indices: impl IntoIterator<Item = i64>) -> Result<Self> {
        let positions = indices.into_iter().map(|i| self.position(i)).collect::<Result<Vec<_>>>()?;
        Ok(self.gather(positions))
    }

    /// Rows `start..end`.
    ///
    /// # Errors
    /// The range does not lie inside the data set.
    pub fn slice(&self, start: usize, end: usize) -> Result<Self> {
        if start > end || end > self.len() {
            return Err(Error::argument(format!("rows {start}..{end} do not exist: the data set has {} rows", self.len())));
        }
        let order = match &self.order {
            Order::Range { start: first, .. } => Order::Range { start: first + start, end: first + end },
            Order::Picked(rows) => Order::Picked(Arc::new(rows[start..end].to_vec())),
        };
        Ok(Self { table: self.table.clone(), order, format: self.format })
    }

    /// One of `count` parts of about the same size: the rows `index`, `index + count`, ..., or with `contiguous` one stretch.
    ///
    /// # Errors
    /// There is no such part.
    pub fn shard(&self, count: usize, index: usize, contiguous: bool) -> Result<Self> {
        if index >= count {
            let message = format!("shard: there is no part {index} of num_shards {count}; index counts from 0");
            return Err(Error::argument(message));
        }
        if !contiguous {
            return Ok(self.gather((index..self.len()).step_by(count)));
        }
        // The first parts have one row more, as numpy.array_split has it.
        let (size, rest) = (self.len() / count, self.len() % count);
        let start = index * size + index.min(rest);
        self.slice(start, start + size + usize::from(index < rest))
    }

    /// Splits into a training and a test part; with `random` the rows are shuffled first, and the test part is the first of
    /// the shuffled rows, otherwise the last rows.
    ///
    /// # Errors
    /// One of the parts would be empty.
    pub fn train_test_split(&self, size: TestSize, random: Option<&mut Random>) -> Result<(Self, Self)> {
        self.split(None, Some(size), random)
    }

    /// As [`Dataset::train_test_split`] with the size of either part, as scikit-learn has it: a size that is not given is what the other
    /// leaves, and a quarter is tested where neither is. A share of training rows is rounded down.
    ///
    /// # Errors
    /// One of the parts would be empty, or there are not as many rows.
    pub fn split(&self, train: Option<TestSize>, test: Option<TestSize>, random: Option<&mut Random>) -> Result<(Self, Self)> {
        let n = self.non_empty("train_test_split")?.len();
        let count = |name: &str, size: TestSize, round: fn(f64) -> f64| match size {
            TestSize::Fraction(share) if share > 0.0 && share < 1.0 => Ok(round(share * n as f64) as usize),
            TestSize::Fraction(share) => {
                let hint = "a fraction lies between 0 and 1 and a number of rows is a whole number of at least 1";
                Err(Error::argument(format!("{name} is {share}: {hint}")))
            }
            TestSize::Count(count) => Ok(count),
        };
        let given = train.map(|size| count("train_size", size, f64::floor)).transpose()?;
        let test = match (test, given) {
            (Some(size), _) => count("test_size", size, f64::ceil)?,
            (None, Some(train)) => n.saturating_sub(train),
            (None, None) => count("test_size", TestSize::Fraction(0.25), f64::ceil)?,
        };
        let train = given.unwrap_or(n.saturating_sub(test));
        if test == 0 || train == 0 || train.saturating_add(test) > n {
            let message = match given {
                None => format!("a test part of {test} rows leaves {train} for training"),
                Some(train) => format!("there cannot be {train} rows for training and {test} for the test"),
            };
            return Err(Error::argument(format!("{message}: the data set has {n} rows, and both parts need at least one")));
        }
        match random {
            Some(random) => {
                let order = random.randperm(n);
                let part = |range: std::ops::Range<usize>| self.gather(order[range].iter().copied());
                Ok((part(test..test + train), part(0..test)))
            }
            None => Ok((self.slice(0, train)?, self.slice(train, train + test)?)),
        }
    }

    /// All rows of the first, then all of the second, and so on. The format stays where all have the same.
    pub fn concatenate<'a>(parts: impl IntoIterator<Item = &'a Dataset>) -> Self {
        let parts: Vec<Dataset> = parts.into_iter().cloned().collect();
        if let [only] = parts.as_slice() {
            return only.clone();
        }
        let format = parts.first().and_then(|first| first.format).filter(|f| parts.iter().all(|part| part.format == Some(*f)));
        Self::of_table(Table::joined(parts)).with_format(format)
    }

    /// The same rows with their columns renamed, left out or chosen. What the rows are for training is then open again.
    #[must_use]
    pub fn with_columns(&self, change: ColumnChange) -> Self {
        Self::of_table(Table::changed(self.clone(), change))
    }

    /// The rows at these positions, which must exist.
    pub(super) fn gather(&self, positions: impl IntoIterator<Item = usize>) -> Self {
        self.picked(self.rows_in_table(positions))
    }

    fn picked(&self, rows: Vec<u32>) -> Self {
        Self { table: self.table.clone(), order: Order::Picked(Arc::new(rows)), format: self.format }
    }

    fn rows_in_table(&self, positions: impl IntoIterator<Item = usize>) -> Vec<u32> {
        // Files of more than 4 billion rows are refused where they are read.
        positions.into_iter().map(|index| self.in_table(index) as u32).collect()
    }

    fn in_table(&self, index: usize) -> usize {
        match &self.order {
            Order::Range { start, .. } => start + index,
            Order::Picked(rows) => rows[index] as usize,
        }
    }

    fn position(&self, index: i64) -> Result<usize> {
        let n = self.len();
        let from_start = if index < 0 { index + n as i64 } else { index };
        match usize::try_from(from_start) {
            Ok(position) if position < n => Ok(position),
            _ => Err(self.no_row(index)),
        }
    }

    fn no_row(&self, index: i64) -> Error {
        match self.len() {
            0 => Error::argument(format!("there is no row {index}: the data set is empty")),
            n => Error::argument(format!("there is no row {index}: the data set has {n} rows, 0 to {}", n - 1)),
        }
    }
}

impl std::fmt::Display for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset(columns: [{}], rows: {})", self.columns().join(", "), self.len())
    }
}
