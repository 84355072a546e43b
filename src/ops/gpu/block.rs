//! A block's two passes on tensors; see [`crate::ops::block`] for the formulas.

use super::layer::{self, Wanted};
use super::parts::{self, Moments, Seen};
use super::product::add_to;
use crate::ops::block::{Block, Inner, Mixer};
use crate::ops::layer::Layer;
use crate::ops::norm::Norm;
use candle_core::{D, Result, Tensor};

/// What a norm was given and left; nothing where there is no norm.
type Normed = Option<(Tensor, Moments)>;

/// What the forward pass keeps for the backward pass.
pub(super) struct Kept {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// Queries, keys, what attention adds and what the inner layers add, before their norms.
    raw: [Normed; 4],
    input_moments: Option<Moments>,
    inner_moments: Option<Moments>,
    mixed: Tensor,
    log_sums: Tensor,
    middle: Tensor,
    gate: Tensor,
    up: Option<Tensor>,
    /// The low-rank changes' inner values of q, k, v (all in the first where they are one layer), o, gate, up, down.
    inner: [Vec<Tensor>; 7],
}

/// Whether tensors can compute the block.
pub(super) fn serves(block: &Block) -> bool {
    block.layers.all().into_iter().flatten().all(layer::serves)
}

/// What a norm gives, and its moments; the input where there is none.
fn normal(norm: &Option<Norm>, x: &Tensor) -> Result<(Tensor, Option<Moments>)> {
    match norm {
        Some(norm) => parts::norm_forward(norm, x).map(|(y, moments)| (y, Some(moments))),
        None => Ok((x.clone(), None)),
    }
}

/// `x` as rows of the norm's width: each head's, or all heads' together.
fn by_head(norm: &Norm, x: &Tensor) -> Result<Tensor> {
    x.reshape(((), norm.weight.elem_count()))
}

/// What a norm gives for every head, and what it was given.
fn normal_by_head(norm: &Option<Norm>, x: Tensor) -> Result<(Tensor, Normed)> {
    let Some(norm) = norm else { return Ok((x, None)) };
    let rows = by_head(norm, &x)?;
    let (y, moments) = parts::norm_forward(norm, &rows)?;
    Ok((y.reshape(x.shape())?, Some((x, moments))))
}

/// The columns of a matrix that several had put side by side.
fn columns(matrix: &Tensor, from: usize, width: usize) -> Result<Tensor> {
    matrix.narrow(D::Minus1, from, width)?.contiguous()
}

fn scaled(x: Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 { Ok(x) } else { x * f64::from(factor) }
}

/// The block's output for `x` [tokens, hidden], and what backward needs.
pub(super) fn forward(block: &Block, x: &Tensor, seen: &Seen) -> Result<(Tensor, Kept)> {
    let (layers, spec) = (&*block.layers, &*block.spec);
    let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let (input, input_moments) = normal(&layers.input_norm, x)?;
    let (q, k, v, [q_t, k_t, v_t]) = match &layers.mixer {
        Mixer::Apart(apart) => {
            let [(q, q_t), (k, k_t), (v, v_t)] =
                [layer::forward(&apart[0], &input)?, layer::forward(&apart[1], &input)?, layer::forward(&apart[2], &input)?];
            (q, k, v, [q_t, k_t, v_t])
        }
        Mixer::Joint(joint) => {
            let (all, t) = layer::forward(joint, &input)?;
            let (k, v) = (columns(&all, q_width, kv_width)?, columns(&all, q_width + kv_width, kv_width)?);
            (columns(&all, 0, q_width)?, k, v, [t, Vec::new(), Vec::new()])
        }
    };
    drop(input);
    let (mut q, q_raw) = normal_by_head(&layers.q_norm, q)?;
    let (mut k, k_raw) = normal_by_head(&layers.k_norm, k)?;
    if let Some(table) = &block.rope {
        (q, k) = (parts::rotated(&q, table, false)?, parts::rotated(&k, table, false)?);
    }
    let (mixed, log_sums) = parts::attention_forward([&q, &k, &v], spec, seen)?;
    let (middle, o_raw, o_t) = branch(&layers.o, &layers.attention_norm, layers.residual_scale, &mixed, x)?;
    let (input, inner_moments) = normal(&layers.inner_norm, &middle)?;
    let (gate, up, [gate_t, up_t]) = match &layers.inner {
        Inner::Apart([to_gate, to_up]) => {
            let ((gate, gate_t), (up, up_t)) = (layer::forward(to_gate, &input)?, layer::forward(to_up, &input)?);
            (gate, Some(up), [gate_t, up_t])
        }
        Inner::Joint(joint) => {
            let (both, t) = layer::forward(joint, &input)?;
            let half = joint.outputs() / 2;
            (columns(&both, 0, half)?, Some(columns(&both, half, half)?), [t, Vec::new()])
        }
        Inner::Plain(plain) => {
            let (gate, t) = layer::forward(plain, &input)?;
            (gate, None, [t, Vec::new()])
        }
    };
    drop(input);
    let inner = parts::gated(layers.activation, &gate, up.as_ref())?;
    let (y, down_raw, down_t) = branch(&layers.down, &layers.output_norm, layers.residual_scale, &inner, &middle)?;
    let raw = [q_raw, k_raw, o_raw, down_raw];
    let inner = [q_t, k_t, v_t, o_t, gate_t, up_t, down_t];
    Ok((y, Kept { q, k, v, raw, input_moments, inner_moments, mixed, log_sums, middle, gate, up, inner }))
}

/// `residual` and what a layer adds to it: its output, normed and scaled where the block does so; what the norm was given; the
/// layer's inner values.
fn branch(
    layer: &Layer,
    norm: &Option<Norm>,
    factor: f32,
    input: &Tensor,
    residual: &Tensor,
) -> Result<(Tensor, Normed, Vec<Tensor>)> {
    let (y, t) = layer::forward(layer, input)?;
    let (added, raw) = match norm {
        Some(norm) => {
            let (added, moments) = parts::norm_forward(norm, &y)?;
            (added, Some((y, moments)))
        }
        None => (y, None),
    };
    Ok((add_to(scaled(added, factor)?, residual)?, raw, t))
}

/// The reverse of [`branch`] down to the layer's output: the gradient by it, given that of what was added.
fn branch_gradient(norm: &Option<Norm>, raw: &Normed, factor: f32, g: &Tensor) -> Result<Tensor> {
    let (Some(norm), Some((raw, moments))) = (norm, raw) else { return scaled(g.clone(), factor) };
    parts::norm_gradients(norm, raw, g, moments, factor)?;
    parts::norm_backward(norm, raw, &scaled(g.clone(), factor)?, moments, None)
}

/// The reverse of [`normal_by_head`].
fn by_head_gradient(norm: &Option<Norm>, raw: &Normed, g: Tensor) -> Result<Tensor> {
    let (Some(norm), Some((raw, moments))) = (norm, raw) else { return Ok(g) };
    let (rows, by_rows) = (by_head(norm, raw)?, by_head(norm, &g)?);
    parts::norm_gradients(norm, &rows, &by_rows, moments, 1.0)?;
    parts::norm_backward(norm, &rows, &by_rows, moments, None)?.reshape(g.shape())
}

/// The gradient by a norm's input, given that by its output, and added to that of the residual stream; adds the norm's gradients.
fn through_norm(norm: &Option<Norm>, x: &Tensor, g: Tensor, moments: &Option<Moments>, residual: &Tensor) -> Result<Tensor> {
    let (Some(norm), Some(moments)) = (norm, moments) else { return add_to(g, residual) };
    parts::norm_gradients(norm, x, &g, moments, 1.0)?;
    parts::norm_backward(norm, x, &g, moments, Some(residual))
}

fn gradient(found: Option<Tensor>) -> Result<Tensor> {
    found.ok_or_else(|| candle_core::Error::Msg("a layer gave no gradient by its input".into()))
}

/// Adds the parameters' gradients; returns the gradient by `x` where it is wanted.
pub(super) fn backward(
    block: &Block,
    x: &Tensor,
    kept: Kept,
    seen: &Seen,
    g: &Tensor,
    wants_input: bool,
) -> Result<Option<Tensor>> {
    let layers = &*block.layers;
    let Kept { q, k, v, raw, input_moments, inner_moments, mixed, log_sums, middle, gate, up, inner } = kept;
    let [q_raw, k_raw, o_raw, down_raw] = raw;
    let [q_t, k_t, v_t, o_t, gate_t, up_t, down_t] = &inner;
    let some = || Wanted::Sum(None);

    let by_down = branch_gradient(&layers.output_norm, &down_raw, layers.residual_scale, g)?;
    drop(down_raw);
    let activated = parts::gated(layers.activation, &gate, up.as_ref())?;
    let dinner = gradient(layer::backward(&layers.down, &activated, down_t, &by_down, some())?)?;
    drop((activated, by_down));
    let (dgate, dup) = parts::gated_backward(layers.activation, &gate, up.as_ref(), &dinner)?;
    drop((dinner, gate, up));
    // Cheaper to compute again than to keep.
    let (normal_in, _) = normal(&layers.inner_norm, &middle)?;
    let dnormal = match (&layers.inner, dup) {
        (Inner::Apart([to_gate, to_up]), Some(dup)) => {
            let sum = layer::backward(to_gate, &normal_in, gate_t, &dgate, some())?;
            layer::backward(to_up, &normal_in, up_t, &dup, Wanted::Sum(sum))?
        }
        (Inner::Joint(joint), Some(dup)) => {
            layer::backward(joint, &normal_in, gate_t, &Tensor::cat(&[&dgate, &dup], D::Minus1)?, some())?
        }
        (Inner::Plain(plain), _) => layer::backward(plain, &normal_in, gate_t, &dgate, some())?,
        _ => candle_core::bail!("a gated inner layer has one half alone"),
    };
    drop((normal_in, dgate));
    let dmiddle = through_norm(&layers.inner_norm, &middle, gradient(dnormal)?, &inner_moments, g)?;
    drop(middle);

    let by_o = branch_gradient(&layers.attention_norm, &o_raw, layers.residual_scale, &dmiddle)?;
    let dmixed = gradient(layer::backward(&layers.o, &mixed, o_t, &by_o, some())?)?;
    drop((by_o, o_raw));
    let [mut dq, mut dk, dv] = parts::attention_backward([&q, &k, &v, &mixed, &dmixed], &log_sums, &block.spec, seen)?;
    drop((q, k, v, mixed, dmixed));

    if let Some(table) = &block.rope {
        (dq, dk) = (parts::rotated(&dq, table, true)?, parts::rotated(&dk, table, true)?);
    }
    let dq = by_head_gradient(&layers.q_norm, &q_raw, dq)?;
    let dk = by_head_gradient(&layers.k_norm, &k_raw, dk)?;
    let wants_normal = wants_input || layers.input_norm.as_ref().is_some_and(Norm::trains);
    let wanted = |sum: Option<Tensor>| if wants_normal { Wanted::Sum(sum) } else { Wanted::Nothing };
    let (normal_in, _) = normal(&layers.input_norm, x)?;
    let dnormal = match &layers.mixer {
        Mixer::Apart([to_q, to_k, to_v]) => {
            let sum = layer::backward(to_q, &normal_in, q_t, &dq, wanted(None))?;
            let sum = layer::backward(to_k, &normal_in, k_t, &dk, wanted(sum))?;
            layer::backward(to_v, &normal_in, v_t, &dv, wanted(sum))?
        }
        Mixer::Joint(joint) => layer::backward(joint, &normal_in, q_t, &Tensor::cat(&[&dq, &dk, &dv], D::Minus1)?, wanted(None))?,
    };
    let Some(dnormal) = dnormal else { return Ok(None) };
    if !wants_input {
        if let (Some(norm), Some(moments)) = (&layers.input_norm, &input_moments) {
            parts::norm_gradients(norm, x, &dnormal, moments, 1.0)?;
        }
        return Ok(None);
    }
    through_norm(&layers.input_norm, x, dnormal, &input_moments, &dmiddle).map(Some)
}
