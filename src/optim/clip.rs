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
