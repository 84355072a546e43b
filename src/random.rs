//! The one random source of a session: PyTorch's CPU generator (MT19937), so that a seed gives the numbers it gives there.

/// A random generator.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator that starts as `torch.manual_seed(seed)` does.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        self.state = self.state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.state >> 32) as u32
    }
}
