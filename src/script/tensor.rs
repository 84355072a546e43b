//! The script's Tensor: what it is and how it is made.
//!
//! A tensor that requires a gradient is a [`Parameter`], shared by all copies of the value, as Python's references are; every other
//! value is a plain candle tensor, which is part of a graph where it was computed from a parameter outside `no_grad`.

use super::context::context;
use super::error::{IntoScript, ScriptResult};
use super::options::{Validate, options};
use super::tensor_data::{self, number, read_data_as, shape_of};
use crate::error::{Error, Result};
use crate::nn::{self, Parameter};
use crate::random::Random;
use crate::script::registry::Registry;
use candle_core::{DType, Device, Tensor as CandleTensor};
use rhai::plugin::*;
use rhai::{Dynamic, Map, NativeCallContext};
use serde::{Deserialize, Serialize};

pub(super) use TensorValue as Tensor;

/// A tensor as scripts hold it.
#[derive(Debug, Clone)]
pub struct TensorValue {
    /// The tensor; for a leaf its value when it was made, or the shape alone of a quantised one.
    pub tensor: CandleTensor,
    /// The parameter behind a tensor that requires a gradient.
    pub leaf: Option<Parameter>,
}

impl TensorValue {
    /// A computed tensor; inside `no_grad` it forgets how it was computed.
    pub fn new(tensor: CandleTensor) -> Self {
        Self { tensor: if nn::grad_enabled() { tensor } else { tensor.detach() }, leaf: None }
    }

    /// A parameter as a tensor.
    pub fn from_parameter(parameter: Parameter) -> Self {
        Self { tensor: parameter.outline(), leaf: Some(parameter) }
    }

    /// The tensor to compute with, recorded for `backward` unless inside `no_grad`.
    pub fn input(&self) -> CandleTensor {
        match &self.leaf {
            Some(parameter) => parameter.tensor(),
            None if nn::grad_enabled() => self.tensor.clone(),
            None => self.tensor.detach(),
        }
    }

    /// The values alone, never recorded.
    pub fn value(&self) -> CandleTensor {
        match &self.leaf {
            Some(parameter) => parameter.value(),
            None => self.tensor.detach(),
        }
    }

    /// Whether `backward` reaches this tensor.
    pub fn requires_grad(&self) -> bool {
        self.leaf.as_ref().map_or_else(|| self.tensor.track_op(), Parameter::requires_grad)
    }
}

impl From<CandleTensor> for TensorValue {
    fn from(tensor: CandleTensor) -> Self {
        Self::new(tensor)
    }
}

impl IntoIterator for TensorValue {
    type Item = Self;
    type IntoIter = std::vec::IntoIter<Self>;

    /// The elements of the first dimension; of a scalar none.
    fn into_iter(self) -> Self::IntoIter {
        let input = self.input();
        let size = input.dims().first().copied().unwrap_or(0);
        (0..size).filter_map(|at| input.get(at).ok()).map(Self::new).collect::<Vec<_>>().into_iter()
    }
}

/// Wraps a computed tensor.
pub(super) fn wrap(result: Result<CandleTensor>) -> ScriptResult<TensorValue> {
    result.map(TensorValue::new).script()
}

/// The options of the functions that make tensors.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TensorOptions {
    /// Whether a gradient is wanted. Default false.
    pub requires_grad: bool,
    /// "f32", "bf16", "f16", "f64", "i64", "u8" or PyTorch's names. Default f32, i64 for integers.
    pub dtype: Option<String>,
    /// "cpu", "cuda", "cuda:1", "metal". Default: the session's.
    pub device: Option<String>,
}

impl Validate for TensorOptions {}

impl TensorOptions {
    /// What floats are read as on their way to the dtype that was asked for.
    fn floats(&self) -> DType {
        match self.dtype.as_deref().map(tensor_data::parse_dtype) {
            Some(Ok(DType::F64)) => DType::F64,
            _ => DType::F32,
        }
    }

    /// Brings a new tensor to the dtype and device that were asked for.
    pub(super) fn finish(&self, tensor: CandleTensor, device: &Device) -> Result<TensorValue> {
        let device = self.device.as_deref().map_or_else(|| Ok(device.clone()), crate::device::parse)?;
        let dtype = self.dtype.as_deref().map_or_else(|| Ok(tensor.dtype()), tensor_data::parse_dtype)?;
        let tensor = tensor.to_dtype(dtype)?.to_device(&device)?;
        if !self.requires_grad {
            return Ok(TensorValue::new(tensor));
        }
        leaf(&tensor)
    }
}

/// A parameter with these values.
pub(super) fn leaf(tensor: &CandleTensor) -> Result<TensorValue> {
    if !tensor.dtype().is_float() {
        return Err(Error::argument(format!(
            "only floating-point tensors can require a gradient, this one is {}; write 1.0 instead of 1, or give dtype: \"f32\"",
            tensor.dtype().as_str()
        )));
    }
    Ok(TensorValue::from_parameter(Parameter::new(&tensor.contiguous()?)?))
}

/// Makes a tensor of `shape` filled by `fill`, which is given the number of elements.
fn create(
    call: &NativeCallContext,
    shape: &Dynamic,
    given: &TensorOptions,
    fill: fn(&mut Random, usize) -> Vec<f32>,
) -> ScriptResult<TensorValue> {
    let session = context(call)?;
    let shape = shape_of(shape).script()?;
    let count = tensor_data::element_count(&shape).script()?;
    let values = fill(&mut session.random.borrow_mut(), count);
    let tensor = CandleTensor::from_vec(values, shape, &Device::Cpu).script()?;
    given.finish(tensor, &session.device()).script()
}

/// The functions that fill a shape; each takes an array of sizes or up to four sizes, and options last.
macro_rules! filled {
    ($module:ident, $name:tt, $fill:expr, $(#[$doc:meta])*) => {
        #[export_module]
        mod $module {
            use super::*;
            $(#[$doc])*
            #[rhai_fn(name = $name, return_raw)]
            pub fn plain(call: NativeCallContext, shape: Dynamic) -> ScriptResult<Tensor> {
                create(&call, &shape, &TensorOptions::default(), $fill)
            }
            $(#[$doc])*
            #[rhai_fn(name = $name, return_raw)]
            pub fn with_options(call: NativeCallContext, shape: Dynamic, given: Map) -> ScriptResult<Tensor> {
                create(&call, &shape, &options($name, given)?, $fill)
            }
            /// The same with two sizes instead of an array.
            #[rhai_fn(name = $name, return_raw)]
            pub fn two(call: NativeCallContext, rows: i64, columns: i64) -> ScriptResult<Tensor> {
                create(&call, &vec![rows, columns].into(), &TensorOptions::default(), $fill)
            }
            /// The same with three sizes instead of an array.
            #[rhai_fn(name = $name, return_raw)]
            pub fn three(call: NativeCallContext, a: i64, b: i64, c: i64) -> ScriptResult<Tensor> {
                create(&call, &vec![a, b, c].into(), &TensorOptions::default(), $fill)
            }
        }
    };
}

filled! { zeros_functions, "zeros", |_, count| vec![0.0; count],
    /// A tensor of zeros. Options: requires_grad, dtype, device.
    /// ```rhai
    /// zeros([3])      // => tensor([0., 0., 0.])
    /// ```
}
filled! { ones_functions, "ones", |_, count| vec![1.0; count],
    /// A tensor of ones. Options: requires_grad, dtype, device.
    /// ```rhai
    /// ones([2, 2]).sum().item()      // => 4.0
    /// ```
}
filled! { rand_functions, "rand", Random::rand,
    /// A tensor of numbers uniform in [0, 1), the same as PyTorch's after the same `manual_seed`. Options: requires_grad, dtype, device.
    /// ```rhai
    /// manual_seed(0); rand([2])      // => tensor([0.4963, 0.7682])
    /// ```
}
filled! { randn_functions, "randn", Random::randn,
    /// A tensor of standard normal numbers, the same as PyTorch's after the same `manual_seed`. Options: requires_grad, dtype, device.
    /// ```rhai
    /// manual_seed(0); randn([2])      // => tensor([ 1.5410, -0.2934])
    /// ```
}

fn from_data(call: &NativeCallContext, data: &Dynamic, given: &TensorOptions) -> ScriptResult<TensorValue> {
    let session = context(call)?;
    let tensor = match data.read_lock::<TensorValue>() {
        Some(other) => other.value().copy().script()?,
        None => read_data_as(data, given.floats()).script()?,
    };
    given.finish(tensor, &session.device()).script()
}

/// The numbers from a start to before an end in steps.
fn counted(call: &NativeCallContext, [start, end, step]: [&Dynamic; 3], given: &TensorOptions) -> ScriptResult<TensorValue> {
    let device = context(call)?.device();
    let tensor = tensor_data::arange(start, end, step, given.floats()).script()?;
    given.finish(tensor, &device).script()
}

fn one_value(call: &NativeCallContext, shape: &Dynamic, value: &Dynamic, given: &TensorOptions) -> ScriptResult<TensorValue> {
    let session = context(call)?;
    let shape = shape_of(shape).script()?;
    tensor_data::element_count(&shape).script()?;
    let scalar = read_data_as(value, given.floats()).script()?;
    let filled = scalar.broadcast_as(shape).and_then(|wide| wide.contiguous()).script()?;
    given.finish(filled, &session.device()).script()
}

#[export_module]
mod creation {
    /// Restarts the session's random source: what follows draws the same numbers every time, and the same as PyTorch.
    /// ```rhai
    /// manual_seed(0); rand([1]).item() < 0.5      // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn manual_seed(call: NativeCallContext, seed: i64) -> ScriptResult<()> {
        // A negative seed wraps around, as it does in PyTorch.
        *context(&call)?.random.borrow_mut() = Random::new(seed as u64);
        Ok(())
    }

    /// A tensor from a number or nested arrays of numbers: integers give i64, anything with a float f32.
    /// ```rhai
    /// tensor([[1.0, 2.5], [3.0, 4.0]]).shape      // => [2, 2]
    /// tensor([1, 2])                              // => tensor([1, 2])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn tensor(call: NativeCallContext, data: Dynamic) -> ScriptResult<Tensor> {
        from_data(&call, &data, &TensorOptions::default())
    }

    /// A tensor from a number or nested arrays of numbers. Options: requires_grad, dtype, device.
    /// ```rhai
    /// tensor(1.0, #{ requires_grad: true })      // => tensor(1., requires_grad=True)
    /// ```
    #[rhai_fn(name = "tensor", return_raw)]
    pub fn tensor_with_options(call: NativeCallContext, data: Dynamic, given: Map) -> ScriptResult<Tensor> {
        from_data(&call, &data, &options("tensor", given)?)
    }

    /// The numbers from 0 to before `end`.
    /// ```rhai
    /// arange(4)      // => tensor([0, 1, 2, 3])
    /// ```
    #[rhai_fn(name = "arange", return_raw)]
    pub fn arange_to(call: NativeCallContext, end: Dynamic) -> ScriptResult<Tensor> {
        arange_step(call, Dynamic::from_int(0), end, Dynamic::from_int(1))
    }

    /// The numbers from `start` to before `end`; i64 if both are integers, else f32.
    /// ```rhai
    /// arange(2, 5)      // => tensor([2, 3, 4])
    /// ```
    #[rhai_fn(name = "arange", return_raw)]
    pub fn arange_between(call: NativeCallContext, start: Dynamic, end: Dynamic) -> ScriptResult<Tensor> {
        arange_step(call, start, end, Dynamic::from_int(1))
    }

    /// The numbers from `start` to before `end` in steps of `step`.
    /// ```rhai
    /// arange(0.0, 1.0, 0.25)      // => tensor([0.0000, 0.2500, 0.5000, 0.7500])
    /// ```
    #[rhai_fn(name = "arange", return_raw)]
    pub fn arange_step(call: NativeCallContext, start: Dynamic, end: Dynamic, step: Dynamic) -> ScriptResult<Tensor> {
        counted(&call, [&start, &end, &step], &TensorOptions::default())
    }

    /// The same. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "arange", return_raw)]
    pub fn arange_to_with(call: NativeCallContext, end: Dynamic, given: Map) -> ScriptResult<Tensor> {
        counted(&call, [&Dynamic::from_int(0), &end, &Dynamic::from_int(1)], &options("arange", given)?)
    }

    /// The same. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "arange", return_raw)]
    pub fn arange_between_with(call: NativeCallContext, start: Dynamic, end: Dynamic, given: Map) -> ScriptResult<Tensor> {
        counted(&call, [&start, &end, &Dynamic::from_int(1)], &options("arange", given)?)
    }

    /// The same. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "arange", return_raw)]
    pub fn arange_step_with(
        call: NativeCallContext,
        start: Dynamic,
        end: Dynamic,
        step: Dynamic,
        given: Map,
    ) -> ScriptResult<Tensor> {
        counted(&call, [&start, &end, &step], &options("arange", given)?)
    }

    /// `count` numbers at equal distances from `start` to `end`, both included.
    /// ```rhai
    /// linspace(0.0, 1.0, 3)      // => tensor([0.0000, 0.5000, 1.0000])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn linspace(call: NativeCallContext, start: Dynamic, end: Dynamic, count: i64) -> ScriptResult<Tensor> {
        let device = context(&call)?.device();
        let shape = shape_of(&Dynamic::from_int(count)).script()?;
        let count = tensor_data::element_count(&shape).script()?;
        let (start, end) = (number(&start).script()?, number(&end).script()?);
        let step = (end - start) / count.saturating_sub(1).max(1) as f64;
        let values = (0..count).map(|at| (start + step * at as f64) as f32).collect::<Vec<_>>();
        wrap(CandleTensor::from_vec(values, count, &device).map_err(Error::from))
    }

    /// A tensor of one value: an integer gives i64, a float f32.
    /// ```rhai
    /// full([2], 7.0)      // => tensor([7., 7.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn full(call: NativeCallContext, shape: Dynamic, value: Dynamic) -> ScriptResult<Tensor> {
        one_value(&call, &shape, &value, &TensorOptions::default())
    }

    /// The same. Options: requires_grad, dtype, device.
    #[rhai_fn(name = "full", return_raw)]
    pub fn full_with(call: NativeCallContext, shape: Dynamic, value: Dynamic, given: Map) -> ScriptResult<Tensor> {
        one_value(&call, &shape, &value, &options("full", given)?)
    }

    /// The numbers 0 to `count` - 1 in random order, as PyTorch's `randperm`.
    /// ```rhai
    /// manual_seed(0); randperm(4).shape      // => [4]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn randperm(call: NativeCallContext, count: i64) -> ScriptResult<Tensor> {
        let session = context(&call)?;
        let shape = shape_of(&Dynamic::from_int(count)).script()?;
        let count = tensor_data::element_count(&shape).script()?;
        let order: Vec<i64> = session.random.borrow_mut().randperm(count).into_iter().map(|v| v as i64).collect();
        wrap(CandleTensor::from_vec(order, count, &session.device()).map_err(Error::from))
    }
}

/// Registers the type and all its functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<TensorOptions>(&["tensor", "zeros", "ones", "rand", "randn", "full", "arange"], &[]);
    let _ = engine
        .register_global_module(exported_module!(zeros_functions).into())
        .register_global_module(exported_module!(ones_functions).into())
        .register_global_module(exported_module!(rand_functions).into())
        .register_global_module(exported_module!(randn_functions).into())
        .register_global_module(exported_module!(creation).into())
        .register_type_with_name::<TensorValue>("Tensor")
        .register_iterator::<TensorValue>();
    super::tensor_like::register(engine);
    super::tensor_select::register(engine);
    super::tensor_properties::register(engine);
    super::tensor_operators::register(engine);
    super::tensor_math::register(engine);
    super::tensor_shape::register(engine);
    super::tensor_reduce::register(engine);
    super::tensor_norm::register(engine);
}
