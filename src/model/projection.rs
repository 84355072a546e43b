//! The places of a model that fine-tuning can change: every parameter sits in a slot that can hold a replacement, and a
//! projection can carry changes of its output (adapters). Taking both away gives the base model back bit for bit.

use crate::error::Result;
use crate::nn::Parameter;
use crate::ops;
use crate::ops::layer::{Changes, Layer};
use crate::random::Random;
use candle_core::Tensor;
use std::cell::RefCell;
use std::sync::{Arc, RwLock};

/// How a forward pass runs.
#[derive(Clone, Copy, Default)]
pub struct Pass<'a> {
    /// The random source of dropout; `None` switches dropout off, as in evaluation.
    pub dropout: Option<&'a RefCell<Random>>,
    /// The share of every target that the loss spreads over the vocabulary; see [`crate::ops::cross_entropy::Head::smoothing`].
    pub label_smoothing: f64,
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
    /// What is added to the output of `projection`, given its input [tokens, inputs] and its own output [tokens, outputs].
    ///
    /// # Errors
    /// A tensor operation failed.
    fn change(&self, projection: &Projection, input: &Tensor, output: &Tensor, pass: Pass<'_>) -> Result<Tensor>;

    /// The same as matrices, for the fused block; `elements` is the size of the projection's input. Draws the dropout mask.
    ///
    /// # Errors
    /// As [`Self::change`].
    fn matrices(&self, weight: &Parameter, elements: usize, pass: Pass<'_>) -> Result<Changes>;
}

/// A change of the rows that an embedding gives.
pub trait RowDelta: Send + Sync {
    /// The changed rows, given the base's [tokens, hidden] for these ids. What is looked up for the token `padding` gets no gradient.
    ///
    /// # Errors
    /// A tensor operation failed.
    fn rows(&self, ids: &[u32], padding: Option<u32>, rows: Tensor) -> Result<Tensor>;

    /// Whether an operation has to be recorded for one of the parameters.
    fn tracked(&self) -> bool;
}

/// A linear layer of the decoder.
pub struct Projection {
    /// `[outputs, inputs]`.
    pub weight: Slot,
    /// `[outputs]`.
    pub bias: Option<Slot>,
    deltas: RwLock<Vec<Arc<dyn Delta>>>,
}

impl Projection {
    /// A projection without a change.
    pub fn new(weight: Parameter, bias: Option<Parameter>) -> Self {
        Self { weight: Slot::new(weight), bias: bias.map(Slot::new), deltas: RwLock::default() }
    }

    /// The same projection, whose weight files hold the other way round.
    pub fn stored_transposed(mut self, transposed: bool) -> Self {
        self.weight.transposed = transposed;
        self
    }

    /// Sets the changes of the output, in the place of those before.
    pub fn set_deltas(&self, deltas: Vec<Arc<dyn Delta>>) {
        *self.deltas.write().unwrap_or_else(|e| e.into_inner()) = deltas;
    }

    /// Adds a change of the output.
    pub fn add_delta(&self, delta: Arc<dyn Delta>) {
        self.deltas.write().unwrap_or_else(|e| e.into_inner()).push(delta);
    }

    fn deltas(&self) -> Vec<Arc<dyn Delta>> {
        self.deltas.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Whether the output is changed by an adapter.
    pub fn has_delta(&self) -> bool {
        !self.deltas.read().unwrap_or_else(|e| e.into_inner()).is_empty()
    }

    /// Number of inputs and outputs.
    pub fn features(&self) -> (usize, usize) {
        let dims = self.weight.base().dims();
        (dims[1], dims[0])
    }

    /// The projection for the fused block, to be applied to this number of tokens.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn layer(&self, tokens: usize, pass: Pass<'_>) -> Result<Layer> {
        let mut layer = Layer::plain(self.weight.current(), self.bias.as_ref().map(Slot::current));
        for delta in self.deltas() {
            let Changes { low_ranks, magnitude } = delta.matrices(&layer.weight, tokens * self.features().0, pass)?;
            layer.changes.low_ranks.extend(low_ranks);
            layer.changes.magnitude = magnitude.or(layer.changes.magnitude);
        }
        Ok(layer)
    }

    /// Applies the projection to `x` [tokens, inputs].
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn forward(&self, x: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(Slot::current);
        let output = ops::linear::linear(x, &self.weight.current(), bias.as_ref())?;
        let mut sum = output.clone();
        for delta in self.deltas() {
            sum = (sum + delta.change(self, x, &output, pass)?)?;
        }
        Ok(sum)
    }
}
