//! The options of the data set functions.

use super::options::Validate;
use crate::data::read::SampleBy;
use crate::data::{FractionOf, TestSize};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `shuffle`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShuffleOptions {
    /// What the order depends on; default: the session's random source.
    pub seed: Option<u64>,
}

impl Validate for ShuffleOptions {}

/// Options of `train_test_split`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitOptions {
    /// A fraction of the rows (0.2) or a number of rows (20); default 0.25.
    pub test_size: serde_json::Number,
    /// What the order depends on; default: the session's random source.
    pub seed: Option<u64>,
    /// Whether rows are shuffled first; default true.
    pub shuffle: bool,
}

impl Default for SplitOptions {
    fn default() -> Self {
        let test_size = serde_json::Number::from_f64(0.25).unwrap_or_else(|| 1.into());
        Self { test_size, seed: None, shuffle: true }
    }
}

impl SplitOptions {
    /// The size as a fraction (a number with a point) or a count (a whole number).
    ///
    /// # Errors
    /// A negative count.
    pub fn size(&self) -> Result<TestSize> {
        if self.test_size.is_f64() {
            return Ok(TestSize::Fraction(self.test_size.as_f64().unwrap_or(f64::NAN)));
        }
        let count = self.test_size.as_u64().and_then(|n| usize::try_from(n).ok());
        count.map(TestSize::Count).ok_or_else(|| {
            Error::argument(format!("test_size is {}: give a fraction such as 0.2 or a number of rows", self.test_size))
        })
    }
}

impl Validate for SplitOptions {}

/// Options of `load_dataset`, without `data_files`, which may be a string, an array or a map.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadOptions {
    /// Which rows: `"train"`, `"train[:100]"`, `"test[10%:20%]"`.
    pub split: Option<String>,
    /// The character between CSV fields; default a comma, a tab for `.tsv` files.
    pub delimiter: Option<String>,
    /// One row a "line", "paragraph" or "document" of a text file.
    pub sample_by: SampleBy,
}

impl LoadOptions {
    /// The delimiter as a byte.
    ///
    /// # Errors
    /// It is not one ASCII character.
    pub fn delimiter_byte(&self) -> Result<Option<u8>> {
        match self.delimiter.as_deref().map(str::as_bytes) {
            None => Ok(None),
            Some([byte]) if byte.is_ascii() => Ok(Some(*byte)),
            Some(_) => {
                let given = self.delimiter.as_deref().unwrap_or_default();
                Err(Error::argument(format!("delimiter must be one character such as \";\", but it is \"{given}\"")))
            }
        }
    }
}

impl Validate for LoadOptions {
    fn validate(&self) -> Result<()> {
        self.delimiter_byte().map(|_| ())
    }
}

/// Options of `create_replay_dataset`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayOptions {
    /// How many general rows, as a fraction; default 0.15.
    pub replay_fraction: f64,
    /// What drawing and order depend on, as Python's `random.seed`; default 42.
    pub seed: i64,
    /// A fraction of what: "domain" (as the lesson counts, the default) or "total" (of the mixed set).
    pub of: FractionOf,
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self { replay_fraction: 0.15, seed: 42, of: FractionOf::Domain }
    }
}

impl Validate for ReplayOptions {}
