//! Packing the right operand into panels, reading ahead what is packed next, and rounding the left operand to bf16.
#![allow(clippy::needless_range_loop, reason = "rows of registers are coordinates")]

use super::tile::WIDTH;
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// Pairs of rows to one row of pairs.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn interleave(values: &[bf16], stride: usize, steps: usize, columns: usize, packed: &mut [i32]) {
    for (step, to) in packed.chunks_exact_mut(WIDTH).take(steps).enumerate() {
        let (first, second) = (&values[2 * step * stride..], &values[(2 * step + 1) * stride..]);
        let (first, second) = (&first[..columns], &second[..columns]);
        let whole = columns / 16 * 16;
        for at in (0..whole).step_by(16) {
            // SAFETY: 16 elements of both rows and of the panel's row.
            unsafe {
                let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(first.as_ptr().add(at).cast()));
                let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(second.as_ptr().add(at).cast()));
                let pairs = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                _mm512_storeu_si512(to.as_mut_ptr().add(at).cast(), pairs);
            }
        }
        for at in whole..columns {
            to[at] = i32::from(first[at].to_bits()) | i32::from(second[at].to_bits()) << 16;
        }
    }
}

/// Columns of the result, stored one after the other every `stride` units, to rows of a panel.
///
/// # Safety
/// AVX-512F must be there, and `columns` times `steps` units at `from`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(from: *const i32, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
    assert!(packed.len() >= steps * WIDTH && columns <= WIDTH);
    let (whole_columns, whole_steps) = (columns / 16 * 16, steps / 16 * 16);
    // SAFETY: whole blocks of 16 by 16 units first, then what is left.
    unsafe {
        for column in (0..whole_columns).step_by(16) {
            for step in (0..whole_steps).step_by(16) {
                transpose_block(from.add(column * stride + step), stride, packed.as_mut_ptr().add(step * WIDTH + column), WIDTH);
            }
        }
        for column in 0..columns {
            let first = if column < whole_columns { whole_steps } else { 0 };
            for step in first..steps {
                packed[step * WIDTH + column] = from.add(column * stride + step).read_unaligned();
            }
        }
    }
}

/// 16 rows of 16 units to as many columns: pairs, fours, then quarters of registers change places.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose_block(from: *const i32, stride: usize, to: *mut i32, to_stride: usize) {
    // SAFETY: the caller has 16 rows of 16 units at both places.
    unsafe {
        let mut rows = [_mm512_setzero_si512(); 16];
        for i in 0..16 {
            rows[i] = _mm512_loadu_si512(from.add(i * stride).cast());
        }
        let mut pairs = rows;
        for i in 0..8 {
            pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
            pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
        }
        let mut fours = pairs;
        for i in 0..4 {
            fours[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
            fours[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
            fours[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
            fours[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        }
        for j in 0..4 {
            let even = _mm512_shuffle_i32x4::<0x88>(fours[j], fours[4 + j]);
            let odd = _mm512_shuffle_i32x4::<0xdd>(fours[j], fours[4 + j]);
            let even_high = _mm512_shuffle_i32x4::<0x88>(fours[8 + j], fours[12 + j]);
            let odd_high = _mm512_shuffle_i32x4::<0xdd>(fours[8 + j], fours[12 + j]);
            let store = |row: usize, value| _mm512_storeu_si512(to.add(row * to_stride).cast(), value);
            store(j, _mm512_shuffle_i32x4::<0x88>(even, even_high));
            store(4 + j, _mm512_shuffle_i32x4::<0x88>(odd, odd_high));
            store(8 + j, _mm512_shuffle_i32x4::<0xdd>(even, even_high));
            store(12 + j, _mm512_shuffle_i32x4::<0xdd>(odd, odd_high));
        }
    }
}

/// Rounds to the nearest bf16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn round(from: &[f32], to: &mut [bf16]) {
    let whole = from.len() / 16 * 16;
    for at in (0..whole).step_by(16) {
        // SAFETY: 16 elements of both slices, which are equally long.
        unsafe {
            let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr().add(at)));
            _mm256_storeu_si256(to.as_mut_ptr().add(at).cast(), std::mem::transmute::<__m256bh, __m256i>(rounded));
        }
    }
    to[whole..].iter_mut().zip(&from[whole..]).for_each(|(to, from)| *to = bf16::from_f32(*from));
}

/// Asks for `some` of `rows` rows of what is packed next, so that they come from memory while the kernel computes. A row has `columns`
/// elements; the first begins at `from`, each next one `stride` elements further.
pub(super) fn fetch_rows<T>(from: *const T, stride: usize, columns: usize, some: Range<usize>, rows: usize) {
    for row in some.start.min(rows)..some.end.min(rows) {
        for column in (0..columns).step_by(64 / size_of::<T>()) {
            // SAFETY: a hint, for whatever address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(row * stride + column).cast()) };
        }
    }
}
