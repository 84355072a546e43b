//! A term that is added to the loss of every optimiser step.

use crate::error::Result;
use candle_core::Tensor;

/// Something that pulls the parameters while they are trained, such as elastic weight consolidation.
pub trait Regularizer {
    /// The penalty at the parameters' present values: a scalar whose backward pass adds to their gradients.
    ///
    /// # Errors
    /// The parameters are not those that it was made for.
    fn penalty(&self) -> Result<Tensor>;
}
