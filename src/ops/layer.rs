//! A linear layer with optional low-rank changes (LoRA, Hu et al. 2021, arXiv 2106.09685), on slices: what a decoder block is made
//! of. `y = x W^T + b + sum of scaling ((m * x) A^T B^T + c)` with the dropout masks `m` and the changes' own biases `c`.
//!
//! Backward, with `t = scaling (m * x) A^T` and `u = scaling g B`: `dB = g^T t`, `dA = u^T (m * x)`, `dx = g W + m * (u A)`.
//!
//! A magnitude (DoRA, Liu et al. 2024, arXiv 2402.09353) puts a factor `f` on every output of weight and change together; dropout is
//! before both there, so that `y = x W^T + b + (f - 1) (m * x) W^T + f t B^T`, and with `g' = f g`: `dB = g'^T t`,
//! `dx = g W + m * ((g' - g) W + u A)` with `u = scaling g' B`. See [`super::magnitude`].

use super::magnitude::Magnitude;
use super::matrix::{self, Dims, Steady, Weight};
use super::precision;
use crate::autograd::Parameter;
use crate::autograd::buffer::Buffer;
use candle_core::{DType, Result, Storage, bail};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// The low-rank change of a layer.
#[derive(Debug, Clone)]
pub struct LowRank {
    /// `[rank, inputs]`.
    pub a: Parameter,
    /// `[outputs, rank]`.
    pub b: Parameter,
    /// `[outputs]`, scaled like the product.
    pub bias: Option<Parameter>,
    /// Factor on the change.
    pub scaling: f32,
    /// Factors on the change's inputs, `[tokens, inputs]`.
    pub mask: Option<Arc<Vec<f32>>>,
    /// The same where a device draws them; then there are none in `mask`.
    pub drawn: Option<DrawnMask>,
}

/// A dropout mask that the same numbers draw again: 0 with this probability, else `1 / (1 - probability)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DrawnMask {
    /// Of the generator.
    pub seed: u64,
    /// That an element is dropped.
    pub probability: f64,
}

/// What adapters do to a layer.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// What is added.
    pub low_ranks: Vec<LowRank>,
    /// The factors on the outputs; there is one low-rank change then.
    pub magnitude: Option<Magnitude>,
}

/// A linear layer of a block.
#[derive(Debug, Clone)]
pub struct Layer {
    /// `[outputs, inputs]`.
    pub weight: Parameter,
    /// `[outputs]`.
    pub bias: Option<Parameter>,
    /// What adapters do to it.
    pub changes: Changes,
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

/// As [`with_weight`], to multiply with: where operands may be rounded, what is made of the weight for that is kept.
pub(super) fn with_factor<T>(weight: &Parameter, read: impl FnOnce(Weight<'_>) -> Result<T>) -> Result<T> {
    if !precision::may_round() {
        weight.forget_made();
        return with_weight(weight, read);
    }
    let steady = weight.made_of_value(Steady::default);
    with_weight(weight, |factor| match factor {
        Weight::F32(values) => read(Weight::Steady(values, &steady)),
        other => read(other),
    })
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

/// Adds a vector to every row.
fn add_to_rows(out: &mut [f32], vector: &[f32], factor: f32) {
    for row in out.chunks_exact_mut(vector.len().max(1)) {
        row.iter_mut().zip(vector).for_each(|(o, v)| *o += factor * v);
    }
}

/// Columns `at` of a matrix with `total` columns, gathered where they are not all of them.
fn columns<'a>(matrix: &'a [f32], total: usize, at: &Range<usize>) -> Cow<'a, [f32]> {
    if at.len() == total {
        return Cow::Borrowed(matrix);
    }
    Cow::Owned(matrix.chunks_exact(total).flat_map(|row| &row[at.clone()]).copied().collect())
}

/// Runs `fill` on columns `at` of a matrix with `total` columns.
fn with_columns(matrix: &mut [f32], total: usize, at: &Range<usize>, fill: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<()> {
    if at.len() == total {
        return fill(matrix);
    }
    let mut own = Buffer::new(matrix.len() / total.max(1) * at.len());
    fill(&mut own)?;
    for (row, own) in matrix.chunks_exact_mut(total).zip(own.chunks_exact(at.len())) {
        row[at.clone()].copy_from_slice(own);
    }
    Ok(())
}

impl LowRank {
    fn rank(&self) -> usize {
        self.a.dims()[0]
    }

    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        [&self.a, &self.b].into_iter().chain(&self.bias)
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

    /// Fills `t` for masked inputs `x`.
    fn inner(&self, x: &[f32], dims: Dims, t: &mut [f32]) -> Result<()> {
        with_weight(&self.a, |a| {
            matrix::times_weight_transposed(x, a, t, false, Dims { outputs: self.rank(), ..dims });
            Ok(())
        })?;
        t.iter_mut().for_each(|v| *v *= self.scaling);
        Ok(())
    }

    /// `out = (add ? out : 0) + t B^T`.
    fn outer(&self, t: &[f32], dims: Dims, out: &mut [f32], add: bool) -> Result<()> {
        with_weight(&self.b, |b| {
            matrix::times_weight_transposed(t, b, out, add, Dims { inputs: self.rank(), ..dims });
            Ok(())
        })
    }

    /// Fills `u` for the gradient `g` of the change.
    fn inner_gradient(&self, g: &[f32], dims: Dims, u: &mut [f32]) -> Result<()> {
        with_weight(&self.b, |b| {
            matrix::times_weight(g, b, u, false, Dims { inputs: self.rank(), ..dims });
            Ok(())
        })?;
        u.iter_mut().for_each(|v| *v *= self.scaling);
        Ok(())
    }

    /// `out = (add ? out : 0) + u A`.
    fn input_gradient(&self, u: &[f32], dims: Dims, out: &mut [f32], add: bool) -> Result<()> {
        with_weight(&self.a, |a| {
            matrix::times_weight(u, a, out, add, Dims { outputs: self.rank(), ..dims });
            Ok(())
        })
    }
}

impl Layer {
    /// A layer that nothing changes.
    pub fn plain(weight: Parameter, bias: Option<Parameter>) -> Self {
        Self { weight, bias, changes: Changes::default() }
    }

    fn parameters(&self) -> impl Iterator<Item = &Parameter> {
        let changes = self.changes.low_ranks.iter().flat_map(LowRank::parameters);
        let vector = self.changes.magnitude.as_ref().map(|magnitude| &magnitude.vector);
        std::iter::once(&self.weight).chain(&self.bias).chain(changes).chain(vector)
    }

    /// Whether an operation has to be recorded for one of the parameters.
    pub fn tracked(&self) -> bool {
        self.parameters().any(Parameter::tracked)
    }

    /// Tokens, inputs and outputs for an input `x`.
    pub(super) fn dims(&self, x: &[f32]) -> Dims {
        dims(&self.weight, x)
    }

    /// The sizes for a gradient `g` of the output.
    fn dims_of_gradient(&self, g: &[f32]) -> Dims {
        let shape = self.weight.dims();
        Dims { rows: g.len() / shape[0].max(1), inputs: shape[1], outputs: shape[0] }
    }

    /// Number of outputs.
    pub fn outputs(&self) -> usize {
        self.weight.dims()[0]
    }

    /// Number of inner values of the low-rank changes together; 0 without one.
    pub fn rank(&self) -> usize {
        self.changes.low_ranks.iter().map(LowRank::rank).sum()
    }

    /// The low-rank changes and the places of their inner values.
    fn placed(&self) -> impl Iterator<Item = (&LowRank, Range<usize>)> {
        self.changes.low_ranks.iter().scan(0, |end, low_rank| {
            let start = *end;
            *end += low_rank.rank();
            Some((low_rank, start..*end))
        })
    }

    /// `out = (add ? out : 0) + x W^T`.
    fn product(&self, x: &[f32], dims: Dims, out: &mut [f32], add: bool) -> Result<()> {
        with_factor(&self.weight, |w| {
            matrix::times_weight_transposed(x, w, out, add, dims);
            Ok(())
        })
    }

    /// `dx = (add ? dx : 0) + g W`.
    fn product_gradient(&self, g: &[f32], dims: Dims, dx: &mut [f32], add: bool) -> Result<()> {
        with_factor(&self.weight, |w| {
            matrix::times_weight(g, w, dx, add, dims);
            Ok(())
        })
    }

    /// Fills the output `[rows, outputs]` for `x` `[rows, inputs]`, the inputs of the tokens from `first` on, and `t` `[rows, rank]`,
    /// which [`Self::add_gradients`] wants back.
    ///
    /// # Errors
    /// A parameter is not on the CPU or not a matrix of floats.
    pub fn forward(&self, x: &[f32], first: usize, out: &mut [f32], t: &mut [f32]) -> Result<()> {
        let dims = self.dims(x);
        self.product(x, dims, out, false)?;
        if let Some(magnitude) = &self.changes.magnitude {
            self.forward_with_magnitude(magnitude, x, first, out, t)?;
        }
        if let Some(bias) = &self.bias {
            add_to_rows(out, &values(bias)?, 1.0);
        }
        if self.changes.magnitude.is_some() {
            return Ok(());
        }
        let total = self.rank();
        for (low_rank, at) in self.placed() {
            let x = low_rank.masked(x, first);
            with_columns(t, total, &at, |t| {
                low_rank.inner(&x, dims, t)?;
                low_rank.outer(t, dims, out, true)
            })?;
            if let Some(bias) = &low_rank.bias {
                add_to_rows(out, &values(bias)?, low_rank.scaling);
            }
        }
        Ok(())
    }

    /// Makes of `out`, which holds `x W^T`, what change and factors give.
    fn forward_with_magnitude(
        &self,
        magnitude: &Magnitude,
        x: &[f32],
        first: usize,
        out: &mut [f32],
        t: &mut [f32],
    ) -> Result<()> {
        let (dims, factors) = (self.dims(x), magnitude.factors()?);
        let Some(low_rank) = self.changes.low_ranks.first() else { return Ok(()) };
        let masked = low_rank.masked(x, first);
        low_rank.inner(&masked, dims, t)?;
        if low_rank.mask.is_none() {
            low_rank.outer(t, dims, out, true)?;
            Magnitude::scale(out, &factors);
            return Ok(());
        }
        let mut change = Buffer::new(out.len());
        self.product(&masked, dims, &mut change, false)?;
        let less_one: Vec<f32> = factors.iter().map(|f| f - 1.0).collect();
        Magnitude::add_scaled(out, &change, &less_one);
        low_rank.outer(t, dims, &mut change, false)?;
        Magnitude::add_scaled(out, &change, &factors);
        Ok(())
    }

    /// The gradient by the input of the tokens from `first` on, given `g` `[rows, outputs]`: fills `dx` where it is wanted, or adds
    /// to it. Fills `u` `[rows, rank]`, which [`Self::add_gradients`] wants.
    ///
    /// # Errors
    /// As [`Self::forward`].
    pub fn backward(&self, g: &[f32], first: usize, dx: Option<(&mut [f32], bool)>, u: &mut [f32]) -> Result<()> {
        let dims = self.dims_of_gradient(g);
        let mut dx = dx;
        // Where nothing is dropped, the factors are on all of the output; else on the change alone, which is then a second product.
        let factors = self.changes.magnitude.as_ref().map(Magnitude::factors).transpose()?;
        let masked = self.changes.low_ranks.iter().any(|low_rank| low_rank.mask.is_some());
        let scaled = factors.as_ref().map(|factors| Magnitude::scaled(g, factors));
        let by_change = scaled.as_deref().unwrap_or(g);
        if let Some((dx, add)) = &mut dx {
            self.product_gradient(if masked { g } else { by_change }, dims, dx, *add)?;
        }
        let total = self.rank();
        for (low_rank, at) in self.placed() {
            with_columns(u, total, &at, |u| {
                low_rank.inner_gradient(by_change, dims, u)?;
                let Some((dx, _)) = &mut dx else { return Ok(()) };
                let Some(mask) = &low_rank.mask else { return low_rank.input_gradient(u, dims, dx, true) };
                let mut change = Buffer::new(dx.len());
                low_rank.input_gradient(u, dims, &mut change, false)?;
                if let Some(scaled) = &scaled {
                    let rest: Vec<f32> = scaled.iter().zip(g).map(|(scaled, g)| scaled - g).collect();
                    self.product_gradient(&rest, dims, &mut change, true)?;
                }
                let mask = &mask[first * dims.inputs..];
                dx.iter_mut().zip(change.iter()).zip(mask).for_each(|((d, c), m)| *d += c * m);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Adds the parameters' gradients, where they are wanted, for all tokens: the input `x`, the output's gradient `g`, `t` of the
    /// forward and `u` of the backward pass.
    ///
    /// # Errors
    /// As [`Self::forward`]; a weight below a magnitude that is to be trained.
    pub fn add_gradients(&self, x: &[f32], g: &[f32], t: &[f32], u: &[f32]) -> Result<()> {
        if !self.parameters().any(Parameter::requires_grad) {
            return Ok(());
        }
        if self.weight.requires_grad() {
            if self.changes.magnitude.is_some() {
                bail!("a weight that a magnitude vector scales is frozen: train the adapter, or take it off");
            }
            add_weight_gradient(&self.weight, g, x)?;
        }
        if let Some(bias) = self.bias.as_ref().filter(|b| b.requires_grad()) {
            add_column_sums(bias, g)?;
        }
        let factors = self.changes.magnitude.as_ref().map(Magnitude::factors).transpose()?;
        let scaled = factors.map(|factors| Magnitude::scaled(g, &factors));
        let by_change = scaled.as_deref().unwrap_or(g);
        let total = self.rank();
        for (low_rank, at) in self.placed() {
            if low_rank.b.requires_grad() {
                add_weight_gradient(&low_rank.b, by_change, &columns(t, total, &at))?;
            }
            if low_rank.a.requires_grad() {
                add_weight_gradient(&low_rank.a, &columns(u, total, &at), &low_rank.masked(x, 0))?;
            }
            if let Some(bias) = low_rank.bias.as_ref().filter(|bias| bias.requires_grad()) {
                let scaled: Vec<f32> = by_change.iter().map(|g| g * low_rank.scaling).collect();
                add_column_sums(bias, &scaled)?;
            }
        }
        match (&self.changes.magnitude, self.changes.low_ranks.first()) {
            (Some(magnitude), Some(low_rank)) if magnitude.vector.requires_grad() => {
                // What the factors multiply is computed again rather than kept.
                let mut unscaled = Buffer::new(g.len());
                let dims = self.dims(x);
                self.product(&low_rank.masked(x, 0), dims, &mut unscaled, false)?;
                low_rank.outer(t, dims, &mut unscaled, true)?;
                magnitude.add_gradient(g, &unscaled)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
