//! Arithmetic between tensors as PyTorch has it: type promotion, broadcasting, matmul of any rank. Made of candle's differentiable
//! operations; shapes are checked first so that an error names both.

use crate::error::{Error, Result};
use candle_core::{DType, Shape, Tensor};

/// The elementwise operations of two operands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// a + b.
    Add,
    /// a - b.
    Sub,
    /// a * b.
    Mul,
    /// a / b; of two integers too it gives a float.
    Div,
    /// The larger of the two; where equal, each gets half the gradient.
    Maximum,
    /// The smaller of the two.
    Minimum,
}

/// The elementwise comparisons; they give u8 tensors of 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// a == b.
    Eq,
    /// a != b.
    Ne,
    /// a < b.
    Lt,
    /// a <= b.
    Le,
    /// a > b.
    Gt,
    /// a >= b.
    Ge,
}

/// A plain number as an operand. Like PyTorch's, it does not widen a tensor's dtype, except that a float makes integers f32.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scalar {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f64),
}

impl Scalar {
    /// The value as a float.
    pub fn as_f64(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    /// A scalar tensor that an operation with `other` promotes as PyTorch does.
    pub(super) fn like(self, other: &Tensor) -> Result<Tensor> {
        let device = other.device();
        Ok(match self {
            Self::Int(value) if !other.dtype().is_float() => Tensor::new(value, device)?,
            Self::Float(value) if !other.dtype().is_float() => Tensor::new(value as f32, device)?,
            _ => Tensor::new(self.as_f64(), device)?.to_dtype(other.dtype())?,
        })
    }
}

/// The dtype that an operation on both computes in: floats before integers before bytes; a scalar tensor yields to one with
/// dimensions of the same category; bf16 with f16 gives f32.
pub fn promote(a: &Tensor, b: &Tensor) -> DType {
    let category = |t: &Tensor| match t.dtype() {
        DType::U8 => 0,
        dtype if dtype.is_float() => 2,
        _ => 1,
    };
    let (x, y) = (a.dtype(), b.dtype());
    match category(a).cmp(&category(b)) {
        _ if x == y => x,
        std::cmp::Ordering::Greater => x,
        std::cmp::Ordering::Less => y,
        std::cmp::Ordering::Equal if a.rank() == 0 && b.rank() > 0 => y,
        std::cmp::Ordering::Equal if b.rank() == 0 && a.rank() > 0 => x,
        std::cmp::Ordering::Equal if category(a) == 1 => DType::I64,
        std::cmp::Ordering::Equal if x == DType::F64 || y == DType::F64 => DType::F64,
        std::cmp::Ordering::Equal => DType::F32,
    }
}

/// The shape that both broadcast to.
///
/// # Errors
/// A dimension differs and is 1 in neither; named as PyTorch does.
pub fn broadcast_shape(a: &Tensor, b: &Tensor) -> Result<Shape> {
    if a.dims() == b.dims() {
        return Ok(a.shape().clone());
    }
    Ok(broadcast_dims(a.dims(), b.dims())?.into())
}

/// As [`broadcast_shape`], of sizes.
pub(super) fn broadcast_dims(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let at = |dims: &[usize], dim: usize| if dim + dims.len() < rank { 1 } else { dims[dim + dims.len() - rank] };
    let mut dims = Vec::with_capacity(rank);
    for dim in 0..rank {
        match (at(a, dim), at(b, dim)) {
            (x, y) if x == y => dims.push(x),
            (1, y) => dims.push(y),
            (x, 1) => dims.push(x),
            (x, y) => {
                return Err(Error::argument(format!(
                    "the size of tensor a ({x}) must match the size of tensor b ({y}) at non-singleton dimension {dim}; \
                     shapes {a:?} and {b:?}"
                )));
            }
        }
    }
    Ok(dims)
}

pub(super) fn same_device(a: &Tensor, b: &Tensor) -> Result<()> {
    if a.device().same_device(b.device()) {
        return Ok(());
    }
    Err(Error::argument(format!(
        "the tensors are on different devices, {:?} and {:?}; move one with .to(..)",
        a.device().location(),
        b.device().location()
    )))
}

/// What is said where a function of real numbers is given integers.
pub(super) fn not_floating(what: &str, x: &Tensor) -> Error {
    Error::argument(format!(
        "{what}() needs a floating-point tensor, this one is {}; convert with .to(\"f32\")",
        x.dtype().as_str()
    ))
}

/// An elementwise operation with promotion and broadcasting.
///
/// # Errors
/// The shapes do not broadcast, or the devices differ.
pub fn binary(a: &Tensor, b: &Tensor, operation: Binary) -> Result<Tensor> {
    same_device(a, b)?;
    let shape = broadcast_shape(a, b)?;
    let mut dtype = promote(a, b);
    if operation == Binary::Div && !dtype.is_float() {
        dtype = DType::F32;
    }
    let expand = |t: &Tensor| -> Result<Tensor> {
        let t = if t.dtype() == dtype { t.clone() } else { t.to_dtype(dtype)? };
        Ok(if t.shape() == &shape { t } else { t.broadcast_as(&shape)? })
    };
    let (a, b) = (expand(a)?, expand(b)?);
    Ok(match operation {
        Binary::Add => (a + b)?,
        Binary::Sub => (a - b)?,
        Binary::Mul => (a * b)?,
        Binary::Div => (a / b)?,
        Binary::Maximum => or_nan(&a.maximum(&b)?, &a, &b)?,
        Binary::Minimum => or_nan(&a.minimum(&b)?, &a, &b)?,
    })
}

/// `result`, but NaN where one of the operands is, as in PyTorch: candle's maximum takes the other.
fn or_nan(result: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !a.dtype().is_float() {
        return Ok(result.clone());
    }
    let (x, y) = (a.detach(), b.detach());
    let unknown = x.ne(&x)?.maximum(&y.ne(&y)?)?;
    Ok(unknown.where_cond(&(a + b)?, result)?)
}

/// An operation of each pair of elements of two integer tensors, for which candle has no kernel.
///
/// # Errors
/// The shapes do not broadcast, or the devices differ.
pub fn of_integers(a: &Tensor, b: &Tensor, operation: impl Fn(i64, i64) -> i64) -> Result<Tensor> {
    same_device(a, b)?;
    let (shape, dtype) = (broadcast_shape(a, b)?, promote(a, b));
    let read = |t: &Tensor| -> Result<Vec<i64>> { Ok(t.to_dtype(DType::I64)?.broadcast_as(&shape)?.flatten_all()?.to_vec1()?) };
    let (left, right) = (read(a)?, read(b)?);
    let values: Vec<i64> = left.into_iter().zip(right).map(|(a, b)| operation(a, b)).collect();
    Ok(Tensor::from_vec(values, &shape, a.device())?.to_dtype(dtype)?)
}

/// An operation of a tensor with a number on its right.
///
/// # Errors
/// The operation is not supported for the dtype.
pub fn with_scalar(a: &Tensor, b: Scalar, operation: Binary) -> Result<Tensor> {
    let value = b.as_f64();
    if a.dtype().is_float() {
        match operation {
            Binary::Add => return Ok(a.affine(1.0, value)?),
            Binary::Sub => return Ok(a.affine(1.0, -value)?),
            // candle drops the gradient altogether where a factor is 0; PyTorch gives zeros.
            Binary::Mul if value != 0.0 => return Ok(a.affine(value, 0.0)?),
            Binary::Div if value.is_normal() && a.dtype() == DType::F64 => return Ok(a.affine(1.0 / value, 0.0)?),
            _ => {}
        }
    }
    binary(a, &b.like(a)?, operation)
}

/// An operation of a number with a tensor on its right.
///
/// # Errors
/// The operation is not supported for the dtype.
pub fn scalar_with(a: Scalar, b: &Tensor, operation: Binary) -> Result<Tensor> {
    match operation {
        Binary::Sub if b.dtype().is_float() => Ok(b.affine(-1.0, a.as_f64())?),
        Binary::Sub | Binary::Div => binary(&a.like(b)?, b, operation),
        _ => with_scalar(b, a, operation),
    }
}

/// A comparison with promotion and broadcasting: 1 where it holds, else 0 (u8).
///
/// # Errors
/// The shapes do not broadcast, or the devices differ.
pub fn compare(a: &Tensor, b: &Tensor, operation: Compare) -> Result<Tensor> {
    same_device(a, b)?;
    let shape = broadcast_shape(a, b)?;
    let dtype = promote(a, b);
    let a = a.detach().to_dtype(dtype)?.broadcast_as(&shape)?;
    let b = b.detach().to_dtype(dtype)?.broadcast_as(&shape)?;
    Ok(match operation {
        Compare::Eq => a.eq(&b)?,
        Compare::Ne => a.ne(&b)?,
        Compare::Lt => a.lt(&b)?,
        Compare::Le => a.le(&b)?,
        Compare::Gt => a.gt(&b)?,
        Compare::Ge => a.ge(&b)?,
    })
}

/// A comparison with a number.
///
/// # Errors
/// The comparison is not supported for the dtype.
pub fn compare_scalar(a: &Tensor, b: Scalar, operation: Compare) -> Result<Tensor> {
    compare(a, &b.like(a)?, operation)
}

/// Each element to the power of a number.
///
/// # Errors
/// Integers to a negative power.
pub fn pow_scalar(x: &Tensor, exponent: Scalar) -> Result<Tensor> {
    if !x.dtype().is_float() {
        return match exponent {
            Scalar::Float(_) => pow_scalar(&x.to_dtype(DType::F32)?, exponent),
            Scalar::Int(power) if power < 0 => {
                Err(Error::argument("integers to negative integer powers are not allowed; convert with .to(\"f32\") first"))
            }
            Scalar::Int(power) => {
                let mut result = x.to_dtype(DType::I64)?.ones_like()?;
                let (mut base, mut power) = (x.to_dtype(DType::I64)?, power);
                while power > 0 {
                    if power & 1 == 1 {
                        result = (&result * &base)?;
                    }
                    power >>= 1;
                    if power > 0 {
                        // Not sqr(), which has no kernel for integers.
                        base = (&base * &base)?;
                    }
                }
                Ok(result)
            }
        };
    }
    let exponent = exponent.as_f64();
    Ok(if exponent == 2.0 {
        x.sqr()?
    } else if exponent == 1.0 {
        x.affine(1.0, 0.0)?
    } else if exponent == 0.5 {
        x.sqrt()?
    } else if exponent == 0.0 {
        // The derivative is 0 everywhere, also at x = 0 where candle's formula divides by it.
        x.zeros_like()?.to_dtype(DType::U8)?.where_cond(x, &x.ones_like()?)?
    } else if exponent == 3.0 {
        (x.sqr()? * x)?
    } else {
        x.powf(exponent)?
    })
}

/// The matrix product as `torch.matmul`: of vectors the dot product, of a vector and a matrix their product, of more dimensions
/// batches of matrices, which broadcast.
///
/// # Errors
/// A scalar operand, or inner sizes that differ; both shapes are named.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    same_device(a, b)?;
    let refuse = |why: &str| Err(Error::argument(format!("matmul of shapes {:?} and {:?}: {why}", a.dims(), b.dims())));
    if a.rank() == 0 || b.rank() == 0 {
        return refuse("both need at least one dimension; use * for scalars");
    }
    let inner = a.dims()[a.rank() - 1];
    let other = b.dims()[b.rank().saturating_sub(2)];
    if inner != other {
        return refuse(&format!("the inner sizes {inner} and {other} must be equal; is a .t() missing?"));
    }
    let dtype = promote(a, b);
    if !dtype.is_float() {
        // Exact below 2^53, and there is no integer kernel.
        return Ok(matmul(&a.to_dtype(DType::F64)?, &b.to_dtype(DType::F64)?)?.to_dtype(DType::I64)?);
    }
    let (left, right) = (a.to_dtype(dtype)?, b.to_dtype(dtype)?);
    let left = if a.rank() == 1 { left.unsqueeze(0)? } else { left };
    let right = if b.rank() == 1 { right.unsqueeze(1)? } else { right };
    let batch = |t: &Tensor| t.dims()[..t.rank() - 2].to_vec();
    let (m, n) = (left.dims()[left.rank() - 2], right.dims()[right.rank() - 1]);
    let Ok(mut dims) = broadcast_dims(&batch(&left), &batch(&right)) else {
        return refuse("the batch dimensions do not broadcast");
    };
    let dense = |t: &Tensor| -> Result<Tensor> {
        Ok(if t.is_contiguous() || t.t()?.is_contiguous() { t.clone() } else { t.contiguous()? })
    };
    let product = if left.elem_count() == 0 || right.elem_count() == 0 {
        dims.extend([m, n]);
        Tensor::zeros(dims, dtype, a.device())?
    } else if batch(&left) == batch(&right) {
        dense(&left)?.matmul(&dense(&right)?)?
    } else {
        dense(&left)?.broadcast_matmul(&dense(&right)?)?
    };
    let product = if b.rank() == 1 { product.squeeze(product.rank() - 1)? } else { product };
    Ok(if a.rank() == 1 { product.squeeze(product.rank() - if b.rank() == 1 { 1 } else { 2 })? } else { product })
}

/// A dimension counted from the front, or from the back where negative.
///
/// # Errors
/// Out of range for the rank.
pub fn dimension(dim: i64, rank: usize) -> Result<usize> {
    // PyTorch lets a scalar have dimension 0 and -1.
    let rank = rank.max(1) as i64;
    if (-rank..rank).contains(&dim) {
        return Ok(dim.rem_euclid(rank) as usize);
    }
    Err(Error::argument(format!("dimension out of range: expected {} to {}, got {dim}", -rank, rank - 1)))
}

/// The shape of `reshape` with one size possibly -1, which is worked out.
///
/// # Errors
/// The sizes do not multiply to the number of elements.
pub fn resolve_shape(sizes: &[i64], elements: usize) -> Result<Vec<usize>> {
    let refuse = || Err(Error::argument(format!("shape {sizes:?} is invalid for a tensor of {elements} elements")));
    let mut known = 1usize;
    for size in sizes.iter().filter(|size| **size != -1) {
        match usize::try_from(*size).ok().and_then(|size| known.checked_mul(size)) {
            Some(product) => known = product,
            None => return refuse(),
        }
    }
    let unknown = sizes.iter().filter(|size| **size == -1).count();
    if unknown > 1 || (unknown == 1 && (known == 0 || !elements.is_multiple_of(known))) || (unknown == 0 && known != elements) {
        return refuse();
    }
    Ok(sizes.iter().map(|size| if *size == -1 { elements / known } else { *size as usize }).collect())
}
