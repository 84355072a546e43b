//! Text generation: many prompts at once, each with its own cache; a finished prompt makes room for the next in line.

use super::TokenBatch;
use super::decoder::Decoder;
use super::projection::Pass;
use super::sampling::{Sampling, choose};
use crate::control::Control;
use crate::error::{Error, Result};
use crate::ops::cache::KvCache;
use crate::ops::team;
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
    /// At most this many tokens are guessed from what the text repeats, where one sequence is computed, for speed alone. `None`: as
    /// many as cost little; 0: none.
    pub prompt_lookup_num_tokens: Option<usize>,
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
    check_prompts(decoder, prompts)?;
    crate::nn::no_grad(|| team::with(|| run(decoder, prompts, generation, control, stop)))
}

/// Refuses prompts that cannot be continued.
///
/// # Errors
/// An empty prompt, or one longer than the model's context.
pub fn check_prompts(decoder: &Decoder, prompts: &[Vec<u32>]) -> Result<()> {
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
    Ok(())
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
    // Each prompt keeps a token of its own, whose logits start its text.
    let rows: Vec<(&[u32], usize)> = prompts.iter().map(|prompt| (prompt.as_slice(), prompt.len() - 1)).collect();
    let prefix = shared_prefix(decoder, &rows)?;
    let context = decoder.config().max_position_embeddings;
    // A guess must not change what came before it.
    let guessed_at_once = match decoder.config().rope_changes_beyond() {
        Some(_) => 0,
        None => generation.prompt_lookup_num_tokens.unwrap_or_else(|| decoder.cheap_tokens() - 1),
    };
    let room = |sequence: &Running| {
        let end = context.min(sequence.prompt + generation.max_new_tokens);
        end.saturating_sub(sequence.ids.len() + 1)
    };
    loop {
        control.check()?;
        // Prompts enter in groups: one pass over the weights serves them all.
        let entering: Vec<usize> = if running.len() * 2 <= batch_size {
            waiting.by_ref().take(batch_size - running.len()).collect()
        } else {
            Vec::new()
        };
        let mut group =
            if entering.is_empty() { std::mem::take(&mut running) } else { enter(prompts, &entering, &prefix, generation) };
        if group.is_empty() {
            return Ok(results);
        }
        let alone = group.len() == 1 && running.is_empty();
        let guesses = if alone { guess(&group[0].ids, guessed_at_once.min(room(&group[0]))) } else { Vec::new() };
        let logits = step(decoder, &mut group, &guesses)?;
        let before = done;
        let mut logits = logits.into_iter();
        for mut sequence in group {
            // The logits after the sequence's own last token; then those after each guess, as long as the guesses are right.
            let mut ended = false;
            for guessed in std::iter::once(None).chain(guesses.iter().map(Some)) {
                if guessed.is_some_and(|id| sequence.ids.last() != Some(id)) {
                    break;
                }
                let Some(mut row) = logits.next() else { break };
                ended = sequence.advance(&mut row, generation, context, stop)?;
                if ended {
                    break;
                }
            }
            if ended {
                results[sequence.index] = sequence.ids[sequence.prompt..].to_vec();
                done += 1;
            } else {
                sequence.cache.truncate(sequence.ids.len() - 1);
                running.push(sequence);
            }
        }
        if prompts.len() > 1 && done != before {
            control.progress("generate", done as u64, prompts.len() as u64, "prompts", String::new());
        }
    }
}

/// Sequences for prompts whose turn it is.
fn enter(prompts: &[Vec<u32>], indices: &[usize], prefix: &KvCache, generation: &Generation) -> Vec<Running> {
    let sequence = |index: usize| Running {
        index,
        cache: prefix.clone(),
        ids: prompts[index].clone(),
        prompt: prompts[index].len(),
        random: Random::new(generation.seed.wrapping_add(index as u64)),
    };
    indices.iter().map(|index| sequence(*index)).collect()
}

impl Running {
    /// Chooses the next token; returns whether the text ends.
    fn advance(
        &mut self,
        logits: &mut [f32],
        generation: &Generation,
        context: usize,
        stop: &dyn Fn(&[u32]) -> bool,
    ) -> Result<bool> {
        if logits.iter().any(|logit| logit.is_nan()) {
            return Err(Error::Training(
                "the model's logits are not numbers (NaN): its weights are damaged, as after a training that diverged; \
                 load the model again"
                    .into(),
            ));
        }
        if self.ids.len() - self.prompt < generation.sampling.min_new_tokens {
            for end in &generation.stop_tokens {
                if let Some(logit) = logits.get_mut(*end as usize) {
                    *logit = f32::NEG_INFINITY;
                }
            }
        }
        let token = choose(logits, &self.ids, &generation.sampling, &mut self.random);
        if generation.stop_tokens.contains(&token) {
            return Ok(true);
        }
        self.ids.push(token);
        let new = &self.ids[self.prompt..];
        Ok(new.len() >= generation.max_new_tokens || self.ids.len() >= context || stop(new))
    }
}

/// Up to `most` tokens that may follow: what followed the last three, two or one tokens when they last occurred in the text (prompt lookup
/// decoding, A. Saxena 2023; transformers' `prompt_lookup_num_tokens`). Reading the weights takes the time of a pass, so that a few
/// more tokens in it cost little. A guess counts only if it is the token that is chosen anyway: the text is the same without.
fn guess(ids: &[u32], most: usize) -> Vec<u32> {
    for length in [3, 2, 1] {
        if most == 0 || ids.len() <= length {
            continue;
        }
        let last = &ids[ids.len() - length..];
        if let Some(at) = ids[..ids.len() - 1].windows(length).rposition(|window| window == last) {
            let after = at + length;
            return ids[after..ids.len().min(after + most)].to_vec();
        }
    }
    Vec::new()
}

/// What all rows begin with, such as a chat template's system message, is computed once: a cache of it, or an empty one. Each row
/// comes with how much of it may be shared.
///
/// # Errors
/// A tensor operation failed.
pub fn shared_prefix(decoder: &Decoder, rows: &[(&[u32], usize)]) -> Result<KvCache> {
    const WORTH_IT: usize = 8;
    let mut cache = KvCache::new(decoder.num_blocks());
    let (Some((first, _)), true) = (rows.first(), rows.len() > 1) else { return Ok(cache) };
    if decoder.config().rope_changes_beyond().is_some() {
        return Ok(cache);
    }
    let common = |other: &[u32]| first.iter().zip(other).take_while(|(a, b)| a == b).count();
    let length = rows.iter().map(|(row, most)| common(row).min(*most)).min().unwrap_or(0);
    if length >= WORTH_IT {
        decoder.hidden_cached(&TokenBatch::new([&first[..length]]), &mut [&mut cache])?;
    }
    Ok(cache)
}

/// Feeds what each sequence's cache lacks, and guesses of the only sequence; returns the logits that follow each sequence, and each
/// guess.
fn step(decoder: &Decoder, group: &mut [Running], guesses: &[u32]) -> Result<Vec<Vec<f32>>> {
    let mut batch = TokenBatch::default();
    for sequence in group.iter_mut() {
        let grows_over = |limit: usize| sequence.cache.len() <= limit && sequence.ids.len() > limit;
        if decoder.config().rope_changes_beyond().is_some_and(grows_over) {
            sequence.cache.truncate(0);
        }
        let (cached, end) = (sequence.cache.len(), sequence.ids.len() + guesses.len());
        batch.ids.extend(&sequence.ids[cached..]);
        batch.ids.extend(guesses);
        batch.positions.extend(cached as u32..end as u32);
        batch.segments.push(end - cached);
    }
    let mut caches: Vec<&mut KvCache> = group.iter_mut().map(|s| &mut s.cache).collect();
    let hidden = decoder.hidden_cached(&batch, &mut caches)?;
    let mut end = 0;
    let last: Vec<u32> = batch
        .segments
        .iter()
        .flat_map(|length| {
            end += length;
            (end - 1 - guesses.len()) as u32..end as u32
        })
        .collect();
    let last = Tensor::new(last, hidden.device())?;
    let logits = decoder.logits(&hidden.index_select(&last, 0)?, Pass::default())?;
    Ok(logits.to_dtype(DType::F32)?.to_vec2::<f32>()?)
}

#[cfg(test)]
mod tests {
    use super::guess;

    #[test]
    fn what_followed_last_time_is_guessed() {
        assert_eq!(guess(&[1, 2, 3, 4, 5, 1, 2, 3], 2), [4, 5]);
        assert_eq!(guess(&[9, 2, 3, 7, 8, 2, 3], 4), [7, 8, 2, 3]);
        // The longer match, and of those the last.
        assert_eq!(guess(&[1, 2, 3, 4, 2, 3, 5, 1, 2, 3, 6, 1, 2, 3], 1), [6]);
        // A match may overlap the end.
        assert_eq!(guess(&[7, 7, 7], 3), [7]);
        assert!(guess(&[1, 2, 3], 5).is_empty() && guess(&[1, 2, 1, 2], 0).is_empty() && guess(&[4], 5).is_empty());
    }
}
