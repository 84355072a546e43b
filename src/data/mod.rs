//! Data sets: rows from lists and files, mixing for replay, and the way from rows to token batches.

use crate::error::{Error, Result};
use std::path::Path;

pub mod bundled;
pub mod card;
pub mod columns;
mod conversation;
mod dataset;
mod delimited;
pub mod describe;
mod export;
pub mod format;
pub mod hub;
mod input;
mod interleave;
mod json;
mod json_array;
mod line_file;
pub mod loader;
pub mod packing;
mod parquet;
mod parquet_write;
pub mod place;
pub mod read;
pub mod replay;
pub mod repository;
pub mod row;
mod row_starts;
pub mod row_writer;
mod sorting;
mod split;
pub mod stream;
mod table;
mod text;
pub mod token_rows;
pub mod tokenize;
mod yaml;

pub use columns::ColumnChange;
pub use dataset::{Dataset, Row, TestSize};
pub use format::RowFormat;
pub use interleave::{Stopping, Turn, interleave};
pub use loader::{Batch, DataLoader, collate};
pub use packing::pack;
pub use read::{FileFormat, ReadOptions, read_files};
pub use replay::{FractionOf, Replay, create_replay_dataset};
pub use row::{Example, Message};
pub use row_writer::RowWriter;
pub use split::Split;
pub use stream::IterableDataset;
pub use token_rows::TokenRows;
pub use tokenize::{Encoded, Encoding, TextTokenizer, Tokenized, tokenize, tokenize_dataset};

/// Refuses more rows than an order of 32-bit numbers can name.
fn check_count(path: &Path, rows: usize) -> Result<()> {
    match u32::try_from(rows) {
        Ok(_) => Ok(()),
        Err(_) => Err(Error::format(path, format!("{rows} rows are more than a data set holds; use streaming: true"))),
    }
}
