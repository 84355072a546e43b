//! A linear layer with an optional low-rank change (LoRA, Hu et al. 2021, arXiv 2106.09685), on slices: what a decoder block is
//! made of. `y = x W^T + b + scaling (m * x) A^T B^T` with the dropout mask `m`.
//!
//! Backward, with `t = scaling (m * x) A^T` and `u = scaling g B`: `dB = g^T t`, `dA = u^T (m * x)`, `dx = g W + m * (u A)`.

use super::linear::{add_column_sums, add_weight_gradient, with_weight};
use super::matrix::{self, Weight};
use crate::autograd::Parameter;
use crate::autograd::buffer::zeroed;
use candle_core::Result;
use std::sync::Arc;

/// The low-rank change of a layer.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, inputs]`.
    pub a: Parameter,
    /// `[outputs, rank]`.
    pub b: Parameter,
    /// Factor on the change.
    pub scaling: f32,
    /// Factors on the change's inputs, one an element.
    pub mask: Option<Arc<Vec<f32>>>,
}

/// A linear layer of a block.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `[outputs, inputs]`.
    pub weight: Parameter,
    /// `[outputs]`.
    pub bias: Option<Parameter>,
    /// The change, if there is one.
    pub low_rank: Option<LowRank>,
}

impl LowRank {
    fn masked<'a>(&self, x: &'a [f32], scratch: &'a mut Vec<f32>) -> &'a [f32] {
        match &self.mask {
            None => x,
            Some(mask) => {
                scratch.clear();
                scratch.extend(x.iter().zip(mask.iter()).map(|(x, m)| x * m));
                scratch
            }
        }
    }
}

fn with_f32<T>(parameter: &Parameter, read: impl FnOnce(&[f32], usize, usize) -> Result<T>) -> Result<T> {
    let dims = parameter.dims();
    with_weight(parameter, |weight| match weight {
        Weight::F32(values) => read(values, dims[0], dims[1]),
        _ => candle_core::bail!("the matrices of a low-rank change must be f32"),
    })
}

impl Layer {
    /// Whether an operation has to be recorded for one of the parameters.
    pub fn tracked(&self) -> bool {
        let low_rank = self.low_rank.iter().flat_map(|l| [&l.a, &l.b]);
        std::iter::once(&self.weight).chain(&self.bias).chain(low_rank).any(Parameter::tracked)
    }

    /// The output [rows, outputs] for `x` [rows, inputs], and `t`, which [`Self::backward`] wants back.
    ///
    /// # Errors
    /// A parameter is not on the CPU or not a matrix of floats.
    pub fn forward(&self, x: &[f32]) -> Result<(Vec<f32>, Vec<f32>)> {
        let dims = self.weight.dims();
        let (outputs, inputs) = (dims[0], dims[1]);
        let rows = x.len() / inputs.max(1);
        let mut out = zeroed(rows * outputs);
        with_weight(&self.weight, |w| {
            matrix::times_weight_transposed(x, w, &mut out, false, rows, inputs, outputs);
            Ok(())
        })?;
        if let Some(bias) = &self.bias {
            let bias = super::norm::values(bias)?;
            for row in out.chunks_exact_mut(outputs) {
                row.iter_mut().zip(&bias).for_each(|(o, b)| *o += b);
            }
        }
        let mut t = Vec::new();
        if let Some(low_rank) = &self.low_rank {
            let mut scratch = Vec::new();
            let x = low_rank.masked(x, &mut scratch);
            with_f32(&low_rank.a, |a, rank, _| {
                t.resize(rows * rank, 0.0);
                matrix::times_weight_transposed(x, Weight::F32(a), &mut t, false, rows, inputs, rank);
                Ok(())
            })?;
            t.iter_mut().for_each(|v| *v *= low_rank.scaling);
            with_f32(&low_rank.b, |b, _, rank| {
                matrix::times_weight_transposed(&t, Weight::F32(b), &mut out, true, rows, rank, outputs);
                Ok(())
            })?;
        }
        Ok((out, t))
    }

    /// Adds the parameters' gradients, given `g` [rows, outputs], the input `x` and `t` of the forward pass; adds the gradient by
    /// `x` to `dx`, where that is wanted.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn backward(&self, x: &[f32], t: &[f32], g: &[f32], dx: Option<&mut [f32]>) -> Result<()> {
        let dims = self.weight.dims();
        let (outputs, inputs) = (dims[0], dims[1]);
        let rows = x.len() / inputs.max(1);
        if self.weight.requires_grad() {
            add_weight_gradient(&self.weight, g, x)?;
        }
        if let Some(bias) = self.bias.as_ref().filter(|b| b.requires_grad()) {
            add_column_sums(bias, g)?;
        }
        let mut dx = dx;
        if let Some(dx) = dx.as_deref_mut() {
            with_weight(&self.weight, |w| {
                matrix::times_weight(g, w, dx, true, rows, inputs, outputs);
                Ok(())
            })?;
        }
        let Some(low_rank) = &self.low_rank else { return Ok(()) };
        if low_rank.b.requires_grad() {
            add_weight_gradient(&low_rank.b, g, t)?;
        }
        let mut u = Vec::new();
        with_f32(&low_rank.b, |b, _, rank| {
            u.resize(rows * rank, 0.0);
            matrix::times_weight(g, Weight::F32(b), &mut u, false, rows, rank, outputs);
            Ok(())
        })?;
        u.iter_mut().for_each(|v| *v *= low_rank.scaling);
        if low_rank.a.requires_grad() {
            let mut scratch = Vec::new();
            add_weight_gradient(&low_rank.a, &u, low_rank.masked(x, &mut scratch))?;
        }
        let Some(dx) = dx else { return Ok(()) };
        with_f32(&low_rank.a, |a, rank, _| {
            match &low_rank.mask {
                None => matrix::times_weight(&u, Weight::F32(a), dx, true, rows, inputs, rank),
                Some(mask) => {
                    let mut change = zeroed(dx.len());
                    matrix::times_weight(&u, Weight::F32(a), &mut change, false, rows, inputs, rank);
                    dx.iter_mut().zip(&change).zip(mask.iter()).for_each(|((d, c), m)| *d += c * m);
                }
            }
            Ok(())
        })
    }
}
