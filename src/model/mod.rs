//! Language models: their files, configuration, weights, tokenizer and chat template.

pub mod config;
pub mod convert;
pub mod gguf;
mod gguf_config;
pub mod rope;
pub mod source;
pub mod weights;

pub use config::ModelConfig;
pub use source::Source;
