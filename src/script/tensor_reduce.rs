//! Reductions and losses of tensors.

use super::error::{IntoScript, ScriptResult};
use super::options::{OptionMap, Validate, options};
use super::tensor::{Tensor, TensorValue, wrap};
use super::tensor_data::{read_data, sizes_of};
use crate::error::{Error, Result};
use crate::nn::algebra::dimension;
use crate::nn::losses::{self, IGNORE_INDEX, Reduction};
use crate::nn::reduce::{self, Whole};
use crate::script::registry::Registry;
use candle_core::Tensor as CandleTensor;
use rhai::plugin::*;
use rhai::{Dynamic, Map};
use serde::{Deserialize, Serialize};

/// Options of reductions along a dimension.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Keep {
    keepdim: bool,
}

impl Validate for Keep {}

/// The same where the dimensions too are given by name.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Along {
    pub dim: Option<Dims>,
    pub keepdim: bool,
}

impl Validate for Along {}

impl Along {
    /// The dimensions, none where none is given.
    pub fn dims(&self, x: &TensorValue) -> Result<Vec<usize>> {
        match &self.dim {
            None => Ok(Vec::new()),
            Some(Dims::One(dim)) => distinct(x, &[*dim]),
            Some(Dims::Several(dims)) => distinct(x, dims),
        }
    }
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged, expecting = "must be an integer or an array of integers")]
pub(super) enum Dims {
    One(i64),
    Several(Vec<i64>),
}

/// The dimensions that an integer or an array of integers names.
pub(super) fn dims_of(x: &TensorValue, dims: &Dynamic) -> Result<Vec<usize>> {
    let dims = sizes_of(dims).map_err(|_| Error::argument("a dimension is an integer or an array of integers"))?;
    distinct(x, &dims)
}

fn distinct(x: &TensorValue, dims: &[i64]) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for &dim in dims {
        let dim = dimension(dim, x.tensor.rank())?;
        if found.contains(&dim) {
            return Err(Error::argument(format!("dimension {dim} appears twice")));
        }
        found.push(dim);
    }
    Ok(found)
}

type Reduce = fn(&CandleTensor, &[usize], bool) -> Result<CandleTensor>;

/// A reduction of all, along dimensions, and with `keepdim`.
macro_rules! reduction {
    ($module:ident, $name:tt, $reduce:expr, $(#[$doc:meta])*) => {
        #[export_module]
        mod $module {
            use super::*;
            $(#[$doc])*
            #[rhai_fn(name = $name, return_raw)]
            pub fn all(x: Tensor) -> ScriptResult<Tensor> {
                wrap($reduce(&x.input(), &[], false))
            }
            /// The same along a dimension or an array of dimensions, or with the options dim and keepdim.
            #[rhai_fn(name = $name, return_raw)]
            pub fn along(x: Tensor, dim: Dynamic) -> ScriptResult<Tensor> {
                let reduce: Reduce = $reduce;
                let Some(given) = dim.read_lock::<Map>().map(|given| Map::clone(&given)) else {
                    return wrap(dims_of(&x, &dim).and_then(|dims| reduce(&x.input(), &dims, false)));
                };
                let given: Along = options($name, given)?;
                wrap(given.dims(&x).and_then(|dims| reduce(&x.input(), &dims, given.keepdim)))
            }
            /// The same along a dimension or an array of dimensions. Options: keepdim.
            #[rhai_fn(name = $name, return_raw)]
            pub fn along_with(x: Tensor, dim: Dynamic, given: Map) -> ScriptResult<Tensor> {
                let keep: Keep = options($name, given)?;
                let reduce: Reduce = $reduce;
                wrap(dims_of(&x, &dim).and_then(|dims| reduce(&x.input(), &dims, keep.keepdim)))
            }
        }
    };
}

reduction! { sum_functions, "sum", reduce::sum,
    /// The sum of all elements.
    /// ```rhai
    /// tensor([[1.0, 2.0], [3.0, 4.0]]).sum(0)      // => tensor([4., 6.])
    /// ```
}
reduction! { mean_functions, "mean", reduce::mean,
    /// The mean of all elements.
    /// ```rhai
    /// tensor([[1.0, 2.0], [3.0, 4.0]]).mean().item()      // => 2.5
    /// ```
}
/// Options of the variance and the standard deviation.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct Spread {
    dim: Option<Dims>,
    keepdim: bool,
    /// Whether the squares are divided by their count - 1.
    unbiased: bool,
    /// What is taken from the count instead.
    correction: Option<f64>,
}

impl Default for Spread {
    fn default() -> Self {
        Self { dim: None, keepdim: false, unbiased: true, correction: None }
    }
}

impl Validate for Spread {}

/// The variance, or its root, along the dimensions `at` or those of the options.
fn spread(function: &str, x: &TensorValue, at: Option<&Dynamic>, given: Map) -> ScriptResult<TensorValue> {
    let given: Spread = options(function, given)?;
    let dims = match (at, &given.dim) {
        (Some(_), Some(_)) => return Err(format!("{function}: the dimension is given twice").into()),
        (Some(at), None) => dims_of(x, at),
        (None, None) => Ok(Vec::new()),
        (None, Some(Dims::One(dim))) => distinct(x, &[*dim]),
        (None, Some(Dims::Several(dims))) => distinct(x, dims),
    };
    let correction = given.correction.unwrap_or(if given.unbiased { 1.0 } else { 0.0 });
    let variance = dims.and_then(|dims| reduce::var(&x.input(), &dims, given.keepdim, correction));
    wrap(if function == "std" { variance.and_then(|variance| reduce::root(&variance)) } else { variance })
}

/// A measure of spread of all elements, along dimensions, and with options.
macro_rules! spread {
    ($module:ident, $name:tt, $(#[$doc:meta])*) => {
        #[export_module]
        mod $module {
            use super::*;
            $(#[$doc])*
            #[rhai_fn(name = $name, return_raw)]
            pub fn all(x: Tensor) -> ScriptResult<Tensor> {
                spread($name, &x, None, Map::new())
            }
            /// The same along a dimension or an array of dimensions, or with the options dim, keepdim, unbiased (true), correction.
            #[rhai_fn(name = $name, return_raw)]
            pub fn along(x: Tensor, dim: Dynamic) -> ScriptResult<Tensor> {
                match dim.read_lock::<Map>().map(|given| Map::clone(&given)) {
                    Some(given) => spread($name, &x, None, given),
                    None => spread($name, &x, Some(&dim), Map::new()),
                }
            }
            /// The same along a dimension or an array of dimensions. Options: keepdim, unbiased (true), correction (1).
            #[rhai_fn(name = $name, return_raw)]
            pub fn along_with(x: Tensor, dim: Dynamic, given: Map) -> ScriptResult<Tensor> {
                spread($name, &x, Some(&dim), given)
            }
        }
    };
}

spread! { var_functions, "var",
    /// The variance of all elements, divided by their count - 1.
    /// ```rhai
    /// tensor([1.0, 2.0, 3.0]).var().item()      // => 1.0
    /// tensor([1.0, 3.0]).var(#{ unbiased: false }).item()      // => 1.0
    /// ```
}
spread! { std_functions, "std",
    /// The standard deviation of all elements, with count - 1.
    /// ```rhai
    /// tensor([1.0, 2.0, 3.0]).std().item()      // => 1.0
    /// ```
}

/// The largest or smallest elements as the options say: of all a tensor, along a dimension a map.
fn extreme_with(function: &str, x: &TensorValue, largest: bool, given: Map) -> ScriptResult<Dynamic> {
    let given: AlongOne = options(function, given)?;
    match given.dim {
        Some(dim) => extreme(x, largest, dim, given.keepdim).map(Dynamic::from_map).script(),
        None if given.keepdim => Err(format!("{function}: keepdim needs the option dim").into()),
        None => {
            let whole = if largest { Whole::Max } else { Whole::Min };
            wrap(whole.apply(&x.input())).map(Dynamic::from)
        }
    }
}

/// The places of the largest or smallest elements, of all or along a dimension.
fn places(x: &TensorValue, largest: bool, dim: Option<i64>, keepdim: bool) -> ScriptResult<TensorValue> {
    let dim = dim.map(|dim| dimension(dim, x.tensor.rank())).transpose();
    wrap(dim.and_then(|dim| reduce::arg_extreme(&x.value(), largest, dim, keepdim)))
}

fn places_with(function: &str, x: &TensorValue, largest: bool, given: Map) -> ScriptResult<TensorValue> {
    let given: AlongOne = options(function, given)?;
    if given.dim.is_none() && given.keepdim {
        return Err(format!("{function}: keepdim needs the option dim").into());
    }
    places(x, largest, given.dim, given.keepdim)
}

/// Options of extremes.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct AlongOne {
    dim: Option<i64>,
    keepdim: bool,
}

impl Validate for AlongOne {}

fn extreme(x: &TensorValue, largest: bool, dim: i64, keepdim: bool) -> Result<Map> {
    let dim = dimension(dim, x.tensor.rank())?;
    let (values, indices) = reduce::extreme(&x.input(), largest, dim, keepdim)?;
    Ok(Map::from([
        ("values".into(), Dynamic::from(TensorValue::new(values))),
        ("indices".into(), Dynamic::from(TensorValue::new(indices))),
    ]))
}

/// Options of the squared error.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct SquaredErrorOptions {
    /// "mean", "sum" or "none". Default "mean".
    pub reduction: Reduction,
}

impl Validate for SquaredErrorOptions {}

/// Options of the cross entropy.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LossOptions {
    /// "mean", "sum" or "none". Default "mean".
    pub reduction: Reduction,
    /// The class that counts nothing. Default -100.
    pub ignore_index: i64,
    /// The share of each target that is spread over all classes, 0 to 1. Default 0.
    pub label_smoothing: f64,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self { reduction: Reduction::Mean, ignore_index: IGNORE_INDEX, label_smoothing: 0.0 }
    }
}

impl Validate for LossOptions {
    fn validate(&self) -> Result<()> {
        match self.label_smoothing {
            share if (0.0..=1.0).contains(&share) => Ok(()),
            share => Err(Error::argument(format!("label_smoothing must be between 0 and 1, got {share}"))),
        }
    }
}

/// The options of a cross entropy, and how much each class counts, which may be a tensor.
pub(super) fn loss_options(function: &str, given: Map) -> ScriptResult<(LossOptions, Option<CandleTensor>)> {
    let mut given = OptionMap::new(function, given);
    let weight = given.take_any("weight").map(|weight| match weight.read_lock::<TensorValue>() {
        Some(tensor) => Ok(tensor.value()),
        None => read_data(&weight),
    });
    Ok((given.parse()?, weight.transpose().script()?))
}

/// What is taken out of the options of a cross entropy by hand.
pub(super) const WEIGHT: &[(&str, &str)] = &[("weight", "Tensor")];

#[export_module]
mod reductions {
    /// The largest element.
    /// ```rhai
    /// tensor([1.0, 5.0, 3.0]).max().item()      // => 5.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn max(x: Tensor) -> ScriptResult<Tensor> {
        wrap(Whole::Max.apply(&x.input()))
    }

    /// The largest elements along a dimension, as a map of values and indices.
    #[rhai_fn(name = "max", return_raw)]
    pub fn max_along(x: Tensor, dim: i64) -> ScriptResult<Map> {
        extreme(&x, true, dim, false).script()
    }

    /// The same. Options: keepdim.
    #[rhai_fn(name = "max", return_raw)]
    pub fn max_along_with(x: Tensor, dim: i64, given: Map) -> ScriptResult<Map> {
        let keep: Keep = options("max", given)?;
        extreme(&x, true, dim, keep.keepdim).script()
    }

    /// The largest of all elements, or with the option dim along a dimension. Options: dim, keepdim.
    #[rhai_fn(name = "max", return_raw)]
    pub fn max_with(x: Tensor, given: Map) -> ScriptResult<Dynamic> {
        extreme_with("max", &x, true, given)
    }

    /// The smallest element.
    /// ```rhai
    /// tensor([1.0, 5.0, 3.0]).min().item()      // => 1.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn min(x: Tensor) -> ScriptResult<Tensor> {
        wrap(Whole::Min.apply(&x.input()))
    }

    /// The smallest elements along a dimension, as a map of values and indices.
    #[rhai_fn(name = "min", return_raw)]
    pub fn min_along(x: Tensor, dim: i64) -> ScriptResult<Map> {
        extreme(&x, false, dim, false).script()
    }

    /// The same. Options: keepdim.
    #[rhai_fn(name = "min", return_raw)]
    pub fn min_along_with(x: Tensor, dim: i64, given: Map) -> ScriptResult<Map> {
        let keep: Keep = options("min", given)?;
        extreme(&x, false, dim, keep.keepdim).script()
    }

    /// The smallest of all elements, or with the option dim along a dimension. Options: dim, keepdim.
    #[rhai_fn(name = "min", return_raw)]
    pub fn min_with(x: Tensor, given: Map) -> ScriptResult<Dynamic> {
        extreme_with("min", &x, false, given)
    }

    /// The index of the largest element, counted flat.
    /// ```rhai
    /// tensor([1.0, 5.0, 3.0]).argmax().item()      // => 1
    /// ```
    #[rhai_fn(return_raw)]
    pub fn argmax(x: Tensor) -> ScriptResult<Tensor> {
        places(&x, true, None, false)
    }

    /// The indices of the largest elements along a dimension.
    #[rhai_fn(name = "argmax", return_raw)]
    pub fn argmax_along(x: Tensor, dim: i64) -> ScriptResult<Tensor> {
        places(&x, true, Some(dim), false)
    }

    /// The same. Options: keepdim.
    #[rhai_fn(name = "argmax", return_raw)]
    pub fn argmax_along_with(x: Tensor, dim: i64, given: Map) -> ScriptResult<Tensor> {
        let keep: Keep = options("argmax", given)?;
        places(&x, true, Some(dim), keep.keepdim)
    }

    /// The index of the largest of all elements, or with the option dim the indices along a dimension. Options: dim, keepdim.
    #[rhai_fn(name = "argmax", return_raw)]
    pub fn argmax_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        places_with("argmax", &x, true, given)
    }

    /// The index of the smallest element, counted flat.
    /// ```rhai
    /// tensor([1.0, 5.0, 3.0]).argmin().item()      // => 0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn argmin(x: Tensor) -> ScriptResult<Tensor> {
        places(&x, false, None, false)
    }

    /// The indices of the smallest elements along a dimension.
    #[rhai_fn(name = "argmin", return_raw)]
    pub fn argmin_along(x: Tensor, dim: i64) -> ScriptResult<Tensor> {
        places(&x, false, Some(dim), false)
    }

    /// The same. Options: keepdim.
    #[rhai_fn(name = "argmin", return_raw)]
    pub fn argmin_along_with(x: Tensor, dim: i64, given: Map) -> ScriptResult<Tensor> {
        let keep: Keep = options("argmin", given)?;
        places(&x, false, Some(dim), keep.keepdim)
    }

    /// The index of the smallest of all elements, or with the option dim the indices along a dimension. Options: dim, keepdim.
    #[rhai_fn(name = "argmin", return_raw)]
    pub fn argmin_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        places_with("argmin", &x, false, given)
    }

    /// The mean squared error.
    /// ```rhai
    /// mse_loss(tensor([1.0, 2.0]), tensor([1.0, 4.0])).item()      // => 2.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn mse_loss(input: Tensor, target: Tensor) -> ScriptResult<Tensor> {
        wrap(losses::mse_loss(&input.input(), &target.input(), Reduction::Mean))
    }

    /// The squared error. Options: reduction ("mean", "sum", "none").
    #[rhai_fn(name = "mse_loss", return_raw)]
    pub fn mse_loss_with(input: Tensor, target: Tensor, given: Map) -> ScriptResult<Tensor> {
        let given: SquaredErrorOptions = options("mse_loss", given)?;
        wrap(losses::mse_loss(&input.input(), &target.input(), given.reduction))
    }

    /// The cross entropy in nats of logits [rows, classes] and targets [rows], averaged over the targets that are not -100; of logits
    /// [rows, classes, ..] and targets [rows, ..] too, and of targets that are probabilities in the shape of the logits.
    /// ```rhai
    /// cross_entropy(tensor([[0.0, 0.0], [5.0, 5.0]]), tensor([0, -100]))      // => tensor(0.6931)
    /// ```
    #[rhai_fn(return_raw)]
    pub fn cross_entropy(logits: Tensor, targets: Tensor) -> ScriptResult<Tensor> {
        wrap(losses::cross_entropy(&logits.input(), &targets.input(), IGNORE_INDEX, Reduction::Mean))
    }

    /// The cross entropy in nats. Options: reduction ("mean", "sum", "none"), ignore_index, label_smoothing, weight (how much each class
    /// counts, also in the mean).
    /// ```rhai
    /// let logits = tensor([[0.0, 0.0], [2.0, 0.0]]);
    /// cross_entropy(logits, tensor([0, 1]), #{ weight: [3.0, 1.0] })      // => tensor(1.0516)
    /// ```
    #[rhai_fn(name = "cross_entropy", return_raw)]
    pub fn cross_entropy_with(logits: Tensor, targets: Tensor, given: Map) -> ScriptResult<Tensor> {
        let (given, weight) = loss_options("cross_entropy", given)?;
        let LossOptions { reduction, ignore_index, label_smoothing } = given;
        let (logits, targets) = (logits.input(), targets.input());
        wrap(losses::weighted_cross_entropy(&logits, &targets, ignore_index, reduction, label_smoothing, weight.as_ref()))
    }

    /// KL(p || q) in nats between the softmax of two tensors of logits, averaged over all rows.
    /// ```rhai
    /// kl_div(tensor([[1.0, 2.0]]), tensor([[1.0, 2.0]])).item()      // => 0.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn kl_div(p_logits: Tensor, q_logits: Tensor) -> ScriptResult<Tensor> {
        wrap(losses::kl_div(&p_logits.input(), &q_logits.input()))
    }
}

/// Registers reductions and losses.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<Along>(&["sum", "mean"], &[])
        .options::<Spread>(&["var", "std"], &[])
        .options::<AlongOne>(&["max", "min", "argmax", "argmin"], &[])
        .options::<SquaredErrorOptions>(&["mse_loss"], &[])
        .options::<LossOptions>(&["cross_entropy"], WEIGHT);
    let _ = engine
        .register_global_module(exported_module!(sum_functions).into())
        .register_global_module(exported_module!(mean_functions).into())
        .register_global_module(exported_module!(var_functions).into())
        .register_global_module(exported_module!(std_functions).into())
        .register_global_module(exported_module!(reductions).into());
}
