//! A term that is added to the loss of every optimiser step.

use crate::adapter::ModelHandle;
use crate::error::Result;
use candle_core::{DType, Tensor};

/// Something that pulls the parameters while they are trained, such as elastic weight consolidation.
pub trait Regularizer {
    /// Refuses a model whose parameters it does not pull: the penalty would stay what it is, and train nothing. Asked before a training.
    ///
    /// # Errors
    /// It was made for another model, or is not ready.
    fn check_model(&self, _model: &ModelHandle) -> Result<()> {
        Ok(())
    }

    /// The penalty at the parameters' present values: a scalar whose backward pass adds to their gradients.
    ///
    /// # Errors
    /// The parameters are not those that it was made for.
    fn penalty(&self) -> Result<Tensor>;

    /// Adds the penalty's gradients to the parameters' and returns the penalty, as its backward pass does; in one pass over the parameters
    /// where there is a way.
    ///
    /// # Errors
    /// As [`Self::penalty`].
    fn add_penalty(&self) -> Result<f64> {
        let penalty = self.penalty()?;
        crate::nn::backward(&penalty)?;
        Ok(f64::from(penalty.to_dtype(DType::F32)?.to_scalar::<f32>()?))
    }
}
