//! Attention of new tokens to the cached keys and values of their sequence; never recorded for backward.

use super::attention::{self, AttentionSpec, softmax_seen};
use super::exp::vectorised;
use super::parallel;
use crate::autograd::buffer::{Buffer, zeroed};
use candle_core::{Result, Tensor};

/// The keys and values of one sequence, layer by layer, each `[tokens, kv_heads * head_dim]`.
#[derive(Debug, Clone, Default)]
pub struct KvCache {
    /// Where blocks are computed on the CPU.
    layers: Vec<(Vec<f32>, Vec<f32>)>,
    /// Where they are computed on a CUDA device.
    #[cfg(feature = "cuda")]
    on_device: Vec<super::gpu::CachedRows>,
    tokens: usize,
}

impl KvCache {
    /// An empty cache for a model with this many layers.
    pub fn new(layers: usize) -> Self {
        Self {
            layers: vec![(Vec::new(), Vec::new()); layers],
            #[cfg(feature = "cuda")]
            on_device: vec![super::gpu::CachedRows::default(); layers],
            tokens: 0,
        }
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
        #[cfg(feature = "cuda")]
        self.on_device.iter_mut().for_each(|rows| rows.truncate(tokens));
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
    spec.check(q, k, v)?;
    if caches.len() != spec.segments.len() {
        candle_core::bail!("attention: {} caches for {} sequences", caches.len(), spec.segments.len());
    }
    #[cfg(feature = "cuda")]
    if super::gpu::serves(q) && q.device().is_cuda() {
        let last = caches.first().is_some_and(|cache| layer + 1 == cache.layers.len());
        let mut rows: Vec<&mut super::gpu::CachedRows> = caches.iter_mut().map(|cache| &mut cache.on_device[layer]).collect();
        let out = super::gpu::attend_with_rows([q, k, v], spec, &mut rows)?;
        for (cache, new) in caches.iter_mut().zip(&spec.segments).filter(|_| last) {
            cache.tokens += new;
        }
        return Ok(out);
    }
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

/// One new token of a sequence against its cached keys and values `[cached, kv_heads * head_dim]`, without gradient.
///
/// `q` and `out` are `[heads * head_dim]`; `first` is the first cached token that the window shows.
pub fn attend_cached(q: &[f32], keys: &[f32], values: &[f32], first: usize, spec: &AttentionSpec, out: &mut [f32]) {
    let width = spec.kv_heads * spec.head_dim;
    let cached = keys.len() / width;
    let groups = spec.heads / spec.kv_heads;
    let mut weights = zeroed(cached - first);
    for head in 0..spec.heads {
        let q = &q[head * spec.head_dim..(head + 1) * spec.head_dim];
        let at = first * width + head / groups * spec.head_dim;
        let out = &mut out[head * spec.head_dim..(head + 1) * spec.head_dim];
        scores(q, &keys[at..], width, &mut weights);
        softmax_seen(&mut weights, spec);
        mix(&weights, &values[at..], width, out);
    }
}

vectorised! {
    /// The scores of one head of one query; row `i` of the keys begins at `i * stride`.
    fn scores(q: &[f32], keys: &[f32], stride: usize, weights: &mut [f32]) {
        let (queries, last_queries) = q.as_chunks::<16>();
        for (i, weight) in weights.iter_mut().enumerate() {
            let (keys, last_keys) = keys[i * stride..i * stride + q.len()].as_chunks::<16>();
            let mut sums = [0f32; 16];
            for (q, k) in queries.iter().zip(keys) {
                for lane in 0..16 {
                    sums[lane] += q[lane] * k[lane];
                }
            }
            let rest: f32 = last_queries.iter().zip(last_keys).map(|(q, k)| q * k).sum();
            *weight = rest + sum(sums);
        }
    }
}

vectorised! {
    /// The values' mean with these weights; row `i` begins at `i * stride`.
    fn mix(weights: &[f32], values: &[f32], stride: usize, out: &mut [f32]) {
        // Columns in runs whose sums stay in registers.
        let (runs, last) = out.as_chunks_mut::<64>();
        for (run, out) in runs.iter_mut().enumerate() {
            let mut sums = [0f32; 64];
            for (i, weight) in weights.iter().enumerate() {
                let values = &values[i * stride + run * 64..][..64].as_chunks::<64>().0[0];
                for column in 0..64 {
                    sums[column] += weight * values[column];
                }
            }
            *out = sums;
        }
        let from = 64 * runs.len();
        last.fill(0.0);
        for (i, weight) in weights.iter().enumerate() {
            last.iter_mut().zip(&values[i * stride + from..]).for_each(|(o, v)| *o += weight * v);
        }
    }
}

/// The sum of sixteen, by halves.
#[inline(always)]
fn sum(values: [f32; 16]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| values[i] + values[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    four[0] + four[2] + (four[1] + four[3])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::attention;
    use crate::ops::check::tensor;

    #[test]
    fn a_cached_step_equals_the_last_row() {
        for (window, width, softcap) in [(None, 8, None), (Some(4), 8, Some(0.3)), (None, 64, None), (Some(4), 150, None)] {
            let spec = AttentionSpec {
                heads: 4,
                kv_heads: 2,
                head_dim: width,
                scale: 1.0 / (width as f32).sqrt(),
                softcap,
                window,
                segments: vec![9],
                positions: (0..9).collect(),
            };
            let (q, k, v) = (tensor(&[9, 4 * width], 1), tensor(&[9, 2 * width], 2), tensor(&[9, 2 * width], 3));
            let whole = attention(&q, &k, &v, spec.clone()).unwrap().to_vec2::<f32>().unwrap();
            let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let mut out = vec![0f32; 4 * width];
            let first = window.map_or(0, |w| 9 - w);
            attend_cached(&flat(&q)[8 * 4 * width..], &flat(&k), &flat(&v), first, &spec, &mut out);
            out.iter().zip(&whole[8]).for_each(|(a, b)| assert!((a - b).abs() < 1e-5));
        }
    }
}
