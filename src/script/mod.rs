//! The Rhai bindings, one file a section of the language; each parses options, calls the library and wraps the result.

pub mod adapter;
pub mod adapters;
pub mod callable;
pub mod context;
pub mod convert;
pub mod core;
pub mod data;
mod data_columns;
mod data_describe;
mod data_files;
mod data_loading;
pub mod data_options;
mod data_stream;
pub mod display;
pub mod docs;
pub mod ema;
pub mod error;
pub mod forgetting;
pub mod heat;
pub(crate) mod hints;
pub mod model;
mod model_forward;
mod model_info;
mod model_save;
mod model_tree;
pub mod module;
mod module_methods;
pub mod names;
pub mod nn;
pub mod optim;
pub mod options;
pub mod registry;
pub mod result;
pub mod schedule;
pub mod show;
pub mod show_values;
pub mod statistics;
pub mod tensor;
mod tensor_data;
mod tensor_display;
mod tensor_like;
mod tensor_math;
mod tensor_norm;
mod tensor_operators;
mod tensor_properties;
mod tensor_reduce;
mod tensor_select;
mod tensor_shape;
pub mod tokenizer;
pub mod train;

use registry::{OptionCatalogue, Registry};
use rhai::Engine;

/// Registers every function of the language; gives the options that they take.
pub fn register(engine: &mut Engine) -> OptionCatalogue {
    let mut registry = Registry::new(engine);
    let engine = &mut registry;
    core::register(engine);
    tensor::register(engine);
    nn::register(engine);
    optim::register(engine);

    data::register(engine);
    show::register(engine);
    heat::register(engine);
    statistics::register(engine);
    tokenizer::register(engine);
    model_save::register(engine);
    model::register(engine);
    model_info::register(engine);
    adapter::register(engine);
    adapters::register(engine);
    train::register(engine);
    forgetting::register(engine);
    registry.finish()
}
