//! Operands of the matrix unit: f32 as a sum of bf16, in blocks that a tile register takes.
//!
//! An f32 has 24 significant bits and a bf16 has 8, so that three hold it: `x = x1 + x2 + x3`, each the rest of the ones before, rounded
//! (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations",
//! arXiv 1904.06376). A block is 16 lines (rows of the left operand, columns of the right one) by 32 steps of the sum, two steps to a
//! unit of four bytes.
#![allow(clippy::needless_range_loop, reason = "rows of registers are coordinates")]

use super::pack::transpose_block;
use half::bf16;
use std::arch::x86_64::*;

/// Lines of a block.
pub(super) const LINES: usize = 16;

/// Steps of a block.
pub(super) const STEPS: usize = 32;

/// Units of a block: a tile register.
pub(super) const UNITS: usize = LINES * STEPS / 2;

/// A matrix of `lines` by steps.
#[derive(Clone, Copy)]
pub(super) struct Source<T> {
    pub(super) values: *const T,
    /// Elements from line to line, or from step to step.
    pub(super) stride: usize,
    /// Whether a line's steps lie side by side, or a step's lines.
    pub(super) by_line: bool,
}

// SAFETY: parallel tasks only read it.
unsafe impl<T> Send for Source<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Source<T> {}

impl<T> Source<T> {
    pub(super) fn at(self, line: usize, step: usize) -> Self {
        let offset = if self.by_line { line * self.stride + step } else { step * self.stride + line };
        Self { values: self.values.wrapping_add(offset), ..self }
    }
}

/// An element that becomes f32.
pub(in crate::ops) trait Element: Copy {
    /// Those elements of 16 that the mask names; zeros for the others.
    ///
    /// # Safety
    /// The elements that the mask names must be there, and AVX-512F and BW.
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512;
}

impl Element for f32 {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
    #[inline]
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: passed on from the caller.
        unsafe { _mm512_maskz_loadu_ps(mask, from) }
    }
}

impl Element for bf16 {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
    #[inline]
    unsafe fn load(from: *const Self, mask: __mmask16) -> __m512 {
        // SAFETY: passed on from the caller.
        unsafe { upper(_mm256_maskz_loadu_epi16(mask, from.cast())) }
    }
}

/// bf16 as f32.
#[target_feature(enable = "avx512f")]
#[inline]
fn upper(halves: __m256i) -> __m512 {
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

fn first(count: usize) -> __mmask16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// Splits at most 16 lines and 32 steps into `P` blocks at `to`, `distance` units apart; what is not there is zero. `across` puts units of
/// a line below each other, as the right operand's tile wants them.
///
/// # Safety
/// The elements must be there, and the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16,avx512vl")]
pub(super) unsafe fn split<T: Element, const P: usize>(
    from: Source<T>,
    lines: usize,
    steps: usize,
    across: bool,
    to: *mut i32,
    distance: usize,
) {
    let mut rows = [[0i32; UNITS]; P];
    let whole = lines >= LINES;
    // SAFETY: passed on from the caller; blocks have room for all units.
    unsafe {
        // In the order in which the elements lie: a line's steps, or a step's lines.
        let direct = from.by_line != across;
        let place = |plane: usize, row: usize, rows: &mut [[i32; UNITS]; P]| {
            if direct { to.add(plane * distance + row * 16) } else { rows[plane].as_mut_ptr().add(row * 16) }
        };
        if from.by_line {
            let (low, high) = (first(steps), first(steps.saturating_sub(16)));
            for line in 0..LINES {
                let there = whole || line < lines;
                let at = from.values.wrapping_add(if there { line * from.stride } else { 0 });
                let mut a = T::load(at, if there { low } else { 0 });
                let mut b = T::load(at.wrapping_add(16), if there { high } else { 0 });
                for plane in 0..P {
                    let both = bits512(_mm512_cvtne2ps_pbh(b, a));
                    _mm512_storeu_si512(place(plane, line, &mut rows).cast(), both);
                    if plane + 1 < P {
                        a = _mm512_sub_ps(a, upper(_mm512_castsi512_si256(both)));
                        b = _mm512_sub_ps(b, upper(_mm512_extracti64x4_epi64::<1>(both)));
                    }
                }
            }
        } else {
            let mask = first(lines);
            for pair in 0..STEPS / 2 {
                let step = 2 * pair;
                let here = |step: usize| if step < steps { (step * from.stride, mask) } else { (0, 0) };
                let ((even, even_mask), (odd, odd_mask)) = (here(step), here(step + 1));
                let mut a = T::load(from.values.wrapping_add(even), even_mask);
                let mut b = T::load(from.values.wrapping_add(odd), odd_mask);
                for plane in 0..P {
                    let low = _mm512_cvtepu16_epi32(bits256(_mm512_cvtneps_pbh(a)));
                    let high = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits256(_mm512_cvtneps_pbh(b))));
                    _mm512_storeu_si512(place(plane, pair, &mut rows).cast(), _mm512_or_si512(low, high));
                    if plane + 1 < P {
                        a = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32::<16>(low)));
                        b = _mm512_sub_ps(b, _mm512_castsi512_ps(high));
                    }
                }
            }
        }
        if !direct {
            for plane in 0..P {
                transpose_block(rows[plane].as_ptr(), 16, to.add(plane * distance), 16);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn bits512(value: __m512bh) -> __m512i {
    // SAFETY: two types for the same 64 bytes, of which every bit pattern is valid.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(value) }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn bits256(value: __m256bh) -> __m256i {
    // SAFETY: two types for the same 32 bytes, of which every bit pattern is valid.
    unsafe { std::mem::transmute::<__m256bh, __m256i>(value) }
}
