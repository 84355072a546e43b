//! LoRA adapters in PEFT's format: configuration, layers, attaching, several at once, combining, merging, files.

mod combine;
mod config;
mod decompose;
mod embedding;
mod handle;
mod initial;
mod lora;
mod merge;
pub mod peft;
pub mod set;
pub mod storage;
mod storage_config;
mod target;

pub use combine::{Combination, CombineOptions, MajoritySign};
pub use config::{Bias, InitLoraWeights, LoraConfig, OneOrMore, Start, TargetModules, TokenIndices};
pub use embedding::{EmbeddingLayer, TokenRows};
pub use handle::{AttachOptions, ModelHandle, SaveOptions};
pub use lora::LoraLayer;
pub use peft::Adapter;
