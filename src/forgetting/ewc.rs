//! Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): `importance * sum F (p - p0)^2` is added to the
//! loss, with `p0` the parameters when the regulariser was made and `F` the diagonal of the Fisher information.
//!
//! As in the lesson there is no factor 1/2; other libraries' lambda is twice this importance.

use super::fisher::Estimator;
use super::penalty::{add_penalty, penalty};
use crate::adapter::ModelHandle;
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::train::Regularizer;
use candle_core::{DType, Tensor};
use std::sync::Arc;

/// One parameter with what it is pulled towards, and how strongly.
#[derive(Clone)]
pub(super) struct Anchor {
    pub(super) name: String,
    pub(super) parameter: Parameter,
    /// The parameter's values when the regulariser was made.
    pub(super) original: Arc<Vec<f32>>,
    /// Diagonal of the Fisher information, one value an element.
    pub(super) fisher: Arc<Vec<f32>>,
}

/// The regulariser.
pub struct Ewc {
    /// Factor on the penalty.
    pub importance: f64,
    pub(super) anchors: Vec<Anchor>,
    /// How the Fisher information was estimated, once it was.
    pub(super) estimator: Option<Estimator>,
}

impl Ewc {
    /// Anchors every trainable parameter where it is now; the Fisher information is zero until it is estimated.
    ///
    /// # Errors
    /// The importance is out of range, nothing is trainable, or the model carries an adapter.
    pub fn new(model: &ModelHandle, importance: f64) -> Result<Self> {
        check_importance(importance)?;
        if model.has_adapter() {
            return Err(Error::argument(
                "EWCRegularizer: this model carries a LoRA adapter. Its base weights are frozen, so there is nothing to \
                 consolidate; and anchoring A and B would anchor the wrong thing (at the start B A = 0, and the Fisher \
                 information of A is 0). Use EWC with full fine-tuning, or LoRA without EWC",
            ));
        }
        let anchors: Vec<Anchor> = model
            .some_trainable_parameters()
            .map_err(|error| Error::Argument(format!("EWCRegularizer: {error}")))?
            .into_iter()
            .map(|(name, parameter)| {
                let original = Arc::new(host_values(&parameter.value())?);
                let fisher = Arc::new(vec![0.0; original.len()]);
                Ok(Anchor { name, parameter, original, fisher })
            })
            .collect::<Result<_>>()?;
        Ok(Self { importance, anchors, estimator: None })
    }

    /// The Fisher information of a parameter, in its shape; `None` for a name that is not anchored.
    ///
    /// # Errors
    /// Out of memory.
    pub fn fisher(&self, name: &str) -> Result<Option<Tensor>> {
        let anchor = self.anchors.iter().find(|a| a.name == name);
        let tensor = |a: &Anchor| Tensor::from_slice(&a.fisher, a.parameter.dims(), &candle_core::Device::Cpu);
        Ok(anchor.map(tensor).transpose()?)
    }

    /// Sum and mean of the Fisher information over all parameters, by name.
    pub fn summary(&self) -> Vec<(String, f64)> {
        let mean = |f: &[f32]| f.iter().map(|v| f64::from(*v)).sum::<f64>() / f.len().max(1) as f64;
        self.anchors.iter().map(|a| (a.name.clone(), mean(&a.fisher))).collect()
    }

    /// The penalty as a scalar whose backward pass adds `2 importance F (p - p0)` to each gradient.
    ///
    /// # Errors
    /// The Fisher information was never estimated, or `model` is not the one whose parameters are anchored.
    pub fn loss(&self, model: &ModelHandle) -> Result<Tensor> {
        self.check_same(model, "ewc_loss")?;
        self.penalty()
    }

    /// Sets the factor on the penalty; the Fisher information stays.
    ///
    /// # Errors
    /// It is negative or not finite.
    pub fn set_importance(&mut self, importance: f64) -> Result<()> {
        check_importance(importance)?;
        self.importance = importance;
        Ok(())
    }

    /// Whether the anchored parameters are those of a model.
    pub(super) fn check_same(&self, model: &ModelHandle, who: &str) -> Result<()> {
        let present = model.named_parameters();
        let same = |a: &Anchor| present.iter().any(|(_, p)| p.same(&a.parameter));
        match self.anchors.iter().find(|a| !same(a)) {
            Some(other) => Err(Error::argument(format!(
                "{who}: {} belongs to another model; make the EWCRegularizer from the model that is trained",
                other.name
            ))),
            None => Ok(()),
        }
    }

    /// Whether there is something to pull by, and everything that is pulled trains.
    fn check(&self) -> Result<()> {
        if self.estimator.is_none() {
            return Err(Error::argument(
                "the Fisher information is still zero everywhere: call ewc.update_fisher(model, loader) before training",
            ));
        }
        if let Some(frozen) = self.anchors.iter().find(|a| !a.parameter.requires_grad()) {
            return Err(Error::argument(format!(
                "{} was frozen after the EWCRegularizer was made; with LoRA there is nothing to consolidate",
                frozen.name
            )));
        }
        Ok(())
    }
}

impl Regularizer for Ewc {
    fn check_model(&self, model: &ModelHandle) -> Result<()> {
        self.check_same(model, "regularizer")?;
        self.check()
    }

    fn penalty(&self) -> Result<Tensor> {
        self.check()?;
        penalty(&self.anchors, self.importance)
    }

    fn add_penalty(&self) -> Result<f64> {
        self.check()?;
        add_penalty(&self.anchors, self.importance)
    }
}

fn check_importance(importance: f64) -> Result<()> {
    if importance.is_finite() && importance >= 0.0 {
        return Ok(());
    }
    Err(Error::Argument(format!("EWCRegularizer: importance must be a finite number of at least 0, got {importance}")))
}

/// A tensor's elements in f32.
pub(super) fn host_values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?)
}
