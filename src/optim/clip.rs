//! Gradient clipping by the norm over all parameters.

use crate::error::{Error, Result};
use crate::nn::Parameter;
use candle_core::Tensor;
use rayon::prelude::*;

/// The 2-norm of all gradients together, in f64; parameters without a gradient count nothing.
///
/// # Errors
/// A gradient cannot be read.
pub fn grad_norm(parameters: &[Parameter]) -> Result<f64> {
    // Collected in order, so that the sum is the same for any number of threads.
    let squares: Vec<f64> = parameters.par_iter().map(Parameter::grad_square_sum).collect::<Result<_>>()?;
    // The sum of no numbers is -0.
    Ok((squares.into_iter().sum::<f64>() + 0.0).sqrt())
}

/// The same of another order, as `torch.nn.utils.clip_grad_norm_` computes it: the norm of the parameters' norms. Infinite: the largest or
/// smallest size.
///
/// # Errors
/// As [`grad_norm`], or `order` is NaN.
pub fn grad_norm_of_order(parameters: &[Parameter], order: f64) -> Result<f64> {
    if order == 2.0 {
        return grad_norm(parameters);
    }
    if order.is_nan() {
        return Err(Error::argument("norm_type must be a number, got NaN"));
    }
    let of_one = |parameter: &Parameter| parameter.with_grad(|values| norm(values.iter().map(|v| f64::from(*v)), order));
    let norms: Vec<Option<f64>> = parameters.par_iter().map(of_one).collect::<Result<_>>()?;
    let norms: Vec<f64> = norms.into_iter().flatten().collect();
    if norms.is_empty() { Ok(0.0) } else { Ok(norm(norms.into_iter(), order)) }
}

fn norm(values: impl Iterator<Item = f64>, order: f64) -> f64 {
    let sizes = values.map(f64::abs);
    // A NaN stays one.
    let pick = |best: f64, size: f64, better: bool| if best.is_nan() || !(size.is_nan() || better) { best } else { size };
    if order == f64::INFINITY {
        sizes.fold(0.0, |best, size| pick(best, size, size > best))
    } else if order == f64::NEG_INFINITY {
        sizes.fold(f64::INFINITY, |best, size| pick(best, size, size < best))
    } else if order == 0.0 {
        sizes.filter(|size| *size != 0.0).count() as f64
    } else {
        sizes.map(|size| size.powf(order)).sum::<f64>().powf(1.0 / order)
    }
}

/// The norm of a step's gradients that a device may still be computing; see [`super::Optimizer::step_on_device`].
#[derive(Debug, Clone)]
pub struct DeviceNorm(pub(super) Tensor);

impl DeviceNorm {
    /// The norm before clipping; waits for the device.
    ///
    /// # Errors
    /// The device failed.
    pub fn value(&self) -> Result<f64> {
        Ok(f64::from(self.0.get(0)?.to_scalar::<f32>()?))
    }
}

/// Scales all gradients down so that their common norm is at most `max_norm`, and returns the norm before: PyTorch's
/// `clip_grad_norm_`, which multiplies by min(1, max_norm / (norm + 1e-6)).
///
/// # Errors
/// `max_norm` is negative or NaN.
pub fn clip_grad_norm(parameters: &[Parameter], max_norm: f64) -> Result<f64> {
    if max_norm.is_nan() || max_norm < 0.0 {
        return Err(Error::argument(format!("max_norm must be a number >= 0, got {max_norm}")));
    }
    let norm = grad_norm(parameters)?;
    clip_to_norm(parameters, norm, max_norm);
    Ok(norm)
}

/// Scales gradients whose common norm is known to be `norm` down to `max_norm`.
pub fn clip_to_norm(parameters: &[Parameter], norm: f64, max_norm: f64) {
    let factor = max_norm / (norm + 1e-6);
    // A norm that is not a number makes the gradients so too, as in PyTorch.
    if factor < 1.0 || factor.is_nan() {
        parameters.iter().for_each(|parameter| parameter.scale_grad(factor as f32));
    }
}
