//! Language models: their files, configuration, weights, tokenizer and chat template.

pub mod batch;
pub mod config;
pub mod convert;
pub mod decoder;
pub mod generate;
pub mod gguf;
mod gguf_config;
pub mod projection;
pub mod rope;
pub mod sampling;
pub mod source;
pub mod weights;

pub use batch::TokenBatch;
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use source::Source;
