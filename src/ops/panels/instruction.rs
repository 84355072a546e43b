//! Whether the processor has the instruction for bf16, and whether it is worth using.

use crate::ops::vector::has_avx512;
use std::arch::x86_64::*;
use std::sync::OnceLock;
use std::time::Instant;

pub(super) fn has_bf16() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| has_avx512() && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw"))
}

/// Whether operands may be rounded to bf16 where that is faster.
pub(super) fn is_on() -> bool {
    static ON: OnceLock<bool> = OnceLock::new();
    *ON.get_or_init(|| std::env::var("FTREPL_BF16").map_or(true, |v| v != "off"))
}

/// Whether a product in bf16 takes clearly less time than in f32.
pub(super) fn is_fast() -> bool {
    static FAST: OnceLock<bool> = OnceLock::new();
    *FAST.get_or_init(|| match std::env::var("FTREPL_BF16").as_deref() {
        Ok("on") => has_bf16(),
        _ if !is_on() || !has_bf16() => false,
        _ => {
            // The best of several: an interruption makes one of them slow, never fast. The answer is near 2 or near 0.6.
            // SAFETY: the instructions were found.
            let best = |work: unsafe fn() -> f32| {
                let time = |_| {
                    let start = Instant::now();
                    std::hint::black_box(unsafe { work() });
                    start.elapsed()
                };
                (0..20).map(time).min().unwrap_or_default().as_secs_f64()
            };
            best(single_steps) > 0.6 * best(double_steps)
        }
    })
}

const STEPS: usize = 2000;

/// As many multiplications in f32 as [`double_steps`] does half of.
#[target_feature(enable = "avx512f")]
unsafe fn single_steps() -> f32 {
    let factor = std::hint::black_box(_mm512_set1_ps(0.5));
    let mut sums = [_mm512_setzero_ps(); 12];
    for _ in 0..STEPS {
        sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(factor, factor, *sum));
    }
    sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
}

#[target_feature(enable = "avx512f,avx512bf16")]
unsafe fn double_steps() -> f32 {
    let factor = super::tile::pairs(std::hint::black_box(_mm512_set1_epi32(0x3f00_3f00)));
    let mut sums = [_mm512_setzero_ps(); 12];
    for _ in 0..STEPS {
        sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
    }
    sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
}
