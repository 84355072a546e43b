//! The places of a model that fine-tuning can change: every parameter sits in a slot that can hold a replacement, and a
//! projection can carry a change of its output (an adapter). Taking both away gives the base model back bit for bit.

use crate::error::Result;
use crate::nn::Parameter;
use crate::ops;
use crate::ops::layer::{Layer, LowRank};
use crate::random::Random;
use candle_core::Tensor;
use std::cell::RefCell;
use std::sync::{Arc, RwLock};

/// How a forward pass runs.
#[derive(Clone, Copy, Default)]
pub struct Pass<'a> {
    /// The random source of dropout; `None` switches dropout off, as in evaluation.
    pub dropout: Option<&'a RefCell<Random>>,
}

/// A parameter of the base model, and the one that stands in for it while an adapter has its own copy.
#[derive(Debug)]
pub struct Slot {
    base: Parameter,
    replacement: RwLock<Option<Parameter>>,
    /// Whether files hold the matrix the other way round.
    transposed: bool,
}

impl Slot {
    /// A slot that holds the base's parameter.
    pub fn new(base: Parameter) -> Self {
        Self { base, replacement: RwLock::new(None), transposed: false }
    }

    /// Whether files hold the matrix the other way round, `[inputs, outputs]`.
    pub fn transposed(&self) -> bool {
        self.transposed
    }

    /// The base model's parameter.
    pub fn base(&self) -> &Parameter {
        &self.base
    }

    /// The parameter in use.
    pub fn current(&self) -> Parameter {
        self.replacement().unwrap_or_else(|| self.base.clone())
    }

    /// The stand-in, if there is one.
    pub fn replacement(&self) -> Option<Parameter> {
        self.replacement.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Puts a stand-in, or takes it away; returns the one before.
    pub fn replace(&self, parameter: Option<Parameter>) -> Option<Parameter> {
        std::mem::replace(&mut *self.replacement.write().unwrap_or_else(|e| e.into_inner()), parameter)
    }
}

/// A change of a projection's output.
pub trait Delta: Send + Sync {
    /// The changed output, given the projection's input [tokens, inputs] and its own output [tokens, outputs].
    ///
    /// # Errors
    /// A tensor operation failed.
    fn apply(&self, input: &Tensor, output: Tensor, pass: Pass<'_>) -> Result<Tensor>;

    /// The same as matrices, for the fused block; `elements` is the size of the projection's input. Draws the dropout mask.
    fn low_rank(&self, elements: usize, pass: Pass<'_>) -> LowRank;
}

/// A linear layer of the decoder.
pub struct Projection {
    /// `[outputs, inputs]`.
    pub weight: Slot,
    /// `[outputs]`.
    pub bias: Option<Slot>,
    delta: RwLock<Option<Arc<dyn Delta>>>,
}

impl Projection {
    /// A projection without a change.
    pub fn new(weight: Parameter, bias: Option<Parameter>) -> Self {
        Self { weight: Slot::new(weight), bias: bias.map(Slot::new), delta: RwLock::new(None) }
    }

    /// The same projection, whose weight files hold the other way round.
    pub fn stored_transposed(mut self, transposed: bool) -> Self {
        self.weight.transposed = transposed;
        self
    }

    /// Sets or removes the change of the output; returns the one before.
    pub fn set_delta(&self, delta: Option<Arc<dyn Delta>>) -> Option<Arc<dyn Delta>> {
        std::mem::replace(&mut *self.delta.write().unwrap_or_else(|e| e.into_inner()), delta)
    }

    /// Whether the output is changed by an adapter.
    pub fn has_delta(&self) -> bool {
        self.delta.read().unwrap_or_else(|e| e.into_inner()).is_some()
    }

    /// Number of inputs and outputs.
    pub fn features(&self) -> (usize, usize) {
        let dims = self.weight.base().dims();
        (dims[1], dims[0])
    }

    /// The projection for the fused block, to be applied to this number of tokens.
    pub fn layer(&self, tokens: usize, pass: Pass<'_>) -> Layer {
        let delta = self.delta.read().unwrap_or_else(|e| e.into_inner()).clone();
        Layer {
            weight: self.weight.current(),
            bias: self.bias.as_ref().map(Slot::current),
            low_rank: delta.map(|delta| delta.low_rank(tokens * self.features().0, pass)),
        }
    }

    /// Applies the projection to `x` [tokens, inputs].
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Slot::current);
        let output = ops::linear::linear(x, &self.weight.current(), bias.as_ref())?;
        let delta = self.delta.read().unwrap_or_else(|e| e.into_inner()).clone();
        match delta {
            Some(delta) => delta.apply(x, output, pass),
            None => Ok(output),
        }
    }
}
