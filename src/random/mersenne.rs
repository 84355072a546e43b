//! MT19937 (Matsumoto and Nishimura 1998), the stream of bits below PyTorch's and Python's generators.

/// The Mersenne Twister.
#[derive(Debug, Clone)]
pub struct Mersenne {
    state: [u32; 624],
    at: usize,
}

impl Mersenne {
    /// Seeded by one number (`init_genrand`), as PyTorch does.
    pub fn new(seed: u32) -> Self {
        let mut state = [seed; 624];
        for i in 1..624 {
            let last = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(last ^ (last >> 30)).wrapping_add(i as u32);
        }
        Self { state, at: 624 }
    }

    /// Seeded by several numbers (`init_by_array`), as Python does; an empty key counts as one zero.
    pub fn from_key(key: &[u32]) -> Self {
        let key = if key.is_empty() { &[0] } else { key };
        let mut made = Self::new(19_650_218);
        let state = &mut made.state;
        let (mut i, mut j) = (1, 0);
        for _ in 0..key.len().max(624) {
            let last = state[i - 1];
            state[i] = (state[i] ^ (last ^ (last >> 30)).wrapping_mul(1_664_525)).wrapping_add(key[j]).wrapping_add(j as u32);
            (i, j) = (i + 1, (j + 1) % key.len());
            if i == 624 {
                state[0] = state[623];
                i = 1;
            }
        }
        for _ in 0..623 {
            let last = state[i - 1];
            state[i] = (state[i] ^ (last ^ (last >> 30)).wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            i += 1;
            if i == 624 {
                state[0] = state[623];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        made
    }

    /// The next 32 bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.at == 624 {
            self.refill();
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9D2C_5680;
        y ^= (y << 15) & 0xEFC6_0000;
        y ^ (y >> 18)
    }

    fn refill(&mut self) {
        let state = &mut self.state;
        for k in 0..624 {
            let y = (state[k] & 0x8000_0000) | (state[(k + 1) % 624] & 0x7FFF_FFFF);
            state[k] = state[(k + 397) % 624] ^ (y >> 1) ^ (if y & 1 == 1 { 0x9908_B0DF } else { 0 });
        }
        self.at = 0;
    }
}
