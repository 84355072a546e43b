//! Elementwise functions of tensors, activations, powers and matrix products.

use super::error::{IntoScript, ScriptResult};
use super::options::{OptionMap, Validate, options};
use super::tensor::{Tensor, TensorValue, wrap};
use super::tensor_shape::DimOption;
use crate::error::{Error, Result};
use crate::nn::activation::{self, Activation};
use crate::nn::algebra::{self, Binary, Scalar};
use crate::nn::{power, select};
use crate::script::registry::Registry;
use candle_core::DType;
use rhai::plugin::*;
use rhai::{Dynamic, Map};
use serde::{Deserialize, Serialize};

/// Options of `gelu`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct GeluOptions {
    approximate: Approximate,
}

impl Validate for GeluOptions {}

#[derive(Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Approximate {
    #[default]
    None,
    Tanh,
}

#[export_module]
mod functions {
    /// The negative of each element.
    /// ```rhai
    /// -tensor([1.0, -2.0])      // => tensor([-1.,  2.])
    /// ```
    #[rhai_fn(name = "-", name = "neg", return_raw)]
    pub fn negative(x: Tensor) -> ScriptResult<Tensor> {
        wrap(algebra::scalar_with(Scalar::Int(0), &x.input(), Binary::Sub))
    }

    /// The tensor itself.
    #[rhai_fn(name = "+")]
    pub fn positive(x: Tensor) -> Tensor {
        x
    }

    /// The matrix product, as `torch.matmul`: dot product of vectors, matrix products, batches of them with broadcasting.
    /// ```rhai
    /// tensor([[1.0, 2.0], [3.0, 4.0]]).matmul(tensor([1.0, 1.0]))      // => tensor([3., 7.])
    /// ```
    #[rhai_fn(name = "matmul", name = "mm", name = "@", return_raw)]
    pub fn matmul(a: Tensor, b: Tensor) -> ScriptResult<Tensor> {
        wrap(algebra::matmul(&a.input(), &b.input()))
    }

    /// Each element to a power.
    /// ```rhai
    /// tensor([1.0, 3.0]) ** 2      // => tensor([1., 9.])
    /// ```
    #[rhai_fn(name = "**", name = "pow", return_raw)]
    pub fn pow_int(x: Tensor, exponent: i64) -> ScriptResult<Tensor> {
        wrap(algebra::pow_scalar(&x.input(), Scalar::Int(exponent)))
    }

    /// Each element to a power.
    #[rhai_fn(name = "**", name = "pow", return_raw)]
    pub fn pow_float(x: Tensor, exponent: f64) -> ScriptResult<Tensor> {
        wrap(algebra::pow_scalar(&x.input(), Scalar::Float(exponent)))
    }

    /// Each element to the power of the other tensor's; of integers an integer.
    #[rhai_fn(name = "**", name = "pow", return_raw)]
    pub fn pow_tensor(x: Tensor, exponent: Tensor) -> ScriptResult<Tensor> {
        wrap(power::pow(&x.input(), &exponent.input()))
    }

    /// A number to the power of each element.
    #[rhai_fn(name = "**", return_raw)]
    pub fn pow_of_float(base: f64, exponent: Tensor) -> ScriptResult<Tensor> {
        wrap(power::pow_of_scalar(Scalar::Float(base), &exponent.input()))
    }

    /// A number to the power of each element.
    #[rhai_fn(name = "**", return_raw)]
    pub fn pow_of_int(base: i64, exponent: Tensor) -> ScriptResult<Tensor> {
        wrap(power::pow_of_scalar(Scalar::Int(base), &exponent.input()))
    }

    /// The square root of each element.
    /// ```rhai
    /// tensor([4.0, 9.0]).sqrt()      // => tensor([2., 3.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn sqrt(x: Tensor) -> ScriptResult<Tensor> {
        wrap(float(&x).and_then(|x| Ok(x.sqrt()?)))
    }

    /// e to the power of each element.
    /// ```rhai
    /// tensor([0.0, 1.0]).exp()      // => tensor([1.0000, 2.7183])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn exp(x: Tensor) -> ScriptResult<Tensor> {
        wrap(float(&x).and_then(|x| Ok(x.exp()?)))
    }

    /// The natural logarithm of each element.
    /// ```rhai
    /// tensor([1.0]).log()      // => tensor([0.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn log(x: Tensor) -> ScriptResult<Tensor> {
        wrap(float(&x).and_then(|x| Ok(x.log()?)))
    }

    /// The size of each element without its sign.
    /// ```rhai
    /// tensor([-1.0, 2.0]).abs()      // => tensor([1., 2.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn abs(x: Tensor) -> ScriptResult<Tensor> {
        if x.tensor.dtype().is_float() {
            return wrap(Activation::Abs.apply(&x.input()));
        }
        if matches!(x.tensor.dtype(), DType::U8 | DType::U32) {
            return Ok(x);
        }
        let negative = algebra::scalar_with(Scalar::Int(0), &x.value(), Binary::Sub).script()?;
        wrap(algebra::binary(&x.value(), &negative, Binary::Maximum))
    }

    /// Limits each element to the range from `low` to `high`; () leaves a side open. The gradient passes between the bounds, not on them.
    /// ```rhai
    /// tensor([-2.0, 0.5, 3.0]).clamp(0.0, 1.0)      // => tensor([0.0000, 0.5000, 1.0000])
    /// ```
    #[rhai_fn(name = "clamp", name = "clip", return_raw)]
    pub fn clamp(x: Tensor, low: Dynamic, high: Dynamic) -> ScriptResult<Tensor> {
        wrap(clamped(&x.input(), &low, &high))
    }

    /// The same by name, one side at least. Options: min, max.
    #[rhai_fn(name = "clamp", name = "clip", return_raw)]
    pub fn clamp_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        let mut given = OptionMap::new("clamp", given);
        let (low, high) = (given.take_any("min"), given.take_any("max"));
        given.finish()?;
        if low.is_none() && high.is_none() {
            return Err("clamp needs the option min, max or both".into());
        }
        clamp(x, low.unwrap_or(Dynamic::UNIT), high.unwrap_or(Dynamic::UNIT))
    }

    /// The larger of two tensors, elementwise.
    /// ```rhai
    /// maximum(tensor([1.0, 4.0]), tensor([3.0, 2.0]))      // => tensor([3., 4.])
    /// ```
    #[rhai_fn(name = "maximum", name = "max", return_raw)]
    pub fn maximum(a: Tensor, b: Tensor) -> ScriptResult<Tensor> {
        wrap(algebra::binary(&a.input(), &b.input(), Binary::Maximum))
    }

    /// The smaller of two tensors, elementwise.
    /// ```rhai
    /// minimum(tensor([1.0, 4.0]), tensor([3.0, 2.0]))      // => tensor([1., 2.])
    /// ```
    #[rhai_fn(name = "minimum", name = "min", return_raw)]
    pub fn minimum(a: Tensor, b: Tensor) -> ScriptResult<Tensor> {
        wrap(algebra::binary(&a.input(), &b.input(), Binary::Minimum))
    }

    /// max(x, 0), elementwise.
    /// ```rhai
    /// relu(tensor([-1.0, 2.0]))      // => tensor([0., 2.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn relu(x: Tensor) -> ScriptResult<Tensor> {
        wrap(Activation::Relu.apply(&x.input()))
    }

    /// The Gaussian error linear unit: x times the normal distribution function of x.
    /// ```rhai
    /// gelu(tensor([0.0, 1.0]))      // => tensor([0.0000, 0.8413])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn gelu(x: Tensor) -> ScriptResult<Tensor> {
        wrap(Activation::Gelu.apply(&x.input()))
    }

    /// The Gaussian error linear unit. Options: approximate ("none", or "tanh" as GPT-2 and Gemma use it).
    #[rhai_fn(name = "gelu", return_raw)]
    pub fn gelu_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        let given: GeluOptions = options("gelu", given)?;
        let function = if given.approximate == Approximate::Tanh { Activation::GeluTanh } else { Activation::Gelu };
        wrap(function.apply(&x.input()))
    }

    /// x sigmoid(x), elementwise.
    /// ```rhai
    /// silu(tensor([0.0, 1.0]))      // => tensor([0.0000, 0.7311])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn silu(x: Tensor) -> ScriptResult<Tensor> {
        wrap(Activation::Silu.apply(&x.input()))
    }

    /// The hyperbolic tangent of each element.
    /// ```rhai
    /// tanh(tensor([0.0, 1.0]))      // => tensor([0.0000, 0.7616])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn tanh(x: Tensor) -> ScriptResult<Tensor> {
        wrap(float(&x).and_then(|x| Activation::Tanh.apply(&x)))
    }

    /// 1 / (1 + exp(-x)), elementwise.
    /// ```rhai
    /// sigmoid(tensor([0.0, 1.0]))      // => tensor([0.5000, 0.7311])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn sigmoid(x: Tensor) -> ScriptResult<Tensor> {
        wrap(float(&x).and_then(|x| Activation::Sigmoid.apply(&x)))
    }

    /// exp(x) divided by its sum along a dimension: probabilities from logits.
    /// ```rhai
    /// softmax(tensor([0.0, 0.0]), -1)      // => tensor([0.5000, 0.5000])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn softmax(x: Tensor, dim: i64) -> ScriptResult<Tensor> {
        wrap(along(&x, dim, activation::softmax))
    }

    /// The same. Options: dim, which must be given.
    #[rhai_fn(name = "softmax", return_raw)]
    pub fn softmax_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        softmax(x, given_dim("softmax", given)?)
    }

    /// The logarithm of the softmax along a dimension.
    /// ```rhai
    /// log_softmax(tensor([0.0, 0.0]), -1)      // => tensor([-0.6931, -0.6931])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn log_softmax(x: Tensor, dim: i64) -> ScriptResult<Tensor> {
        wrap(along(&x, dim, activation::log_softmax))
    }

    /// The same. Options: dim, which must be given.
    #[rhai_fn(name = "log_softmax", return_raw)]
    pub fn log_softmax_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        log_softmax(x, given_dim("log_softmax", given)?)
    }
}

/// The tensor as floats: functions such as exp take integers too, as in PyTorch.
fn float(x: &TensorValue) -> Result<candle_core::Tensor> {
    let input = x.input();
    Ok(if input.dtype().is_float() { input } else { input.to_dtype(candle_core::DType::F32)? })
}

fn given_dim(function: &str, given: Map) -> ScriptResult<i64> {
    let given: DimOption = options(function, given)?;
    given.dim.ok_or_else(|| format!("{function}: option \"dim\" is required").into())
}

type Along = fn(&candle_core::Tensor, usize) -> Result<candle_core::Tensor>;

fn along(x: &TensorValue, dim: i64, function: Along) -> Result<candle_core::Tensor> {
    let input = x.input();
    if !input.dtype().is_float() {
        return Err(Error::argument("softmax needs a floating-point tensor; convert with .to(\"f32\")"));
    }
    let at = algebra::dimension(dim, input.rank())?;
    if input.elem_count() == 0 {
        return Ok(input);
    }
    if input.rank() == 0 {
        return Ok(function(&input.unsqueeze(0)?, 0)?.squeeze(0)?);
    }
    function(&input, at)
}

fn clamped(x: &candle_core::Tensor, low: &Dynamic, high: &Dynamic) -> Result<candle_core::Tensor> {
    let bound = |value: &Dynamic| -> Result<Option<Scalar>> {
        match (value.is_unit(), value.as_int(), super::tensor_data::number(value)) {
            (true, ..) => Ok(None),
            (_, Ok(integer), _) => Ok(Some(Scalar::Int(integer))),
            (_, _, float) => Ok(Some(Scalar::Float(float?))),
        }
    };
    select::clamp(x, bound(low)?, bound(high)?)
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<GeluOptions>(&["gelu"], &[]).options::<DimOption>(&["softmax", "log_softmax"], &[]);
    for name in ["clamp", "clip"] {
        let _ = engine.options_by_hand(name, &[("min", "float"), ("max", "float")]);
    }
    let _ = engine.register_global_module(exported_module!(functions).into());
}
