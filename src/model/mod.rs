//! Language models: their files, configuration, weights, tokenizer and chat template.

pub mod chat_template;
pub mod config;
mod convert;
pub mod gguf;
mod gguf_config;
mod gguf_tokenizer;
mod local_time;
pub mod rope;
pub mod source;
pub mod tokenizer;
pub mod weights;

pub use chat_template::ChatTemplate;
pub use config::ModelConfig;
pub use source::Source;
pub use tokenizer::Tokenizer;
