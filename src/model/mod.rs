//! Language models: their files, configuration, weights, tokenizer and chat template.

pub mod catalogue;
pub mod chat_template;
pub mod config;
mod convert;
pub mod gguf;
mod gguf_config;
mod gguf_tokenizer;
pub mod hub;
pub mod hub_info;
mod hub_repository;
mod local_time;
pub mod rope;
pub mod source;
mod tiny;
pub mod tokenizer;
pub mod weights;
mod wheel;

pub use chat_template::ChatTemplate;
pub use config::ModelConfig;
pub use source::Source;
pub use tokenizer::Tokenizer;
