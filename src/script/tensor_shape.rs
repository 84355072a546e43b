//! Shapes, parts and joins of tensors.

#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::error::{IntoScript, ScriptResult};
use super::options::{Validate, options};
use super::tensor::{Tensor, TensorValue, wrap};
use super::tensor_data::{kind, sizes_of};
use crate::error::{Error, Result};
use crate::nn::algebra::{dimension, promote, resolve_shape};
use crate::script::registry::Registry;
use candle_core::{DType, Tensor as CandleTensor};
use rhai::plugin::*;
use rhai::{Array, Dynamic, Map};
use serde::{Deserialize, Serialize};
use std::ops::{Range, RangeInclusive};

/// A dimension that is given by name, as PyTorch's `dim=`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct DimOption {
    /// Negative from the end.
    pub dim: Option<i64>,
}

impl Validate for DimOption {}

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

/// The elements of the first dimension at these places, or where a mask is not 0; a mask of several dimensions chooses from all of them.
fn choose(x: &TensorValue, which: &TensorValue) -> Result<CandleTensor> {
    let (input, which) = (x.input(), which.value());
    if which.dtype().is_float() {
        let dtype = which.dtype().as_str();
        return Err(Error::argument(format!("a tensor is indexed by integers or by a mask such as x > 0, not by {dtype}")));
    }
    let numbers = which.to_dtype(DType::I64)?.flatten_all()?.to_vec1::<i64>()?;
    if which.dtype() == DType::U8 {
        let covered = which.rank();
        if covered == 0 || input.dims().get(..covered) != Some(which.dims()) {
            let (mask, own) = (which.dims(), input.dims());
            return Err(Error::argument(format!("a mask of shape {mask:?} does not fit a tensor of shape {own:?}")));
        }
        let set: Vec<i64> = (0i64..).zip(&numbers).filter(|(_, mask)| **mask != 0).map(|(at, _)| at).collect();
        let mut shape = vec![numbers.len()];
        shape.extend(&input.dims()[covered..]);
        return rows(&input.reshape(shape)?, set);
    }
    let Some(size) = input.dims().first().map(|size| *size as i64) else {
        return Err(Error::argument("a scalar tensor cannot be indexed; use .item()"));
    };
    if let Some(at) = numbers.iter().find(|at| !(-size..size).contains(*at)) {
        return Err(Error::argument(format!("index {at} is out of range for a dimension of size {size}")));
    }
    let mut shape = which.dims().to_vec();
    shape.extend(&input.dims()[1..]);
    Ok(rows(&input, numbers.into_iter().map(|at| at.rem_euclid(size)).collect())?.reshape(shape)?)
}

fn rows(x: &CandleTensor, at: Vec<i64>) -> Result<CandleTensor> {
    if at.is_empty() || x.elem_count() == 0 {
        let mut shape = x.dims().to_vec();
        shape[0] = at.len();
        return Ok(CandleTensor::zeros(shape, x.dtype(), x.device())?);
    }
    let count = at.len();
    Ok(x.contiguous()?.index_select(&CandleTensor::from_vec(at, count, x.device())?, 0)?)
}

fn tensors(values: &Array, what: &str) -> Result<Vec<CandleTensor>> {
    let tensors = values.iter().enumerate().map(|(at, value)| match value.read_lock::<TensorValue>() {
        Some(tensor) => Ok(tensor.input()),
        None => Err(Error::argument(format!("{what}: element {at} is no tensor but {}", kind(value)))),
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

fn permuted(x: &TensorValue, dims: &Dynamic) -> Result<CandleTensor> {
    let rank = x.tensor.rank();
    let refuse = || Error::argument(format!("permute needs each of the {rank} dimensions once, as integers"));
    let order: Vec<i64> = sizes_of(dims).map_err(|_| refuse())?;
    let order: Vec<usize> = order.into_iter().map(|dim| dimension(dim, rank)).collect::<Result<_>>()?;
    if order.len() != rank || (0..rank).any(|dim| !order.contains(&dim)) {
        return Err(refuse());
    }
    // A scalar has no dimensions to exchange.
    if rank == 0 { Ok(x.input()) } else { Ok(x.input().permute(order)?) }
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

    /// The elements at these places, `x[tensor([0, 2])]`, or where a mask is not 0, `x[x > 0]`.
    #[rhai_fn(index_get, pure, return_raw)]
    pub fn chosen(x: &mut Tensor, which: Tensor) -> ScriptResult<Tensor> {
        wrap(choose(x, &which))
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

    /// With the dimensions in another order, as an array or one after the other; negative from the end.
    /// ```rhai
    /// zeros([2, 3, 4]).permute(0, 2, 1).shape      // => [2, 4, 3]
    /// zeros([2, 3, 4]).permute([-1, 0, 1]).shape      // => [4, 2, 3]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn permute(x: Tensor, dims: Dynamic) -> ScriptResult<Tensor> {
        wrap(permuted(&x, &dims))
    }

    /// The same with two dimensions instead of an array.
    #[rhai_fn(name = "permute", return_raw)]
    pub fn permute_two(x: Tensor, a: i64, b: i64) -> ScriptResult<Tensor> {
        permute(x, vec![a, b].into())
    }

    /// The same with three dimensions instead of an array.
    #[rhai_fn(name = "permute", return_raw)]
    pub fn permute_three(x: Tensor, a: i64, b: i64, c: i64) -> ScriptResult<Tensor> {
        permute(x, vec![a, b, c].into())
    }

    /// The same with four dimensions instead of an array.
    #[rhai_fn(name = "permute", return_raw)]
    pub fn permute_four(x: Tensor, a: i64, b: i64, c: i64, d: i64) -> ScriptResult<Tensor> {
        permute(x, vec![a, b, c, d].into())
    }

    /// All dimensions in reverse order: a matrix transposed.
    /// ```rhai
    /// tensor([[1, 2], [3, 4]]).T.to_list()      // => [[1, 3], [2, 4]]
    /// ```
    #[rhai_fn(get = "T", pure, return_raw)]
    pub fn reversed(x: &mut Tensor) -> ScriptResult<Tensor> {
        let order: Vec<usize> = (0..x.tensor.rank()).rev().collect();
        if order.len() < 2 { Ok(x.clone()) } else { wrap(x.input().permute(order).map_err(Error::from)) }
    }

    /// Each matrix of a batch transposed: the last two dimensions exchanged.
    /// ```rhai
    /// zeros([2, 3, 4]).mT.shape      // => [2, 4, 3]
    /// ```
    #[rhai_fn(get = "mT", pure, return_raw)]
    pub fn matrices_transposed(x: &mut Tensor) -> ScriptResult<Tensor> {
        match x.tensor.rank() {
            rank @ (0 | 1) => Err(format!("mT needs at least 2 dimensions, this tensor has {rank}").into()),
            rank => wrap(x.input().transpose(rank - 2, rank - 1).map_err(Error::from)),
        }
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

    /// The same. Options: dim.
    #[rhai_fn(name = "cat", return_raw)]
    pub fn cat_with(tensors: Array, given: Map) -> ScriptResult<Tensor> {
        let given: DimOption = options("cat", given)?;
        wrap(concatenate(&tensors, given.dim.unwrap_or(0)))
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

    /// The same. Options: dim.
    #[rhai_fn(name = "stack", return_raw)]
    pub fn stack_with(tensors: Array, given: Map) -> ScriptResult<Tensor> {
        let given: DimOption = options("stack", given)?;
        wrap(stacked(&tensors, given.dim.unwrap_or(0)))
    }
}

/// Registers shapes, parts and joins.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<DimOption>(&["cat", "stack"], &[]);
    let _ = engine.register_global_module(exported_module!(shapes).into());
}
