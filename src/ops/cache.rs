//! Attention of new tokens to the cached keys and values of their sequence; never recorded for backward.

use super::attention::{AttentionSpec, attend_cached, attention};
use candle_core::{Result, Tensor};
use rayon::prelude::*;

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

    /// Whether nothing is cached yet.
    pub fn is_empty(&self) -> bool {
        self.tokens == 0
    }
}

/// Appends `k` and `v` to the caches and attends. `spec.segments` gives the new tokens of every cache's sequence: a whole
/// prompt into an empty cache, or one token.
///
/// # Errors
/// Several new tokens for a cache that is not empty, or shapes that do not fit.
pub fn cached_attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    spec: &AttentionSpec,
    layer: usize,
    caches: &mut [&mut KvCache],
) -> Result<Tensor> {
    let width = spec.kv_heads * spec.head_dim;
    // The cache lives on the host in f32: on other devices this costs a transfer a step, and nothing else.
    let host = |t: &Tensor| t.to_device(&candle_core::Device::Cpu)?.to_dtype(candle_core::DType::F32)?.contiguous();
    let (host_k, host_v) = (host(k)?, host(v)?);
    let fresh = caches.iter().zip(&spec.segments).all(|(cache, _)| cache.layers[layer].0.is_empty());
    let single = spec.segments.iter().all(|n| *n == 1);
    if !fresh && !single {
        candle_core::bail!("a cache takes a whole prompt first, then one token at a time");
    }
    super::with_elements(&host_k, |k| {
        super::with_elements(&host_v, |v| {
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
            Ok(())
        })
    })?;
    if fresh {
        return attention(q, k, v, spec.clone());
    }
    let queries = spec.heads * spec.head_dim;
    let mut out = vec![0f32; caches.len() * queries];
    super::with_elements(&host(q)?, |q| {
        out.par_chunks_mut(queries).zip(q.par_chunks(queries)).zip(caches.par_iter()).for_each(|((out, q), cache)| {
            let (keys, values) = &cache.layers[layer];
            let first = spec.window.map_or(0, |w| (keys.len() / width).saturating_sub(w));
            attend_cached(q, keys, values, first, spec, out);
        });
        Ok(())
    })?;
    Tensor::from_vec(out, (caches.len(), queries), &candle_core::Device::Cpu)?.to_device(q.device())?.to_dtype(q.dtype())
}
