//! Choices between elements: by a condition, by bounds, by the side of a diagonal.

use super::algebra::{self, Compare, Scalar};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};

/// A tensor or a plain number as one of the values that are chosen from.
#[derive(Debug, Clone)]
pub enum Choice {
    /// A tensor.
    Tensor(Tensor),
    /// A number, which does not widen the other's dtype.
    Number(Scalar),
}

/// `torch.where`: the element of `a` where the condition is not 0, else that of `b`. All three broadcast; a gradient reaches only what
/// was chosen.
///
/// # Errors
/// The condition holds floats, the shapes do not broadcast, or the devices differ.
pub fn select(condition: &Tensor, a: &Choice, b: &Choice) -> Result<Tensor> {
    if condition.dtype().is_float() {
        return Err(Error::argument(format!(
            "where: the condition must be a mask such as x > 0, this tensor is {}",
            condition.dtype().as_str()
        )));
    }
    let device = condition.device();
    let (a, b) = match (a, b) {
        (Choice::Tensor(a), Choice::Tensor(b)) => (a.clone(), b.clone()),
        (Choice::Tensor(a), Choice::Number(b)) => (a.clone(), b.like(a)?),
        (Choice::Number(a), Choice::Tensor(b)) => (a.like(b)?, b.clone()),
        (Choice::Number(Scalar::Int(a)), Choice::Number(Scalar::Int(b))) => (Tensor::new(*a, device)?, Tensor::new(*b, device)?),
        (Choice::Number(a), Choice::Number(b)) => {
            (Tensor::new(a.as_f64() as f32, device)?, Tensor::new(b.as_f64() as f32, device)?)
        }
    };
    algebra::same_device(condition, &a)?;
    algebra::same_device(condition, &b)?;
    let dtype = algebra::promote(&a, &b);
    let dims = algebra::broadcast_dims(condition.dims(), &algebra::broadcast_dims(a.dims(), b.dims())?)?;
    let expand = |t: &Tensor| -> Result<Tensor> {
        let t = if t.dtype() == dtype { t.clone() } else { t.to_dtype(dtype)? };
        Ok(if t.dims() == dims.as_slice() { t } else { t.broadcast_as(dims.as_slice())? })
    };
    // Any other number than 0 counts, also one whose last bits are 0.
    let condition = algebra::compare_scalar(condition, Scalar::Int(0), Compare::Ne)?;
    let condition = condition.broadcast_as(dims.as_slice())?.contiguous()?;
    Ok(condition.where_cond(&expand(&a)?, &expand(&b)?)?)
}

/// `torch.clamp`: min(max(x, low), high). The gradient passes strictly between the bounds, and neither on them nor at a NaN, as in
/// PyTorch 2.14.
///
/// # Errors
/// The dtype cannot be compared.
pub fn clamp(x: &Tensor, low: Option<Scalar>, high: Option<Scalar>) -> Result<Tensor> {
    // The dtype first: a float bound makes floats of integers.
    let mut wide = x.clone();
    for limit in [low, high].into_iter().flatten() {
        let dtype = algebra::promote(&wide, &limit.like(&wide)?);
        if dtype != wide.dtype() {
            wide = wide.to_dtype(dtype)?;
        }
    }
    let (mut value, mut inside) = (wide.detach(), None::<Tensor>);
    for (limit, outside, within) in [(low, Compare::Lt, Compare::Gt), (high, Compare::Gt, Compare::Lt)] {
        let Some(limit) = limit else { continue };
        let edge = limit.like(&value)?.to_dtype(value.dtype())?.broadcast_as(value.dims())?;
        value = algebra::compare_scalar(&value, limit, outside)?.where_cond(&edge, &value)?;
        let within = algebra::compare_scalar(&wide, limit, within)?;
        inside = Some(match inside {
            Some(other) => other.minimum(&within)?,
            None => within,
        });
    }
    match inside {
        None => Ok(wide),
        Some(inside) if wide.track_op() => Ok(inside.where_cond(&wide, &value)?),
        Some(_) => Ok(value),
    }
}

/// `torch.tril` (`lower`) and `torch.triu`: the last two dimensions with zeros above or below the diagonal that lies `diagonal` places to
/// the right of the main one.
///
/// # Errors
/// Fewer than two dimensions.
pub fn triangle(x: &Tensor, diagonal: i64, lower: bool) -> Result<Tensor> {
    let Some(batch) = x.rank().checked_sub(2) else {
        let name = if lower { "tril" } else { "triu" };
        return Err(Error::argument(format!("{name} needs at least 2 dimensions, this tensor has {}", x.rank())));
    };
    let (rows, columns) = (x.dims()[batch], x.dims()[batch + 1]);
    let kept = |row: i64, column: i64| {
        let right = column - row;
        if lower { right <= diagonal } else { right >= diagonal }
    };
    let mask: Vec<u8> =
        (0..rows as i64).flat_map(|row| (0..columns as i64).map(move |column| u8::from(kept(row, column)))).collect();
    let mask = Tensor::from_vec(mask, (rows, columns), x.device())?.broadcast_as(x.dims())?.contiguous()?;
    Ok(mask.where_cond(x, &x.zeros_like()?)?)
}

/// `torch.eye`: ones on the diagonal of a matrix of zeros.
///
/// # Errors
/// Out of memory.
pub fn eye(rows: usize, columns: usize) -> Result<Tensor> {
    let mut values = vec![0f32; rows * columns];
    values.iter_mut().step_by(columns + 1).take(rows.min(columns)).for_each(|on| *on = 1.0);
    Ok(Tensor::from_vec(values, (rows, columns), &Device::Cpu)?)
}
