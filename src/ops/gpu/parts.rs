//! The parts of a block that are no products: norms, rotation, activations, attention. On a CUDA device by a kernel each, on the CPU by
//! the functions of the operations on slices.

use crate::autograd::buffer::zeroed;
use crate::ops::attention::{self, AttentionSpec};
use crate::ops::cross_entropy::loss_and_gradient;
use crate::ops::gated::{self as activations, Activation};
use crate::ops::norm::Norm;
use crate::ops::rope::{RopeTable, rotate};
use crate::ops::with_elements;
use candle_core::{DType, Result, Tensor};

/// What a norm's forward pass leaves for the backward pass: the rows' means and reciprocal deviations, `[rows, 2]`; nothing on the
/// CPU, where they are computed again.
pub(super) struct Moments(
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "kernels alone keep them"))] Option<Tensor>,
);

/// A tensor of the values that `fill` writes, shaped like another on the CPU.
fn filled(like: &Tensor, fill: impl FnOnce(&mut [f32]) -> Result<()>) -> Result<Tensor> {
    let mut values = zeroed(like.elem_count());
    fill(&mut values)?;
    Tensor::from_vec(values, like.shape(), like.device())
}

/// Normalises the rows of `x` [.., width].
pub(super) fn norm_forward(norm: &Norm, x: &Tensor) -> Result<(Tensor, Moments)> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        let (y, moments) = super::cuda::norm_forward(norm, x)?;
        return Ok((y, Moments(Some(moments))));
    }
    let y = with_elements(x, |x_values| {
        let values = norm.values()?;
        filled(x, |out| {
            values.forward(x_values, out);
            Ok(())
        })
    })?;
    Ok((y, Moments(None)))
}

/// As [`norm_forward`], as an operation that is recorded where that is wanted.
pub(in crate::ops) fn normed(norm: &Norm, x: &Tensor) -> Result<Tensor> {
    let x = x.contiguous()?;
    let (y, moments) = norm_forward(norm, &x.detach())?;
    if !(norm.tracked() || x.track_op()) || !crate::autograd::grad_enabled() {
        return Ok(y);
    }
    let own = norm.clone();
    let backward = move |x: &Tensor, g: &Tensor, wants_input: bool| {
        norm_gradients(&own, x, g, &moments, 1.0)?;
        wants_input.then(|| norm_backward(&own, x, g, &moments, None)).transpose()
    };
    super::given::recorded(&x, norm.tracked(), "norm", y, Box::new(backward))
}

/// The gradient by `x`, added to `residual`.
pub(super) fn norm_backward(norm: &Norm, x: &Tensor, g: &Tensor, moments: &Moments, residual: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if let Some(moments) = &moments.0 {
        return super::cuda::norm_backward(norm, x, g, moments, residual);
    }
    let _ = moments;
    with_elements(x, |x_values| {
        with_elements(g, |g| {
            let values = norm.values()?;
            let residual = residual.map(|r| r.flatten_all()?.to_vec1::<f32>()).transpose()?;
            filled(x, |dx| {
                if let Some(residual) = &residual {
                    dx.copy_from_slice(residual);
                }
                values.backward(x_values, g, dx);
                Ok(())
            })
        })
    })
}

/// Adds the gradients by a norm's parameters, where they are wanted, times a factor.
pub(super) fn norm_gradients(norm: &Norm, x: &Tensor, g: &Tensor, moments: &Moments, factor: f32) -> Result<()> {
    if !norm.trains() {
        return Ok(());
    }
    #[cfg(feature = "cuda")]
    if let Some(moments) = &moments.0 {
        return super::cuda::norm_gradients(norm, x, g, moments, factor);
    }
    let _ = moments;
    with_elements(x, |x| with_elements(g, |g| norm.add_gradients(x, g, factor)))
}

/// Turns the heads of `x` [tokens, heads * head_dim], backwards with `inverse`.
pub(in crate::ops) fn rotated(x: &Tensor, table: &RopeTable, inverse: bool) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if x.device().is_cuda() {
        return super::cuda::rotated(x, table, inverse);
    }
    let width = x.dim(1)?;
    with_elements(x, |values| {
        filled(x, |out| {
            out.copy_from_slice(values);
            rotate(out, width, table, 0, inverse);
            Ok(())
        })
    })
}

/// `f(gate) * up`, or `f(gate)` where there is no other half.
pub(in crate::ops) fn gated(activation: Activation, gate: &Tensor, up: Option<&Tensor>) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if gate.device().is_cuda() {
        return super::cuda::gated(activation, gate, up);
    }
    let forward = |up: Option<&[f32]>| {
        with_elements(gate, |values| {
            filled(gate, |out| {
                activations::forward(activation, values, up, out);
                Ok(())
            })
        })
    };
    match up {
        Some(up) => with_elements(up, |up| forward(Some(up))),
        None => forward(None),
    }
}

/// The gradients by the gate and by the other half, where there is one, for the gradient `g` of [`gated`]'s result.
pub(super) fn gated_backward(
    activation: Activation,
    gate: &Tensor,
    up: Option<&Tensor>,
    g: &Tensor,
) -> Result<(Tensor, Option<Tensor>)> {
    #[cfg(feature = "cuda")]
    if gate.device().is_cuda() {
        return super::cuda::gated_backward(activation, gate, up, g);
    }
    let tensor = |values: Vec<f32>| Tensor::from_vec(values, gate.shape(), gate.device());
    with_elements(gate, |gate| {
        with_elements(g, |g| {
            let mut dgate = zeroed(g.len());
            let Some(up) = up else {
                activations::backward(activation, gate, None, g, &mut dgate);
                return Ok((tensor(dgate)?, None));
            };
            with_elements(up, |up| {
                let mut dup = zeroed(g.len());
                activations::backward(activation, gate, Some((up, &mut dup)), g, &mut dgate);
                Ok((tensor(dgate)?, Some(tensor(dup)?)))
            })
        })
    })
}

/// The loss of every row of logits, before soft caps, and where it is wanted `factor` times its gradient in the place of the logits.
pub(super) fn cross_entropy(
    logits: Tensor,
    targets: &Tensor,
    factor: f32,
    softcap: Option<f32>,
    wants_gradient: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    #[cfg(feature = "cuda")]
    if logits.device().is_cuda() {
        let losses = super::cuda::cross_entropy(&logits, targets, factor, softcap, wants_gradient)?;
        return Ok((losses, wants_gradient.then_some(logits)));
    }
    let targets = targets.to_vec1::<u32>()?;
    let mut values = logits.flatten_all()?.to_vec1::<f32>()?;
    let width = logits.dim(1)?.max(1);
    let row = |(row, target): (&mut [f32], &u32)| loss_and_gradient(row, *target as usize, factor, softcap) as f32;
    let losses: Vec<f32> = values.chunks_exact_mut(width).zip(&targets).map(row).collect();
    let gradient = wants_gradient.then(|| Tensor::from_vec(values, logits.shape(), logits.device())).transpose()?;
    Ok((Tensor::from_vec(losses, targets.len(), logits.device())?, gradient))
}

/// Which keys every token sees, on the device; nothing on the CPU.
#[derive(Clone)]
pub(super) struct Seen {
    /// Of every token the first token that it sees, and the last that sees it.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "kernels alone read them"))]
    pub first_and_last: Option<(Tensor, Tensor)>,
}

impl Seen {
    /// For the tokens of a specification, on the device of `x`.
    pub fn new(spec: &AttentionSpec, x: &Tensor) -> Result<Self> {
        if x.device().is_cpu() {
            return Ok(Self { first_and_last: None });
        }
        let (first, last) = spec.first_and_last();
        let tensor = |values: &[u32]| super::upload(values, spec.positions.len(), x.device());
        Ok(Self { first_and_last: Some((tensor(&first)?, tensor(&last)?)) })
    }
}

/// Attention's output, shaped as `q`, and the log-sum-exps, for [`attention_backward`] alone.
pub(super) fn attention_forward([q, k, v]: [&Tensor; 3], spec: &AttentionSpec, seen: &Seen) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if let Some(seen) = &seen.first_and_last {
        return super::cuda::attention_forward([q, k, v], spec, seen);
    }
    let _ = seen;
    let mut sums = zeroed(spec.log_sums());
    let out = with_elements(q, |q_values| {
        with_elements(k, |k| {
            with_elements(v, |v| {
                filled(q, |out| {
                    attention::forward(q_values, k, v, spec, out, &mut sums);
                    Ok(())
                })
            })
        })
    })?;
    let sums = Tensor::from_vec(sums, spec.log_sums(), q.device())?;
    Ok((out, sums))
}

/// The gradients by queries, keys and values, given `[q, k, v, out, g]`.
pub(super) fn attention_backward(tensors: [&Tensor; 5], sums: &Tensor, spec: &AttentionSpec, seen: &Seen) -> Result<[Tensor; 3]> {
    #[cfg(feature = "cuda")]
    if let Some(seen) = &seen.first_and_last {
        return super::cuda::attention_backward(tensors, sums, spec, seen);
    }
    let _ = seen;
    let values = |tensor: &Tensor| tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let [q, k, v, out, g] = tensors.map(values);
    let (q, k, v, out, g, sums) = (q?, k?, v?, out?, g?, values(sums)?);
    let mut gradients = [zeroed(q.len()), zeroed(k.len()), zeroed(v.len())];
    let slices = gradients.each_mut().map(Vec::as_mut_slice);
    attention::backward([&q, &k, &v, &out, &g], &sums, spec, slices);
    let [dq, dk, dv] = gradients;
    let tensor = |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
    Ok([tensor(dq, tensors[0])?, tensor(dk, tensors[1])?, tensor(dv, tensors[2])?])
}
