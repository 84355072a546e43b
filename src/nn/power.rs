//! Powers whose exponent is a tensor, with PyTorch's values and gradients for bases of any sign.

use super::algebra::{self, Scalar};
use super::host;
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp2, DType, Layout, Shape, Tensor};

/// a ** b of two tensors: NaN where a negative number has no real power; of integers an integer.
///
/// # Errors
/// The shapes do not broadcast, or the devices differ.
pub fn pow(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let dtype = algebra::promote(a, b);
    if !dtype.is_float() {
        return algebra::of_integers(a, b, integer_power);
    }
    algebra::same_device(a, b)?;
    let shape = algebra::broadcast_shape(a, b)?;
    let expand = |t: &Tensor, dtype: DType| -> Result<Tensor> { Ok(t.to_dtype(dtype)?.broadcast_as(&shape)?.contiguous()?) };
    if !a.device().is_cpu() {
        return composed(&expand(a, dtype)?, &expand(b, dtype)?);
    }
    // bf16 and f16 have no powf of their own.
    let wide = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
    Ok(expand(a, wide)?.apply_op2(&expand(b, wide)?, Power)?.to_dtype(dtype)?)
}

/// A number to the power of each element.
///
/// # Errors
/// The device failed.
pub fn pow_of_scalar(base: Scalar, exponent: &Tensor) -> Result<Tensor> {
    pow(&base.like(exponent)?, exponent)
}

/// As PyTorch: it wraps around, and a negative power is 0 unless the base is 1 or -1.
fn integer_power(mut base: i64, mut exponent: i64) -> i64 {
    if exponent < 0 {
        return match base {
            1 => 1,
            -1 if exponent % 2 == 0 => 1,
            -1 => -1,
            _ => 0,
        };
    }
    let mut result = 1i64;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = result.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        exponent >>= 1;
    }
    result
}

/// The same by candle's operations, for other devices: |a| ** b, with the sign that an integer power of a negative number has.
fn composed(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (zero, one) = (a.zeros_like()?, a.ones_like()?);
    let (base, fixed) = (a.detach(), b.detach());
    let size = (a * base.sign()?)?;
    let plain = (size.log()? * b)?.exp()?;
    let odd = (&fixed - ((&fixed / 2.0)?.floor()? * 2.0)?)?.eq(&one)?;
    let signed = odd.where_cond(&one.neg()?, &one)?;
    let sign = fixed.eq(&fixed.floor()?)?.where_cond(&signed, &one.affine(f64::NAN, 0.0)?)?;
    let sign = base.lt(&zero)?.where_cond(&sign, &one)?;
    // 0 ** 0 is 1, but 0 times the logarithm of 0 is NaN.
    Ok(fixed.eq(&zero)?.where_cond(&one, &(plain * sign)?)?)
}

struct Power;

impl CustomOp2 for Power {
    fn name(&self) -> &'static str {
        "pow"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let values = match (a, b, la.contiguous_offsets(), lb.contiguous_offsets()) {
            (CpuStorage::F64(a), CpuStorage::F64(b), Some((first, end)), Some((from, to))) => {
                CpuStorage::F64(a[first..end].iter().zip(&b[from..to]).map(|(a, b)| a.powf(*b)).collect())
            }
            _ => {
                let (a, b) = (host::slice(a, la)?, host::slice(b, lb)?);
                CpuStorage::F32(a.iter().zip(b).map(|(a, b)| a.powf(*b)).collect())
            }
        };
        Ok((values, la.shape().clone()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let (base, exponent, zero) = (a.detach(), b.detach(), a.detach().zeros_like()?);
        let toward_a = if a.track_op() {
            let lower = base.apply_op2(&exponent.affine(1.0, -1.0)?, Self)?;
            let slope = ((gradient * &exponent)? * lower)?;
            // A constant, also at 0, where the formula multiplies 0 by infinity.
            Some(exponent.eq(&zero)?.where_cond(&zero, &slope)?)
        } else {
            None
        };
        let toward_b = if b.track_op() {
            let slope = ((gradient * y.detach())? * base.log()?)?;
            let flat = base.eq(&zero)?.minimum(&exponent.ge(&zero)?)?;
            Some(flat.where_cond(&zero, &slope)?)
        } else {
            None
        };
        Ok((toward_a, toward_b))
    }
}
