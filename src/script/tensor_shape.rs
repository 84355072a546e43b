//! Shapes, parts, joins, reductions and losses of tensors.

use super::error::{IntoScript, ScriptResult};
use super::options::{Validate, options};
use super::tensor::{Tensor, TensorValue, wrap};
use super::tensor_data::sizes_of;
use crate::error::{Error, Result};
use crate::nn::algebra::{dimension, promote, resolve_shape};
use crate::nn::losses::{self, IGNORE_INDEX, Reduction};
use crate::nn::reduce::{self, Whole};
use candle_core::Tensor as CandleTensor;
use rhai::plugin::*;
use rhai::{Array, Dynamic, Engine, Map};
use serde::Deserialize;
use std::ops::{Range, RangeInclusive};

/// One element of the first dimension.
fn select(x: &TensorValue, at: i64) -> Result<CandleTensor> {
    let input = x.input();
    let Some(size) = input.dims().first().map(|size| *size as i64) else {
        return Err(Error::argument("a scalar tensor cannot be indexed; use .item()"));
    };
    if !(-size..size).contains(&at) {
        return Err(Error::argument(format!("index {at} is out of range for a dimension of size {size}")));
    }
    Ok(input.get(at.rem_euclid(size) as usize)?)
}

/// Elements `from` to before `to` of the first dimension, cut to what is there, as Python slices.
fn slice(x: &TensorValue, from: i64, to: i64) -> Result<CandleTensor> {
    let input = x.input();
    let Some(size) = input.dims().first().map(|size| *size as i64) else {
        return Err(Error::argument("a scalar tensor cannot be sliced"));
    };
    let absolute = |at: i64| if at < 0 { at.saturating_add(size).max(0) } else { at.min(size) };
    let (from, to) = (absolute(from), absolute(to));
    Ok(input.narrow(0, from as usize, (to - from).max(0) as usize)?)
}

fn tensors(values: &Array, what: &str) -> Result<Vec<CandleTensor>> {
    let tensors = values.iter().enumerate().map(|(at, value)| match value.read_lock::<TensorValue>() {
        Some(tensor) => Ok(tensor.input()),
        None => Err(Error::argument(format!("{what}: element {at} is no tensor but {}", value.type_name()))),
    });
    let tensors = tensors.collect::<Result<Vec<_>>>()?;
    let Some(first) = tensors.first() else {
        return Err(Error::argument(format!("{what} needs at least one tensor")));
    };
    let dtype = tensors.iter().try_fold(first.clone(), |all, next| all.to_dtype(promote(&all, next)))?.dtype();
    Ok(tensors.iter().map(|tensor| tensor.to_dtype(dtype)).collect::<candle_core::Result<_>>()?)
}

fn concatenate(values: &Array, dim: i64) -> Result<CandleTensor> {
    let tensors = tensors(values, "cat")?;
    let dim = dimension(dim, tensors[0].rank())?;
    let fits = |other: &CandleTensor| {
        other.rank() == tensors[0].rank()
            && other.rank() > 0
            && (0..other.rank()).all(|at| at == dim || other.dims()[at] == tensors[0].dims()[at])
    };
    match tensors.iter().find(|tensor| !fits(tensor)) {
        Some(other) => Err(Error::argument(format!(
            "cat: sizes must match except in dimension {dim}, got {:?} and {:?}",
            tensors[0].dims(),
            other.dims()
        ))),
        None => Ok(CandleTensor::cat(&tensors, dim)?),
    }
}

fn stacked(values: &Array, dim: i64) -> Result<CandleTensor> {
    let tensors = tensors(values, "stack")?;
    let dim = dimension(dim, tensors[0].rank() + 1)?;
    match tensors.iter().find(|tensor| tensor.dims() != tensors[0].dims()) {
        Some(other) => {
            Err(Error::argument(format!("stack: all shapes must be equal, got {:?} and {:?}", tensors[0].dims(), other.dims())))
        }
        None => Ok(CandleTensor::stack(&tensors, dim)?),
    }
}

#[export_module]
mod shapes {
    /// Element `at` of the first dimension; negative from the end.
    /// ```rhai
    /// let x = tensor([[1, 2], [3, 4]]); x[-1]      // => tensor([3, 4])
    /// ```
    #[rhai_fn(index_get, pure, return_raw)]
    pub fn element(x: &mut Tensor, at: i64) -> ScriptResult<Tensor> {
        wrap(select(x, at))
    }

    /// A range of the first dimension: `x[0..2]`.
    #[rhai_fn(index_get, pure, return_raw)]
    pub fn range(x: &mut Tensor, range: Range<i64>) -> ScriptResult<Tensor> {
        wrap(slice(x, range.start, range.end))
    }

    /// A range of the first dimension with its end: `x[0..=2]`.
    #[rhai_fn(index_get, pure, return_raw)]
    pub fn range_inclusive(x: &mut Tensor, range: RangeInclusive<i64>) -> ScriptResult<Tensor> {
        wrap(slice(x, *range.start(), range.end().saturating_add(1)))
    }

    /// Gives the elements another shape; one size may be -1 and is worked out.
    /// ```rhai
    /// arange(6).reshape([2, -1]).shape      // => [2, 3]
    /// ```
    #[rhai_fn(name = "reshape", name = "view", return_raw)]
    pub fn reshape(x: Tensor, shape: Dynamic) -> ScriptResult<Tensor> {
        let sizes = sizes_of(&shape).script()?;
        let shape = resolve_shape(&sizes, x.tensor.elem_count()).script()?;
        wrap(x.input().reshape(shape).map_err(Error::from))
    }

    /// The same with two sizes instead of an array.
    #[rhai_fn(name = "reshape", name = "view", return_raw)]
    pub fn reshape_two(x: Tensor, rows: i64, columns: i64) -> ScriptResult<Tensor> {
        reshape(x, vec![rows, columns].into())
    }

    /// All elements in one dimension.
    /// ```rhai
    /// tensor([[1, 2], [3, 4]]).flatten()      // => tensor([1, 2, 3, 4])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn flatten(x: Tensor) -> ScriptResult<Tensor> {
        wrap(x.input().flatten_all().map_err(Error::from))
    }

    /// Without the dimensions of size 1.
    /// ```rhai
    /// zeros([1, 3, 1]).squeeze().shape      // => [3]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn squeeze(x: Tensor) -> ScriptResult<Tensor> {
        let dims: Vec<usize> = x.tensor.dims().iter().copied().filter(|size| *size != 1).collect();
        wrap(x.input().reshape(dims).map_err(Error::from))
    }

    /// Without this dimension, if its size is 1.
    #[rhai_fn(name = "squeeze", return_raw)]
    pub fn squeeze_dim(x: Tensor, dim: i64) -> ScriptResult<Tensor> {
        let dim = dimension(dim, x.tensor.rank()).script()?;
        if x.tensor.dims().get(dim) == Some(&1) { wrap(x.input().squeeze(dim).map_err(Error::from)) } else { Ok(x) }
    }

    /// With a new dimension of size 1 at this place.
    /// ```rhai
    /// zeros([3]).unsqueeze(0).shape      // => [1, 3]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn unsqueeze(x: Tensor, dim: i64) -> ScriptResult<Tensor> {
        let dim = dimension(dim, x.tensor.rank() + 1).script()?;
        wrap(x.input().unsqueeze(dim).map_err(Error::from))
    }

    /// A matrix with rows and columns exchanged; a vector or scalar as it is.
    /// ```rhai
    /// tensor([[1, 2], [3, 4]]).t().flatten()      // => tensor([1, 3, 2, 4])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn t(x: Tensor) -> ScriptResult<Tensor> {
        match x.tensor.rank() {
            0 | 1 => Ok(x),
            2 => wrap(x.input().t().map_err(Error::from)),
            rank => Err(format!("t() needs at most 2 dimensions, this tensor has {rank}; use .transpose(a, b)").into()),
        }
    }

    /// With two dimensions exchanged.
    /// ```rhai
    /// zeros([2, 3, 4]).transpose(0, -1).shape      // => [4, 3, 2]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn transpose(x: Tensor, a: i64, b: i64) -> ScriptResult<Tensor> {
        let rank = x.tensor.rank();
        let (a, b) = (dimension(a, rank).script()?, dimension(b, rank).script()?);
        if rank == 0 { Ok(x) } else { wrap(x.input().transpose(a, b).map_err(Error::from)) }
    }

    /// Joins tensors along the first dimension.
    /// ```rhai
    /// cat([tensor([1, 2]), tensor([3])])      // => tensor([1, 2, 3])
    /// ```
    #[rhai_fn(return_raw)]
    pub fn cat(tensors: Array) -> ScriptResult<Tensor> {
        wrap(concatenate(&tensors, 0))
    }

    /// Joins tensors along a dimension.
    #[rhai_fn(name = "cat", return_raw)]
    pub fn cat_dim(tensors: Array, dim: i64) -> ScriptResult<Tensor> {
        wrap(concatenate(&tensors, dim))
    }

    /// Joins tensors of the same shape along a new first dimension.
    /// ```rhai
    /// stack([tensor([1, 2]), tensor([3, 4])]).shape      // => [2, 2]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn stack(tensors: Array) -> ScriptResult<Tensor> {
        wrap(stacked(&tensors, 0))
    }

    /// Joins tensors of the same shape along a new dimension.
    #[rhai_fn(name = "stack", return_raw)]
    pub fn stack_dim(tensors: Array, dim: i64) -> ScriptResult<Tensor> {
        wrap(stacked(&tensors, dim))
    }
}

/// Options of reductions along a dimension.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Keep {
    keepdim: bool,
}

impl Validate for Keep {}

fn dims_of(x: &TensorValue, dims: &Dynamic) -> Result<Vec<usize>> {
    let mut found = Vec::new();
    for dim in sizes_of(dims).map_err(|_| Error::argument("a dimension is an integer or an array of integers"))? {
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
            /// The same along a dimension or an array of dimensions.
            #[rhai_fn(name = $name, return_raw)]
            pub fn along(x: Tensor, dim: Dynamic) -> ScriptResult<Tensor> {
                let reduce: Reduce = $reduce;
                wrap(dims_of(&x, &dim).and_then(|dims| reduce(&x.input(), &dims, false)))
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
reduction! { var_functions, "var", reduce::var,
    /// The variance of all elements, divided by their count - 1.
    /// ```rhai
    /// tensor([1.0, 2.0, 3.0]).var().item()      // => 1.0
    /// ```
}
reduction! { std_functions, "std", |x: &CandleTensor, dims: &[usize], keepdim: bool| -> Result<CandleTensor> { Ok(reduce::var(x, dims, keepdim)?.sqrt()?) },
    /// The standard deviation of all elements, with count - 1.
    /// ```rhai
    /// tensor([1.0, 2.0, 3.0]).std().item()      // => 1.0
    /// ```
}

fn extreme(x: &TensorValue, largest: bool, dim: i64, keepdim: bool) -> Result<Map> {
    let dim = dimension(dim, x.tensor.rank())?;
    let (values, indices) = reduce::extreme(&x.input(), largest, dim, keepdim)?;
    Ok(Map::from([
        ("values".into(), Dynamic::from(TensorValue::new(values))),
        ("indices".into(), Dynamic::from(TensorValue::new(indices))),
    ]))
}

/// Options of the losses.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct LossOptions {
    /// "mean", "sum" or "none". Default "mean".
    pub reduction: Reduction,
    /// The class that counts nothing. Default -100.
    pub ignore_index: i64,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self { reduction: Reduction::Mean, ignore_index: IGNORE_INDEX }
    }
}

impl Validate for LossOptions {}

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

    /// The index of the largest element, counted flat.
    /// ```rhai
    /// tensor([1.0, 5.0, 3.0]).argmax().item()      // => 1
    /// ```
    #[rhai_fn(return_raw)]
    pub fn argmax(x: Tensor) -> ScriptResult<Tensor> {
        wrap(reduce::arg_extreme(&x.value(), true, None, false))
    }

    /// The indices of the largest elements along a dimension.
    #[rhai_fn(name = "argmax", return_raw)]
    pub fn argmax_along(x: Tensor, dim: i64) -> ScriptResult<Tensor> {
        wrap(dimension(dim, x.tensor.rank()).and_then(|dim| reduce::arg_extreme(&x.value(), true, Some(dim), false)))
    }

    /// The index of the smallest element, counted flat.
    /// ```rhai
    /// tensor([1.0, 5.0, 3.0]).argmin().item()      // => 0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn argmin(x: Tensor) -> ScriptResult<Tensor> {
        wrap(reduce::arg_extreme(&x.value(), false, None, false))
    }

    /// The indices of the smallest elements along a dimension.
    #[rhai_fn(name = "argmin", return_raw)]
    pub fn argmin_along(x: Tensor, dim: i64) -> ScriptResult<Tensor> {
        wrap(dimension(dim, x.tensor.rank()).and_then(|dim| reduce::arg_extreme(&x.value(), false, Some(dim), false)))
    }

    /// The 2-norm: the root of the sum of squares.
    /// ```rhai
    /// tensor([3.0, 4.0]).norm().item()      // => 5.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn norm(x: Tensor) -> ScriptResult<Tensor> {
        wrap(Whole::Norm.apply(&x.input()))
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
        let given: LossOptions = options("mse_loss", given)?;
        wrap(losses::mse_loss(&input.input(), &target.input(), given.reduction))
    }

    /// The cross entropy in nats of logits [rows, classes] and targets [rows], averaged over the targets that are not -100.
    /// ```rhai
    /// cross_entropy(tensor([[0.0, 0.0], [5.0, 5.0]]), tensor([0, -100]))      // => tensor(0.6931)
    /// ```
    #[rhai_fn(return_raw)]
    pub fn cross_entropy(logits: Tensor, targets: Tensor) -> ScriptResult<Tensor> {
        wrap(losses::cross_entropy(&logits.input(), &targets.input(), IGNORE_INDEX, Reduction::Mean))
    }

    /// The cross entropy in nats. Options: reduction ("mean", "sum", "none"), ignore_index.
    #[rhai_fn(name = "cross_entropy", return_raw)]
    pub fn cross_entropy_with(logits: Tensor, targets: Tensor, given: Map) -> ScriptResult<Tensor> {
        let given: LossOptions = options("cross_entropy", given)?;
        wrap(losses::cross_entropy(&logits.input(), &targets.input(), given.ignore_index, given.reduction))
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

/// Registers shapes, reductions and losses.
pub fn register(engine: &mut Engine) {
    let _ = engine
        .register_global_module(exported_module!(shapes).into())
        .register_global_module(exported_module!(sum_functions).into())
        .register_global_module(exported_module!(mean_functions).into())
        .register_global_module(exported_module!(var_functions).into())
        .register_global_module(exported_module!(std_functions).into())
        .register_global_module(exported_module!(reductions).into());
}
