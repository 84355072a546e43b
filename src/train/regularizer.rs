//! A term that is added to the loss of every optimiser step.

use crate::adapter::ModelHandle;
use crate::error::Result;
use candle_core::{DType, Tensor};

/// Something that pulls the parameters while they are trained, such as elastic weight consolidation.
pub trait Regularizer {
    /// The penalty at the parameters' present values: a scalar whose backward pass adds to their gradients.
    ///
    /// # Errors
    /// The parameters are not those that it was made for.
    fn penalty(&self) -> Result<Tensor>;

    /// Fails where it pulls the parameters of another model than this one, which would train as if there were none.
    ///
    /// # Errors
    /// Names a parameter that is not this model's.
    fn check_model(&self, _model: &ModelHandle) -> Result<()> {
        Ok(())
    }

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
