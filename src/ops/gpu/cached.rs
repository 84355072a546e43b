//! Keys and values of generated sequences on a CUDA device, and the attention of new tokens to them.

use super::cuda::{Argument, Module, Shape, address, launch, pointer, suffix, unwritten};
use super::parts::{self, Seen};
use super::upload;
use crate::ops::attention::AttentionSpec;
use candle_core::{Result, Tensor};
use std::sync::Arc;

/// Rows by which memory grows at least.
const ROWS: usize = 64;

/// One layer's keys and values of one sequence, each `[capacity, kv_heads * head_dim]`, of which the first so many rows are filled.
#[derive(Debug, Clone, Default)]
pub(crate) struct CachedRows {
    /// Shared by copies until one of them grows.
    memory: Option<Arc<(Tensor, Tensor)>>,
    filled: usize,
}

impl CachedRows {
    /// Forgets all but the first rows.
    pub fn truncate(&mut self, rows: usize) {
        self.filled = self.filled.min(rows);
    }

    /// Adds rows `[new, width]`.
    fn append(&mut self, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (new, width) = keys.dims2()?;
        let needed = self.filled + new;
        // Others who hold the memory must not see what is appended here.
        let own = self.memory.as_ref().filter(|memory| Arc::strong_count(memory) == 1);
        let fits = match own {
            Some(memory) => memory.0.dim(0)? >= needed,
            None => false,
        };
        if !fits {
            let capacity = needed.max(2 * self.filled).next_multiple_of(ROWS);
            let grown = |like: &Tensor, old: Option<&Tensor>| -> Result<Tensor> {
                let memory = Tensor::zeros((capacity, width), like.dtype(), like.device())?;
                if let Some(old) = old.filter(|_| self.filled > 0) {
                    memory.slice_set(&old.narrow(0, 0, self.filled)?, 0, 0)?;
                }
                Ok(memory)
            };
            let old = self.memory.as_deref();
            let grown = (grown(keys, old.map(|memory| &memory.0))?, grown(values, old.map(|memory| &memory.1))?);
            self.memory = Some(Arc::new(grown));
        }
        if let Some(memory) = &self.memory {
            memory.0.slice_set(&keys.contiguous()?, 0, self.filled)?;
            memory.1.slice_set(&values.contiguous()?, 0, self.filled)?;
        }
        self.filled = needed;
        Ok(())
    }
}

/// Appends `k` and `v` to the rows of their sequences and attends, without gradient.
pub(crate) fn attend_with_rows([q, k, v]: [&Tensor; 3], spec: &AttentionSpec, rows: &mut [&mut CachedRows]) -> Result<Tensor> {
    let fresh = rows.iter().all(|rows| rows.filled == 0);
    let mut at = 0;
    for (rows, new) in rows.iter_mut().zip(&spec.segments) {
        rows.append(&k.narrow(0, at, *new)?, &v.narrow(0, at, *new)?)?;
        at += new;
    }
    let q = q.contiguous()?;
    if fresh {
        let (k, v) = (k.contiguous()?, v.contiguous()?);
        return parts::attention_forward([&q, &k, &v], spec, &Seen::new(spec, &q)?).map(|(out, _)| out);
    }
    let (mut places, mut sequences, mut first, mut end) = ([Vec::new(), Vec::new()], Vec::new(), Vec::new(), Vec::new());
    for (sequence, (rows, new)) in rows.iter().zip(&spec.segments).enumerate() {
        let Some(memory) = &rows.memory else { candle_core::bail!("a sequence without a token has no cache") };
        places[0].push(address(&memory.0)? as i64);
        places[1].push(address(&memory.1)? as i64);
        for seen in rows.filled - new + 1..=rows.filled {
            sequences.push(sequence as u32);
            first.push(spec.window.map_or(0, |window| seen.saturating_sub(window)) as u32);
            end.push(seen as u32);
        }
    }
    let (device, tokens) = (q.device(), sequences.len());
    let out = unwritten(q.shape(), q.dtype(), device)?;
    let [keys, values] = places.map(|places| upload(&places, places.len(), device));
    let tables = [sequences, first, end].map(|table| upload(&table, tokens, device));
    let [sequences, first, end] = tables;
    let (keys, values, sequences, first, end) = (keys?, values?, sequences?, first?, end?);
    let arguments = [
        pointer(&q)?,
        pointer(&keys)?,
        pointer(&values)?,
        pointer(&sequences)?,
        pointer(&first)?,
        pointer(&end)?,
        pointer(&out)?,
        Argument::Int(spec.heads as i32),
        Argument::Int(spec.kv_heads as i32),
        Argument::Int(spec.head_dim as i32),
        Argument::Float(spec.scale),
        Argument::Float(spec.softcap.unwrap_or(0.0)),
    ];
    let shape = Shape { blocks: (tokens as u32, spec.heads as u32), threads: (128, 1), shared: 0 };
    let kernel = format!("attention_cached_{}", suffix(q.dtype())?);
    launch(device.as_cuda_device()?, Module::AttentionCached, &kernel, shape, &arguments)?;
    Ok(out)
}
