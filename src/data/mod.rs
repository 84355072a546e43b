//! Data sets: rows from lists and files, mixing for replay, and the way from rows to token batches.

pub mod bundled;
mod dataset;
mod delimited;
mod json;
pub mod loader;
pub mod packing;
mod parquet;
pub mod read;
pub mod replay;
pub mod row;
mod split;
pub mod tokenize;

pub use dataset::{Dataset, Row, TestSize};
pub use loader::{Batch, DataLoader, collate};
pub use packing::pack;
pub use read::{FileFormat, ReadOptions, read_files};
pub use replay::{FractionOf, Replay, create_replay_dataset};
pub use row::{Example, Message};
pub use split::Split;
pub use tokenize::{Encoded, Encoding, TextTokenizer, Tokenized, tokenize, tokenize_dataset};
