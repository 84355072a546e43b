//! Text generation: many prompts at once, each with its own cache; a finished prompt makes room for the next in line.

use super::TokenBatch;
use super::decoder::Decoder;
use super::projection::Pass;
use super::sampling::{Sampling, choose};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::ops::cache::KvCache;
use crate::random::Random;
use candle_core::{DType, Tensor};

/// What ends a generation, and how tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// At most this many new tokens.
    pub max_new_tokens: usize,
    /// How a token is chosen.
    pub sampling: Sampling,
    /// Tokens that end the text; they are not part of it.
    pub stop_tokens: Vec<u32>,
    /// Prompts computed at the same time.
    pub batch_size: usize,
    /// The random source of prompt `i` is seeded with this and `i`.
    pub seed: u64,
}

struct Running {
    index: usize,
    cache: KvCache,
    ids: Vec<u32>,
    prompt: usize,
    random: Random,
}

/// Continues every prompt; the result has the new tokens of each, in the order of the prompts.
///
/// `stop` is asked after every token whether the new tokens of that prompt end here.
///
/// # Errors
/// An empty prompt, one longer than the model's context, a failed tensor operation, or Ctrl-C.
pub fn generate(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    generation: &Generation,
    control: &Control,
    stop: &dyn Fn(&[u32]) -> bool,
) -> Result<Vec<Vec<u32>>> {
    let context = decoder.config().max_position_embeddings;
    for (index, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() {
            return Err(Error::argument(format!("prompt {index} has no tokens: give the model something to continue")));
        }
        if prompt.len() >= context {
            let tokens = prompt.len();
            return Err(Error::argument(format!("prompt {index} has {tokens} tokens; the model's context is {context}")));
        }
    }
    crate::nn::no_grad(|| run(decoder, prompts, generation, control, stop))
}

fn run(
    decoder: &Decoder,
    prompts: &[Vec<u32>],
    generation: &Generation,
    control: &Control,
    stop: &dyn Fn(&[u32]) -> bool,
) -> Result<Vec<Vec<u32>>> {
    let mut results = vec![Vec::new(); prompts.len()];
    let mut waiting = 0..prompts.len();
    let mut running: Vec<Running> = Vec::new();
    let batch_size = generation.batch_size.max(1);
    let mut done = 0;
    if generation.max_new_tokens == 0 {
        return Ok(results);
    }
    let prefix = shared_prefix(decoder, prompts)?;
    loop {
        control.check()?;
        // Prompts enter in groups: one pass over the weights serves them all.
        let entering: Vec<usize> = if running.len() * 2 <= batch_size {
            waiting.by_ref().take(batch_size - running.len()).collect()
        } else {
            Vec::new()
        };
        let (mut group, logits) = if entering.is_empty() {
            if running.is_empty() {
                return Ok(results);
            }
            let mut group = std::mem::take(&mut running);
            let logits = step(decoder, &mut group)?;
            (group, logits)
        } else {
            let mut group: Vec<Running> = entering
                .into_iter()
                .map(|index| Running {
                    index,
                    cache: prefix.clone(),
                    ids: prompts[index].clone(),
                    prompt: prompts[index].len(),
                    random: Random::new(generation.seed.wrapping_add(index as u64)),
                })
                .collect();
            let logits = step(decoder, &mut group)?;
            (group, logits)
        };
        let before = done;
        for (mut sequence, mut row) in group.drain(..).zip(logits) {
            if row.iter().any(|logit| logit.is_nan()) {
                return Err(Error::Training(
                    "the model's logits are not numbers (NaN): its weights are damaged, as after a training that diverged; \
                     load the model again"
                        .into(),
                ));
            }
            let token = choose(&mut row, &sequence.ids, &generation.sampling, &mut sequence.random);
            let ended = generation.stop_tokens.contains(&token);
            if !ended {
                sequence.ids.push(token);
            }
            let new = &sequence.ids[sequence.prompt..];
            let full = new.len() >= generation.max_new_tokens || sequence.ids.len() >= decoder.config().max_position_embeddings;
            if ended || full || stop(new) {
                results[sequence.index] = new.to_vec();
                done += 1;
            } else {
                running.push(sequence);
            }
        }
        if prompts.len() > 1 && done != before {
            control.progress("generate", done as u64, prompts.len() as u64, "prompts", String::new());
        }
    }
}

/// What all prompts begin with, such as a chat template's system message, is computed once: a cache of it, or an empty one.
fn shared_prefix(decoder: &Decoder, prompts: &[Vec<u32>]) -> Result<KvCache> {
    const WORTH_IT: usize = 8;
    let mut cache = KvCache::new(decoder.num_blocks());
    let (Some(first), true) = (prompts.first(), prompts.len() > 1) else { return Ok(cache) };
    let common = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    // Each prompt keeps a token of its own, whose logits start its text.
    let length = prompts.iter().map(|p| common(p).min(p.len() - 1)).min().unwrap_or(0);
    if length >= WORTH_IT {
        decoder.hidden_cached(&TokenBatch::new([&first[..length]]), &mut [&mut cache])?;
    }
    Ok(cache)
}

/// Feeds what each sequence's cache lacks, and returns the logits that follow.
fn step(decoder: &Decoder, group: &mut [Running]) -> Result<Vec<Vec<f32>>> {
    let mut batch = TokenBatch::default();
    for sequence in group.iter() {
        let cached = sequence.cache.len();
        batch.ids.extend(&sequence.ids[cached..]);
        batch.positions.extend(cached as u32..sequence.ids.len() as u32);
        batch.segments.push(sequence.ids.len() - cached);
    }
    let mut caches: Vec<&mut KvCache> = group.iter_mut().map(|s| &mut s.cache).collect();
    let hidden = decoder.hidden_cached(&batch, &mut caches)?;
    let mut end = 0;
    let last = batch.segments.iter().map(|length| {
        end += length;
        end as u32 - 1
    });
    let last = Tensor::from_iter(last, hidden.device())?;
    let logits = decoder.logits(&hidden.index_select(&last, 0)?, Pass::default())?;
    Ok(logits.to_dtype(DType::F32)?.to_vec2::<f32>()?)
}
