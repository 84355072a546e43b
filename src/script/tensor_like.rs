//! Tensors in the shape of another, identity matrices and random integers.

use super::context::context;
use super::error::{IntoScript, ScriptResult};
use super::options::options;
use super::tensor::{Tensor, TensorOptions, TensorValue};
use super::tensor_data::{element_count, read_data_as, shape_of};
use crate::error::{Error, Result};
use crate::nn::select;
use crate::random::Random;
use crate::script::registry::Registry;
use candle_core::{DType, Device, Tensor as CandleTensor};
use rhai::plugin::*;
use rhai::{Array, Dynamic, Map, NativeCallContext};

/// A tensor in the shape of `x`, and where nothing else was asked for in its dtype and on its device.
fn like(x: &CandleTensor, given: &TensorOptions, filled: CandleTensor) -> Result<TensorValue> {
    let filled = if given.dtype.is_some() { filled } else { filled.to_dtype(x.dtype())? };
    let device = x.device().clone();
    given.finish(filled.to_device(&device)?, &device)
}

/// A tensor of one number in the shape of `x`.
fn constant(x: &TensorValue, number: f64, given: &TensorOptions) -> Result<TensorValue> {
    let x = x.value();
    let one = CandleTensor::new(number, &Device::Cpu)?;
    like(&x, given, one.broadcast_as(x.dims())?.contiguous()?)
}

/// The same of any number: an integer may be larger than a float can tell.
fn constant_of(x: &TensorValue, value: &Dynamic, given: &TensorOptions) -> Result<TensorValue> {
    let x = x.value();
    let one = read_data_as(value, DType::F64)?;
    if one.rank() > 0 {
        return Err(Error::argument("full_like: the value must be one number"));
    }
    like(&x, given, one.broadcast_as(x.dims())?.contiguous()?)
}

/// Random numbers in the shape of `x`.
fn drawn(
    call: &NativeCallContext,
    function: &str,
    x: &TensorValue,
    given: &TensorOptions,
    draw: fn(&mut Random, usize) -> Vec<f32>,
) -> ScriptResult<TensorValue> {
    let x = x.value();
    if given.dtype.is_none() && !x.dtype().is_float() {
        let dtype = x.dtype().as_str();
        return Err(format!(
            "{function}: random floats need a floating-point dtype, this tensor is {dtype}; give dtype: \"f32\""
        )
        .into());
    }
    let values = draw(&mut context(call)?.random.borrow_mut(), x.elem_count());
    let made = CandleTensor::from_vec(values, x.dims(), &Device::Cpu).map_err(Error::from);
    made.and_then(|made| like(&x, given, made)).script()
}

fn identity(call: &NativeCallContext, rows: i64, columns: i64, given: &TensorOptions) -> ScriptResult<TensorValue> {
    let device = context(call)?.device();
    let shape = shape_of(&vec![rows, columns].into()).script()?;
    element_count(&shape).script()?;
    select::eye(shape[0], shape[1]).and_then(|made| given.finish(made, &device)).script()
}

fn integers(
    call: &NativeCallContext,
    [low, high]: [i64; 2],
    shape: &Dynamic,
    given: &TensorOptions,
) -> ScriptResult<TensorValue> {
    let session = context(call)?;
    if low >= high {
        return Err(format!("randint needs low < high, got {low} and {high}").into());
    }
    let shape = shape_of(shape).script()?;
    let count = element_count(&shape).script()?;
    let values = session.random.borrow_mut().randint(low, high, count);
    let made = CandleTensor::from_vec(values, shape, &Device::Cpu).map_err(Error::from);
    made.and_then(|made| given.finish(made, &session.device())).script()
}

#[export_module]
mod functions {
    /// A tensor of zeros with the shape and dtype of another.
    /// ```rhai
    /// zeros_like(tensor([1.0, 2.0]))      // => tensor([0., 0.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn zeros_like(x: Tensor) -> ScriptResult<Tensor> {
        constant(&x, 0.0, &TensorOptions::default()).script()
    }

    /// The same. Options: dtype, device (default: those of the other), requires_grad.
    /// ```rhai
    /// zeros_like(tensor([1, 2]), #{ dtype: "f32", requires_grad: true })      // => tensor([0., 0.], requires_grad=True)
    /// ```
    #[rhai_fn(name = "zeros_like", return_raw)]
    pub fn zeros_like_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        constant(&x, 0.0, &options("zeros_like", given)?).script()
    }

    /// A tensor of ones with the shape and dtype of another.
    /// ```rhai
    /// ones_like(tensor([1.0, 2.0]))      // => tensor([1., 1.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn ones_like(x: Tensor) -> ScriptResult<Tensor> {
        constant(&x, 1.0, &TensorOptions::default()).script()
    }

    /// The same. Options: dtype, device (default: those of the other), requires_grad.
    #[rhai_fn(name = "ones_like", return_raw)]
    pub fn ones_like_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        constant(&x, 1.0, &options("ones_like", given)?).script()
    }

    /// A tensor of one value with the shape and dtype of another.
    /// ```rhai
    /// full_like(tensor([1.0, 2.0]), 7)      // => tensor([7., 7.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn full_like(x: Tensor, value: Dynamic) -> ScriptResult<Tensor> {
        constant_of(&x, &value, &TensorOptions::default()).script()
    }

    /// The same. Options: dtype, device (default: those of the other), requires_grad.
    #[rhai_fn(name = "full_like", return_raw)]
    pub fn full_like_with(x: Tensor, value: Dynamic, given: Map) -> ScriptResult<Tensor> {
        constant_of(&x, &value, &options("full_like", given)?).script()
    }

    /// Numbers uniform in [0, 1), with the shape and dtype of another tensor.
    /// ```rhai
    /// manual_seed(0); rand_like(zeros([2]))      // => tensor([0.4963, 0.7682])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn rand_like(call: NativeCallContext, x: Tensor) -> ScriptResult<Tensor> {
        drawn(&call, "rand_like", &x, &TensorOptions::default(), Random::rand)
    }

    /// The same. Options: dtype, device (default: those of the other), requires_grad.
    #[rhai_fn(name = "rand_like", return_raw)]
    pub fn rand_like_with(call: NativeCallContext, x: Tensor, given: Map) -> ScriptResult<Tensor> {
        drawn(&call, "rand_like", &x, &options("rand_like", given)?, Random::rand)
    }

    /// Standard normal numbers, with the shape and dtype of another tensor.
    /// ```rhai
    /// manual_seed(0); randn_like(zeros([2]))      // => tensor([ 1.5410, -0.2934])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn randn_like(call: NativeCallContext, x: Tensor) -> ScriptResult<Tensor> {
        drawn(&call, "randn_like", &x, &TensorOptions::default(), Random::randn)
    }

    /// The same. Options: dtype, device (default: those of the other), requires_grad.
    #[rhai_fn(name = "randn_like", return_raw)]
    pub fn randn_like_with(call: NativeCallContext, x: Tensor, given: Map) -> ScriptResult<Tensor> {
        drawn(&call, "randn_like", &x, &options("randn_like", given)?, Random::randn)
    }

    /// The identity matrix: ones on the diagonal, zeros elsewhere.
    /// ```rhai
    /// eye(2).to_list()      // => [[1.0, 0.0], [0.0, 1.0]]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn eye(call: NativeCallContext, n: i64) -> ScriptResult<Tensor> {
        identity(&call, n, n, &TensorOptions::default())
    }

    /// The same. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "eye", return_raw)]
    pub fn eye_with(call: NativeCallContext, n: i64, given: Map) -> ScriptResult<Tensor> {
        identity(&call, n, n, &options("eye", given)?)
    }

    /// The same with `m` columns.
    /// ```rhai
    /// eye(2, 3).shape      // => [2, 3]
    /// ```
    #[rhai_fn(name = "eye", return_raw)]
    pub fn eye_of(call: NativeCallContext, n: i64, m: i64) -> ScriptResult<Tensor> {
        identity(&call, n, m, &TensorOptions::default())
    }

    /// The same with `m` columns. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "eye", return_raw)]
    pub fn eye_of_with(call: NativeCallContext, n: i64, m: i64, given: Map) -> ScriptResult<Tensor> {
        identity(&call, n, m, &options("eye", given)?)
    }

    /// Integers drawn from 0 to `high` - 1, as PyTorch's `randint`.
    /// ```rhai
    /// manual_seed(0); randint(10, [4])      // => tensor([4, 9, 3, 0])
    /// ```
    #[rhai_fn(name = "randint", return_raw)]
    pub fn randint_below(call: NativeCallContext, high: i64, shape: Dynamic) -> ScriptResult<Tensor> {
        integers(&call, [0, high], &shape, &TensorOptions::default())
    }

    /// Integers drawn from `low` to `high` - 1.
    /// ```rhai
    /// manual_seed(0); randint(0, 100, [3])      // => tensor([44, 39, 33])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn randint(call: NativeCallContext, low: i64, high: i64, shape: Dynamic) -> ScriptResult<Tensor> {
        integers(&call, [low, high], &shape, &TensorOptions::default())
    }

    /// The same. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "randint", return_raw)]
    pub fn randint_with(call: NativeCallContext, low: i64, high: i64, shape: Dynamic, given: Map) -> ScriptResult<Tensor> {
        integers(&call, [low, high], &shape, &options("randint", given)?)
    }

    /// From 0, with an array of sizes. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "randint", return_raw)]
    pub fn randint_below_with(call: NativeCallContext, high: i64, shape: Array, given: Map) -> ScriptResult<Tensor> {
        integers(&call, [0, high], &shape.into(), &options("randint", given)?)
    }

    /// From 0, with one size. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "randint", return_raw)]
    pub fn randint_row_with(call: NativeCallContext, high: i64, size: i64, given: Map) -> ScriptResult<Tensor> {
        integers(&call, [0, high], &Dynamic::from_int(size), &options("randint", given)?)
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    let names = ["zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "eye", "randint"];
    engine.options::<TensorOptions>(&names, &[]);
    let _ = engine.register_global_module(exported_module!(functions).into());
}
