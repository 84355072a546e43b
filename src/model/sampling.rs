//! Choosing the next token: greedy, or sampled after repetition penalty, forbidden repeats, temperature, top-k, top-p and min-p, in
//! transformers' order.

use crate::random::Random;

/// How the next token is chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampling {
    /// Sample; otherwise the most likely token is taken.
    pub do_sample: bool,
    /// Divides the logits; 0 is greedy.
    pub temperature: f64,
    /// Keep this many of the most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the most likely tokens that together have this probability.
    pub top_p: f64,
    /// Keep the tokens that are at least this many times as likely as the most likely one; 0 keeps all (Nguyen et al. 2024, arXiv
    /// 2407.01082).
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens already seen (Keskar et al. 2019, arXiv 1909.05858).
    pub repetition_penalty: f64,
    /// No sequence of this many tokens comes twice, the prompt's included; 0: any may.
    pub no_repeat_ngram_size: usize,
    /// The tokens that end a text cannot be chosen before this many new ones.
    pub min_new_tokens: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            do_sample: false,
            temperature: 1.0,
            top_k: 50,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            no_repeat_ngram_size: 0,
            min_new_tokens: 0,
        }
    }
}

/// Chooses a token from `logits` `[vocab]`, which are changed on the way; `seen` are prompt and text so far.
pub fn choose(logits: &mut [f32], seen: &[u32], sampling: &Sampling, random: &mut Random) -> u32 {
    if sampling.repetition_penalty != 1.0 {
        let penalty = sampling.repetition_penalty as f32;
        let mut penalised = seen.to_vec();
        penalised.sort_unstable();
        penalised.dedup();
        for id in penalised {
            let logit = &mut logits[id as usize];
            *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
        }
    }
    forbid_repeats(logits, seen, sampling.no_repeat_ngram_size);
    if !sampling.do_sample || sampling.temperature == 0.0 {
        return argmax(logits);
    }
    // Most likely first; ties by id, so that the order never depends on the sort.
    let mut order: Vec<u32> = (0..logits.len() as u32).collect();
    let by_logit = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if sampling.top_k > 0 && sampling.top_k < order.len() {
        order.select_nth_unstable_by(sampling.top_k - 1, by_logit);
        order.truncate(sampling.top_k);
    }
    order.sort_unstable_by(by_logit);
    let largest = f64::from(logits[order[0] as usize]);
    let weight = |id: &u32| ((f64::from(logits[*id as usize]) - largest) / sampling.temperature).exp();
    let mut weights: Vec<f64> = order.iter().map(weight).collect();
    let total: f64 = weights.iter().sum();
    let mut kept = 0.0;
    // A token stays while those before it have less than top_p together.
    let enough = weights.iter().position(|w| {
        kept += w / total;
        kept >= sampling.top_p
    });
    weights.truncate(enough.map_or(weights.len(), |i| i + 1));
    // The most likely token has the weight 1 and always stays.
    let likely = weights.iter().take_while(|weight| **weight >= sampling.min_p).count();
    weights.truncate(likely.max(1));
    let mut point = f64::from(random.next_u32()) / f64::from(u32::MAX) * weights.iter().sum::<f64>();
    let index = weights.iter().position(|w| {
        point -= w;
        point <= 0.0
    });
    order[index.unwrap_or(weights.len() - 1)]
}

/// Makes impossible every token with which the last tokens of `seen` would be a sequence of `size` that it has already.
fn forbid_repeats(logits: &mut [f32], seen: &[u32], size: usize) {
    if size == 0 || seen.len() < size {
        return;
    }
    let last = &seen[seen.len() + 1 - size..];
    for window in seen.windows(size).filter(|window| window.starts_with(last)) {
        logits[window[size - 1] as usize] = f32::NEG_INFINITY;
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let better = |best: usize, i: usize| if logits[i] > logits[best] { i } else { best };
    (1..logits.len()).fold(0, better) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: &Sampling, n: usize) -> Vec<usize> {
        let mut random = Random::new(1);
        let mut counts = vec![0; 4];
        for _ in 0..n {
            counts[choose(&mut [0.0, 2f32.ln(), 4f32.ln(), 1f32.ln()], &[], sampling, &mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(choose(&mut [1.0, 3.0, 3.0], &[], &Sampling::default(), &mut Random::new(0)), 1);
    }

    #[test]
    fn sampling_follows_the_probabilities_and_the_limits() {
        let sampling = Sampling { do_sample: true, ..Sampling::default() };
        let counts = draws(&sampling, 8000);
        for (count, share) in counts.iter().zip([1.0, 2.0, 4.0, 1.0]) {
            assert!((*count as f64 / 1000.0 - share).abs() < 0.2, "{counts:?}");
        }
        let counts = draws(&Sampling { top_k: 2, ..sampling.clone() }, 100);
        assert!(counts[0] == 0 && counts[3] == 0 && counts[1] > 0);
        let counts = draws(&Sampling { top_p: 0.5, ..sampling.clone() }, 100);
        assert_eq!(counts[2], 100);
        // The most likely token has half of all; the next a quarter, the others an eighth each.
        let counts = draws(&Sampling { min_p: 0.4, ..sampling.clone() }, 200);
        assert!(counts[0] == 0 && counts[3] == 0 && counts[1] > 0 && counts[2] > 0, "{counts:?}");
        assert_eq!(draws(&Sampling { min_p: 1.0, ..sampling }, 100)[2], 100);
    }

    #[test]
    fn no_sequence_comes_twice() {
        let next = |size, seen: &[u32]| {
            let sampling = Sampling { no_repeat_ngram_size: size, ..Sampling::default() };
            choose(&mut [1.0, 5.0, 4.0, 3.0], seen, &sampling, &mut Random::new(0))
        };
        assert_eq!(next(0, &[1, 1]), 1);
        assert_eq!(next(1, &[1, 3]), 2);
        assert_eq!(next(2, &[0, 1, 0]), 2);
        assert_eq!(next(2, &[0, 1, 2]), 1);
        assert_eq!(next(3, &[3, 0, 1, 3, 0]), 2);
        assert_eq!(next(3, &[0]), 1);
        assert_eq!(next(2, &[1, 1]), 2);
    }

    #[test]
    fn the_penalty_pushes_seen_tokens_down_on_both_sides_of_zero() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(choose(&mut [1.5, 2.0, 0.0], &[1, 1], &sampling, &mut Random::new(0)), 0);
        assert_eq!(choose(&mut [-1.5, -1.0, -9.0], &[1], &sampling, &mut Random::new(0)), 0);
    }
}
