//! The Rhai bindings, one file a section of the language; each parses options, calls the library and wraps the result.

pub mod context;
pub mod core;
pub mod display;
pub mod docs;
pub mod convert;
pub mod data;
mod data_loading;
pub mod data_options;
pub mod error;
pub mod names;
pub mod module;
pub mod nn;
pub mod optim;
pub mod options;
pub mod tensor;
mod tensor_data;
mod tensor_display;
mod tensor_math;
mod tensor_shape;
pub mod paths;
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
