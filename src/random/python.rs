//! Python's `random.Random(seed)`, for what the lesson draws with Python's own generator (which rows are replayed, in which order).

use super::mersenne::Mersenne;
use std::collections::HashSet;

/// A generator that draws what CPython's `random.Random(seed)` draws.
#[derive(Debug, Clone)]
pub struct PythonRandom(Mersenne);

impl PythonRandom {
    /// As `random.seed(seed)` with an integer; Python ignores the sign.
    pub fn new(seed: i64) -> Self {
        let seed = seed.unsigned_abs();
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        Self(if high == 0 { Mersenne::from_key(&[low]) } else { Mersenne::from_key(&[low, high]) })
    }

    /// `random.random()`: uniform in [0, 1) with 53 bits.
    pub fn random(&mut self) -> f64 {
        let (a, b) = (self.0.next_u32() >> 5, self.0.next_u32() >> 6);
        (f64::from(a) * 67_108_864.0 + f64::from(b)) / 9_007_199_254_740_992.0
    }

    /// `random.getrandbits(bits)` for at most 64 bits.
    pub fn bits(&mut self, bits: u32) -> u64 {
        match bits {
            0 => 0,
            1..=32 => u64::from(self.0.next_u32() >> (32 - bits)),
            _ => {
                let low = u64::from(self.0.next_u32());
                low | (u64::from(self.0.next_u32() >> (64 - bits.min(64))) << 32)
            }
        }
    }

    /// `random.randrange(limit)`: a number in `0..limit`; 0 where `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        if limit == 0 {
            return 0;
        }
        let bits = usize::BITS - limit.leading_zeros();
        loop {
            let value = self.bits(bits) as usize;
            if value < limit {
                return value;
            }
        }
    }

    /// `random.shuffle(items)`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }

    /// The indices that `random.sample(population, count)` takes of a population of `length`; at most `length` of them.
    pub fn sample(&mut self, length: usize, count: usize) -> Vec<usize> {
        let count = count.min(length);
        // CPython keeps a list of the population where that is smaller than a set of the chosen.
        let mut set_size = 21;
        if count > 5 {
            let exponent = ((count * 3) as f64).ln() / 4.0_f64.ln();
            set_size += 4_usize.saturating_pow(exponent.ceil() as u32);
        }
        if length <= set_size {
            let mut pool: Vec<usize> = (0..length).collect();
            (0..count)
                .map(|i| {
                    let j = self.below(length - i);
                    let chosen = pool[j];
                    pool[j] = pool[length - i - 1];
                    chosen
                })
                .collect()
        } else {
            let mut seen = HashSet::new();
            (0..count)
                .map(|_| {
                    loop {
                        let j = self.below(length);
                        if seen.insert(j) {
                            return j;
                        }
                    }
                })
                .collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn draws_what_python_draws() {
        let golden: Value = serde_json::from_str(include_str!("../../tests/golden/python_random.json")).unwrap();
        for (name, calls) in golden.as_object().unwrap() {
            let Some(seed) = name.strip_prefix("seed ") else { continue };
            let seed: i64 = seed.parse().unwrap();
            for (population, count, rest) in [(300, 6, 46), (20, 15, 115), (30, 3, 23)] {
                let call = format!("sample(range({population}), {count}) then shuffle(list(range({rest})))");
                let mut random = PythonRandom::new(seed);
                let sample = random.sample(population, count);
                let mut order: Vec<usize> = (0..rest).collect();
                random.shuffle(&mut order);
                assert_eq!(json!([sample, order]), calls[&call], "{call}");
            }
            let mut random = PythonRandom::new(seed);
            let mut order: Vec<usize> = (0..10).collect();
            random.shuffle(&mut order);
            assert_eq!(json!(order), calls["shuffle(list(range(10)))"]);
            let mut random = PythonRandom::new(seed);
            assert_eq!(json!([random.random(), random.random(), random.random()]), calls["random() x 3"]);
            let rest = json!([random.bits(32), random.bits(6), random.below(300)]);
            assert_eq!(rest, calls["then getrandbits(32), getrandbits(6), randrange(300)"]);
        }
    }
}
