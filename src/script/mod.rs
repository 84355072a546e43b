//! The Rhai bindings, one file a section of the language; each parses options, calls the library and wraps the result.

pub mod context;
pub mod convert;
pub mod core;
pub mod data;
mod data_loading;
pub mod data_options;
pub mod display;
pub mod docs;
pub mod error;
pub mod names;
pub mod options;
pub mod show;
pub mod show_values;
pub mod statistics;

use rhai::Engine;

/// Registers every function of the language.
pub fn register(engine: &mut Engine) {
    core::register(engine);
    data::register(engine);
    show::register(engine);
    statistics::register(engine);
}
