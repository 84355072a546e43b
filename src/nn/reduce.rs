//! Sums, means, extremes and norms with PyTorch's gradients, where candle's differ (ties of a maximum, the norm at 0) or are missing.

use super::{algebra, host};
use crate::error::{Error, Result};
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Shape, Tensor};

/// The sum over `dims` (all where empty). Bytes are summed as i64.
///
/// # Errors
/// A dimension is out of range.
pub fn sum(x: &Tensor, dims: &[usize], keepdim: bool) -> Result<Tensor> {
    let x = if x.dtype() == DType::U8 { x.to_dtype(DType::I64)? } else { x.clone() };
    if x.rank() == 0 {
        return Ok(x);
    }
    let all: Vec<usize> = (0..x.rank()).collect();
    let dims = if dims.is_empty() { all } else { dims.to_vec() };
    if x.elem_count() == 0 {
        let kept = reduced_shape(&x, &dims, keepdim);
        return Ok(Tensor::zeros(kept, x.dtype(), x.device())?);
    }
    Ok(if keepdim { x.sum_keepdim(dims)? } else { x.sum(dims)? })
}

/// The shape without the dimensions `dims`, or with a 1 in their places.
pub(super) fn reduced_shape(x: &Tensor, dims: &[usize], keepdim: bool) -> Vec<usize> {
    let sizes = x.dims().iter().enumerate();
    sizes.filter_map(|(at, size)| if !dims.contains(&at) { Some(*size) } else { keepdim.then_some(1) }).collect()
}

fn count(x: &Tensor, dims: &[usize]) -> usize {
    if dims.is_empty() { x.elem_count() } else { dims.iter().filter_map(|dim| x.dims().get(*dim)).product() }
}

/// The mean over `dims` (all where empty).
///
/// # Errors
/// The tensor holds integers.
pub fn mean(x: &Tensor, dims: &[usize], keepdim: bool) -> Result<Tensor> {
    floating(x, "mean")?;
    let total = sum(x, dims, keepdim)?;
    Ok((total / count(x, dims) as f64)?)
}

/// The variance over `dims` (all where empty), divided by count - `correction`; PyTorch's default is 1.
///
/// # Errors
/// The tensor holds integers.
pub fn var(x: &Tensor, dims: &[usize], keepdim: bool, correction: f64) -> Result<Tensor> {
    floating(x, "var")?;
    let centred = x.broadcast_sub(&mean(x, dims, true)?)?;
    let total = sum(&centred.sqr()?, dims, keepdim)?;
    // Without elements to spare it is NaN or infinite, as in PyTorch.
    Ok((total / (count(x, dims) as f64 - correction).max(0.0))?)
}

/// The square root, with a gradient of 0 instead of infinity at 0: what PyTorch has for norms and standard deviations.
///
/// # Errors
/// The tensor holds integers.
pub fn root(x: &Tensor) -> Result<Tensor> {
    let none = x.detach().eq(&x.zeros_like()?)?;
    // A one takes the root's place of 0, so that no infinity is multiplied by the gradient of 0 that comes back.
    let safe = none.where_cond(&x.ones_like()?, x)?.sqrt()?;
    Ok(none.where_cond(&x.zeros_like()?, &safe)?)
}

/// The extreme `y` of the elements of `x`; equal ones share the gradient.
fn shared(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    if !x.track_op() {
        return Ok(y.clone());
    }
    let ties = x.detach().eq(&y.broadcast_as(x.shape())?)?;
    let count = ties.to_dtype(x.dtype())?.sum_all()?;
    let share = (ties.where_cond(x, &x.zeros_like()?)?.sum_all()? / count)?;
    // Nothing but the way back; it is no number where the extreme is infinite.
    let way = (&share - share.detach())?;
    let way = way.detach().ne(&way.detach())?.where_cond(&way.zeros_like()?, &way)?;
    Ok((y + way)?)
}

fn floating(x: &Tensor, what: &str) -> Result<()> {
    if x.dtype().is_float() { Ok(()) } else { Err(algebra::not_floating(what, x)) }
}

fn not_empty(x: &Tensor, what: &str) -> Result<()> {
    if x.elem_count() > 0 {
        return Ok(());
    }
    Err(Error::argument(format!("{what}() of an empty tensor of shape {:?} is not defined", x.dims())))
}

/// A reduction of all elements to one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// The largest; equal ones share the gradient.
    Max,
    /// The smallest; equal ones share the gradient.
    Min,
    /// The 2-norm; the gradient at 0 is 0.
    Norm,
}

impl Whole {
    /// Reduces all elements.
    ///
    /// # Errors
    /// The tensor is empty (max, min) or holds integers (norm).
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Norm => floating(x, "norm")?,
            Self::Max => not_empty(x, "max")?,
            Self::Min => not_empty(x, "min")?,
        }
        if host::is_host_f32(x) {
            return Ok(x.contiguous()?.apply_op1(Fused(self))?);
        }
        if x.device().is_cpu() && matches!(x.dtype(), DType::BF16 | DType::F16) {
            return Ok(self.apply(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?);
        }
        let flat = x.flatten_all()?;
        Ok(match self {
            Self::Max => shared(&flat, &flat.detach().max(0)?)?,
            Self::Min => shared(&flat, &flat.detach().min(0)?)?,
            Self::Norm => root(&flat.sqr()?.sum_all()?)?,
        })
    }

    fn value(self, x: &[f32]) -> f32 {
        let extreme = |better: fn(f32, f32) -> bool| {
            let pick = |best: f32, v: f32| if best.is_nan() || (!v.is_nan() && !better(v, best)) { best } else { v };
            x.iter().copied().reduce(pick).unwrap_or(f32::NAN)
        };
        match self {
            Self::Max => extreme(|a, b| a > b),
            Self::Min => extreme(|a, b| a < b),
            Self::Norm => x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt() as f32,
        }
    }
}

struct Fused(Whole);

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "reduce"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![self.0.value(host::slice(storage, layout)?)]), ().into()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let (y, g) = (y.to_scalar::<f32>()?, gradient.to_scalar::<f32>()?);
        let norm = self.0 == Whole::Norm;
        let values = host::read(x, |x| {
            if norm {
                let scale = if y == 0.0 { 0.0 } else { g / y };
                return host::map(x, |v| v * scale);
            }
            let ties = x.iter().filter(|v| **v == y).count().max(1) as f32;
            host::map(x, |v| if v == y { g / ties } else { 0.0 })
        })?;
        Ok(Some(host::tensor(values, x.shape())?))
    }
}

/// The tensor, or one with the same order in which a NaN comes before all numbers, as it does in PyTorch's extremes.
fn ordered(x: &Tensor, largest: bool) -> Result<Tensor> {
    if !x.dtype().is_float() {
        return Ok(x.clone());
    }
    let unknown = x.ne(x)?;
    if unknown.flatten_all()?.max(0)?.to_scalar::<u8>()? == 0 {
        return Ok(x.clone());
    }
    let wide = x.to_dtype(DType::F64)?;
    let first = wide.ones_like()?.affine(if largest { f64::INFINITY } else { f64::NEG_INFINITY }, 0.0)?;
    Ok(unknown.where_cond(&first, &wide.clamp(f64::MIN, f64::MAX)?)?)
}

/// The index (i64) of the largest or smallest element, of all or along `dim`; of the first NaN where there is one.
///
/// # Errors
/// The tensor is empty.
pub fn arg_extreme(x: &Tensor, largest: bool, dim: Option<usize>, keepdim: bool) -> Result<Tensor> {
    not_empty(x, if largest { "argmax" } else { "argmin" })?;
    let (x, dim) = match dim {
        Some(dim) if x.rank() > 0 => (x.detach(), dim),
        _ => (x.detach().flatten_all()?, 0),
    };
    let x = ordered(&x.contiguous()?, largest)?;
    let index = match (largest, keepdim) {
        (true, false) => x.argmax(dim)?,
        (true, true) => x.argmax_keepdim(dim)?,
        (false, false) => x.argmin(dim)?,
        (false, true) => x.argmin_keepdim(dim)?,
    };
    Ok(index.to_dtype(DType::I64)?)
}

/// The largest or smallest elements along `dim` and their indices (i64). Of equal ones the first is taken and gets the gradient.
///
/// # Errors
/// The tensor is empty.
pub fn extreme(x: &Tensor, largest: bool, dim: usize, keepdim: bool) -> Result<(Tensor, Tensor)> {
    if x.rank() == 0 {
        return Ok((x.clone(), arg_extreme(x, largest, None, false)?));
    }
    let index = arg_extreme(x, largest, Some(dim), true)?;
    let values = x.contiguous()?.gather(&index, dim)?;
    if keepdim { Ok((values, index)) } else { Ok((values.squeeze(dim)?, index.squeeze(dim)?)) }
}
