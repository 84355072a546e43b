//! Products of matrices on a device, added to what is there where that is wanted.

use candle_core::{DType, Result, Tensor};

/// A matrix, as it lies or transposed.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a>(pub &'a Tensor, pub bool);

/// `sum + a b`, in the sum's memory where there is one; else `a b` in `dtype`. The sum must be nobody else's.
///
/// # Errors
/// Shapes that do not fit, or no memory.
pub(super) fn product(a: Factor<'_>, b: Factor<'_>, sum: Option<Tensor>, dtype: DType) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if a.0.device().is_cuda() {
        return super::cuda::product(a, b, sum, dtype);
    }
    let matrix = |Factor(matrix, transposed): Factor<'_>| if transposed { matrix.t() } else { Ok(matrix.clone()) };
    let product = matrix(a)?.matmul(&matrix(b)?)?.to_dtype(dtype)?;
    match sum {
        Some(sum) => sum + product,
        None => Ok(product),
    }
}

/// `sum + other`, in the sum's memory, which must be nobody else's.
///
/// # Errors
/// Shapes that differ.
pub(super) fn add_to(sum: Tensor, other: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if sum.device().is_cuda() && sum.dtype() == other.dtype() {
        super::cuda::add_to(&sum, other, 1.0)?;
        return Ok(sum);
    }
    let other = other.to_dtype(sum.dtype())?;
    sum + other
}
