//! The Rhai bindings, one file a section of the language; each parses options, calls the library and wraps the result.

pub mod context;
pub mod error;
pub mod module;
mod module_methods;
pub mod nn;
pub mod optim;
pub mod options;
pub mod tensor;
mod tensor_data;
mod tensor_display;
mod tensor_math;
mod tensor_operators;
mod tensor_properties;
mod tensor_reduce;
mod tensor_shape;

use rhai::Engine;

/// Registers every function of the language.
pub fn register(engine: &mut Engine) {
    tensor::register(engine);
    nn::register(engine);
    optim::register(engine);
}
