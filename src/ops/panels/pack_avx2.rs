//! Packing the right operand into panels of 16 columns, for registers of 8 lanes.
#![allow(clippy::needless_range_loop, reason = "rows of registers are coordinates")]

use super::pack::by_blocks;
use super::tile::{F32Avx2, Kind};
use std::arch::x86_64::*;

const WIDTH: usize = F32Avx2::WIDTH;

/// Columns of the result, stored one after the other every `stride` units, to rows of a panel.
///
/// # Safety
/// AVX2 must be there, and `columns` times `steps` units at `from`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose(from: *const i32, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
    // SAFETY: passed on from the caller.
    unsafe { by_blocks::<8, WIDTH>(from, stride, columns, steps, packed, |from, to| transpose_block(from, stride, to)) };
}

/// 8 rows of 8 units to as many columns: pairs, fours, then halves of registers change places.
#[target_feature(enable = "avx2")]
unsafe fn transpose_block(from: *const i32, stride: usize, to: *mut i32) {
    // SAFETY: the caller has 8 rows of 8 units at both places.
    unsafe {
        let mut rows = [_mm256_setzero_ps(); 8];
        for i in 0..8 {
            rows[i] = _mm256_loadu_ps(from.add(i * stride).cast());
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
            let (low, high) = (fours[i], fours[4 + i]);
            _mm256_storeu_ps(to.add(i * WIDTH).cast(), _mm256_permute2f128_ps::<0x20>(low, high));
            _mm256_storeu_ps(to.add((4 + i) * WIDTH).cast(), _mm256_permute2f128_ps::<0x31>(low, high));
        }
    }
}
