//! Elementwise functions with PyTorch's derivatives.
//!
//! candle's own have another derivative at 0 (relu, abs: 1 there, PyTorch 0) or rounded constants in it (gelu), and pay several
//! temporaries; here each is one pass forward and one backward on the CPU. Other devices run a composition of candle operations.

use super::{algebra, host};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Shape, Tensor};
use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

/// The functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x times the normal distribution function (exact, by erf): Hendrycks and Gimpel 2016.
    Gelu,
    /// GELU's approximation by tanh.
    GeluTanh,
    /// x sigmoid(x), also called swish.
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// 1 / (1 + exp(-x)).
    Sigmoid,
    /// |x|.
    Abs,
}

const GELU_TANH_CUBE: f32 = 0.044_715;

fn gelu_tanh_scale() -> f64 {
    SQRT_2 * FRAC_2_SQRT_PI * 0.5
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn normal_cdf(x: f32) -> f32 {
    (0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x) / SQRT_2))) as f32
}

impl Activation {
    /// Applies the function to each element, in the tensor's dtype; tanh and the sigmoid of integers are f32, as in PyTorch.
    ///
    /// # Errors
    /// The tensor holds integers, of which only relu, tanh and the sigmoid are defined.
    pub fn apply(self, x: &Tensor) -> Result<Tensor> {
        if !x.dtype().is_float() {
            return match self {
                Self::Relu => self.composed(x),
                Self::Tanh | Self::Sigmoid => self.apply(&x.to_dtype(DType::F32)?),
                Self::Gelu | Self::GeluTanh => Err(algebra::not_floating("gelu", x)),
                Self::Silu => Err(algebra::not_floating("silu", x)),
                Self::Abs => Err(algebra::not_floating("abs", x)),
            };
        }
        if host::is_host_f32(x) {
            Ok(x.contiguous()?.apply_op1(Fused(self))?)
        } else if x.device().is_cpu() && x.dtype().is_float() && x.dtype() != DType::F64 {
            Ok(self.apply(&x.to_dtype(DType::F32)?)?.to_dtype(x.dtype())?)
        } else {
            self.composed(x)
        }
    }

    /// The same by candle's operations: the reference, and what other devices run.
    fn composed(self, x: &Tensor) -> Result<Tensor> {
        Ok(match self {
            Self::Relu => x.le(&x.zeros_like()?)?.where_cond(&x.zeros_like()?, x)?,
            Self::Gelu => (x * ((x / SQRT_2)?.erf()? + 1.0)?.affine(0.5, 0.0)?)?,
            Self::GeluTanh => {
                let inner = ((x + (x.sqr()? * x)?.affine(f64::from(GELU_TANH_CUBE), 0.0)?)? * gelu_tanh_scale())?;
                (x * (inner.tanh()? + 1.0)?.affine(0.5, 0.0)?)?
            }
            Self::Silu => (x * Self::Sigmoid.composed(x)?)?,
            Self::Tanh => x.tanh()?,
            // exp(min(x, 0)) / (1 + exp(-|x|)): exp(-x) alone grows beyond all numbers, and candle's gradient is then none.
            Self::Sigmoid => (x.minimum(0f64)?.exp()? / (Self::Abs.composed(x)?.neg()?.exp()? + 1.0)?)?,
            Self::Abs => (x * x.sign()?.detach())?,
        })
    }

    fn value(self, x: f32) -> f32 {
        match self {
            Self::Relu => {
                // Not max(): a NaN must stay one.
                if x <= 0.0 { 0.0 } else { x }
            }
            Self::Gelu => x * normal_cdf(x),
            Self::GeluTanh => 0.5 * x * (1.0 + (gelu_tanh_scale() as f32 * (x + GELU_TANH_CUBE * x * x * x)).tanh()),
            Self::Silu => x * sigmoid(x),
            Self::Tanh => x.tanh(),
            Self::Sigmoid => sigmoid(x),
            Self::Abs => x.abs(),
        }
    }

    /// The derivative at x, where the function's value is y.
    fn derivative(self, x: f32, y: f32) -> f32 {
        match self {
            Self::Relu => f32::from(x > 0.0),
            Self::Gelu => normal_cdf(x) + x * (0.5 * FRAC_2_SQRT_PI / SQRT_2) as f32 * (-0.5 * x * x).exp(),
            Self::GeluTanh => {
                let scale = gelu_tanh_scale() as f32;
                let t = (scale * (x + GELU_TANH_CUBE * x * x * x)).tanh();
                0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * scale * (1.0 + 3.0 * GELU_TANH_CUBE * x * x)
            }
            Self::Silu => {
                let s = sigmoid(x);
                s + y * (1.0 - s)
            }
            Self::Tanh => 1.0 - y * y,
            Self::Sigmoid => y * (1.0 - y),
            Self::Abs => {
                if x == 0.0 {
                    0.0
                } else {
                    x.signum()
                }
            }
        }
    }
}

struct Fused(Activation);

impl CustomOp1 for Fused {
    fn name(&self) -> &'static str {
        "activation"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        // One loop a function, so that the match is outside it.
        let x = host::slice(storage, layout)?;
        let y = match self.0 {
            Activation::Relu => host::map(x, |x| Activation::Relu.value(x)),
            Activation::Silu => host::map(x, |x| Activation::Silu.value(x)),
            other => host::map(x, |x| other.value(x)),
        };
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, y: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let function = self.0;
        let values = host::read(x, |x| {
            host::read(y, |y| host::read(gradient, |g| host::map3(x, y, g, |x, y, g| function.derivative(x, y) * g)))
        })???;
        Ok(Some(host::tensor(values, x.shape())?))
    }
}

/// Softmax over dimension `dim` of a floating-point tensor.
///
/// # Errors
/// `dim` is out of range.
pub fn softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    let exp = x.broadcast_sub(&x.detach().max_keepdim(dim)?)?.exp()?;
    Ok(exp.broadcast_div(&exp.sum_keepdim(dim)?)?)
}

/// The logarithm of the softmax over dimension `dim`, without overflow.
///
/// # Errors
/// `dim` is out of range.
pub fn log_softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(dim)?)?;
    let log_sum = shifted.exp()?.sum_keepdim(dim)?.log()?;
    Ok(shifted.broadcast_sub(&log_sum)?)
}

/// Softmax over the last dimension.
///
/// # Errors
/// The tensor is a scalar.
pub fn softmax_last(x: &Tensor) -> Result<Tensor> {
    use candle_core::shape::Dim;
    softmax(x, D::Minus1.to_index(x.shape(), "softmax")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    #[test]
    fn fused_equals_composed() {
        let values: Vec<f32> = vec![-500.0, -6.0, -2.5, -1.0, -0.1, 0.0, 0.1, 0.5, 1.0, 2.5, 6.0, 500.0];
        for function in [
            Activation::Relu,
            Activation::Gelu,
            Activation::GeluTanh,
            Activation::Silu,
            Activation::Tanh,
            Activation::Sigmoid,
            Activation::Abs,
        ] {
            let x = Var::new(values.as_slice(), &Device::Cpu).unwrap();
            let run = |y: Tensor| {
                let gradient = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                (y.to_vec1::<f32>().unwrap(), gradient.get(&x).unwrap().to_vec1::<f32>().unwrap())
            };
            let (y, g) = run(function.apply(&x).unwrap());
            let (y2, g2) = run(function.composed(&x).unwrap());
            for (a, b) in y.iter().zip(&y2).chain(g.iter().zip(&g2)) {
                assert!((a - b).abs() < 2e-6 * b.abs().max(1.0), "{function:?}: {a} {b}");
            }
        }
    }
}
