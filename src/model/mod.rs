//! Language models: their files, configuration, weights, tokenizer and chat template, the decoder and generation.

pub mod batch;
pub mod chat_template;
pub mod config;
pub mod convert;
pub mod decoder;
pub mod generate;
pub mod gguf;
mod gguf_config;
pub mod gguf_tokenizer;
mod local_time;
pub mod projection;
pub mod rope;
pub mod sampling;
pub mod source;
pub mod tokenizer;
pub mod weights;

pub use batch::TokenBatch;
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use source::Source;
pub use tokenizer::Tokenizer;
