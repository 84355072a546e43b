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
