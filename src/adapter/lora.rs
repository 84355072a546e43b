//! One LoRA layer: `y + scaling * B (A dropout(x))`, with A [r, inputs] and B [outputs, r], both in f32.

use super::config::InitLoraWeights;
use crate::error::{Error, Result};
use crate::model::projection::{Delta, Pass};
use crate::nn::Parameter;
use crate::ops::dropout::masked;
use crate::ops::layer::LowRank;
use crate::ops::linear::linear;
use crate::random::Random;
use candle_core::{DType, Device, Tensor};
use std::sync::Arc;

/// The low-rank change of one projection.
#[derive(Debug, Clone)]
pub struct LoraLayer {
    /// `[r, inputs]`.
    pub a: Parameter,
    /// `[outputs, r]`.
    pub b: Parameter,
    /// Factor on the change.
    pub scaling: f64,
    /// Probability of dropping an input while training.
    pub dropout: f64,
}

impl LoraLayer {
    /// A layer that starts as PEFT starts it, with the random numbers drawn in PEFT's order.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(
        (inputs, outputs): (usize, usize),
        rank: usize,
        (scaling, dropout): (f64, f64),
        init: &InitLoraWeights,
        random: &mut Random,
        device: &Device,
    ) -> Result<Self> {
        // Both matrices are PyTorch linear layers first; with init_lora_weights they are then drawn or zeroed again.
        let a = random.linear_weight(inputs, rank);
        let b = random.linear_weight(rank, outputs);
        let (a, b) = match init {
            InitLoraWeights::Default(false) => (a, b),
            InitLoraWeights::Default(true) => (random.linear_weight(inputs, rank), vec![0.0; b.len()]),
            InitLoraWeights::Named(_) => {
                let normal = random.randn(a.len()).into_iter().map(|v| v / rank as f32);
                (normal.collect(), vec![0.0; b.len()])
            }
        };
        Ok(Self {
            a: Parameter::from_vec(a, &[rank, inputs], device)?,
            b: Parameter::from_vec(b, &[outputs, rank], device)?,
            scaling,
            dropout,
        })
    }

    /// The change of the weight, `scaling * B A` [outputs, inputs], in f32.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn weight_change(&self) -> Result<Tensor> {
        Ok((self.b.value().matmul(&self.a.value())? * self.scaling)?)
    }
}

impl LoraLayer {
    /// The dropout mask of the next pass over this number of inputs; none where nothing is dropped.
    fn mask(&self, elements: usize, pass: Pass<'_>) -> Option<Arc<Vec<f32>>> {
        let random = pass.dropout.filter(|_| self.dropout > 0.0)?;
        Some(Arc::new(random.borrow_mut().dropout_mask(elements, self.dropout)))
    }
}

impl Delta for LoraLayer {
    fn low_rank(&self, elements: usize, pass: Pass<'_>) -> LowRank {
        LowRank { a: self.a.clone(), b: self.b.clone(), scaling: self.scaling as f32, mask: self.mask(elements, pass) }
    }

    fn apply(&self, input: &Tensor, output: Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let mut x = input.to_dtype(self.a.dtype())?;
        if let Some(mask) = self.mask(x.elem_count(), pass) {
            x = masked(&x, mask)?;
        }
        let change = (linear(&linear(&x, &self.a, None)?, &self.b, None)? * self.scaling)?;
        Ok((&output + change.to_dtype(output.dtype())?)?)
    }
}

/// Merges a change into a weight: computed in f32, rounded once to the weight's dtype.
///
/// # Errors
/// The result is not finite.
pub(super) fn merge_into(weight: &Parameter, change: &Tensor) -> Result<()> {
    let merged = (weight.value().to_dtype(DType::F32)? + change)?;
    let total = merged.abs()?.sum_all()?.to_scalar::<f32>()?;
    if !total.is_finite() {
        return Err(Error::Training("merging the adapter gives weights that are not finite; nothing was merged".into()));
    }
    weight.set(&merged)
}
