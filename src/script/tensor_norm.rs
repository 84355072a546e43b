//! `norm`, of every order and along dimensions.

use super::error::{IntoScript, ScriptResult};
use super::options::OptionMap;
use super::tensor::{Tensor, TensorValue, wrap};
use super::tensor_data::number;
use super::tensor_reduce::{Along, dims_of};
use crate::error::{Error, Result};
use crate::nn::norms;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Dynamic, Map};

/// The order of a norm: a number, or as a word.
pub(super) fn order(function: &str, value: &Dynamic) -> Result<f64> {
    let word = value.clone().into_immutable_string();
    match word.as_ref().map(|word| word.as_str()) {
        Ok("fro") => Ok(2.0),
        Ok("inf") => Ok(f64::INFINITY),
        Ok("-inf") => Ok(f64::NEG_INFINITY),
        Ok(other) => Err(Error::argument(format!(
            "{function}: the order of a norm is a number, \"fro\", \"inf\" or \"-inf\", got \"{other}\""
        ))),
        Err(_) => number(value),
    }
}

fn map_of(value: &Dynamic) -> Option<Map> {
    value.read_lock::<Map>().map(|given| Map::clone(&given))
}

/// The norm of this order along these dimensions, each of them given by its place or by name.
fn normed(x: &TensorValue, p: Option<&Dynamic>, dim: Option<&Dynamic>, given: Map) -> ScriptResult<TensorValue> {
    let mut given = OptionMap::new("norm", given);
    let named = given.take_any("p");
    let given: Along = given.parse()?;
    if (p.is_some() && named.is_some()) || (dim.is_some() && given.dim.is_some()) {
        return Err(format!("norm: {} is given twice", if p.is_some() && named.is_some() { "p" } else { "dim" }).into());
    }
    let p = p.or(named.as_ref()).map_or(Ok(2.0), |p| order("norm", p)).script()?;
    let dims = dim.map_or_else(|| given.dims(x), |dim| dims_of(x, dim)).script()?;
    wrap(norms::norm(&x.input(), p, &dims, given.keepdim))
}

#[export_module]
mod functions {
    /// The 2-norm: the root of the sum of squares.
    /// ```rhai
    /// tensor([3.0, 4.0]).norm().item()      // => 5.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn norm(x: Tensor) -> ScriptResult<Tensor> {
        normed(&x, None, None, Map::new())
    }

    /// The p-norm, (sum |x|^p)^(1/p): 1 the sum of sizes, "inf" the largest size, 0 the count of what is not 0; or with the options p, dim,
    /// keepdim.
    /// ```rhai
    /// let x = tensor([3.0, -4.0]); [x.norm(1).item(), x.norm("inf").item(), x.norm(0).item()]      // => [7.0, 4.0, 2.0]
    /// tensor([[3.0, 4.0], [0.0, 2.0]]).norm(#{ dim: 1 })      // => tensor([5., 2.])
    /// ```
    #[rhai_fn(name = "norm", return_raw)]
    pub fn norm_of_order(x: Tensor, p: Dynamic) -> ScriptResult<Tensor> {
        match map_of(&p) {
            Some(given) => normed(&x, None, None, given),
            None => normed(&x, Some(&p), None, Map::new()),
        }
    }

    /// The p-norm along a dimension or an array of dimensions, or with the options dim, keepdim.
    #[rhai_fn(name = "norm", return_raw)]
    pub fn norm_along(x: Tensor, p: Dynamic, dim: Dynamic) -> ScriptResult<Tensor> {
        match map_of(&dim) {
            Some(given) => normed(&x, Some(&p), None, given),
            None => normed(&x, Some(&p), Some(&dim), Map::new()),
        }
    }

    /// The same. Options: keepdim.
    #[rhai_fn(name = "norm", return_raw)]
    pub fn norm_along_with(x: Tensor, p: Dynamic, dim: Dynamic, given: Map) -> ScriptResult<Tensor> {
        normed(&x, Some(&p), Some(&dim), given)
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<Along>(&["norm"], &[("p", "float = 2.0")]);
    let _ = engine.register_global_module(exported_module!(functions).into());
}
