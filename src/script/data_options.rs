//! The options of the data set functions.

use super::options::Validate;
use crate::data::read::SampleBy;
use crate::data::{FractionOf, RowFormat, Stopping, TestSize};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Options of `shuffle`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShuffleOptions {
    /// What the order depends on; default: the session's random source.
    pub seed: Option<u64>,
    /// Of a stream: how many rows are at hand to choose from; default 1000.
    pub buffer_size: Option<usize>,
}

impl Validate for ShuffleOptions {
    fn validate(&self) -> Result<()> {
        match self.buffer_size {
            Some(0) => Err(Error::argument("buffer_size must be at least 1, but it is 0")),
            _ => Ok(()),
        }
    }
}

/// Options of `map` and `filter` of a data set.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EachRowOptions {
    /// Whether the function also gets the row's number, counted from 0: `|row, index|`; default false.
    pub with_indices: bool,
}

impl Validate for EachRowOptions {}

/// Options of `sort`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SortOptions {
    /// Whether the largest comes first; default false.
    pub reverse: bool,
}

impl Validate for SortOptions {}

/// Options of `shard`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ShardOptions {
    /// How many parts there are.
    pub num_shards: usize,
    /// Which part, counted from 0.
    pub index: usize,
    /// Whether a part is a stretch of the rows; default true. Otherwise it is every `num_shards`-th row.
    pub contiguous: bool,
}

impl Default for ShardOptions {
    fn default() -> Self {
        Self { num_shards: 1, index: 0, contiguous: true }
    }
}

impl Validate for ShardOptions {}

/// Options of `describe`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DescribeOptions {
    /// Rows with more tokens are counted as cut; default: none is.
    pub max_length: Option<usize>,
}

impl Validate for DescribeOptions {
    fn validate(&self) -> Result<()> {
        match self.max_length {
            Some(0) => Err(Error::argument("max_length must be at least 1, but it is 0")),
            _ => Ok(()),
        }
    }
}

/// Options of `train_test_split`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitOptions {
    /// A fraction of the rows (0.2) or a number of rows (20); default: what `train_size` leaves, without that 0.25.
    pub test_size: Option<serde_json::Number>,
    /// A fraction of the rows (0.8) or a number of rows (80); default: what `test_size` leaves. With both some rows may be in no part.
    pub train_size: Option<serde_json::Number>,
    /// What the order depends on; default: the session's random source.
    pub seed: Option<u64>,
    /// Whether rows are shuffled first; default true.
    pub shuffle: bool,
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self { test_size: None, train_size: None, seed: None, shuffle: true }
    }
}

impl SplitOptions {
    /// The size of the training and of the test part, each as a fraction (a number with a point) or a count (a whole number).
    ///
    /// # Errors
    /// A negative count.
    pub fn sizes(&self) -> Result<(Option<TestSize>, Option<TestSize>)> {
        let size = |name: &str, given: &serde_json::Number| {
            if given.is_f64() {
                return Ok(TestSize::Fraction(given.as_f64().unwrap_or(f64::NAN)));
            }
            let count = given.as_u64().and_then(|n| usize::try_from(n).ok());
            count
                .map(TestSize::Count)
                .ok_or_else(|| Error::argument(format!("{name} is {given}: give a fraction such as 0.2 or a number of rows")))
        };
        let train = self.train_size.as_ref().map(|given| size("train_size", given)).transpose()?;
        let test = self.test_size.as_ref().map(|given| size("test_size", given)).transpose()?;
        Ok((train, test))
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
    /// Of JSON files that are one object: the field that holds the rows, `"data"`; default: the file holds the rows.
    pub field: Option<String>,
    /// Whether rows are read as they are asked for and never held; default false.
    pub streaming: bool,
    /// What the rows are for training; default: each row is what its own fields say.
    pub format: Option<NamedFormat>,
    /// The configuration of a data set of the hub or a folder: `"main"`.
    pub name: Option<String>,
    /// Branch, tag or commit of a data set of the hub; default `"main"`.
    pub revision: Option<String>,
}

/// The `format` of `load_dataset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NamedFormat {
    /// That of the first row.
    Auto,
    /// `instruction`, `input`, `output`.
    Alpaca,
    /// `conversations` of `from` and `value`.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// `messages`.
    Messages,
    /// `prompt` and `completion`.
    PromptCompletion,
    /// `text`.
    Text,
}

impl NamedFormat {
    /// The library's format; none for "auto".
    pub fn known(self) -> Option<RowFormat> {
        match self {
            Self::Auto => None,
            Self::Alpaca => Some(RowFormat::Alpaca),
            Self::ShareGpt => Some(RowFormat::ShareGpt),
            Self::Messages => Some(RowFormat::Messages),
            Self::PromptCompletion => Some(RowFormat::PromptCompletion),
            Self::Text => Some(RowFormat::Text),
        }
    }
}

impl LoadOptions {
    /// The delimiter as a byte.
    ///
    /// # Errors
    /// It is not one ASCII character.
    pub fn delimiter_byte(&self) -> Result<Option<u8>> {
        match self.delimiter.as_deref().map(str::as_bytes) {
            None => Ok(None),
            // A quote and a line break have a meaning of their own in CSV.
            Some([byte]) if byte.is_ascii() && !b"\"\r\n".contains(byte) => Ok(Some(*byte)),
            Some(_) => {
                let given = self.delimiter.as_deref().unwrap_or_default();
                Err(Error::argument(format!(
                    "delimiter must be one character such as \";\", and no quote or line break, but it is {given:?}"
                )))
            }
        }
    }
}

impl Validate for LoadOptions {
    fn validate(&self) -> Result<()> {
        self.delimiter_byte().map(|_| ())
    }
}

/// Options of `interleave_datasets`.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct InterleaveOptions {
    /// How likely each data set is to give the next row; they sum to 1. Default: the data sets take turns.
    pub probabilities: Option<Vec<f64>>,
    /// What the choice depends on, as in `numpy.random.default_rng`; default: the session's random source.
    pub seed: Option<u64>,
    /// When the mix ends: when one data set has ended, or all, where those that end earlier begin again or, without replacement, do not.
    pub stopping_strategy: Stopping,
}

impl Validate for InterleaveOptions {}

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
