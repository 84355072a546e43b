//! Language models: their files, configuration, weights, tokenizer and chat template, the decoder and generation.

pub mod batch;
pub mod catalogue;
pub mod chat_template;
pub mod config;
pub mod convert;
pub mod decoder;
pub mod generate;
pub mod gguf;
mod gguf_config;

mod gguf_tokenizer;
pub mod hub;
pub mod hub_info;
pub(crate) mod hub_repository;
pub mod lm;
mod local_time;
pub mod precision;
pub mod projection;
pub mod rope;
pub mod sampling;
pub mod source;
mod tiny;
pub mod tokenizer;
pub mod weights;
mod wheel;

pub use batch::TokenBatch;
pub use chat_template::ChatTemplate;
pub use config::ModelConfig;
pub use decoder::Decoder;
pub use precision::Precision;
pub use source::Source;
pub use tokenizer::Tokenizer;
