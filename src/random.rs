//! The one random source of a session: PyTorch's CPU generator (MT19937), so that a seed gives the numbers it gives there.
//!
//! The rules were found by comparing with PyTorch and are written down, with a check against it, in `tests/golden/golden_rng.py`.

pub mod mersenne;
pub mod numpy;
pub mod python;

pub use numpy::NumpyRandom;
pub use python::PythonRandom;

use crate::ops::vectorised;
use mersenne::Mersenne;

/// A random generator that draws what `torch.Generator` draws on the CPU.
#[derive(Debug, Clone)]
pub struct Random {
    bits: Mersenne,
    /// The second half of a Box-Muller pair, kept for the next single normal draw.
    kept: Option<f64>,
}

/// A seed from text, as PyTorch takes it: from -2^63 to 2^64 - 1; a negative one wraps around.
pub fn seed_of(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().or_else(|| text.parse::<i64>().ok().map(|seed| seed as u64))
}

impl Random {
    /// A generator that starts as `torch.manual_seed(seed)` does (the low 32 bits count).
    pub fn new(seed: u64) -> Self {
        Self { bits: Mersenne::new(seed as u32), kept: None }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.bits.next_u32()
    }

    /// 64 random bits: two 32-bit draws, the first is the high half.
    pub fn next_u64(&mut self) -> u64 {
        let high = u64::from(self.next_u32());
        (high << 32) | u64::from(self.next_u32())
    }

    /// Uniform in [0, 1) with 24 bits, as `torch.rand` draws f32.
    pub fn uniform_f32(&mut self) -> f32 {
        (self.next_u32() & 0x00FF_FFFF) as f32 * (1.0 / 16_777_216.0)
    }

    /// Uniform in [0, 1) with 53 bits, as PyTorch draws f64.
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() & ((1 << 53) - 1)) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// `count` numbers uniform in [0, 1): `torch.rand`.
    pub fn rand(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.uniform_f32()).collect()
    }

    /// `count` numbers uniform in [low, high): `Tensor.uniform_`.
    pub fn uniform(&mut self, count: usize, low: f64, high: f64) -> Vec<f32> {
        let (low, width) = (low as f32, high as f32 - low as f32);
        (0..count).map(|_| self.uniform_f32() * width + low).collect()
    }

    /// One standard normal number, by Box-Muller in f64; every second call uses the pair's kept half.
    pub fn normal(&mut self) -> f64 {
        if let Some(value) = self.kept.take() {
            return value;
        }
        let (u1, u2) = (self.uniform_f64(), self.uniform_f64());
        let radius = (-2.0 * (-u2).ln_1p()).sqrt();
        let angle = 2.0 * std::f64::consts::PI * u1;
        self.kept = Some(radius * angle.sin());
        radius * angle.cos()
    }

    /// `count` standard normal numbers: `torch.randn`. Sixteen or more are drawn in blocks, and give other numbers than one at a time.
    pub fn randn(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.normal() as f32).collect();
        }
        let mut values = self.rand(count);
        for block in values.as_chunks_mut::<16>().0 {
            normal_block(block);
        }
        if !count.is_multiple_of(16) {
            // The last block overlaps the one before it and is drawn afresh.
            if let Some(tail) = values.last_chunk_mut::<16>() {
                tail.iter_mut().for_each(|v| *v = self.uniform_f32());
                normal_block(tail);
            }
        }
        values
    }

    /// A random order of `0..count`: `torch.randperm`.
    pub fn randperm(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        self.shuffle(&mut order);
        order
    }

    /// Puts items into the order that `torch.randperm` gives of as many.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in 0..items.len().saturating_sub(1) {
            let other = at + self.next_u32() as usize % (items.len() - at);
            items.swap(at, other);
        }
    }

    /// A number in `0..limit` as `torch.randint` draws it (the remainder of 32 bits); 0 where `limit` is 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        match limit {
            0 => 0,
            1..=0xFFFF_FFFF => u64::from(self.next_u32()) % limit,
            _ => self.next_u64() % limit,
        }
    }

    /// `count` integers in `low..high`: `torch.randint`. All are `low` where the range is empty.
    pub fn randint(&mut self, low: i64, high: i64, count: usize) -> Vec<i64> {
        let width = high.saturating_sub(low).max(0) as u64;
        (0..count).map(|_| low.wrapping_add(self.below(width) as i64)).collect()
    }

    /// What `F.dropout` multiplies `count` elements with: 0 with probability `p`, else 1 / (1 - p).
    pub fn dropout_mask(&mut self, count: usize, p: f64) -> Vec<f32> {
        let keep = 1.0 - p;
        let scale = if keep > 0.0 { 1.0 / keep as f32 } else { 0.0 };
        // `uniform_f64() < keep` in integers: 53 of 64 bits, of which the high 32 come first.
        let limit = (keep * 9_007_199_254_740_992.0).ceil() as u64;
        let mut mask = vec![0.0; count];
        let mut bits = [0; 1024];
        for factors in mask.chunks_mut(512) {
            let bits = &mut bits[..2 * factors.len()];
            self.bits.fill(bits);
            choose(bits, limit, scale, factors);
        }
        mask
    }

    /// Weight `[output, input]` of `nn.Linear`: `kaiming_uniform_(a = sqrt 5)`, which is uniform in +-1/sqrt(input).
    pub fn linear_weight(&mut self, input: usize, output: usize) -> Vec<f32> {
        let bound = inverse_root(input);
        self.uniform(input * output, -bound, bound)
    }

    /// Bias `[output]` of `nn.Linear`, drawn after the weight: uniform in +-1/sqrt(input).
    pub fn linear_bias(&mut self, input: usize, output: usize) -> Vec<f32> {
        let bound = inverse_root(input);
        self.uniform(output, -bound, bound)
    }
}

vectorised! {
    /// `scale` where the low 53 of two numbers' bits are below the limit, else 0.
    fn choose(bits: &[u32], limit: u64, scale: f32, factors: &mut [f32]) {
        for (factor, pair) in factors.iter_mut().zip(bits.as_chunks::<2>().0) {
            let number = u64::from(pair[0] & 0x1F_FFFF) << 32 | u64::from(pair[1]);
            *factor = if number < limit { scale } else { 0.0 };
        }
    }
}

fn inverse_root(input: usize) -> f64 {
    if input == 0 { 0.0 } else { 1.0 / (input as f64).sqrt() }
}

/// Box-Muller on sixteen uniform numbers: the first eight are radii, the last eight angles.
fn normal_block(block: &mut [f32; 16]) {
    for j in 0..8 {
        let radius = (-2.0 * (1.0 - block[j]).ln()).sqrt();
        let angle = 2.0 * std::f32::consts::PI * block[j + 8];
        block[j] = radius * angle.cos();
        block[j + 8] = radius * angle.sin();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn numbers(value: &Value) -> Vec<f64> {
        match value {
            Value::Array(items) => items.iter().flat_map(numbers).collect(),
            other => vec![other.as_f64().unwrap()],
        }
    }

    fn exact(found: impl IntoIterator<Item = f64>, expected: &Value, what: &str) {
        // As f32: the JSON's digits are those of the f32.
        let narrow = |values: Vec<f64>| values.into_iter().map(|v| v as f32).collect::<Vec<_>>();
        assert_eq!(narrow(found.into_iter().collect()), narrow(numbers(expected)), "{what}");
    }

    fn close(found: &[f32], expected: &Value, what: &str) {
        let expected = numbers(expected);
        assert_eq!(found.len(), expected.len(), "{what}");
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6 * expected.abs().max(1.0), "{what}: {found} {expected}");
        }
    }

    fn wide(values: Vec<f32>) -> impl Iterator<Item = f64> {
        values.into_iter().map(f64::from)
    }

    #[test]
    fn masks_of_any_length_are_those_of_single_draws() {
        for (count, p) in [(1, 0.5), (311, 0.1), (312, 0.9), (5000, 0.3), (7, 0.0), (7, 1.0)] {
            let (mut at_once, mut single) = (Random::new(7), Random::new(7));
            let (first, second) = (at_once.next_u32(), single.next_u32());
            assert_eq!(first, second);
            let factor = |v: f64| if v < 1.0 - p { 1.0 / (1.0 - p) as f32 } else { 0.0 };
            let expected: Vec<f32> = (0..count).map(|_| factor(single.uniform_f64())).collect();
            assert_eq!(at_once.dropout_mask(count, p), expected, "{count} {p}");
            assert_eq!(at_once.next_u32(), single.next_u32(), "after {count}");
        }
    }

    #[test]
    fn draws_what_torch_draws() {
        let golden: Value = serde_json::from_str(include_str!("../tests/golden/torch_rng.json")).unwrap();
        for (seed, calls) in golden.as_object().unwrap().iter().filter(|(name, _)| *name != "made_with") {
            let seed: u64 = seed.parse().unwrap();
            let at_start = || Random::new(seed);
            exact(wide(at_start().rand(5)), &calls["rand(5)"], "rand");
            for count in [1, 10, 16, 20, 37] {
                close(&at_start().randn(count), &calls[format!("randn({count})")], "randn");
            }
            exact(at_start().randperm(50).into_iter().map(|v| v as f64), &calls["randperm(50)"], "randperm");
            exact(at_start().randint(0, 100, 10).into_iter().map(|v| v as f64), &calls["randint(0,100,(10,))"], "randint");
            let mut random = at_start();
            close(&random.linear_weight(10, 20), &calls["Linear(10,20).weight"], "weight");
            close(&random.linear_bias(10, 20), &calls["Linear(10,20).bias"], "bias");
            close(&at_start().randn(35), &calls["Embedding(7,5).weight"], "embedding");
            let mut random = at_start();
            close(&random.dropout_mask(64, 0.1), &calls["dropout(ones(64),0.1)"], "dropout");
            exact(wide(random.rand(1)), &calls["rand(1) after dropout"], "after dropout");
            let mut random = at_start();
            for call in calls["sequence"].as_array().unwrap() {
                let name = call["call"].as_str().unwrap();
                let count: usize = name.split(['(', ')']).nth(1).unwrap().parse().unwrap();
                let values = match name.split('(').next().unwrap() {
                    "randn" => random.randn(count),
                    "rand" => random.rand(count),
                    "randperm" => random.randperm(count).into_iter().map(|v| v as f32).collect(),
                    other => panic!("{other}"),
                };
                close(&values, &call["values"], name);
            }
        }
    }

    #[test]
    fn empty_ranges_do_not_panic() {
        let mut random = Random::new(3);
        assert!(random.randperm(0).is_empty());
        assert_eq!(random.randperm(1), [0]);
        assert_eq!(random.randint(5, 5, 2), [5, 5]);
        assert_eq!(random.dropout_mask(3, 1.0), [0.0; 3]);
    }
}
