//! Causal attention over sequences laid end to end, with grouped key and value heads and an optional sliding window.
//!
//! Tokens of several sequences stand in one matrix `[tokens, heads * head_dim]`; a token attends to those of its own sequence
//! whose position is not after its own (and, with a window, less than the window before it). No padding exists, and no
//! `[seq, seq]` matrix is kept: scores live a block of queries at a time, and backward computes them again from the saved
//! log-sum-exp (Dao et al. 2022, arXiv 2205.14135).
//!
//! With `P = softmax(scale Q K^T)`, `O = P V`, and `D = rowsum(g * O)`: `dV = P^T g`, `dS = P (g V^T - D)`,
//! `dQ = scale dS K`, `dK = scale dS^T Q`.

use super::exp::{exp, tanh, vectorised};
use super::matrix::{Head, head_mix, head_mix_transposed, head_scores};
use super::parallel;
use crate::autograd::buffer::zeroed;
use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use std::sync::{Arc, Mutex};

/// Queries whose scores are held at once.
const BLOCK: usize = 64;

/// Multiplications an element of the queries, for deciding whether to share the work: a guess for short sequences.
const WORK: usize = 32;

/// What attention needs to know beside queries, keys and values.
#[derive(Debug, Clone)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple of it.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Scores are bent to stay within plus and minus this: `cap * tanh(score / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// Number of positions a token sees, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// Lengths of the sequences, in the order in which their tokens lie.
    pub segments: Vec<usize>,
    /// Position of every token in its sequence, ascending within a sequence.
    pub positions: Vec<u32>,
}

impl AttentionSpec {
    /// Keys (relative to the segment's start) that the query with this index in the segment sees.
    fn visible(&self, positions: &[u32], query: usize) -> (usize, usize) {
        let start = match self.window {
            Some(window) => {
                let earliest = (positions[query] as usize + 1).saturating_sub(window);
                positions.partition_point(|p| (*p as usize) < earliest)
            }
            None => 0,
        };
        (start, query + 1)
    }

    /// For every token the first token that it sees, and the last that sees it.
    pub(super) fn first_and_last(&self) -> (Vec<u32>, Vec<u32>) {
        let (mut first, mut last) = (Vec::with_capacity(self.positions.len()), Vec::with_capacity(self.positions.len()));
        for (start, length) in self.starts() {
            let positions = &self.positions[start..start + length];
            for query in 0..length {
                let (from, _) = self.visible(positions, query);
                first.push((start + from) as u32);
                // What this query is the first not to see, the one before it was the last to see.
                last.resize(last.len().max(start + from), (start + query).saturating_sub(1) as u32);
            }
            last.resize(start + length, (start + length).saturating_sub(1) as u32);
        }
        (first, last)
    }

    /// How many log-sum-exps the forward pass gives.
    pub(super) fn log_sums(&self) -> usize {
        self.positions.len() * self.heads
    }

    fn starts(&self) -> Vec<(usize, usize)> {
        let mut at = 0;
        let place = |length: &usize| {
            at += length;
            (at - length, *length)
        };
        self.segments.iter().map(place).collect()
    }

    /// How query heads and key heads lie in their matrices.
    fn layout(&self) -> (Head, Head) {
        let head = |heads: usize| Head { stride: heads * self.head_dim, width: self.head_dim };
        (head(self.heads), head(self.kv_heads))
    }

    /// Segments times heads: the independent pieces of work, `(start, length, head)`.
    fn tasks(&self, heads: usize) -> Vec<(usize, usize, usize)> {
        self.starts().into_iter().flat_map(|(start, length)| (0..heads).map(move |h| (start, length, h))).collect()
    }

    /// Blocks of queries of a segment: first query, number of queries, first and end of the keys that any of them sees.
    fn blocks(&self, start: usize, length: usize) -> impl Iterator<Item = (usize, usize, usize, usize)> {
        let positions = &self.positions[start..start + length];
        (0..length).step_by(BLOCK).map(move |first| {
            let count = BLOCK.min(length - first);
            (first, count, self.visible(positions, first).0, first + count)
        })
    }

    /// Whether tensors of these shapes can attend so.
    pub(super) fn check(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<()> {
        let tokens: usize = self.segments.iter().sum();
        let fits = q.dims() == [tokens, self.heads * self.head_dim]
            && k.dims() == [tokens, self.kv_heads * self.head_dim]
            && v.dims() == k.dims()
            && self.positions.len() == tokens
            && self.kv_heads > 0
            && self.heads.is_multiple_of(self.kv_heads);
        if !fits {
            candle_core::bail!(
                "attention: queries {:?}, keys {:?}, values {:?} do not fit {self:?}",
                q.dims(),
                k.dims(),
                v.dims()
            );
        }
        Ok(())
    }
}

/// Attention of `q` [tokens, heads * head_dim] to `k` and `v` [tokens, kv_heads * head_dim]; the result has the shape of `q`.
///
/// # Errors
/// Shapes that do not fit the specification.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, spec: AttentionSpec) -> Result<Tensor> {
    spec.check(q, k, v)?;
    if !super::fused_for(q) {
        return composed(q, k, v, &spec, None);
    }
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    let tracked = (q.track_op() || k.track_op() || v.track_op()) && crate::autograd::grad_enabled();
    let op = Attention { spec, log_sums: Mutex::new(Vec::new()) };
    if tracked { q.apply_op3(&k, &v, op) } else { q.apply_op3_no_bwd(&k, &v, &op) }
}

/// Makes a dropout mask for a number of elements.
pub type Masks<'a> = &'a dyn Fn(usize) -> Arc<Vec<f32>>;

/// As [`attention`], by candle's operations, with weights that are dropped by masks.
///
/// # Errors
/// As [`attention`].
pub fn attention_with_dropout(q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec, masks: Masks<'_>) -> Result<Tensor> {
    spec.check(q, k, v)?;
    composed(q, k, v, spec, Some(masks))
}

/// By candle's operations, one sequence after the other.
fn composed(q: &Tensor, k: &Tensor, v: &Tensor, spec: &AttentionSpec, masks: Option<Masks<'_>>) -> Result<Tensor> {
    let groups = spec.heads / spec.kv_heads;
    let mut outputs = Vec::new();
    for (start, length) in spec.starts() {
        let heads = |x: &Tensor, heads: usize| {
            x.narrow(0, start, length)?.reshape((length, heads, spec.head_dim))?.transpose(0, 1)?.contiguous()
        };
        let repeat = |x: Tensor| {
            let shape = (spec.kv_heads, groups, length, spec.head_dim);
            x.unsqueeze(1)?.broadcast_as(shape)?.reshape((spec.heads, length, spec.head_dim))?.contiguous()
        };
        let (q, k, v) = (heads(q, spec.heads)?, repeat(heads(k, spec.kv_heads)?)?, repeat(heads(v, spec.kv_heads)?)?);
        let positions = &spec.positions[start..start + length];
        let mask = (0..length).flat_map(|i| {
            let (from, to) = spec.visible(positions, i);
            (0..length).map(move |j| if (from..to).contains(&j) { 0.0 } else { f32::NEG_INFINITY })
        });
        let mask = Tensor::from_iter(mask, q.device())?.reshape((1, length, length))?;
        // In f32 whatever the dtype, as transformers takes the softmax: a long row's sum loses its digits in 16 bits.
        let mut scores = (q.matmul(&k.transpose(1, 2)?)?.to_dtype(DType::F32)? * f64::from(spec.scale))?;
        if let Some(cap) = spec.softcap.map(f64::from) {
            scores = ((scores / cap)?.tanh()? * cap)?;
        }
        let scores = scores.broadcast_add(&mask)?;
        let shifted = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let mut weights = shifted.broadcast_div(&shifted.sum_keepdim(D::Minus1)?)?.to_dtype(q.dtype())?;
        if let Some(masks) = masks {
            weights = super::dropout::masked(&weights, masks(weights.elem_count()))?;
        }
        outputs.push(weights.matmul(&v)?.transpose(0, 1)?.reshape((length, spec.heads * spec.head_dim))?);
    }
    Tensor::cat(&outputs, 0)
}

struct Attention {
    spec: AttentionSpec,
    /// `log(sum(exp(scores)))` of every query and head, `[tokens, heads]`, from the forward pass.
    log_sums: Mutex<Vec<f32>>,
}

/// Raw access to a matrix of which parallel tasks write disjoint heads of disjoint rows.
#[derive(Clone, Copy)]
struct Disjoint(*mut f32, usize);

// SAFETY: every task writes only the rows of its own segment and the columns of its own head.
unsafe impl Send for Disjoint {}
// SAFETY: as above.
unsafe impl Sync for Disjoint {}

impl Disjoint {
    /// The elements from an offset on. Callers of different tasks must not write the same ones.
    #[allow(clippy::mut_from_ref)] // the point of this type
    fn from(&self, offset: usize) -> &mut [f32] {
        assert!(offset <= self.1);
        // SAFETY: inside the matrix; disjoint writes are the callers' promise above.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(offset), self.1 - offset) }
    }
}

/// Attention on slices: fills `out`, shaped as `q`, and `log_sums`, `log(sum(exp(scores)))` of every token and head.
pub(super) fn forward(q: &[f32], k: &[f32], v: &[f32], spec: &AttentionSpec, out: &mut [f32], log_sums: &mut [f32]) {
    let (q_head, kv_head) = spec.layout();
    assert!(out.len() == q.len() && log_sums.len() == spec.log_sums());
    let (out_cells, sum_cells) = (Disjoint(out.as_mut_ptr(), out.len()), Disjoint(log_sums.as_mut_ptr(), log_sums.len()));
    let tasks = spec.tasks(spec.heads);
    parallel::for_each(tasks.len(), q.len() * WORK, |index| {
        let (start, length, head) = tasks[index];
        let positions = &spec.positions[start..start + length];
        let kv = start * kv_head.stride + head / (spec.heads / spec.kv_heads) * spec.head_dim;
        let mut scores = Vec::new();
        for (first, count, from, to) in spec.blocks(start, length) {
            let keys = to - from;
            let at = (start + first) * q_head.stride + head * spec.head_dim;
            scores.resize(count * keys, 0.0);
            head_scores(&q[at..], q_head, &k[kv + from * kv_head.stride..], kv_head, &mut scores, count, keys);
            for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
                let (low, high) = spec.visible(positions, first + i);
                let sum = softmax(row, low - from, high - from, spec);
                sum_cells.from((start + first + i) * spec.heads + head)[0] = sum;
            }
            head_mix(&scores, &v[kv + from * kv_head.stride..], kv_head, out_cells.from(at), q_head, false, count, keys);
        }
    });
}

/// The gradients by queries, keys and values, from `[q, k, v, out, g]` and the log-sum-exps of the forward pass. Fills `dq`; adds
/// to `dk` and `dv`.
pub(super) fn backward([q, k, v, out, g]: [&[f32]; 5], log_sums: &[f32], spec: &AttentionSpec, gradients: [&mut [f32]; 3]) {
    let (q_head, kv_head) = spec.layout();
    let groups = spec.heads / spec.kv_heads;
    let [dq_cells, dk_cells, dv_cells] = gradients.map(|m| Disjoint(m.as_mut_ptr(), m.len()));
    // One task a key head: the query heads that share it add to the same dK and dV.
    let tasks = spec.tasks(spec.kv_heads);
    parallel::for_each(tasks.len(), q.len() * WORK, |index| {
        let (start, length, key_head) = tasks[index];
        let positions = &spec.positions[start..start + length];
        let kv = start * kv_head.stride + key_head * spec.head_dim;
        let (mut p, mut ds) = (Vec::new(), Vec::new());
        for head in key_head * groups..(key_head + 1) * groups {
            for (first, count, from, to) in spec.blocks(start, length) {
                let keys = to - from;
                let at = (start + first) * q_head.stride + head * spec.head_dim;
                let kv = kv + from * kv_head.stride;
                p.resize(count * keys, 0.0);
                ds.resize(count * keys, 0.0);
                head_scores(&q[at..], q_head, &k[kv..], kv_head, &mut p, count, keys);
                head_scores(&g[at..], q_head, &v[kv..], kv_head, &mut ds, count, keys);
                for i in 0..count {
                    let token = start + first + i;
                    let (low, high) = spec.visible(positions, first + i);
                    let row = token * q_head.stride + head * spec.head_dim;
                    let inner = g[row..row + spec.head_dim].iter().zip(&out[row..]).map(|(a, b)| a * b).sum();
                    let (p, ds) = (&mut p[i * keys..(i + 1) * keys], &mut ds[i * keys..(i + 1) * keys]);
                    let seen = low - from..high - from;
                    p[..seen.start].fill(0.0);
                    p[seen.end..].fill(0.0);
                    ds[..seen.start].fill(0.0);
                    ds[seen.end..].fill(0.0);
                    let log_sum = log_sums[token * spec.heads + head];
                    match spec.softcap {
                        None => softmax_backward(&mut p[seen.clone()], &mut ds[seen], spec.scale, log_sum, inner),
                        Some(cap) => {
                            capped_softmax_backward(&mut p[seen.clone()], &mut ds[seen], (spec.scale, cap), log_sum, inner);
                        }
                    }
                }
                head_mix(&ds, &k[kv..], kv_head, dq_cells.from(at), q_head, false, count, keys);
                head_mix_transposed(&ds, &q[at..], q_head, dk_cells.from(kv), kv_head, true, count, keys);
                head_mix_transposed(&p, &g[at..], q_head, dv_cells.from(kv), kv_head, true, count, keys);
            }
        }
    });
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (q, k, v) = (super::elements(s1, l1)?, super::elements(s2, l2)?, super::elements(s3, l3)?);
        let (mut out, mut log_sums) = (zeroed(q.len()), zeroed(self.spec.log_sums()));
        forward(q, k, v, &self.spec, &mut out, &mut log_sums);
        *self.log_sums.lock().unwrap_or_else(|e| e.into_inner()) = log_sums;
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        out: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let log_sums = self.log_sums.lock().unwrap_or_else(|e| e.into_inner());
        let [dq, dk, dv] = super::with_elements(q, |q| {
            super::with_elements(k, |k| {
                super::with_elements(v, |v| {
                    super::with_elements(out, |out| {
                        super::with_elements(g, |g| {
                            let mut gradients = [zeroed(q.len()), zeroed(k.len()), zeroed(v.len())];
                            let parts = gradients.each_mut().map(Vec::as_mut_slice);
                            backward([q, k, v, out, g], &log_sums, &self.spec, parts);
                            Ok(gradients)
                        })
                    })
                })
            })
        })?;
        let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device()).map(Some);
        Ok((tensor(dq, q)?, tensor(dk, k)?, tensor(dv, v)?))
    }
}

/// Turns scores `low..high` of a row into probabilities and the rest into zeros; returns the log-sum-exp.
fn softmax(row: &mut [f32], low: usize, high: usize, spec: &AttentionSpec) -> f32 {
    row[..low].fill(0.0);
    row[high..].fill(0.0);
    softmax_seen(&mut row[low..high], spec)
}

/// Turns scores into probabilities; returns the log-sum-exp.
#[inline(always)]
pub(super) fn softmax_seen(row: &mut [f32], spec: &AttentionSpec) -> f32 {
    match spec.softcap {
        None => softmax_in_place(row, spec.scale),
        Some(cap) => {
            bend(row, spec.scale, cap);
            softmax_in_place(row, 1.0)
        }
    }
}

vectorised! {
    /// `cap * tanh(scale * v / cap)`, in place.
    fn bend(row: &mut [f32], scale: f32, cap: f32) {
        let inner = scale / cap;
        row.iter_mut().for_each(|v| *v = cap * tanh(*v * inner));
    }
}

vectorised! {
    /// As [`softmax_backward`], with scores that were bent: `scale` comes with the cap.
    fn capped_softmax_backward(p: &mut [f32], ds: &mut [f32], (scale, cap): (f32, f32), log_sum: f32, inner: f32) {
        for (p, ds) in p.iter_mut().zip(ds) {
            let t = tanh(*p * scale / cap);
            *p = exp(cap * t - log_sum);
            *ds = scale * (1.0 - t * t) * *p * (*ds - inner);
        }
    }
}

vectorised! {
    fn softmax_in_place(row: &mut [f32], scale: f32) -> f32 {
        let largest = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v)) * scale;
        let mut sums = [0f32; 16];
        for part in row.chunks_mut(16) {
            for (v, sum) in part.iter_mut().zip(&mut sums) {
                *v = exp(*v * scale - largest);
                *sum += *v;
            }
        }
        let sum = sums.iter().sum::<f32>();
        let factor = 1.0 / sum;
        row.iter_mut().for_each(|v| *v *= factor);
        largest + sum.ln()
    }
}

vectorised! {
    /// Scores to probabilities, and the probabilities' gradients to the scores'.
    fn softmax_backward(p: &mut [f32], ds: &mut [f32], scale: f32, log_sum: f32, inner: f32) {
        for (p, ds) in p.iter_mut().zip(ds) {
            *p = exp(*p * scale - log_sum);
            *ds = scale * *p * (*ds - inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Parameter, backward};
    use crate::ops::check::{difference, tensor};
    use crate::ops::with_fused;
    use candle_core::Device;

    fn spec(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>, segments: &[usize]) -> AttentionSpec {
        let positions = segments.iter().flat_map(|n| 0..*n as u32).collect();
        let scale = 1.0 / (head_dim as f32).sqrt();
        AttentionSpec { heads, kv_heads, head_dim, scale, softcap: None, window, segments: segments.to_vec(), positions }
    }

    fn run(fused: bool, spec: &AttentionSpec) -> Vec<Tensor> {
        with_fused(fused, || {
            let tokens: usize = spec.segments.iter().sum();
            let make = |heads: usize, seed| Parameter::new(&tensor(&[tokens, heads * spec.head_dim], seed)).unwrap();
            let (q, k, v) = (make(spec.heads, 1), make(spec.kv_heads, 2), make(spec.kv_heads, 3));
            let y = attention(&q.tensor(), &k.tensor(), &v.tensor(), spec.clone()).unwrap();
            backward(&(&y * &tensor(y.dims(), 4)).unwrap().sum_all().unwrap()).unwrap();
            let grads = [&q, &k, &v].map(|p| p.grad().unwrap().unwrap());
            std::iter::once(y.detach()).chain(grads).collect()
        })
    }

    #[test]
    fn first_and_last_are_those_that_are_seen() {
        for window in [None, Some(1), Some(3), Some(100)] {
            let mut spec = spec(1, 1, 1, window, &[5, 1, 0, 9]);
            // Positions with gaps.
            spec.positions[8..].iter_mut().for_each(|position| *position += 4);
            let (first, last) = spec.first_and_last();
            assert!(first.len() == 15 && last.len() == 15);
            for (start, length) in spec.starts() {
                let seen: Vec<_> = (0..length).map(|query| spec.visible(&spec.positions[start..start + length], query)).collect();
                for (token, (from, _)) in seen.iter().enumerate() {
                    assert_eq!(first[start + token] as usize, start + from, "{window:?}");
                    let query = seen.iter().rposition(|(from, end)| (*from..*end).contains(&token)).unwrap();
                    assert_eq!(last[start + token] as usize, start + query, "{window:?}");
                }
            }
        }
    }

    #[test]
    fn the_weights_of_a_long_text_add_up_in_half_precision() {
        let all = |value: f32| Tensor::full(value, (600, 2), &Device::Cpu).unwrap().to_dtype(DType::BF16).unwrap();
        let y = attention(&all(0.0), &all(1.0), &all(1.0), spec(1, 1, 2, None, &[600])).unwrap();
        let last = y.to_dtype(DType::F32).unwrap().to_vec2::<f32>().unwrap().pop().unwrap();
        assert!(last.iter().all(|v| (v - 1.0).abs() < 0.02), "{last:?}");
    }

    #[test]
    fn fused_equals_composed_over_groups_windows_and_lengths() {
        let cases = [
            spec(1, 1, 1, None, &[1]),
            spec(4, 2, 8, None, &[5, 1, 9]),
            spec(6, 2, 4, Some(3), &[11, 2]),
            spec(3, 1, 16, None, &[150]),
            spec(2, 2, 5, Some(70), &[200, 3]),
            AttentionSpec { softcap: Some(0.3), ..spec(4, 2, 8, Some(6), &[5, 1, 9]) },
        ];
        for case in cases {
            for (a, b) in run(true, &case).iter().zip(&run(false, &case)) {
                assert!(difference(a, b) < 2e-5, "{case:?}");
            }
        }
    }
}
