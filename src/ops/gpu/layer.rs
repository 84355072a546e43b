//! A linear layer with low-rank changes on tensors; see [`crate::ops::layer`] for the formulas.

use super::product::{Factor, add_to, product};
use crate::autograd::Parameter;
use crate::ops::layer::{Layer, LowRank};
use candle_core::{DType, Result, Tensor};

/// A parameter's value in the activations' dtype.
fn value(parameter: &Parameter, like: &Tensor) -> Result<Tensor> {
    parameter.value().to_dtype(like.dtype())
}

/// Whether tensors can compute the layer.
pub(super) fn serves(layer: &Layer) -> bool {
    layer.changes.magnitude.is_none() && layer.weight.quantised().is_none()
}

/// The change's input: `x`, or `x` times the mask.
fn masked(low_rank: &LowRank, x: &Tensor) -> Result<Tensor> {
    match (&low_rank.mask, low_rank.drawn) {
        (Some(mask), _) => x * Tensor::from_slice(mask, x.shape(), x.device())?.to_dtype(x.dtype())?,
        #[cfg(feature = "cuda")]
        (None, Some(drawn)) => super::cuda::dropped(x, drawn),
        #[cfg(not(feature = "cuda"))]
        (None, Some(_)) => candle_core::bail!("a dropout mask can be drawn on a CUDA device alone"),
        (None, None) => Ok(x.clone()),
    }
}

/// The output of a layer of which nothing is recorded, for `x` `[.., inputs]`, which has elements.
pub(in crate::ops) fn linear(layer: &Layer, x: &Tensor) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let (y, _) = forward(layer, &x.reshape(((), layer.weight.dims()[1]))?)?;
    if let Some(last) = dims.last_mut() {
        *last = layer.outputs();
    }
    y.reshape(dims)
}

/// The output `[tokens, outputs]` for `x` `[tokens, inputs]`, and the low-rank changes' inner values `[tokens, rank]`.
pub(super) fn forward(layer: &Layer, x: &Tensor) -> Result<(Tensor, Vec<Tensor>)> {
    let mut y = product(Factor(x, false), Factor(&value(&layer.weight, x)?, true), None, x.dtype())?;
    if let Some(bias) = &layer.bias {
        y = y.broadcast_add(&value(bias, x)?)?;
    }
    let mut inner = Vec::new();
    for low_rank in &layer.changes.low_ranks {
        let t = product(Factor(&masked(low_rank, x)?, false), Factor(&value(&low_rank.a, x)?, true), None, x.dtype())?;
        let t = (t * f64::from(low_rank.scaling))?;
        y = product(Factor(&t, false), Factor(&value(&low_rank.b, x)?, true), Some(y), x.dtype())?;
        if let Some(bias) = &low_rank.bias {
            y = y.broadcast_add(&(value(bias, x)? * f64::from(low_rank.scaling))?)?;
        }
        inner.push(t);
    }
    Ok((y, inner))
}

/// Adds the parameters' gradients for the input `x`, the inner values `t` of the forward pass and the output's gradient `g`. Where
/// the input's gradient is wanted, returns it, added to `sum`.
pub(super) fn backward(layer: &Layer, x: &Tensor, t: &[Tensor], g: &Tensor, wanted: Wanted) -> Result<Option<Tensor>> {
    let mut dx = match wanted {
        Wanted::Nothing => None,
        Wanted::Sum(sum) => Some(product(Factor(g, false), Factor(&value(&layer.weight, g)?, false), sum, g.dtype())?),
    };
    add_product(&layer.weight, g, x)?;
    if let Some(bias) = &layer.bias {
        add_column_sums(bias, g, 1.0)?;
    }
    for (low_rank, t) in layer.changes.low_ranks.iter().zip(t) {
        add_product(&low_rank.b, g, t)?;
        if let Some(bias) = &low_rank.bias {
            add_column_sums(bias, g, low_rank.scaling)?;
        }
        if dx.is_none() && !low_rank.a.requires_grad() {
            continue;
        }
        let u = product(Factor(g, false), Factor(&value(&low_rank.b, g)?, false), None, g.dtype())?;
        let u = (u * f64::from(low_rank.scaling))?;
        add_product(&low_rank.a, &u, &masked(low_rank, x)?)?;
        let Some(sum) = dx.take() else { continue };
        let a = value(&low_rank.a, g)?;
        dx = Some(match low_rank.mask.is_some() || low_rank.drawn.is_some() {
            false => product(Factor(&u, false), Factor(&a, false), Some(sum), g.dtype())?,
            true => add_to(sum, &masked(low_rank, &product(Factor(&u, false), Factor(&a, false), None, g.dtype())?)?)?,
        });
    }
    Ok(dx)
}

/// What a backward pass is to give for the input.
pub(super) enum Wanted {
    /// No gradient.
    Nothing,
    /// The gradient, added to what is there.
    Sum(Option<Tensor>),
}

/// Adds `g^T x` to a matrix's gradient, if one is wanted. It has the dtype of the parameter, as PyTorch's has.
pub(super) fn add_product(weight: &Parameter, g: &Tensor, x: &Tensor) -> Result<()> {
    if !weight.requires_grad() {
        return Ok(());
    }
    let dtype = weight.dtype();
    weight.accumulate_tensor(|sum| product(Factor(g, true), Factor(x, false), sum, dtype)).map_err(candle_core::Error::wrap)
}

/// Adds `factor` times the sums of the columns of `g` to a vector's gradient, if one is wanted.
fn add_column_sums(bias: &Parameter, g: &Tensor, factor: f32) -> Result<()> {
    if !bias.requires_grad() {
        return Ok(());
    }
    let sums = (g.to_dtype(DType::F32)?.sum(0)? * f64::from(factor))?;
    bias.accumulate(&sums).map_err(candle_core::Error::wrap)
}
