//! Adapters as PEFT has them: LoRA layers on a decoder's projections, trained, saved, loaded, merged and taken off again.

pub mod config;
pub mod handle;
pub mod lora;
pub mod peft;
pub mod storage;
pub mod target;

pub use config::LoraConfig;
pub use handle::ModelHandle;
pub use peft::Adapter;
