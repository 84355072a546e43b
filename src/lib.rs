//! Fine-tuning of language models on candle, with the names and numbers of PyTorch, transformers and PEFT.
//!
//! The layers, from the bottom up; a module imports only from those before it:
//!
//! | layer | modules |
//! |---|---|
//! | beside | [`show`], [`error`], [`control`], [`random`], [`files`], [`device`], [`machine`] |
//! | compute | [`ops`] |
//! | library | [`nn`], [`model`], [`optim`], [`data`], [`adapter`], [`train`], [`eval`], [`forgetting`] |
//! | script | [`script`]: the Rhai bindings |
//! | session | [`session`]: engine, scope, output, interrupt |
//! | fronts | [`cli`], [`repl`] and [`kernel`] with the feature `cli`, [`notebook`] |
//!
//! A program in Rust runs the language by a [`notebook::Lab`], or calls the library itself:
//!
//! ```
//! use ftrepl::data::{Encoding, tokenize_dataset};
//! use ftrepl::prelude::*;
//! use ftrepl::{model::hub, random::Random};
//!
//! let control = Control::default();
//! let files = hub::resolve("tiny-random", &control)?;
//! let model = ModelHandle::new(LanguageModel::load("tiny-random", &files.path, None, &Device::Cpu)?);
//! model.attach(LoraConfig { r: 4, ..LoraConfig::default() }, &mut Random::new(0))?;
//!
//! let rows = ["on the hill", "in the hall"].map(|text| serde_json::Map::from_iter([("text".to_string(), text.into())]));
//! let data = Dataset::from_list(rows.to_vec());
//! let rows = tokenize_dataset(&data, model.model().tokenizer()?, Encoding::default(), &control)?.rows;
//! let args = TrainingArguments { max_steps: 2, ..TrainingArguments::default() };
//! let trainer = Trainer { model: model.clone(), args, train: rows.into(), eval: Default::default(), regularizer: None };
//! assert_eq!(trainer.train(&control, None, None)?.steps, 2);
//!
//! let options = GenerateOptions { max_new_tokens: 5, ..GenerateOptions::default() };
//! assert_eq!(model.model().generate(&["on".to_string()], &options, &control)?.len(), 1);
//! # Ok::<(), ftrepl::Error>(())
//! ```

pub mod adapter;
pub mod autograd;
#[cfg(feature = "cli")]
pub mod cli;
pub mod control;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod files;
pub mod forgetting;
#[cfg(feature = "cli")]
pub mod kernel;
pub mod machine;
pub mod model;
pub mod nn;
pub mod notebook;
pub mod ops;
pub mod optim;
pub mod prelude;
pub mod random;
#[cfg(feature = "cli")]
pub mod repl;
pub mod script;
pub mod session;
pub mod show;
pub mod train;

pub use error::{Error, Result};
