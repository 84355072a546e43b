//! The methods that layers, losses and a user's modules have in common.

#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::context::context;
use super::error::{IntoScript, ScriptResult};
use super::module::ModuleValue;
use super::optim::ZeroGradOptions;
use super::options::options;
use super::tensor::TensorValue;
use super::tensor_data::kind;
use crate::error::{Error, Result};
use crate::nn::module::{load_state_dict, load_tensors, save_tensors, state_dict};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, Dynamic, Map, NativeCallContext};
use std::collections::BTreeMap;

use ModuleValue as Module;

/// Tensors by name as a script's map.
pub(super) fn tensor_map(tensors: BTreeMap<String, candle_core::Tensor>) -> Map {
    tensors.into_iter().map(|(name, tensor)| (name.into(), Dynamic::from(TensorValue::new(tensor)))).collect()
}

/// The tensors of a state dict.
pub(super) fn tensors_of(what: &str, state: &Map) -> Result<BTreeMap<String, candle_core::Tensor>> {
    let entries = state.iter().map(|(name, value)| match value.read_lock::<TensorValue>() {
        Some(tensor) => Ok((name.to_string(), tensor.value())),
        None => Err(Error::argument(format!("{what}: \"{name}\" is no tensor but {}", kind(value)))),
    });
    entries.collect()
}

macro_rules! forwards {
    ($($function:ident($($argument:ident),+))*) => {
        #[export_module]
        mod forwards {
            use super::*;
            $(
                /// Runs the module on these arguments.
                #[allow(clippy::too_many_arguments, reason = "a user's forward has as many as it needs")]
                #[rhai_fn(name = "forward", return_raw)]
                pub fn $function(call: NativeCallContext, module: Module, $($argument: Dynamic),+) -> ScriptResult<Dynamic> {
                    module.forward(&call, vec![$($argument),+])
                }
            )*
        }
    };
}

forwards! { forward2(a, b) forward3(a, b, c) forward4(a, b, c, d) forward5(a, b, c, d, e) forward6(a, b, c, d, e, f) }

#[export_module]
mod methods {
    /// A layer, a loss or a network.
    pub type Module = ModuleValue;

    /// Runs the module on an input; a user's module takes up to six arguments.
    /// ```rhai
    /// nn::ReLU().forward(tensor([-1.0, 2.0]))      // => tensor([0., 2.])
    /// ```
    #[rhai_fn(name = "forward", return_raw)]
    pub fn forward1(call: NativeCallContext, module: Module, input: Dynamic) -> ScriptResult<Dynamic> {
        module.forward(&call, vec![input])
    }

    /// A child of a module, or a parameter of a layer, by its name.
    #[rhai_fn(index_get, pure, return_raw)]
    pub fn child(module: &mut Module, name: &str) -> ScriptResult<Dynamic> {
        module.child(name).script()
    }

    /// Nothing where the value is the one that is there, as after `m.weight -= 0.1 * m.weight.grad` inside `no_grad`, which changes the
    /// weight in place; a module's children are not replaced.
    #[rhai_fn(index_set, pure, return_raw)]
    pub fn set_child(module: &mut Module, name: &str, value: Dynamic) -> ScriptResult<()> {
        module.set_child(name, &value).script()
    }

    /// A layer of an nn::Sequential by its number.
    #[rhai_fn(index_get, pure, return_raw)]
    pub fn layer_at(module: &mut Module, at: i64) -> ScriptResult<Module> {
        module.layer_at(at).script()
    }

    /// The parameters, in a fixed order: that of PyTorch for layers, alphabetical for the children of an nn::Module.
    /// ```rhai
    /// nn::Linear(2, 3).parameters().len()      // => 2
    /// ```
    pub fn parameters(module: Module) -> Array {
        let named = module.named_parameters().into_iter();
        named.map(|(_, parameter)| Dynamic::from(TensorValue::from_parameter(parameter))).collect()
    }

    /// A map from the parameters' names to the parameters.
    /// ```rhai
    /// nn::Sequential([nn::Linear(2, 3)]).named_parameters().keys()      // => ["0.bias", "0.weight"]
    /// ```
    pub fn named_parameters(module: Module) -> Map {
        let named = module.named_parameters().into_iter();
        named.map(|(name, parameter)| (name.into(), Dynamic::from(TensorValue::from_parameter(parameter)))).collect()
    }

    /// The number of elements of all parameters.
    /// ```rhai
    /// nn::Linear(2, 3).num_parameters()      // => 9
    /// ```
    pub fn num_parameters(module: Module) -> i64 {
        module.named_parameters().iter().map(|(_, parameter)| parameter.elem_count() as i64).sum()
    }

    /// Copies of all parameters' values by name.
    /// ```rhai
    /// nn::Linear(2, 3).state_dict().keys()      // => ["bias", "weight"]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn state_dict(module: Module) -> ScriptResult<Map> {
        super::state_dict(&module.state_parameters()).map(tensor_map).script()
    }

    /// Sets all parameters from a state dict; names and shapes must fit.
    /// ```rhai
    /// let m = nn::Linear(2, 3); m.load_state_dict(m.state_dict())      // => ()
    /// ```
    #[rhai_fn(return_raw)]
    pub fn load_state_dict(module: Module, state: Map) -> ScriptResult<()> {
        let state = tensors_of("load_state_dict", &state).script()?;
        super::load_state_dict(&module.state_parameters(), &state).script()
    }

    /// Writes the parameters to a safetensors file; a relative path is taken from `--out`.
    /// ```rhai
    /// nn::Linear(2, 3).save("linear.safetensors");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn save(call: NativeCallContext, module: Module, path: &str) -> ScriptResult<()> {
        let path = context(&call)?.output_path(path);
        super::state_dict(&module.state_parameters()).and_then(|state| save_tensors(&state, &path)).script()
    }

    /// Reads the parameters from a safetensors file; names and shapes must fit.
    /// ```rhai
    /// let m = nn::Linear(2, 3); m.save("linear.safetensors"); m.load("linear.safetensors");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn load(call: NativeCallContext, module: Module, path: &str) -> ScriptResult<()> {
        load_tensors(&context(&call)?.input_path(path))
            .and_then(|state| super::load_state_dict(&module.state_parameters(), &state))
            .script()
    }

    /// Switches to training mode (dropout drops) and returns the module.
    /// ```rhai
    /// nn::Dropout(0.5).train().training      // => true
    /// ```
    pub fn train(module: Module) -> Module {
        module.set_training(true);
        module
    }

    /// Switches to training mode, or with false to evaluation mode.
    #[rhai_fn(name = "train")]
    pub fn train_mode(module: Module, training: bool) -> Module {
        module.set_training(training);
        module
    }

    /// Switches to evaluation mode (dropout does nothing) and returns the module; written `.eval()`.
    /// ```rhai
    /// nn::Dropout(0.5).eval().training      // => false
    /// ```
    pub fn eval_mode(module: Module) -> Module {
        module.set_training(false);
        module
    }

    /// Whether the module is in training mode.
    /// ```rhai
    /// nn::ReLU().training      // => true
    /// ```
    #[rhai_fn(get = "training", pure)]
    pub fn training(module: &mut Module) -> bool {
        module.training()
    }

    /// Forgets the gradients of all parameters.
    pub fn zero_grad(module: Module) {
        module.named_parameters().iter().for_each(|(_, parameter)| parameter.zero_grad());
    }

    /// The same. Options: set_to_none, which can only be true.
    #[rhai_fn(name = "zero_grad", return_raw)]
    pub fn zero_grad_with(module: Module, given: Map) -> ScriptResult<()> {
        let _: ZeroGradOptions = options("zero_grad", given)?;
        zero_grad(module);
        Ok(())
    }

    /// Frees (true) or freezes (false) all parameters.
    /// ```rhai
    /// let m = nn::Linear(2, 3); m.requires_grad(false); m.weight.requires_grad      // => false
    /// ```
    pub fn requires_grad(module: Module, wanted: bool) {
        module.named_parameters().iter().for_each(|(_, parameter)| parameter.set_requires_grad(wanted));
    }

    /// The module as PyTorch prints it.
    #[rhai_fn(name = "to_string", name = "to_debug", pure)]
    pub fn to_text(module: &mut Module) -> String {
        module.to_string()
    }
}

/// Registers the methods.
pub fn register(engine: &mut Registry<'_>) {
    let _ = engine
        .register_global_module(exported_module!(forwards).into())
        .register_global_module(exported_module!(methods).into())
        .register_type_with_name::<Module>("Module");
    super::display::register::<Module>(ToString::to_string, |module| module.to_string().into());
}
