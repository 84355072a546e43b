//! Choosing the next token: greedy, or sampled after repetition penalty, temperature, top-k and top-p, in transformers' order.

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
    /// Divides positive and multiplies negative logits of tokens already seen (Keskar et al. 2019, arXiv 1909.05858).
    pub repetition_penalty: f64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { do_sample: false, temperature: 1.0, top_k: 50, top_p: 1.0, repetition_penalty: 1.0 }
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
    let mut point = f64::from(random.next_u32()) / f64::from(u32::MAX) * weights.iter().sum::<f64>();
    let index = weights.iter().position(|w| {
        point -= w;
        point <= 0.0
    });
    order[index.unwrap_or(weights.len() - 1)]
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
        let counts = draws(&Sampling { top_p: 0.5, ..sampling }, 100);
        assert_eq!(counts[2], 100);
    }

    #[test]
    fn the_penalty_pushes_seen_tokens_down_on_both_sides_of_zero() {
        let sampling = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(choose(&mut [1.5, 2.0, 0.0], &[1, 1], &sampling, &mut Random::new(0)), 0);
        assert_eq!(choose(&mut [-1.5, -1.0, -9.0], &[1], &sampling, &mut Random::new(0)), 0);
    }
}
