//! `nn::...`: what makes layers, losses and a user's own modules.

use super::context::context;
use super::error::{IntoScript, ScriptResult, positioned};
use super::module::{Kind, ModuleValue};
use super::options::{Validate, options};
use super::tensor_data::kind;
use super::tensor_reduce::{LossOptions, SquaredErrorOptions, WEIGHT, loss_options};
use crate::error::{Error, Result};
use crate::nn as layers;
use crate::nn::activation::Activation;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, Dynamic, FnPtr, Map, NativeCallContext};
use serde::{Deserialize, Serialize};

use ModuleValue as Module;

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct LinearOptions {
    bias: bool,
}

impl Default for LinearOptions {
    fn default() -> Self {
        Self { bias: true }
    }
}

impl Validate for LinearOptions {}

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct NormOptions {
    eps: Option<f64>,
}

impl Validate for NormOptions {
    fn validate(&self) -> Result<()> {
        match self.eps {
            Some(eps) if !eps.is_finite() || eps < 0.0 => {
                Err(Error::argument(format!("eps must be a finite number >= 0, got {eps}")))
            }
            _ => Ok(()),
        }
    }
}

fn size(layer: &str, what: &str, value: i64) -> ScriptResult<usize> {
    match usize::try_from(value) {
        Ok(size) if (1..=1 << 28).contains(&size) => Ok(size),
        _ => Err(format!("{layer}: {what} must be at least 1 and at most {}, got {value}", 1 << 28).into()),
    }
}

fn linear(call: &NativeCallContext, input: i64, output: i64, given: &LinearOptions) -> ScriptResult<Module> {
    let session = context(call)?;
    let (input, output) = (size("Linear", "in_features", input)?, size("Linear", "out_features", output)?);
    let layer = layers::Linear::new(input, output, given.bias, &session.device(), &mut session.random.borrow_mut()).script()?;
    Ok(Module::layer(layer))
}

/// An activation as a layer.
struct ActivationLayer(Activation, &'static str);

impl layers::Module for ActivationLayer {
    fn forward(&self, input: &candle_core::Tensor, _: &mut crate::random::Random) -> Result<candle_core::Tensor> {
        self.0.apply(input)
    }

    fn describe(&self) -> String {
        format!("{}()", self.1)
    }
}

#[export_module]
mod constructors {
    /// An affine layer: x W^T + b, initialised as PyTorch does.
    /// ```rhai
    /// nn::Linear(10, 20).forward(zeros([3, 10])).shape      // => [3, 20]
    /// ```
    #[rhai_fn(name = "Linear", return_raw)]
    pub fn linear_layer(call: NativeCallContext, in_features: i64, out_features: i64) -> ScriptResult<Module> {
        positioned(&call, linear(&call, in_features, out_features, &LinearOptions::default()))
    }

    /// An affine layer. Options: bias (default true).
    #[rhai_fn(name = "Linear", return_raw)]
    pub fn linear_with(call: NativeCallContext, in_features: i64, out_features: i64, given: Map) -> ScriptResult<Module> {
        let layer = options("nn::Linear", given).and_then(|given| linear(&call, in_features, out_features, &given));
        positioned(&call, layer)
    }

    /// A table of vectors that integers are looked up in.
    /// ```rhai
    /// nn::Embedding(100, 8).forward([1, 2, 3]).shape      // => [3, 8]
    /// ```
    #[rhai_fn(name = "Embedding", return_raw)]
    pub fn embedding(call: NativeCallContext, num_embeddings: i64, embedding_dim: i64) -> ScriptResult<Module> {
        let build = || {
            let session = context(&call)?;
            let count = size("Embedding", "num_embeddings", num_embeddings)?;
            let width = size("Embedding", "embedding_dim", embedding_dim)?;
            let layer = layers::Embedding::new(count, width, &session.device(), &mut session.random.borrow_mut());
            Ok(Module::layer(layer.script()?))
        };
        positioned(&call, build())
    }

    /// Layer normalisation over the last dimension.
    /// ```rhai
    /// nn::LayerNorm(2).forward(tensor([1.0, 3.0])).shape      // => [2]
    /// ```
    #[rhai_fn(name = "LayerNorm", return_raw)]
    pub fn layer_norm(call: NativeCallContext, normalized_shape: i64) -> ScriptResult<Module> {
        layer_norm_with(call, normalized_shape, Map::new())
    }

    /// Layer normalisation over the last dimension. Options: eps (default 1e-5).
    #[rhai_fn(name = "LayerNorm", return_raw)]
    pub fn layer_norm_with(call: NativeCallContext, normalized_shape: i64, given: Map) -> ScriptResult<Module> {
        let build = || {
            let given: NormOptions = options("nn::LayerNorm", given)?;
            let width = size("LayerNorm", "normalized_shape", normalized_shape)?;
            Ok(Module::layer(layers::LayerNorm::new(width, given.eps.unwrap_or(1e-5), &context(&call)?.device()).script()?))
        };
        positioned(&call, build())
    }

    /// Normalisation by the root mean square over the last dimension.
    /// ```rhai
    /// nn::RMSNorm(2).forward(tensor([3.0, 3.0]))      // => tensor([1., 1.])
    /// ```
    #[rhai_fn(name = "RMSNorm", return_raw)]
    pub fn rms_norm(call: NativeCallContext, normalized_shape: i64) -> ScriptResult<Module> {
        rms_norm_with(call, normalized_shape, Map::new())
    }

    /// Normalisation by the root mean square. Options: eps (default: the machine epsilon).
    #[rhai_fn(name = "RMSNorm", return_raw)]
    pub fn rms_norm_with(call: NativeCallContext, normalized_shape: i64, given: Map) -> ScriptResult<Module> {
        let build = || {
            let given: NormOptions = options("nn::RMSNorm", given)?;
            let width = size("RMSNorm", "normalized_shape", normalized_shape)?;
            Ok(Module::layer(layers::RMSNorm::new(width, given.eps, &context(&call)?.device()).script()?))
        };
        positioned(&call, build())
    }

    /// Sets elements to 0 with probability `p` in training, and divides the others by 1 - p.
    /// ```rhai
    /// nn::Dropout(0.5).eval().forward(ones([2]))      // => tensor([1., 1.])
    /// ```
    #[rhai_fn(name = "Dropout", return_raw)]
    pub fn dropout(call: NativeCallContext, p: Dynamic) -> ScriptResult<Module> {
        let layer = super::super::tensor_data::number(&p).and_then(layers::Dropout::new);
        positioned(&call, layer.map(Module::layer).script())
    }

    /// max(x, 0) as a layer.
    /// ```rhai
    /// nn::ReLU().forward(tensor([-1.0, 2.0]))      // => tensor([0., 2.])
    /// ```
    #[rhai_fn(name = "ReLU")]
    pub fn relu() -> Module {
        Module::layer(ActivationLayer(Activation::Relu, "ReLU"))
    }

    /// GELU as a layer.
    /// ```rhai
    /// nn::GELU().forward(tensor([0.0, 1.0]))      // => tensor([0.0000, 0.8413])
    /// ```
    #[rhai_fn(name = "GELU")]
    pub fn gelu() -> Module {
        Module::layer(ActivationLayer(Activation::Gelu, "GELU"))
    }

    /// SiLU as a layer.
    /// ```rhai
    /// nn::SiLU().forward(tensor([0.0, 1.0]))      // => tensor([0.0000, 0.7311])
    /// ```
    #[rhai_fn(name = "SiLU")]
    pub fn silu() -> Module {
        Module::layer(ActivationLayer(Activation::Silu, "SiLU"))
    }

    /// tanh as a layer.
    /// ```rhai
    /// nn::Tanh().forward(tensor([0.0, 1.0]))      // => tensor([0.0000, 0.7616])
    /// ```
    #[rhai_fn(name = "Tanh")]
    pub fn tanh() -> Module {
        Module::layer(ActivationLayer(Activation::Tanh, "Tanh"))
    }

    /// The sigmoid as a layer.
    /// ```rhai
    /// nn::Sigmoid().forward(tensor([0.0]))      // => tensor([0.5000])
    /// ```
    #[rhai_fn(name = "Sigmoid")]
    pub fn sigmoid() -> Module {
        Module::layer(ActivationLayer(Activation::Sigmoid, "Sigmoid"))
    }

    /// Runs modules one after the other.
    /// ```rhai
    /// nn::Sequential([nn::Linear(4, 8), nn::ReLU(), nn::Linear(8, 1)]).forward(zeros([4])).shape      // => [1]
    /// ```
    #[rhai_fn(name = "Sequential", return_raw)]
    pub fn sequential(call: NativeCallContext, modules: Array) -> ScriptResult<Module> {
        let modules = modules.into_iter().enumerate().map(|(at, module)| {
            let found = kind(&module);
            module.try_cast::<Module>().ok_or_else(|| format!("nn::Sequential: element {at} is no module but {found}"))
        });
        let modules = modules.collect::<std::result::Result<_, String>>();
        positioned(&call, modules.map(|modules| Module::new(Kind::Sequential(modules))).map_err(Into::into))
    }

    /// The mean squared error as a module.
    /// ```rhai
    /// nn::MSELoss().forward(tensor([1.0, 2.0]), tensor([1.0, 4.0])).item()      // => 2.0
    /// ```
    #[rhai_fn(name = "MSELoss")]
    pub fn mse_loss() -> Module {
        Module::new(Kind::SquaredError(Default::default()))
    }

    /// The squared error as a module. Options: reduction ("mean", "sum", "none").
    #[rhai_fn(name = "MSELoss", return_raw)]
    pub fn mse_loss_with(call: NativeCallContext, given: Map) -> ScriptResult<Module> {
        let given: SquaredErrorOptions = positioned(&call, options("nn::MSELoss", given))?;
        Ok(Module::new(Kind::SquaredError(given.reduction)))
    }

    /// The cross entropy of logits and class numbers as a module.
    /// ```rhai
    /// nn::CrossEntropyLoss().forward(tensor([[0.0, 0.0]]), tensor([1]))      // => tensor(0.6931)
    /// ```
    #[rhai_fn(name = "CrossEntropyLoss")]
    pub fn cross_entropy_loss() -> Module {
        Module::new(Kind::CrossEntropy(Default::default(), layers::losses::IGNORE_INDEX, 0.0, None))
    }

    /// The cross entropy as a module. Options: reduction ("mean", "sum", "none"), ignore_index (default -100), label_smoothing (0),
    /// weight (how much each class counts).
    /// ```rhai
    /// let loss = nn::CrossEntropyLoss(#{ weight: [3.0, 1.0] });
    /// loss.forward(tensor([[0.0, 0.0], [2.0, 0.0]]), tensor([0, 1]))      // => tensor(1.0516)
    /// ```
    #[rhai_fn(name = "CrossEntropyLoss", return_raw)]
    pub fn cross_entropy_loss_with(call: NativeCallContext, given: Map) -> ScriptResult<Module> {
        let (given, weight) = positioned(&call, loss_options("nn::CrossEntropyLoss", given))?;
        Ok(Module::new(Kind::CrossEntropy(given.reduction, given.ignore_index, given.label_smoothing, weight)))
    }

    /// A module of your own: a map of children, and a closure that gets the module and the arguments of `forward`.
    /// ```rhai
    /// let m = nn::Module(#{ layer: nn::Linear(2, 1) }, |m, x| relu(m.layer.forward(x)));
    /// m.forward(zeros([5, 2])).shape      // => [5, 1]
    /// ```
    #[rhai_fn(name = "Module")]
    pub fn module(children: Map, forward: FnPtr) -> Module {
        Module::new(Kind::User { children, forward })
    }
}

/// Registers the static module `nn` and the modules' methods.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<LinearOptions>(&["nn::Linear"], &[])
        .options::<NormOptions>(&["nn::LayerNorm", "nn::RMSNorm"], &[])
        .options::<SquaredErrorOptions>(&["nn::MSELoss"], &[])
        .options::<LossOptions>(&["nn::CrossEntropyLoss"], WEIGHT);
    let _ = engine.register_static_module("nn", exported_module!(constructors).into());
    super::module_methods::register(engine);
}
