//! A linear layer with an optional low-rank change (LoRA, Hu et al. 2021, arXiv 2106.09685), on slices: what a decoder block is
//! made of. `y = x W^T + b + scaling (m * x) A^T B^T` with the dropout mask `m`.
//!
//! Backward, with `t = scaling (m * x) A^T` and `u = scaling g B`: `dB = g^T t`, `dA = u^T (m * x)`, `dx = g W + m * (u A)`.

use super::matrix::{self, Dims, Weight};
use crate::autograd::Parameter;
use crate::autograd::buffer::Buffer;
use candle_core::{DType, Result, Storage, bail};
use std::borrow::Cow;
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
    /// Factors on the change's inputs, `[tokens, inputs]`.
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

/// Runs `read` on a parameter's stored elements.
pub(super) fn with_weight<T>(weight: &Parameter, read: impl FnOnce(Weight<'_>) -> Result<T>) -> Result<T> {
    if let Some(blocks) = weight.quantised() {
        return read(Weight::Quantised(&blocks));
    }
    let value = weight.value();
    let (storage, layout) = value.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => read(Weight::from_storage(storage, start, end)?),
        _ => bail!("a fused operation got a weight that is not contiguous on the CPU"),
    }
}

/// A vector's values in f32.
pub(super) fn values(vector: &Parameter) -> Result<Vec<f32>> {
    vector.value().to_dtype(DType::F32)?.to_vec1::<f32>()
}

/// Adds `g^T x` to the gradient of `weight` [outputs, inputs], with `g` [rows, outputs] and `x` [rows, inputs].
pub(super) fn add_weight_gradient(weight: &Parameter, g: &[f32], x: &[f32]) -> Result<()> {
    if weight.accumulate_product(g, x) {
        return Ok(());
    }
    let dims = dims(weight, x);
    weight.accumulate_with(|dw, add| matrix::weight_gradient(g, x, dw, add, dims)).map_err(candle_core::Error::wrap)
}

/// Adds the sums of the columns of `g` [rows, outputs] to the gradient of `bias` [outputs].
fn add_column_sums(bias: &Parameter, g: &[f32]) -> Result<()> {
    let add = |db: &mut [f32], add: bool| {
        if !add {
            db.fill(0.0);
        }
        for row in g.chunks_exact(db.len().max(1)) {
            db.iter_mut().zip(row).for_each(|(d, v)| *d += v);
        }
    };
    bias.accumulate_with(add).map_err(candle_core::Error::wrap)
}

/// The sizes of a product of `x` [rows, inputs] with a weight.
fn dims(weight: &Parameter, x: &[f32]) -> Dims {
    let dims = weight.dims();
    Dims { rows: x.len() / dims[1].max(1), inputs: dims[1], outputs: dims[0] }
}

impl LowRank {
    fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    /// `x`, the inputs of the tokens from `first` on, times the mask.
    fn masked<'a>(&self, x: &'a [f32], first: usize) -> Cow<'a, [f32]> {
        match &self.mask {
            None => Cow::Borrowed(x),
            Some(mask) => {
                let start = first * self.a.dims()[1];
                Cow::Owned(x.iter().zip(&mask[start..]).map(|(x, m)| x * m).collect())
            }
        }
    }
}

impl Layer {
    /// Whether an operation has to be recorded for one of the parameters.
    pub fn tracked(&self) -> bool {
        let low_rank = self.low_rank.iter().flat_map(|l| [&l.a, &l.b]);
        std::iter::once(&self.weight).chain(&self.bias).chain(low_rank).any(Parameter::tracked)
    }

    /// Whether one of the parameters requires a gradient.
    fn trains(&self) -> bool {
        let low_rank = self.low_rank.iter().flat_map(|l| [&l.a, &l.b]);
        std::iter::once(&self.weight).chain(&self.bias).chain(low_rank).any(Parameter::requires_grad)
    }

    /// Tokens, inputs and outputs for an input `x`.
    pub(super) fn dims(&self, x: &[f32]) -> Dims {
        dims(&self.weight, x)
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Number of inner values of the low-rank change; 0 without one.
    pub fn rank(&self) -> usize {
        self.low_rank.as_ref().map_or(0, LowRank::rank)
    }

    /// Fills the output `[rows, outputs]` for `x` `[rows, inputs]`, the inputs of the tokens from `first` on, and `t` `[rows, rank]`,
    /// which [`Self::add_gradients`] wants back.
    ///
    /// # Errors
    /// A parameter is not on the CPU or not a matrix of floats.
    pub fn forward(&self, x: &[f32], first: usize, out: &mut [f32], t: &mut [f32]) -> Result<()> {
        let dims = self.dims(x);
        with_weight(&self.weight, |w| {
            matrix::times_weight_transposed(x, w, out, false, dims);
            Ok(())
        })?;
        if let Some(bias) = &self.bias {
            let bias = values(bias)?;
            for row in out.chunks_exact_mut(dims.outputs) {
                row.iter_mut().zip(&bias).for_each(|(o, b)| *o += b);
            }
        }
        let Some(low_rank) = &self.low_rank else { return Ok(()) };
        let rank = low_rank.rank();
        let x = low_rank.masked(x, first);
        with_weight(&low_rank.a, |a| {
            matrix::times_weight_transposed(&x, a, t, false, Dims { outputs: rank, ..dims });
            Ok(())
        })?;
        t.iter_mut().for_each(|v| *v *= low_rank.scaling);
        with_weight(&low_rank.b, |b| {
            matrix::times_weight_transposed(t, b, out, true, Dims { inputs: rank, ..dims });
            Ok(())
        })
    }

    /// The gradient by the input of the tokens from `first` on, given `g` `[rows, outputs]`: fills `dx` where it is wanted, or adds
    /// to it. Fills `u` `[rows, rank]`, which [`Self::add_gradients`] wants.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn backward(&self, g: &[f32], first: usize, dx: Option<(&mut [f32], bool)>, u: &mut [f32]) -> Result<()> {
        let shape = self.weight.dims();
        let dims = Dims { rows: g.len() / shape[0].max(1), inputs: shape[1], outputs: shape[0] };
        let mut dx = dx;
        if let Some((dx, add)) = &mut dx {
            with_weight(&self.weight, |w| {
                matrix::times_weight(g, w, dx, *add, dims);
                Ok(())
            })?;
        }
        let Some(low_rank) = &self.low_rank else { return Ok(()) };
        let rank = low_rank.rank();
        with_weight(&low_rank.b, |b| {
            matrix::times_weight(g, b, u, false, Dims { inputs: rank, ..dims });
            Ok(())
        })?;
        u.iter_mut().for_each(|v| *v *= low_rank.scaling);
        let Some((dx, _)) = dx else { return Ok(()) };
        let dims = Dims { outputs: rank, ..dims };
        with_weight(&low_rank.a, |a| {
            match &low_rank.mask {
                None => matrix::times_weight(u, a, dx, true, dims),
                Some(mask) => {
                    let mut change = Buffer::new(dx.len());
                    matrix::times_weight(u, a, &mut change, false, dims);
                    let mask = &mask[first * dims.inputs..];
                    dx.iter_mut().zip(change.iter()).zip(mask).for_each(|((d, c), m)| *d += c * m);
                }
            }
            Ok(())
        })
    }

    /// Adds the parameters' gradients, where they are wanted, for all tokens: the input `x`, the output's gradient `g`, `t` of the
    /// forward and `u` of the backward pass.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn add_gradients(&self, x: &[f32], g: &[f32], t: &[f32], u: &[f32]) -> Result<()> {
        if !self.trains() {
            return Ok(());
        }
        if self.weight.requires_grad() {
            add_weight_gradient(&self.weight, g, x)?;
        }
        if let Some(bias) = self.bias.as_ref().filter(|b| b.requires_grad()) {
            add_column_sums(bias, g)?;
        }
        let Some(low_rank) = &self.low_rank else { return Ok(()) };
        if low_rank.b.requires_grad() {
            add_weight_gradient(&low_rank.b, g, t)?;
        }
        if low_rank.a.requires_grad() {
            add_weight_gradient(&low_rank.a, u, &low_rank.masked(x, 0))?;
        }
        Ok(())
    }
}
