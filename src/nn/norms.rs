//! Norms of every order, as `torch.norm` has them, with its gradients: 0 at 0, and shared by equal ones of the largest.

use super::activation::Activation;
use super::algebra::{self, Scalar};
use super::reduce::{self, Whole, reduced_shape};
use crate::error::{Error, Result};
use candle_core::{DType, Tensor};

/// The p-norm over `dims` (all where empty): (sum |x|^p)^(1/p); for infinite `p` the largest or smallest size, for 0 the number of
/// elements that are not 0.
///
/// # Errors
/// The tensor holds integers, `p` is NaN, or there are no elements to find the largest of.
pub fn norm(x: &Tensor, p: f64, dims: &[usize], keepdim: bool) -> Result<Tensor> {
    if !x.dtype().is_float() {
        return Err(algebra::not_floating("norm", x));
    }
    if p.is_nan() {
        return Err(Error::argument("norm: p must be a number, got NaN"));
    }
    if p == 2.0 && dims.is_empty() && !keepdim {
        return Whole::Norm.apply(x);
    }
    if matches!(x.dtype(), DType::BF16 | DType::F16) {
        return Ok(norm(&x.to_dtype(DType::F32)?, p, dims, keepdim)?.to_dtype(x.dtype())?);
    }
    if p == 2.0 {
        return reduce::root(&reduce::sum(&x.sqr()?, dims, keepdim)?);
    }
    let size = Activation::Abs.apply(x)?;
    if p.is_infinite() {
        return extreme(&size, p > 0.0, dims, keepdim);
    }
    let none = size.detach().eq(&size.detach().zeros_like()?)?;
    if p == 0.0 {
        let counted = none.eq(&none.zeros_like()?)?.to_dtype(x.dtype())?;
        return reduce::sum(&counted, dims, keepdim);
    }
    if p == 1.0 {
        return reduce::sum(&size, dims, keepdim);
    }
    // Ones take the place of zeros, at which the derivative of a power may be infinite, and give their own way back up.
    let ones = size.detach().ones_like()?;
    let powers = algebra::pow_scalar(&none.where_cond(&ones, &size)?, Scalar::Float(p))?;
    let of_zero = if p > 0.0 { ones.zeros_like()? } else { ones.affine(f64::INFINITY, 0.0)? };
    let total = reduce::sum(&none.where_cond(&of_zero, &powers)?, dims, keepdim)?;
    let none = total.detach().eq(&total.detach().zeros_like()?)?;
    let safe = none.where_cond(&total.detach().ones_like()?, &total)?;
    let root = algebra::pow_scalar(&safe, Scalar::Float(1.0 / p))?;
    Ok(none.where_cond(&root.detach().zeros_like()?, &root)?)
}

/// The largest or smallest of sizes along dimensions; equal ones share the gradient.
fn extreme(size: &Tensor, largest: bool, dims: &[usize], keepdim: bool) -> Result<Tensor> {
    if size.rank() == 0 {
        return Ok(size.clone());
    }
    let all: Vec<usize> = (0..size.rank()).collect();
    let dims = if dims.is_empty() { all.as_slice() } else { dims };
    let mut found = size.detach();
    for &dim in dims {
        found = reduce::extreme(&found, largest, dim, true)?.0;
    }
    if size.track_op() {
        let ties = size.detach().eq(&found.broadcast_as(size.dims())?)?;
        let count = ties.to_dtype(size.dtype())?.sum_keepdim(dims.to_vec())?;
        let share = (ties.where_cond(size, &size.detach().zeros_like()?)?.sum_keepdim(dims.to_vec())? / count)?;
        // Nothing but the way back; it is no number where the extreme is infinite.
        let way = (&share - share.detach())?;
        let way = way.detach().ne(&way.detach())?.where_cond(&way.detach().zeros_like()?, &way)?;
        found = (found + way)?;
    }
    if keepdim { Ok(found) } else { Ok(found.reshape(reduced_shape(size, dims, false))?) }
}
