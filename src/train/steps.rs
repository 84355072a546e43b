//! What the steps of a training have given: losses and norms, read from a device only when somebody wants to know them.

use crate::error::{Error, Result};
use crate::ops::cross_entropy::Loss;
use crate::optim::DeviceNorm;

/// The norm of a step's gradient.
pub(super) enum Norm {
    /// Read before the parameters were changed.
    Known(f64),
    /// Still under way on a device, which leaves the parameters alone where it is not finite.
    OnDevice(DeviceNorm),
}

/// A step whose parameters have been changed, or will be.
pub(super) struct Step {
    /// Counted from 1.
    pub number: u64,
    pub epoch: f64,
    pub rate: f64,
    /// Tokens trained on until then.
    pub tokens: u64,
    pub loss: Loss,
    pub norm: Norm,
}

/// A step's numbers.
pub(super) struct Measured {
    pub number: u64,
    pub epoch: f64,
    pub rate: f64,
    pub tokens: u64,
    pub loss: f64,
    pub norm: f64,
}

impl Step {
    /// Reads the numbers, where needed after waiting for the device.
    ///
    /// # Errors
    /// One of them is not finite.
    pub fn measure(self) -> Result<Measured> {
        let Self { number, epoch, rate, tokens, loss, norm } = self;
        let loss = finite_loss(loss.value()?, number, rate)?;
        let norm = match norm {
            Norm::Known(norm) => norm,
            Norm::OnDevice(norm) => norm.value()?,
        };
        if !norm.is_finite() {
            return Err(Error::Training(format!(
                "the norm of the gradient is {norm} in step {number} at learning rate {rate:.3e}. Lower learning_rate, or set \
                 max_grad_norm and a warm-up"
            )));
        }
        Ok(Measured { number, epoch, rate, tokens, loss, norm })
    }
}

/// The loss of a step, which must be finite.
pub(super) fn finite_loss(loss: f64, step: u64, rate: f64) -> Result<f64> {
    if loss.is_finite() {
        return Ok(loss);
    }
    Err(Error::Training(format!(
        "the loss is {loss} in step {step} at learning rate {rate:.3e}. Lower learning_rate, or set max_grad_norm and a warm-up"
    )))
}
