//! One LoRA layer: `y + scaling * (B (A dropout(x)) + c)`, with A [r, inputs], B [outputs, r] and, where wanted, a bias c.
//!
//! An adapter that starts as a part of the weight (PiSSA, OLoRA) leaves the base what remains, `W - scaling * B0 A0`. The base's matrix is
//! not touched for it: the layer keeps the A0 and B0 that it started with, and subtracts them as a second, frozen change. So
//! nothing is rounded, a quantised base can be taken apart as well, and taking the adapter off gives the base back bit for bit.

use super::config::Start;
use super::initial::{Initial, Shape, initial};
use crate::error::Result;
use crate::model::projection::{Delta, Pass, Projection, Slot};
use crate::nn::Parameter;
use crate::ops::dropout::masked;
use crate::ops::layer::{Changes, DrawnMask, LowRank};
use crate::ops::linear::linear;
use crate::ops::magnitude::{Magnitude, row_norms};
use crate::random::Random;
use candle_core::{DType, Tensor};
use std::sync::{Arc, Mutex};

/// What a layer is to be.
#[derive(Debug, Clone, Copy)]
pub struct LayerOptions {
    /// Rows of A.
    pub rank: usize,
    /// Factor on the change.
    pub scaling: f64,
    /// Probability of dropping an input while training.
    pub dropout: f64,
    /// How A and B start.
    pub start: Start,
    /// Whether the lengths of the weight's rows are learned apart (DoRA).
    pub dora: bool,
    /// Whether B has a bias.
    pub bias: bool,
    /// What the parameters are stored as.
    pub dtype: DType,
}

/// The norms of the changed weight's rows, as long as nothing that they come from changes: generation asks for them at every token.
#[derive(Debug, Default)]
pub struct NormCache(Mutex<Option<Norms>>);

/// What the norms come from, as revisions, and the norms.
type Norms = ([u64; 4], Arc<Vec<f32>>);

/// The low-rank change of one projection.
#[derive(Debug, Clone)]
pub struct LoraLayer {
    /// `[r, inputs]`.
    pub a: Parameter,
    /// `[outputs, r]`.
    pub b: Parameter,
    /// `[outputs]`.
    pub bias: Option<Parameter>,
    /// The lengths of the changed weight's rows, `[outputs]`.
    pub magnitude: Option<Parameter>,
    /// A and B as they were when they were a part of the weight.
    pub taken: Option<(Parameter, Parameter)>,
    /// Factor on the change.
    pub scaling: f64,
    /// Probability of dropping an input while training.
    pub dropout: f64,
    /// The norms that go with `magnitude`.
    pub norms: Arc<NormCache>,
}

impl LoraLayer {
    /// A layer for a weight `[outputs, inputs]` that starts as PEFT starts it, with the random numbers drawn in PEFT's order.
    ///
    /// # Errors
    /// The weight cannot be taken apart at this rank, or the device is out of memory.
    pub fn new(weight: &Parameter, options: LayerOptions, random: &mut Random) -> Result<Self> {
        let LayerOptions { rank, scaling, dropout, start, dora, bias, dtype } = options;
        let device = weight.device();
        let (outputs, inputs) = (weight.dims()[0], weight.dims()[1]);
        let Initial { a, b, bias } = initial(start, weight, Shape { inputs, outputs, rank, scaling, bias }, random)?;
        let taken = match start.takes_weight_apart() {
            true => {
                let frozen = |values: &[f32], shape: &[usize]| -> Result<Parameter> {
                    let parameter = Parameter::from_vec(values.to_vec(), shape, &device)?;
                    parameter.set_requires_grad(false);
                    Ok(parameter)
                };
                Some((frozen(&a, &[rank, inputs])?, frozen(&b, &[outputs, rank])?))
            }
            false => None,
        };
        let stored = |values: Vec<f32>, shape: &[usize]| -> Result<Parameter> {
            let parameter = Parameter::from_vec(values, shape, &device)?;
            parameter.set_dtype(dtype)?;
            Ok(parameter)
        };
        let mut layer = Self {
            a: stored(a, &[rank, inputs])?,
            b: stored(b, &[outputs, rank])?,
            bias: bias.map(|bias| stored(bias, &[outputs])).transpose()?,
            magnitude: None,
            taken,
            scaling,
            dropout,
            norms: Arc::default(),
        };
        if dora {
            layer.magnitude = Some(stored(row_norms(weight, &layer.low_ranks(None, None))?, &[outputs])?);
        }
        Ok(layer)
    }

    /// The parameters with PEFT's names of them, given the adapter's name; and without it, as files have them.
    pub fn parameters(&self, adapter: &str) -> Vec<(String, &'static str, &Parameter)> {
        let mut named = vec![
            (format!("lora_A.{adapter}.weight"), "lora_A.weight", &self.a),
            (format!("lora_B.{adapter}.weight"), "lora_B.weight", &self.b),
        ];
        named.extend(self.bias.iter().map(|bias| (format!("lora_B.{adapter}.bias"), "lora_B.bias", bias)));
        let magnitude = |vector| (format!("lora_magnitude_vector.{adapter}.weight"), "lora_magnitude_vector", vector);
        named.extend(self.magnitude.iter().map(magnitude));
        named
    }

    /// The weight with its change, in f32.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn merged(&self, weight: &Parameter, before: &Tensor) -> Result<Tensor> {
        let sum = (before + self.weight_change()?)?;
        let Some(vector) = &self.magnitude else { return Ok(sum) };
        let norm = Tensor::new(self.norms(weight)?.as_slice(), sum.device())?;
        Ok(sum.broadcast_mul(&(vector.value().to_dtype(DType::F32)? / norm)?.unsqueeze(1)?)?)
    }

    /// The change of the weight, `scaling * B A` [outputs, inputs], in f32; without what it was when it was a part of the weight.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn weight_change(&self) -> Result<Tensor> {
        let product = |a: &Parameter, b: &Parameter| b.value().to_dtype(DType::F32)?.matmul(&a.value().to_dtype(DType::F32)?);
        let mut change = product(&self.a, &self.b)?;
        if let Some((a, b)) = &self.taken {
            change = (change - product(a, b)?)?;
        }
        Ok((change * self.scaling)?)
    }

    /// The norms of the rows of `weight` with its change.
    fn norms(&self, weight: &Parameter) -> Result<Arc<Vec<f32>>> {
        let state = [weight.key() as u64, weight.revision(), self.a.revision(), self.b.revision()];
        let mut kept = self.norms.0.lock().unwrap_or_else(|e| e.into_inner());
        if let Some((_, norms)) = kept.as_ref().filter(|(of, _)| *of == state) {
            return Ok(norms.clone());
        }
        let norms = Arc::new(row_norms(weight, &self.low_ranks(None, None))?);
        *kept = Some((state, norms.clone()));
        Ok(norms)
    }

    fn low_ranks(&self, mask: Option<Arc<Vec<f32>>>, drawn: Option<DrawnMask>) -> Vec<LowRank> {
        let scaling = self.scaling as f32;
        let change = LowRank { a: self.a.clone(), b: self.b.clone(), bias: self.bias.clone(), scaling, mask, drawn };
        let taken = self.taken.iter().map(|(a, b)| LowRank {
            a: a.clone(),
            b: b.clone(),
            bias: None,
            scaling: -scaling,
            mask: None,
            drawn: None,
        });
        std::iter::once(change).chain(taken).collect()
    }

    /// The dropout mask of the next pass over this number of inputs; none where nothing is dropped.
    fn mask(&self, elements: usize, pass: Pass<'_>) -> Option<Arc<Vec<f32>>> {
        let random = pass.dropout.filter(|_| self.dropout > 0.0)?;
        Some(Arc::new(random.borrow_mut().dropout_mask(elements, self.dropout)))
    }
}

impl Delta for LoraLayer {
    fn matrices(&self, weight: &Parameter, elements: usize, pass: Pass<'_>) -> Result<Changes> {
        let low_ranks = match pass.dropout.filter(|_| self.dropout > 0.0 && self.magnitude.is_none() && weight.device().is_cuda())
        {
            // Masks are as large as activations: what a device can draw is not brought to it.
            Some(random) => {
                self.low_ranks(None, Some(DrawnMask { seed: random.borrow_mut().next_u64(), probability: self.dropout }))
            }
            None => self.low_ranks(self.mask(elements, pass), None),
        };
        let magnitude = match &self.magnitude {
            Some(vector) => Some(Magnitude { vector: vector.clone(), norm: self.norms(weight)? }),
            None => None,
        };
        Ok(Changes { low_ranks, magnitude })
    }

    fn change(&self, projection: &Projection, input: &Tensor, output: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        // On the CPU activations are f32 whatever the weights are; elsewhere an adapter in f32 computes in f32.
        let input = if self.a.dtype() == DType::F32 { input.to_dtype(DType::F32)? } else { input.clone() };
        let mask = self.mask(input.elem_count(), pass);
        let dropped = mask.clone().map(|mask| masked(&input, mask)).transpose()?;
        let x = dropped.as_ref().unwrap_or(&input);
        let mut change = (linear(&linear(x, &self.a, None)?, &self.b, self.bias.as_ref())? * self.scaling)?;
        if let Some((a, b)) = &self.taken {
            change = (change - (linear(&linear(&input, a, None)?, b, None)? * self.scaling)?)?;
        }
        if let Some(vector) = &self.magnitude {
            let weight = projection.weight.current();
            let norm = Tensor::new(self.norms(&weight)?.as_slice(), &weight.device())?;
            let factors = (vector.tensor().to_dtype(DType::F32)? / norm)?.to_dtype(change.dtype())?;
            let base = match (&dropped, projection.bias.as_ref().map(Slot::current)) {
                (Some(x), _) => linear(x, &weight, None)?,
                (None, Some(bias)) => output.broadcast_sub(&bias.tensor().to_dtype(output.dtype())?)?,
                (None, None) => output.clone(),
            };
            let base = base.to_dtype(change.dtype())?;
            change = (change.broadcast_mul(&factors)? + base.broadcast_mul(&(factors - 1.0)?)?)?;
        }
        Ok(change.to_dtype(output.dtype())?)
    }
}
