//! The Rhai bindings, one file a section of the language; each parses options, calls the library and wraps the result.

pub mod callable;
pub mod context;
pub mod core;
pub mod display;
pub mod docs;
pub mod error;
pub mod names;
pub mod options;

use rhai::Engine;

/// Registers every function of the language.
pub fn register(engine: &mut Engine) {
    core::register(engine);
}
