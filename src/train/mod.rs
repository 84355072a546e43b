//! Training with the names and numbers of transformers' Trainer.

pub mod arguments;
pub mod checkpoint;
mod memory;
pub mod regularizer;
pub mod trainer;

pub use arguments::TrainingArguments;
pub use regularizer::Regularizer;
pub use trainer::{StepState, TrainResult, Trainer};
