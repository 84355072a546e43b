//! An ordered list of rows that is cheap to copy: rows are shared, never changed in place.

use crate::error::{Error, Result};
use crate::files::write_whole;
use crate::random::Random;
use std::path::Path;
use std::sync::Arc;

/// One row: field name to value, in the order of the file.
pub type Row = serde_json::Map<String, serde_json::Value>;

/// An ordered list of rows. Every method gives a new data set that shares the rows.
#[derive(Debug, Clone, Default)]
pub struct Dataset {
    rows: Arc<Vec<Arc<Row>>>,
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
        Self { rows: Arc::new(rows.into_iter().map(Arc::new).collect()) }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Row> {
        self.rows.iter().map(Arc::as_ref)
    }

    /// Row `index`; a negative index counts from the end.
    ///
    /// # Errors
    /// There is no such row.
    pub fn get(&self, index: i64) -> Result<&Row> {
        Ok(&self.rows[self.position(index)?])
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
        let mut seen = std::collections::HashSet::new();
        let names = self.iter().flat_map(|row| row.keys());
        names.filter(|name| seen.insert(name.as_str())).cloned().collect()
    }

    /// One field of every row; null where a row lacks it.
    ///
    /// # Errors
    /// No row has the field.
    pub fn column(&self, name: &str) -> Result<Vec<serde_json::Value>> {
        if !self.iter().any(|row| row.contains_key(name)) {
            let columns = self.columns();
            return Err(Error::argument(format!("no row has the column `{name}`; the columns are: {}", columns.join(", "))));
        }
        Ok(self.iter().map(|row| row.get(name).cloned().unwrap_or(serde_json::Value::Null)).collect())
    }

    /// The rows in random order, that of `torch.randperm`.
    #[must_use]
    pub fn shuffle(&self, random: &mut Random) -> Self {
        self.gather(&random.randperm(self.len()))
    }

    /// The rows at these positions, in this order; a negative index counts from the end.
    ///
    /// # Errors
    /// There is no such row.
    pub fn select(&self, indices: impl IntoIterator<Item = i64>) -> Result<Self> {
        let positions = indices.into_iter().map(|i| self.position(i)).collect::<Result<Vec<_>>>()?;
        Ok(self.gather(&positions))
    }

    /// Rows `start..end`.
    ///
    /// # Errors
    /// The range does not lie inside the data set.
    pub fn slice(&self, start: usize, end: usize) -> Result<Self> {
        if start > end || end > self.len() {
            return Err(Error::argument(format!("rows {start}..{end} do not exist: the data set has {} rows", self.len())));
        }
        Ok(Self { rows: Arc::new(self.rows[start..end].to_vec()) })
    }

    /// Splits into a training and a test part; with `random` the rows are shuffled first, and the test part is the first of
    /// the shuffled rows, otherwise the last rows.
    ///
    /// # Errors
    /// One of the parts would be empty.
    pub fn train_test_split(&self, size: TestSize, random: Option<&mut Random>) -> Result<(Self, Self)> {
        let n = self.non_empty("train_test_split")?.len();
        let test = match size {
            TestSize::Fraction(share) if share > 0.0 && share < 1.0 => (share * n as f64).ceil() as usize,
            TestSize::Fraction(share) => {
                let hint = "a fraction lies between 0 and 1 and a number of rows is a whole number of at least 1";
                return Err(Error::argument(format!("test_size is {share}: {hint}")));
            }
            TestSize::Count(count) => count,
        };
        if test == 0 || test >= n {
            let message = format!("a test part of {test} rows leaves {} for training", n.saturating_sub(test));
            return Err(Error::argument(format!("{message}: the data set has {n} rows, and both parts need at least one")));
        }
        match random {
            Some(random) => {
                let order = random.randperm(n);
                Ok((self.gather(&order[test..]), self.gather(&order[..test])))
            }
            None => Ok((self.slice(0, n - test)?, self.slice(n - test, n)?)),
        }
    }

    /// All rows of the first, then all of the second, and so on.
    pub fn concatenate<'a>(parts: impl IntoIterator<Item = &'a Dataset>) -> Self {
        Self { rows: Arc::new(parts.into_iter().flat_map(|part| part.rows.iter().cloned()).collect()) }
    }

    /// Writes JSON Lines, one row a line; the file appears whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn to_json(&self, path: &Path) -> Result<()> {
        write_whole(path, |out| {
            for row in self.iter() {
                serde_json::to_writer(&mut *out, row).map_err(|e| Error::io("write", path, e.into()))?;
                out.write_all(b"\n").map_err(|e| Error::io("write", path, e))?;
            }
            Ok(())
        })
    }

    pub(super) fn gather(&self, positions: &[usize]) -> Self {
        Self { rows: Arc::new(positions.iter().map(|i| self.rows[*i].clone()).collect()) }
    }

    fn position(&self, index: i64) -> Result<usize> {
        let n = self.len();
        let from_start = if index < 0 { index + n as i64 } else { index };
        match usize::try_from(from_start) {
            Ok(position) if position < n => Ok(position),
            _ if n == 0 => Err(Error::argument(format!("there is no row {index}: the data set is empty"))),
            _ => Err(Error::argument(format!("there is no row {index}: the data set has {n} rows, 0 to {}", n - 1))),
        }
    }
}

impl std::fmt::Display for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Dataset(columns: [{}], rows: {})", self.columns().join(", "), self.len())
    }
}
