//! What a tensor tells of itself, conversions, and autograd: `.shape`, `.grad`, `.item()`, `.to("bf16")`, `.backward()`, `no_grad`.

#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::error::{IntoScript, ScriptResult};
use super::options::{Validate, options};
use super::tensor::{TensorValue, leaf, wrap};
use super::tensor_data::{self, kind, list};
use crate::error::Error;
use crate::nn::algebra::{self, Binary};
use crate::nn::{self, Parameter, reduce};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, Dynamic, FnPtr, Map, NativeCallContext};
use serde::{Deserialize, Serialize};

/// Options of `backward`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct BackwardOptions {
    retain_graph: bool,
}

impl Validate for BackwardOptions {}

#[export_module]
mod properties {
    /// A tensor of numbers, with PyTorch's autograd.
    pub type Tensor = TensorValue;

    /// The sizes of the dimensions.
    /// ```rhai
    /// zeros([2, 3]).shape      // => [2, 3]
    /// ```
    #[rhai_fn(get = "shape", pure)]
    pub fn shape(x: &mut Tensor) -> Array {
        x.tensor.dims().iter().map(|size| Dynamic::from_int(*size as i64)).collect()
    }

    /// The type of the elements: "f32", "bf16", "f16", "f64", "i64", "u8"; of a quantised weight the kind of blocks, such as "q4_0".
    /// ```rhai
    /// zeros([2]).dtype      // => "f32"
    /// ```
    #[rhai_fn(get = "dtype", pure)]
    pub fn dtype(x: &mut Tensor) -> String {
        x.leaf.as_ref().map_or_else(|| x.tensor.dtype().as_str().to_string(), Parameter::dtype_name)
    }

    /// Where the elements are: "cpu", "cuda:0", "metal:0".
    /// ```rhai
    /// tensor(1.0).to("cpu").device      // => "cpu"
    /// ```
    #[rhai_fn(get = "device", pure)]
    pub fn device(x: &mut Tensor) -> String {
        crate::device::name(&x.leaf.as_ref().map_or_else(|| x.tensor.device().clone(), Parameter::device))
    }

    /// The number of dimensions.
    /// ```rhai
    /// zeros([2, 3]).ndim      // => 2
    /// ```
    #[rhai_fn(get = "ndim", pure)]
    pub fn ndim(x: &mut Tensor) -> i64 {
        x.tensor.rank() as i64
    }

    /// Whether `backward` reaches this tensor; can be set on tensors that were not computed from others.
    /// ```rhai
    /// let w = tensor([1.0]); w.requires_grad = true; (w * 2.0).requires_grad      // => true
    /// ```
    #[rhai_fn(get = "requires_grad", pure)]
    pub fn requires_grad(x: &mut Tensor) -> bool {
        x.requires_grad()
    }

    /// Switches the recording of gradients for this tensor on or off.
    #[rhai_fn(set = "requires_grad", return_raw)]
    pub fn set_requires_grad(x: &mut Tensor, wanted: bool) -> ScriptResult<()> {
        match &x.leaf {
            Some(parameter) if wanted && parameter.quantised().is_some() => {
                return Err("cannot train a quantised weight; put an adapter on it with get_peft_model".into());
            }
            Some(parameter) => parameter.set_requires_grad(wanted),
            None if x.tensor.track_op() && !wanted => {
                return Err("requires_grad can only be switched off on a leaf; use .detach() on a computed tensor".into());
            }
            None if wanted && !x.tensor.track_op() => *x = leaf(&x.tensor).script()?,
            None => {}
        }
        Ok(())
    }

    /// The gradient that `backward` gathered, or () before the first.
    /// ```rhai
    /// let w = tensor(3.0, #{ requires_grad: true }); (w * w).backward(); w.grad.item()      // => 6.0
    /// ```
    #[rhai_fn(get = "grad", pure, return_raw)]
    pub fn grad(x: &mut Tensor) -> ScriptResult<Dynamic> {
        let gradient = x.leaf.as_ref().map_or(Ok(None), Parameter::grad).script()?;
        Ok(gradient.map_or(Dynamic::UNIT, |gradient| Dynamic::from(TensorValue::new(gradient))))
    }

    /// Sets the gradient, or forgets it where set to ().
    #[rhai_fn(set = "grad", pure, return_raw)]
    pub fn set_grad(x: &mut Tensor, gradient: Dynamic) -> ScriptResult<()> {
        let Some(parameter) = &x.leaf else {
            return Err("only a tensor made with requires_grad: true has a gradient to set".into());
        };
        parameter.zero_grad();
        match gradient.read_lock::<TensorValue>() {
            Some(gradient) => parameter.accumulate(&gradient.value()).script(),
            None if gradient.is_unit() => Ok(()),
            None => Err(format!("a gradient is a tensor or (), not {}", kind(&gradient)).into()),
        }
    }

    /// The only element as a number.
    /// ```rhai
    /// tensor([2.5]).item()      // => 2.5
    /// ```
    #[rhai_fn(return_raw)]
    pub fn item(x: Tensor) -> ScriptResult<Dynamic> {
        tensor_data::item(&x.value()).script()
    }

    /// The elements as nested arrays of numbers.
    /// ```rhai
    /// tensor([[1, 2], [3, 4]]).to_list()      // => [[1, 2], [3, 4]]
    /// ```
    #[rhai_fn(name = "to_list", name = "tolist", return_raw)]
    pub fn to_list(x: Tensor) -> ScriptResult<Dynamic> {
        list(&x.value()).script()
    }

    /// The size of the first dimension.
    /// ```rhai
    /// zeros([4, 2]).len()      // => 4
    /// ```
    #[rhai_fn(return_raw)]
    pub fn len(x: Tensor) -> ScriptResult<i64> {
        x.tensor.dims().first().map(|size| *size as i64).ok_or_else(|| "a scalar tensor has no len()".into())
    }

    /// The number of elements.
    /// ```rhai
    /// zeros([4, 2]).numel()      // => 8
    /// ```
    pub fn numel(x: Tensor) -> i64 {
        x.tensor.elem_count() as i64
    }

    /// A copy with memory of its own, through which gradients flow.
    /// ```rhai
    /// tensor([1.0, 2.0]).clone()      // => tensor([1., 2.])
    /// ```
    #[rhai_fn(name = "clone", return_raw)]
    pub fn copy(x: Tensor) -> ScriptResult<Tensor> {
        wrap(x.input().copy().map_err(Error::from))
    }

    /// The same values without their history: `backward` stops here.
    /// ```rhai
    /// tensor([1.0], #{ requires_grad: true }).detach().requires_grad      // => false
    /// ```
    pub fn detach(x: Tensor) -> Tensor {
        TensorValue { tensor: x.value(), leaf: None }
    }

    /// Converts to a dtype ("bf16", "f32", "i64") or moves to a device ("cpu", "cuda", "cuda:1", "metal").
    /// ```rhai
    /// tensor([1.5]).to("i64")      // => tensor([1])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn to(x: Tensor, target: &str) -> ScriptResult<Tensor> {
        let input = x.input();
        if let Ok(dtype) = tensor_data::parse_dtype(target) {
            if dtype == input.dtype() {
                return Ok(x);
            }
            // No gradient passes through integers.
            let input = if dtype.is_float() { input } else { input.detach() };
            return wrap(input.to_dtype(dtype).map_err(Error::from));
        }
        let kind = target.split(':').next().unwrap_or_default();
        if !["auto", "cpu", "cuda", "gpu", "metal", "mps"].contains(&kind) {
            let known = "dtypes are f32, bf16, f16, f64, i64, u32, u8; devices are cpu, cuda, cuda:N, metal";
            return Err(format!("to: unknown dtype or device \"{target}\"; {known}").into());
        }
        let device = crate::device::parse(target).script()?;
        if device.same_device(input.device()) { Ok(x) } else { wrap(input.to_device(&device).map_err(Error::from)) }
    }

    /// Computes the gradients of this scalar and adds them into `.grad` of every tensor that requires one.
    /// ```rhai
    /// let w = tensor([1.0, 2.0], #{ requires_grad: true }); (w * w).sum().backward(); w.grad      // => tensor([2., 4.])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn backward(x: Tensor) -> ScriptResult<()> {
        nn::backward(&x.input()).script()
    }

    /// The same from a tensor of any shape, whose own gradient is given: PyTorch's `y.backward(gradient)`.
    #[rhai_fn(name = "backward", return_raw)]
    pub fn backward_from(x: Tensor, gradient: Tensor) -> ScriptResult<()> {
        let (input, gradient) = (x.input(), gradient.value());
        if input.dims() != gradient.dims() {
            let (own, given) = (input.dims(), gradient.dims());
            return Err(format!("backward: the gradient has shape {given:?}, but the tensor has {own:?}").into());
        }
        let weighted = algebra::binary(&input, &gradient, Binary::Mul).and_then(|product| reduce::sum(&product, &[], false));
        weighted.and_then(|total| nn::backward(&total)).script()
    }

    /// The same. Options: retain_graph, for PyTorch's sake: the graph lives as long as its tensors, either way.
    #[rhai_fn(name = "backward", return_raw)]
    pub fn backward_with(x: Tensor, given: Map) -> ScriptResult<()> {
        let _: BackwardOptions = options("backward", given)?;
        backward(x)
    }

    /// Runs a closure without recording gradients and returns its result.
    /// ```rhai
    /// let w = tensor(2.0, #{ requires_grad: true }); no_grad(|| w * 3.0).requires_grad      // => false
    /// ```
    #[rhai_fn(return_raw)]
    pub fn no_grad(call: NativeCallContext, work: FnPtr) -> ScriptResult<Dynamic> {
        nn::no_grad(|| work.call_within_context::<Dynamic>(&call, ()))
    }

    /// The tensor as PyTorch prints it; more than 1000 elements are summarised.
    #[rhai_fn(name = "to_string", name = "to_debug", pure)]
    pub fn to_text(x: &mut Tensor) -> String {
        x.to_string()
    }
}

/// Registers the type and what it tells of itself.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<BackwardOptions>(&["backward"], &[]);
    let _ = engine.register_global_module(exported_module!(properties).into());
    let list = |x: &TensorValue| super::tensor_data::list(&x.value()).map(|list| super::display::json(&list)).unwrap_or_default();
    super::display::register::<TensorValue>(ToString::to_string, list);
}
