//! A block of a llama-like decoder as one operation: `z = x + o(attention(rope(q(n)), rope(k(n)), v(n)))` with `n = norm(x)`, then
//! `y = z + down(silu(gate(m)) * up(m))` with `m = norm(z)`.
//!
//! One operation instead of fifteen spares candle's zeroed gradient, copy and addition at every edge between them, and decides what
//! is kept for the backward pass: what the norms and the activation give is cheap to compute again, and is.

use super::attention::{self, AttentionSpec};
use super::cache::{KvCache, attend_with_caches};
use super::layer::Layer;
use super::rope::{RopeTable, rotate};
use super::{gated, norm};
use crate::autograd::Parameter;
use crate::autograd::buffer::zeroed;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;
use std::sync::{Arc, Mutex};

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
struct Kept {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mixed: Vec<f32>,
    log_sums: Vec<f32>,
    middle: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    /// The low-rank layers' inner values, in the order q, k, v, o, gate, up, down.
    low_ranks: [Vec<f32>; 7],
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
    /// Applies the block to `x` [tokens, hidden], which must be f32 on the CPU.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.contiguous()?;
        let op = |record, no_input_gradient| BlockOp { block: self.clone(), record, no_input_gradient, kept: Mutex::default() };
        if self.layers.tracked() {
            let (x, promoted) = super::tracked(&x)?;
            x.apply_op1(op(true, promoted))
        } else if x.track_op() && crate::autograd::grad_enabled() {
            x.apply_op1(op(true, false))
        } else {
            x.apply_op1_no_bwd(&op(false, false))
        }
    }

    /// As [`Self::apply`] without recording, to tokens that continue what the caches hold for this layer; the caches grow.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub fn apply_cached(&self, x: &Tensor, layer: usize, caches: &mut [&mut KvCache]) -> Result<Tensor> {
        let attend = |q: &[f32], k: &[f32], v: &[f32]| (attend_with_caches(q, k, v, &self.spec, layer, caches), Vec::new());
        let y = super::with_elements(x, |x| Ok(self.run(x, attend)?.0))?;
        Tensor::from_vec(y, x.shape(), x.device())
    }

    /// The block's output and what backward needs; `attend` computes attention from rotated queries and keys, and values.
    fn run(&self, x: &[f32], attend: impl FnOnce(&[f32], &[f32], &[f32]) -> (Vec<f32>, Vec<f32>)) -> Result<(Vec<f32>, Kept)> {
        let layers = &*self.layers;
        let normal = norm::forward(x, &norm::values(&layers.input_norm)?, self.eps);
        let (mut q, q_inner) = layers.q.forward(&normal)?;
        let (mut k, k_inner) = layers.k.forward(&normal)?;
        let (v, v_inner) = layers.v.forward(&normal)?;
        drop(normal);
        rotate(&mut q, &self.rope, false);
        rotate(&mut k, &self.rope, false);
        let (mixed, log_sums) = attend(&q, &k, &v);
        let (mut middle, o_inner) = layers.o.forward(&mixed)?;
        add(&mut middle, x);
        let normal = norm::forward(&middle, &norm::values(&layers.post_norm)?, self.eps);
        let (gate, gate_inner) = layers.gate.forward(&normal)?;
        let (up, up_inner) = layers.up.forward(&normal)?;
        drop(normal);
        let (mut y, down_inner) = layers.down.forward(&gated::forward(&gate, &up))?;
        add(&mut y, &middle);
        let low_ranks = [q_inner, k_inner, v_inner, o_inner, gate_inner, up_inner, down_inner];
        Ok((y, Kept { q, k, v, mixed, log_sums, middle, gate, up, low_ranks }))
    }

    /// The block as in training: with attention within the batch.
    fn run_whole(&self, x: &[f32]) -> Result<(Vec<f32>, Kept)> {
        self.run(x, |q, k, v| attention::forward(q, k, v, &self.spec))
    }

    /// Adds the parameters' gradients; returns the gradient by `x` where it is wanted.
    fn backward(&self, x: &[f32], kept: Kept, g: &[f32], wants_input: bool) -> Result<Option<Vec<f32>>> {
        let layers = &*self.layers;
        let Kept { q, k, v, mixed, log_sums, middle, gate, up, low_ranks } = kept;
        let [q_inner, k_inner, v_inner, o_inner, gate_inner, up_inner, down_inner] = low_ranks;

        let mut dinner = zeroed(gate.len());
        layers.down.backward(&gated::forward(&gate, &up), &down_inner, g, Some(&mut dinner))?;
        let (dgate, dup) = gated::backward(&gate, &up, &dinner);
        drop((gate, up, dinner));
        let scale = norm::values(&layers.post_norm)?;
        let normal = norm::forward(&middle, &scale, self.eps);
        let mut dnormal = zeroed(normal.len());
        layers.gate.backward(&normal, &gate_inner, &dgate, Some(&mut dnormal))?;
        layers.up.backward(&normal, &up_inner, &dup, Some(&mut dnormal))?;
        drop((normal, dgate, dup));
        let mut dmiddle = g.to_vec();
        norm::add_weight_gradient(&layers.post_norm, &middle, self.eps, &dnormal)?;
        norm::backward(&middle, &scale, self.eps, &dnormal, &mut dmiddle);

        let mut dmixed = zeroed(mixed.len());
        layers.o.backward(&mixed, &o_inner, &dmiddle, Some(&mut dmixed))?;
        let [mut dq, mut dk, dv] = attention::backward([&q, &k, &v, &mixed, &dmixed], &log_sums, &self.spec);
        drop((q, k, v, mixed, dmixed));
        rotate(&mut dq, &self.rope, true);
        rotate(&mut dk, &self.rope, true);
        let scale = norm::values(&layers.input_norm)?;
        let normal = norm::forward(x, &scale, self.eps);
        let wants_normal = wants_input || layers.input_norm.requires_grad();
        dnormal.fill(0.0);
        for (layer, inner, g) in [(&layers.q, q_inner, dq), (&layers.k, k_inner, dk), (&layers.v, v_inner, dv)] {
            layer.backward(&normal, &inner, &g, wants_normal.then_some(dnormal.as_mut_slice()))?;
        }
        norm::add_weight_gradient(&layers.input_norm, x, self.eps, &dnormal)?;
        if !wants_input {
            return Ok(None);
        }
        norm::backward(x, &scale, self.eps, &dnormal, &mut dmiddle);
        Ok(Some(dmiddle))
    }
}

fn add(to: &mut [f32], other: &[f32]) {
    const BLOCK: usize = 1 << 13;
    to.par_chunks_mut(BLOCK).zip(other.par_chunks(BLOCK)).for_each(|(to, other)| {
        to.iter_mut().zip(other).for_each(|(t, o)| *t += o);
    });
}

struct BlockOp {
    block: Block,
    /// Whether a backward pass may follow.
    record: bool,
    /// The input was made tracked by us: nobody wants its gradient.
    no_input_gradient: bool,
    kept: Mutex<Option<Kept>>,
}

impl CustomOp1 for BlockOp {
    fn name(&self) -> &'static str {
        "decoder_block"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, kept) = self.block.run_whole(super::elements(storage, layout)?)?;
        if self.record {
            *self.kept.lock().unwrap_or_else(|e| e.into_inner()) = Some(kept);
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let kept = self.kept.lock().unwrap_or_else(|e| e.into_inner()).take();
        let gradient = super::with_elements(g, |g| {
            super::with_elements(x, |x| {
                // Taken, so that memory is freed on the way back; a second backward pass computes it again.
                let kept = match kept {
                    Some(kept) => kept,
                    None => self.block.run_whole(x)?.1,
                };
                self.block.backward(x, kept, g, !self.no_input_gradient)
            })
        })?;
        gradient.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()
    }
}
