//! A block of a llama-like decoder as one operation: `z = x + o(attention(rope(q(n)), rope(k(n)), v(n)))` with `n = norm(x)`, then
//! `y = z + down(silu(gate(m)) * up(m))` with `m = norm(z)`.
//!
//! What the norms and the activation give is cheap to compute again in the backward pass, and is not kept for it.

use super::attention::{self, AttentionSpec};
use super::cache::{KvCache, attend_with_caches};
use super::layer::{Layer, values};
use super::rope::{RopeTable, rotate};
use super::{gated, norm, parallel};
use crate::autograd::Parameter;
use crate::autograd::buffer::{Buffer, zeroed};
use candle_core::{Result, Tensor};
use std::ops::Range;
use std::sync::Arc;

/// The parameters of a block.
#[derive(Debug, Clone)]
pub struct BlockLayers {
    /// The norm before attention, `[hidden]`.
    pub input_norm: Parameter,
    /// Queries.
    pub q: Layer,
    /// Keys.
    pub k: Layer,
    /// Values.
    pub v: Layer,
    /// What attention's output goes through.
    pub o: Layer,
    /// The norm before the activation, `[hidden]`.
    pub post_norm: Parameter,
    /// The activated half.
    pub gate: Layer,
    /// The half that it multiplies.
    pub up: Layer,
    /// Back to the hidden size.
    pub down: Layer,
}

/// A block and the tokens that it is applied to.
#[derive(Debug, Clone)]
pub struct Block {
    /// The parameters.
    pub layers: Arc<BlockLayers>,
    /// Angles of the tokens' positions.
    pub rope: RopeTable,
    /// Heads and sequences.
    pub spec: Arc<AttentionSpec>,
    /// Of the norms.
    pub eps: f64,
}

/// What the forward pass keeps for the backward pass.
#[derive(Default)]
pub(super) struct Kept {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    mixed: Buffer,
    log_sums: Buffer,
    middle: Buffer,
    gate: Buffer,
    up: Buffer,
    /// The low-rank layers' inner values, in the order of [`BlockLayers::all`].
    low_ranks: [Buffer; 7],
}

impl BlockLayers {
    fn tracked(&self) -> bool {
        self.all().iter().any(|layer| layer.tracked()) || self.input_norm.tracked() || self.post_norm.tracked()
    }

    fn all(&self) -> [&Layer; 7] {
        [&self.q, &self.k, &self.v, &self.o, &self.gate, &self.up, &self.down]
    }
}

impl Block {
    /// Whether an operation has to be recorded for one of the parameters.
    pub(super) fn tracked(&self) -> bool {
        self.layers.tracked()
    }

    /// Applies the block without recording to `x` [tokens, hidden], f32 on the CPU: tokens that continue what the caches hold for this
    /// layer; the caches grow.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply_cached(&self, x: &Tensor, layer: usize, caches: &mut [&mut KvCache]) -> Result<Tensor> {
        let attend = |q: &[f32], k: &[f32], v: &[f32], out: &mut [f32], _: &mut [f32]| {
            attend_with_caches(q, k, v, &self.spec, (layer, caches), out);
        };
        let y = super::with_elements(x, |x| Ok(self.run(x, attend)?.0))?;
        Tensor::from_vec(y, x.shape(), x.device())
    }

    /// The block's output and what backward needs. `attend` fills attention's output and log-sum-exps, from rotated queries and
    /// keys, and values.
    fn run(&self, x: &[f32], attend: impl FnOnce(&[f32], &[f32], &[f32], &mut [f32], &mut [f32])) -> Result<(Vec<f32>, Kept)> {
        let layers = &*self.layers;
        let tokens = self.spec.positions.len();
        let hidden = x.len() / tokens.max(1);
        let size = parallel::part_size(tokens);
        let matrix = |columns: usize| Buffer::new(tokens * columns);
        let [mut q, mut k, mut v, mut middle, mut gate, mut up, _] = layers.all().map(|layer| matrix(layer.outputs()));
        let mut low_ranks = layers.all().map(|layer| matrix(layer.rank()));
        let [q_t, k_t, v_t, o_t, gate_t, up_t, down_t] = low_ranks.each_mut().map(|t| &mut **t);

        let scale = values(&layers.input_norm)?;
        let parts = parallel::cut([&mut q, &mut k, &mut v, q_t, k_t, v_t], tokens, size);
        parallel::each(parts, |(range, [q, k, v, q_t, k_t, v_t])| {
            let first = range.start;
            let mut normal = Buffer::new(range.len() * hidden);
            norm::forward(rows(x, &range, hidden), &scale, self.eps, &mut normal);
            layers.q.forward(&normal, first, q, q_t)?;
            layers.k.forward(&normal, first, k, k_t)?;
            layers.v.forward(&normal, first, v, v_t)?;
            rotate(q, layers.q.outputs(), &self.rope, first, false);
            rotate(k, layers.k.outputs(), &self.rope, first, false);
            Ok(())
        })?;

        let (mut mixed, mut log_sums) = (matrix(layers.q.outputs()), Buffer::new(self.spec.log_sums()));
        attend(&q, &k, &v, &mut mixed, &mut log_sums);

        let scale = values(&layers.post_norm)?;
        let mut y = zeroed(x.len());
        let parts = parallel::cut([&mut y, &mut middle, &mut gate, &mut up, o_t, gate_t, up_t, down_t], tokens, size);
        parallel::each(parts, |(range, [y, middle, gate, up, o_t, gate_t, up_t, down_t])| {
            let first = range.start;
            layers.o.forward(rows(&mixed, &range, layers.q.outputs()), first, middle, o_t)?;
            add(middle, rows(x, &range, hidden));
            let mut normal = Buffer::new(middle.len());
            norm::forward(middle, &scale, self.eps, &mut normal);
            layers.gate.forward(&normal, first, gate, gate_t)?;
            layers.up.forward(&normal, first, up, up_t)?;
            let mut inner = Buffer::new(gate.len());
            gated::forward(gate, up, &mut inner);
            layers.down.forward(&inner, first, y, down_t)?;
            add(y, middle);
            Ok(())
        })?;
        Ok((y, Kept { q, k, v, mixed, log_sums, middle, gate, up, low_ranks }))
    }

    /// The block as in training: with attention within the batch.
    pub(super) fn run_whole(&self, x: &[f32]) -> Result<(Vec<f32>, Kept)> {
        self.run(x, |q, k, v, out, log_sums| attention::forward(q, k, v, &self.spec, out, log_sums))
    }

    /// Adds the parameters' gradients; returns the gradient by `x` where it is wanted.
    pub(super) fn backward(&self, x: &[f32], kept: Kept, g: &[f32], wants_input: bool) -> Result<Option<Vec<f32>>> {
        let layers = &*self.layers;
        let Kept { q, k, v, mixed, log_sums, middle, gate, up, low_ranks } = kept;
        let [q_t, k_t, v_t, o_t, gate_t, up_t, down_t] = &low_ranks;
        let tokens = self.spec.positions.len();
        let hidden = x.len() / tokens.max(1);
        let size = parallel::part_size(tokens);
        let matrix = |columns: usize| Buffer::new(tokens * columns);
        let mut changes = layers.all().map(|layer| matrix(layer.rank()));
        let [q_u, k_u, v_u, o_u, gate_u, up_u, down_u] = changes.each_mut().map(|u| &mut **u);

        // Down to attention's output.
        let scale = values(&layers.post_norm)?;
        let (mut inner, mut dgate, mut dup) =
            (matrix(layers.gate.outputs()), matrix(layers.gate.outputs()), matrix(layers.up.outputs()));
        let (mut normal, mut dnormal, mut dmixed) = (matrix(hidden), matrix(hidden), matrix(layers.q.outputs()));
        let mut dmiddle = zeroed(x.len());
        let outputs = [&mut inner, &mut dgate, &mut dup, &mut normal, &mut dnormal, &mut dmixed].map(|m| &mut **m);
        let [inner_m, dgate_m, dup_m, normal_m, dnormal_m, dmixed_m] = outputs;
        let matrices = [inner_m, dgate_m, dup_m, normal_m, dnormal_m, dmixed_m, &mut dmiddle[..], o_u, gate_u, up_u, down_u];
        parallel::each(parallel::cut(matrices, tokens, size), |(range, matrices)| {
            let [inner, dgate, dup, normal, dnormal, dmixed, dmiddle, o_u, gate_u, up_u, down_u] = matrices;
            let (first, width) = (range.start, layers.gate.outputs());
            let (gate, up) = (rows(&gate, &range, width), rows(&up, &range, width));
            let (middle, g) = (rows(&middle, &range, hidden), rows(g, &range, hidden));
            let mut dinner = Buffer::new(gate.len());
            layers.down.backward(g, first, Some((&mut dinner, false)), down_u)?;
            gated::forward(gate, up, inner);
            gated::backward(gate, up, &dinner, dgate, dup);
            drop(dinner);
            layers.gate.backward(dgate, first, Some((dnormal, false)), gate_u)?;
            layers.up.backward(dup, first, Some((dnormal, true)), up_u)?;
            norm::forward(middle, &scale, self.eps, normal);
            dmiddle.copy_from_slice(g);
            norm::backward(middle, &scale, self.eps, dnormal, dmiddle);
            layers.o.backward(dmiddle, first, Some((dmixed, false)), o_u)
        })?;
        layers.down.add_gradients(&inner, g, down_t, down_u)?;
        layers.gate.add_gradients(&normal, &dgate, gate_t, gate_u)?;
        layers.up.add_gradients(&normal, &dup, up_t, up_u)?;
        layers.o.add_gradients(&mixed, &dmiddle, o_t, o_u)?;
        norm::add_weight_gradient(&layers.post_norm, &middle, self.eps, &dnormal)?;
        drop((inner, dgate, dup, gate, up, middle));

        let (mut dq, mut dk, mut dv) = (matrix(layers.q.outputs()), Buffer::zeroed(k.len()), Buffer::zeroed(v.len()));
        attention::backward([&q, &k, &v, &mixed, &dmixed], &log_sums, &self.spec, [&mut dq, &mut dk, &mut dv]);
        drop((q, k, v, mixed, dmixed));

        // Down to the input.
        let scale = values(&layers.input_norm)?;
        let wants_normal = wants_input || layers.input_norm.requires_grad();
        let matrices = [&mut dq, &mut dk, &mut dv, &mut normal, &mut dnormal].map(|m| &mut **m);
        let [dq_m, dk_m, dv_m, normal_m, dnormal_m] = matrices;
        let matrices = [dq_m, dk_m, dv_m, normal_m, dnormal_m, &mut dmiddle[..], q_u, k_u, v_u];
        parallel::each(parallel::cut(matrices, tokens, size), |(range, matrices)| {
            let [dq, dk, dv, normal, dnormal, dx, q_u, k_u, v_u] = matrices;
            let first = range.start;
            rotate(dq, layers.q.outputs(), &self.rope, first, true);
            rotate(dk, layers.k.outputs(), &self.rope, first, true);
            let x = rows(x, &range, hidden);
            norm::forward(x, &scale, self.eps, normal);
            for (index, (layer, g, u)) in
                [(&layers.q, dq, q_u), (&layers.k, dk, k_u), (&layers.v, dv, v_u)].into_iter().enumerate()
            {
                layer.backward(g, first, wants_normal.then_some((&mut *dnormal, index > 0)), u)?;
            }
            if wants_input {
                norm::backward(x, &scale, self.eps, dnormal, dx);
            }
            Ok(())
        })?;
        layers.q.add_gradients(&normal, &dq, q_t, q_u)?;
        layers.k.add_gradients(&normal, &dk, k_t, k_u)?;
        layers.v.add_gradients(&normal, &dv, v_t, v_u)?;
        norm::add_weight_gradient(&layers.input_norm, x, self.eps, &dnormal)?;
        Ok(wants_input.then_some(dmiddle))
    }
}

/// Some tokens' rows of a matrix.
fn rows<'a>(matrix: &'a [f32], tokens: &Range<usize>, columns: usize) -> &'a [f32] {
    &matrix[tokens.start * columns..tokens.end * columns]
}

fn add(to: &mut [f32], other: &[f32]) {
    parallel::by_rows(to, 1, |first, to| {
        let end = first + to.len();
        to.iter_mut().zip(&other[first..end]).for_each(|(t, o)| *t += o);
    });
}
