//! Packing operands for registers of 8 lanes: the right one into panels of 16 columns, elements of fewer bits made f32 meanwhile.
#![allow(clippy::needless_range_loop, reason = "rows of registers are coordinates")]

use super::pack::by_blocks;
use super::tile::{F32Avx2, Kind};
use half::bf16;
use std::arch::x86_64::*;

const WIDTH: usize = F32Avx2::WIDTH;

/// Lanes of a register.
const LANES: usize = 8;

/// An element that is packed as an f32.
pub(in crate::ops) trait Widen: Copy + Sync {
    /// # Safety
    /// AVX2 must be there, and eight elements at `from`.
    unsafe fn load(from: *const Self) -> __m256;

    /// One.
    fn widen(self) -> f32;
}

impl Widen for f32 {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: passed on from the caller.
        unsafe { _mm256_loadu_ps(from) }
    }

    fn widen(self) -> f32 {
        self
    }
}

impl Widen for bf16 {
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: passed on from the caller.
        let bits = unsafe { _mm_loadu_si128(from.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
    }

    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// Columns of the result, stored one after the other every `stride` elements, to rows of a panel.
///
/// # Safety
/// AVX2 must be there, and `columns` times `steps` elements at `from`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose<T: Widen>(from: *const T, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
    // SAFETY: passed on from the caller.
    unsafe {
        let turn = |from, to| transpose_block(from, stride, to, WIDTH);
        by_blocks::<T, LANES, WIDTH>(from, stride, columns, steps, packed, turn, |v| v.widen().to_bits().cast_signed());
    }
}

/// `columns` elements of each of `steps` steps, which begin `stride` elements apart, to a row in every panel.
///
/// # Safety
/// AVX2 must be there.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn copy<T: Widen>(values: &[T], stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
    let whole = columns / WIDTH;
    for step in 0..steps {
        let from = &values[step * stride..][..columns];
        for panel in 0..whole {
            let (from, to) = (&from[panel * WIDTH..][..WIDTH], &mut packed[(panel * steps + step) * WIDTH..][..WIDTH]);
            for lane in (0..WIDTH).step_by(LANES) {
                // SAFETY: the caller has the instructions; two slices of this length.
                unsafe { _mm256_storeu_ps(to.as_mut_ptr().add(lane).cast(), T::load(from.as_ptr().add(lane))) };
            }
        }
        if !columns.is_multiple_of(WIDTH) {
            let to = &mut packed[(whole * steps + step) * WIDTH..][..WIDTH];
            from[whole * WIDTH..].iter().zip(to).for_each(|(v, to)| *to = v.widen().to_bits().cast_signed());
        }
    }
}

/// 8 rows of 8 elements to as many columns: pairs, fours, then halves of registers change places. Written in order, `to_stride` apart, so
/// that rows which are nearer than 8 units keep their beginnings.
///
/// # Safety
/// AVX2 must be there, 8 rows of 8 elements, and room for them.
#[target_feature(enable = "avx2")]
#[inline]
pub(super) unsafe fn transpose_block<T: Widen>(from: *const T, stride: usize, to: *mut i32, to_stride: usize) {
    // SAFETY: the caller has 8 rows of 8 units at both places.
    unsafe {
        let mut rows = [_mm256_setzero_ps(); 8];
        for i in 0..8 {
            rows[i] = T::load(from.add(i * stride));
        }
        let mut pairs = rows;
        for i in 0..4 {
            pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in 0..2 {
            fours[4 * i] = _mm256_shuffle_ps::<0x44>(pairs[4 * i], pairs[4 * i + 2]);
            fours[4 * i + 1] = _mm256_shuffle_ps::<0xee>(pairs[4 * i], pairs[4 * i + 2]);
            fours[4 * i + 2] = _mm256_shuffle_ps::<0x44>(pairs[4 * i + 1], pairs[4 * i + 3]);
            fours[4 * i + 3] = _mm256_shuffle_ps::<0xee>(pairs[4 * i + 1], pairs[4 * i + 3]);
        }
        for i in 0..4 {
            _mm256_storeu_ps(to.add(i * to_stride).cast(), _mm256_permute2f128_ps::<0x20>(fours[i], fours[4 + i]));
        }
        for i in 0..4 {
            _mm256_storeu_ps(to.add((4 + i) * to_stride).cast(), _mm256_permute2f128_ps::<0x31>(fours[i], fours[4 + i]));
        }
    }
}
