//! A block of a decoder as one operation. With every part that a family of models may leave out in brackets:
//! `z = x + s [norm](o(attention(rope([norm](q(n))), rope([norm](k(n))), v(n))))` with `n = [norm](x)`, then
//! `y = z + s [norm](down(f(gate(m)) [* up(m)]))` with `m = [norm](z)`.
//!
//! What norms and activations give is cheap to compute again in the backward pass, and is not kept for it.

mod backward;

use super::attention::{self, AttentionSpec};
use super::cache::{KvCache, attend_with_caches};
use super::gated::{self, Activation};
use super::layer::Layer;
use super::norm::{Norm, NormValues};
use super::parallel;
use super::rope::{RopeTable, rotate};
use crate::autograd::buffer::{Buffer, zeroed};
use candle_core::{Result, Tensor};
use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

/// What makes queries, keys and values.
#[derive(Debug, Clone)]
pub enum Mixer {
    /// A layer each: queries, keys, values.
    Apart([Layer; 3]),
    /// One layer whose outputs lie side by side in that order.
    Joint(Layer),
}

/// What makes the activated half and the one that it multiplies.
#[derive(Debug, Clone)]
pub enum Inner {
    /// A layer each: the activated half, the other.
    Apart([Layer; 2]),
    /// One layer whose outputs lie side by side in that order.
    Joint(Layer),
    /// All is activated, and multiplies nothing.
    Plain(Layer),
}

/// The parameters of a block.
#[derive(Debug, Clone)]
pub struct BlockLayers {
    /// The norm before attention.
    pub input_norm: Option<Norm>,
    /// Queries, keys and values.
    pub mixer: Mixer,
    /// The norm of the queries: of each head, or of all together, by its width.
    pub q_norm: Option<Norm>,
    /// The norm of the keys.
    pub k_norm: Option<Norm>,
    /// What attention's output goes through.
    pub o: Layer,
    /// The norm of what attention adds.
    pub attention_norm: Option<Norm>,
    /// The norm before the inner layers.
    pub inner_norm: Option<Norm>,
    /// To the inner size.
    pub inner: Inner,
    /// The function at the inner size.
    pub activation: Activation,
    /// Back to the hidden size.
    pub down: Layer,
    /// The norm of what the inner layers add.
    pub output_norm: Option<Norm>,
    /// Factor on both that are added.
    pub residual_scale: f32,
}

/// A block and the tokens that it is applied to.
#[derive(Debug, Clone)]
pub struct Block {
    /// The parameters.
    pub layers: Arc<BlockLayers>,
    /// Angles of the tokens' positions; none where positions do not turn queries and keys.
    pub rope: Option<RopeTable>,
    /// Heads and sequences.
    pub spec: Arc<AttentionSpec>,
}

/// Places of the layers in arrays that have one entry each: q, k, v (the first for all three where they are one), o, gate, up (the
/// first for both), down.
const LAYERS: usize = 7;

/// What the forward pass keeps for the backward pass; what a block does not have is empty.
#[derive(Default)]
pub(super) struct Kept {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    /// Queries and keys before their norms.
    q_raw: Buffer,
    k_raw: Buffer,
    mixed: Buffer,
    log_sums: Buffer,
    /// What attention adds, before its norm.
    o_raw: Buffer,
    middle: Buffer,
    gate: Buffer,
    up: Buffer,
    /// What the inner layers add, before its norm.
    down_raw: Buffer,
    /// The low-rank layers' inner values, by the layers' places.
    low_ranks: [Buffer; LAYERS],
}

/// Numbers of columns.
#[derive(Clone, Copy)]
struct Widths {
    hidden: usize,
    q: usize,
    kv: usize,
    /// Of the activated half.
    gate: usize,
    /// Of the other half; 0 without one.
    up: usize,
}

impl BlockLayers {
    fn tracked(&self) -> bool {
        self.all().into_iter().flatten().any(Layer::tracked) || self.norms().into_iter().flatten().any(Norm::tracked)
    }

    /// The layers, at the places that [`LAYERS`] names.
    pub(super) fn all(&self) -> [Option<&Layer>; LAYERS] {
        let [q, k, v] = match &self.mixer {
            Mixer::Apart([q, k, v]) => [Some(q), Some(k), Some(v)],
            Mixer::Joint(all) => [Some(all), None, None],
        };
        let [gate, up] = match &self.inner {
            Inner::Apart([gate, up]) => [Some(gate), Some(up)],
            Inner::Joint(layer) | Inner::Plain(layer) => [Some(layer), None],
        };
        [q, k, v, Some(&self.o), gate, up, Some(&self.down)]
    }

    fn norms(&self) -> [Option<&Norm>; 6] {
        let Self { input_norm, q_norm, k_norm, attention_norm, inner_norm, output_norm, .. } = self;
        [input_norm, q_norm, k_norm, attention_norm, inner_norm, output_norm].map(Option::as_ref)
    }

    fn ranks(&self) -> [usize; LAYERS] {
        self.all().map(|layer| layer.map_or(0, Layer::rank))
    }
}

/// The values of a norm, where there is one.
fn values(norm: &Option<Norm>) -> Result<Option<NormValues>> {
    norm.as_ref().map(Norm::values).transpose()
}

/// What a norm gives, or its input where there is none.
fn normalised<'a>(norm: &Option<NormValues>, x: &'a [f32], out: &'a mut [f32]) -> &'a [f32] {
    match norm {
        Some(norm) => {
            norm.forward(x, out);
            out
        }
        None => x,
    }
}

impl Block {
    /// Whether an operation has to be recorded for one of the parameters.
    pub(super) fn tracked(&self) -> bool {
        self.layers.tracked()
    }

    fn widths(&self, x: &[f32]) -> Widths {
        let (q, kv) = (self.spec.heads * self.spec.head_dim, self.spec.kv_heads * self.spec.head_dim);
        let [gate, up] = match &self.layers.inner {
            Inner::Apart([gate, up]) => [gate.outputs(), up.outputs()],
            Inner::Joint(both) => [both.outputs() / 2; 2],
            Inner::Plain(layer) => [layer.outputs(), 0],
        };
        Widths { hidden: x.len() / self.spec.positions.len().max(1), q, kv, gate, up }
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
        let width = self.widths(x);
        let size = parallel::part_size(tokens);
        let matrix = |columns: usize| Buffer::new(tokens * columns);
        let only_if = |wanted: bool, columns: usize| matrix(if wanted { columns } else { 0 });
        let mut low_ranks = layers.ranks().map(matrix);
        let [q_t, k_t, v_t, o_t, gate_t, up_t, down_t] = low_ranks.each_mut().map(|t| &mut **t);

        let (input_norm, q_norm, k_norm) = (values(&layers.input_norm)?, values(&layers.q_norm)?, values(&layers.k_norm)?);
        let (mut q, mut k, mut v) = (matrix(width.q), matrix(width.kv), matrix(width.kv));
        let (mut q_raw, mut k_raw) = (only_if(q_norm.is_some(), width.q), only_if(k_norm.is_some(), width.kv));
        let parts = parallel::cut([&mut q, &mut k, &mut v, &mut q_raw, &mut k_raw, q_t, k_t, v_t], tokens, size);
        parallel::each(parts, |(range, [q, k, v, q_raw, k_raw, q_t, k_t, v_t])| {
            let first = range.start;
            let x = rows(x, &range, width.hidden);
            let mut normal = Buffer::new(if input_norm.is_some() { x.len() } else { 0 });
            let normal = normalised(&input_norm, x, &mut normal);
            {
                let q = if q_norm.is_some() { &mut *q_raw } else { &mut *q };
                let k = if k_norm.is_some() { &mut *k_raw } else { &mut *k };
                match &layers.mixer {
                    Mixer::Apart([to_q, to_k, to_v]) => {
                        to_q.forward(normal, first, q, q_t)?;
                        to_k.forward(normal, first, k, k_t)?;
                        to_v.forward(normal, first, v, v_t)?;
                    }
                    Mixer::Joint(all) => {
                        let mut together = Buffer::new(range.len() * all.outputs());
                        all.forward(normal, first, &mut together, q_t)?;
                        part_columns(&together, [(q, width.q), (k, width.kv), (v, width.kv)]);
                    }
                }
            }
            for (norm, raw, out) in [(&q_norm, q_raw, &mut *q), (&k_norm, k_raw, &mut *k)] {
                if let Some(norm) = norm {
                    norm.forward(raw, out);
                }
            }
            if let Some(rope) = &self.rope {
                rotate(q, width.q, rope, first, false);
                rotate(k, width.kv, rope, first, false);
            }
            Ok(())
        })?;

        let (mut mixed, mut log_sums) = (matrix(width.q), Buffer::new(self.spec.log_sums()));
        attend(&q, &k, &v, &mut mixed, &mut log_sums);

        let (attention_norm, inner_norm) = (values(&layers.attention_norm)?, values(&layers.inner_norm)?);
        let output_norm = values(&layers.output_norm)?;
        let (mut middle, mut gate, mut up) = (matrix(width.hidden), matrix(width.gate), matrix(width.up));
        let mut o_raw = only_if(attention_norm.is_some(), width.hidden);
        let mut down_raw = only_if(output_norm.is_some(), width.hidden);
        let mut y = zeroed(x.len());
        let matrices: [&mut [f32]; 10] =
            [&mut y, &mut middle, &mut gate, &mut up, &mut o_raw, &mut down_raw, o_t, gate_t, up_t, down_t];
        parallel::each(parallel::cut(matrices, tokens, size), |(range, matrices)| {
            let [y, middle, gate, up, o_raw, down_raw, o_t, gate_t, up_t, down_t] = matrices;
            let first = range.start;
            self.branch(rows(&mixed, &range, width.q), first, (&layers.o, o_t), (&attention_norm, o_raw), middle)?;
            add(middle, rows(x, &range, width.hidden));
            let mut normal = Buffer::new(if inner_norm.is_some() { middle.len() } else { 0 });
            let normal = normalised(&inner_norm, middle, &mut normal);
            match &layers.inner {
                Inner::Apart([to_gate, to_up]) => {
                    to_gate.forward(normal, first, gate, gate_t)?;
                    to_up.forward(normal, first, up, up_t)?;
                }
                Inner::Joint(both) => {
                    let mut together = Buffer::new(range.len() * both.outputs());
                    both.forward(normal, first, &mut together, gate_t)?;
                    part_columns(&together, [(gate, width.gate), (up, width.up)]);
                }
                Inner::Plain(layer) => layer.forward(normal, first, gate, gate_t)?,
            }
            let mut inner = Buffer::new(gate.len());
            gated::forward(layers.activation, gate, (width.up > 0).then_some(&*up), &mut inner);
            self.branch(&inner, first, (&layers.down, down_t), (&output_norm, down_raw), y)?;
            add(y, middle);
            Ok(())
        })?;
        Ok((y, Kept { q, k, v, q_raw, k_raw, mixed, log_sums, o_raw, middle, gate, up, down_raw, low_ranks }))
    }

    /// What is added to the residual stream: a layer's output, normed and scaled where the block does so.
    fn branch(
        &self,
        input: &[f32],
        first: usize,
        (layer, t): (&Layer, &mut [f32]),
        (norm, raw): (&Option<NormValues>, &mut [f32]),
        out: &mut [f32],
    ) -> Result<()> {
        match norm {
            Some(norm) => {
                layer.forward(input, first, raw, t)?;
                norm.forward(raw, out);
            }
            None => layer.forward(input, first, out, t)?,
        }
        scale(out, self.layers.residual_scale);
        Ok(())
    }

    /// The block as in training: with attention within the batch.
    pub(super) fn run_whole(&self, x: &[f32]) -> Result<(Vec<f32>, Kept)> {
        self.run(x, |q, k, v, out, log_sums| attention::forward(q, k, v, &self.spec, out, log_sums))
    }
}

/// Some tokens' rows of a matrix.
fn rows<'a>(matrix: &'a [f32], tokens: &Range<usize>, columns: usize) -> &'a [f32] {
    &matrix[tokens.start * columns..tokens.end * columns]
}

/// Copies the columns of a matrix to several that have some each.
fn part_columns<const N: usize>(matrix: &[f32], parts: [(&mut [f32], usize); N]) {
    let columns = parts.iter().map(|(_, width)| width).sum::<usize>().max(1);
    let mut at = 0;
    for (part, width) in parts {
        for (out, row) in part.chunks_exact_mut(width.max(1)).zip(matrix.chunks_exact(columns)) {
            out.copy_from_slice(&row[at..at + width]);
        }
        at += width;
    }
}

/// The reverse of [`part_columns`].
fn join_columns<const N: usize>(parts: [(&[f32], usize); N], matrix: &mut [f32]) {
    let columns = parts.iter().map(|(_, width)| width).sum::<usize>().max(1);
    let mut at = 0;
    for (part, width) in parts {
        for (row, out) in part.chunks_exact(width.max(1)).zip(matrix.chunks_exact_mut(columns)) {
            out[at..at + width].copy_from_slice(row);
        }
        at += width;
    }
}

fn add(to: &mut [f32], other: &[f32]) {
    parallel::by_rows(to, 1, |first, to| {
        let end = first + to.len();
        to.iter_mut().zip(&other[first..end]).for_each(|(t, o)| *t += o);
    });
}

fn scale(values: &mut [f32], factor: f32) {
    if factor != 1.0 {
        values.iter_mut().for_each(|v| *v *= factor);
    }
}

/// `factor` times the values, copied only where that changes them.
fn scaled(values: &[f32], factor: f32) -> Cow<'_, [f32]> {
    if factor == 1.0 { Cow::Borrowed(values) } else { Cow::Owned(values.iter().map(|v| v * factor).collect()) }
}
