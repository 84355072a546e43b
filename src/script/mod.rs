//! The Rhai bindings, one file a section of the language; each parses options, calls the library and wraps the result.

pub mod context;
pub mod error;
pub mod options;

use rhai::Engine;

/// Registers every function of the language.
pub fn register(engine: &mut Engine) {
    let _ = engine;
}
