//! Training with the names and numbers of transformers' Trainer.

pub mod arguments;
mod best;
pub mod checkpoint;
mod feed;
mod memory;
pub mod optimizer;
pub mod regularizer;
mod settings;
mod steps;
pub mod trainer;
pub mod updater;

pub use arguments::TrainingArguments;
pub use checkpoint::Progress;
pub use regularizer::Regularizer;
pub use trainer::{StepState, TrainResult, Trainer};
