//! NumPy's `numpy.random.default_rng(seed)`, for what `datasets` draws with it (which data set gives the next row): PCG64, the
//! XSL-RR 128/64 generator of O'Neill 2014, seeded by NumPy's `SeedSequence`.

const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;

/// A generator that draws what `numpy.random.default_rng(seed)` draws.
#[derive(Debug, Clone)]
pub struct NumpyRandom {
    state: u128,
    increment: u128,
}

impl NumpyRandom {
    /// As `default_rng(seed)`.
    pub fn new(seed: u64) -> Self {
        let words = seed_words(seed);
        let wide = |high: usize| (u128::from(words[high]) << 64) | u128::from(words[high + 1]);
        let mut random = Self { state: 0, increment: (wide(2) << 1) | 1 };
        random.step();
        random.state = random.state.wrapping_add(wide(0));
        random.step();
        random
    }

    fn step(&mut self) {
        self.state = self.state.wrapping_mul(MULTIPLIER).wrapping_add(self.increment);
    }

    /// 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// `random()`: uniform in [0, 1) with 53 bits.
    pub fn random(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// One number of `choice(n, p=probabilities)`, of which `cumulative` are the sums up to each.
    pub fn choice(&mut self, cumulative: &[f64]) -> usize {
        let total = cumulative.last().copied().unwrap_or(1.0);
        let drawn = self.random();
        cumulative.partition_point(|sum| sum / total <= drawn)
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
fn seed_words(seed: u64) -> [u64; 4] {
    let mut constant: u32 = 0x43b0_d7e5;
    let mut hash = |value: u32| {
        let mixed = value ^ constant;
        constant = constant.wrapping_mul(0x931e_8875);
        let mixed = mixed.wrapping_mul(constant);
        mixed ^ (mixed >> 16)
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut hash);
    for from in 0..4 {
        for to in (0..4).filter(|to| *to != from) {
            let mixed = pool[to].wrapping_mul(0xca01_f9dd).wrapping_sub(hash(pool[from]).wrapping_mul(0x4973_f715));
            pool[to] = mixed ^ (mixed >> 16);
        }
    }
    let mut constant: u32 = 0x8b51_f9dd;
    let mut word = |i: usize| {
        let mixed = pool[i % 4] ^ constant;
        constant = constant.wrapping_mul(0x58f3_8ded);
        let mixed = mixed.wrapping_mul(constant);
        u64::from(mixed ^ (mixed >> 16))
    };
    [0, 2, 4, 6].map(|i| word(i) | (word(i + 1) << 32))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `[numpy.random.default_rng(seed).random() for _ in range(3)]`.
    #[test]
    fn numbers_are_those_of_numpy() {
        for (seed, expected) in [
            (0, [0.6369616873214543, 0.2697867137638703, 0.04097352393619469]),
            (42, [0.7739560485559633, 0.4388784397520523, 0.8585979199113825]),
            ((1 << 40) + 5, [0.004739459374490829, 0.3725845824112115, 0.5872294266977701]),
        ] {
            let mut random = NumpyRandom::new(seed);
            assert_eq!([random.random(), random.random(), random.random()], expected, "seed {seed}");
        }
    }
}
