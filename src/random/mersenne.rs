//! MT19937 (Matsumoto and Nishimura 1998), the stream of bits below PyTorch's and Python's generators.

use crate::ops::vectorised;

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
            refill(&mut self.state);
            self.at = 0;
        }
        self.at += 1;
        temper(self.state[self.at - 1])
    }

    /// The next numbers of 32 bits, many at once.
    pub fn fill(&mut self, numbers: &mut [u32]) {
        let mut rest = numbers;
        while !rest.is_empty() {
            if self.at == 624 {
                refill(&mut self.state);
                self.at = 0;
            }
            let (now, after) = rest.split_at_mut(rest.len().min(624 - self.at));
            temper_all(&self.state[self.at..], now);
            self.at += now.len();
            rest = after;
        }
    }
}

fn temper(bits: u32) -> u32 {
    let mut y = bits;
    y ^= y >> 11;
    y ^= (y << 7) & 0x9D2C_5680;
    y ^= (y << 15) & 0xEFC6_0000;
    y ^ (y >> 18)
}

vectorised! {
    fn temper_all(state: &[u32], numbers: &mut [u32]) {
        numbers.iter_mut().zip(state).for_each(|(number, bits)| *number = temper(*bits));
    }
}

vectorised! {
    fn refill(state: &mut [u32; 624]) {
        fn next(this: u32, following: u32, far: u32) -> u32 {
            let y = (this & 0x8000_0000) | (following & 0x7FFF_FFFF);
            far ^ (y >> 1) ^ ((y & 1).wrapping_neg() & 0x9908_B0DF)
        }
        // In parts that read nothing which they write, but for the next number, so that they become vector operations.
        let (early, late) = state.split_at_mut(227);
        for k in 0..226 {
            early[k] = next(early[k], early[k + 1], late[170 + k]);
        }
        early[226] = next(early[226], late[0], late[396]);
        for k in 0..227 {
            late[k] = next(late[k], late[k + 1], early[k]);
        }
        for k in 227..396 {
            late[k] = next(late[k], late[k + 1], late[k - 227]);
        }
        late[396] = next(late[396], early[0], late[169]);
    }
}
