//! Attention of new tokens to the cached keys and values of their sequence; never recorded for backward.

use super::attention::{self, AttentionSpec, attend_cached};
use super::parallel;
use crate::autograd::buffer::Buffer;
use candle_core::{Result, Tensor};

/// The keys and values of one sequence, layer by layer, each `[tokens, kv_heads * head_dim]`.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    tokens: usize,
}

impl KvCache {
    /// An empty cache for a model with this many layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![(Vec::new(), Vec::new()); layers], tokens: 0 }
    }

    /// Number of tokens that have been through all layers.
    pub fn len(&self) -> usize {
        self.tokens
    }

    /// Forgets all but the first `tokens` tokens.
    pub fn truncate(&mut self, tokens: usize) {
        if tokens >= self.tokens {
            return;
        }
        for (keys, values) in &mut self.layers {
            let width = keys.len() / self.tokens;
            keys.truncate(tokens * width);
            values.truncate(tokens * width);
        }
        self.tokens = tokens;
    }

    /// Whether nothing is cached yet.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }
}

/// Appends `k` and `v` to the caches and attends. `spec.segments` gives the new tokens of every cache's sequence.
///
/// # Errors
/// Shapes that do not fit.
pub fn cached_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spec: &AttentionSpec,
    layer: usize,
    caches: &mut [&mut KvCache],
) -> Result<Tensor> {
    // The cache lives on the host in f32: on other devices this costs a transfer a step, and nothing else.
    let host = |t: &Tensor| t.to_device(&candle_core::Device::Cpu)?.to_dtype(candle_core::DType::F32)?.contiguous();
    let (host_q, host_k, host_v) = (host(q)?, host(k)?, host(v)?);
    let out = super::with_elements(&host_q, |q| {
        super::with_elements(&host_k, |k| {
            super::with_elements(&host_v, |v| {
                let mut out = vec![0f32; q.len()];
                attend_with_caches(q, k, v, spec, (layer, caches), &mut out);
                Ok(out)
            })
        })
    })?;
    Tensor::from_vec(out, q.shape(), &candle_core::Device::Cpu)?.to_device(q.device())?.to_dtype(q.dtype())
}

/// As [`cached_attention`], on slices; fills `out`.
pub fn attend_with_caches(
    q: &[f32],
    k: &[f32],
    v: &[f32],
    spec: &AttentionSpec,
    (layer, caches): (usize, &mut [&mut KvCache]),
    out: &mut [f32],
) {
    let width = spec.kv_heads * spec.head_dim;
    let fresh = caches.iter().all(|cache| cache.layers[layer].0.is_empty());
    let mut at = 0;
    for (cache, length) in caches.iter_mut().zip(&spec.segments) {
        let range = at * width..(at + length) * width;
        cache.layers[layer].0.extend_from_slice(&k[range.clone()]);
        cache.layers[layer].1.extend_from_slice(&v[range]);
        if layer + 1 == cache.layers.len() {
            cache.tokens += length;
        }
        at += length;
    }
    if fresh {
        return attention::forward(q, k, v, spec, out, &mut Buffer::new(spec.log_sums()));
    }
    let queries = spec.heads * spec.head_dim;
    // Every new token: its cache, and how many of the cached tokens it sees.
    let seen: Vec<(usize, usize)> = caches
        .iter()
        .zip(&spec.segments)
        .enumerate()
        .flat_map(|(index, (cache, new))| {
            let before = cache.layers[layer].0.len() / width - new;
            (1..=*new).map(move |i| (index, before + i))
        })
        .collect();
    let caches: Vec<&KvCache> = caches.iter().map(|cache| &**cache).collect();
    parallel::by_chunks(out, 2 * queries, |start, out| {
        let rows = out.chunks_exact_mut(queries).zip(q[start..].chunks_exact(queries)).zip(&seen[start / queries..]);
        rows.for_each(|((out, q), (index, end))| {
            let (keys, values) = &caches[*index].layers[layer];
            let first = spec.window.map_or(0, |w| end.saturating_sub(w));
            attend_cached(q, &keys[..end * width], &values[..end * width], first, spec, out);
        });
    });
}
