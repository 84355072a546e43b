//! Packing the right operand into panels, reading ahead what is packed next, and rounding operands to bf16.
#![allow(clippy::needless_range_loop, reason = "rows of registers are coordinates")]

use super::tile::WIDTH;
use half::bf16;
use std::arch::x86_64::*;
use std::ops::Range;

/// An element of an operand that is packed as bf16, two steps to a unit.
pub(in crate::ops) trait Narrow: Copy + Sync {
    /// Rows of `columns` elements, `stride` apart, one for each of `rows` steps, to rows of pairs, in a panel for every [`WIDTH`] columns;
    /// the last of an odd number has zeros beside it.
    ///
    /// # Safety
    /// The instructions for bf16 must be there.
    unsafe fn interleave(values: &[Self], stride: usize, rows: usize, columns: usize, packed: &mut [i32]);

    /// Columns of the result, stored one after the other every `stride` elements, to rows of pairs of `2 * steps` steps.
    ///
    /// # Safety
    /// The instructions for bf16 must be there, and `columns` times `2 * steps` elements at `from`.
    unsafe fn transpose(from: *const Self, stride: usize, columns: usize, steps: usize, packed: &mut [i32]);
}

/// Pairs of rows to one row of pairs: `$pair` makes 16 units of 16 elements of two rows, under a mask.
macro_rules! interleave {
    ($values:ident, $stride:ident, $rows:ident, $columns:ident, $packed:ident, $pair:expr) => {
        let steps = $rows.div_ceil(2);
        assert!($packed.len() >= $columns.div_ceil(WIDTH) * steps * WIDTH);
        for step in 0..steps {
            let first = &$values[2 * step * $stride..][..$columns];
            let second = if 2 * step + 1 < $rows { &$values[(2 * step + 1) * $stride..][..$columns] } else { &[] };
            for at in (0..$columns).step_by(16) {
                let mask = ((1u32 << ($columns - at).min(16)) - 1) as __mmask16;
                let other = if second.is_empty() { 0 } else { mask };
                // SAFETY: elements of both rows that the masks name, and 16 of a panel's row, which has room for whole vectors.
                unsafe {
                    let pairs = $pair(first.as_ptr().wrapping_add(at), mask, second.as_ptr().wrapping_add(at), other);
                    let to = $packed.as_mut_ptr().add((at / WIDTH * steps + step) * WIDTH + at % WIDTH);
                    _mm512_storeu_si512(to.cast(), pairs);
                }
            }
        }
    };
}

impl Narrow for bf16 {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn interleave(values: &[Self], stride: usize, rows: usize, columns: usize, packed: &mut [i32]) {
        // SAFETY: elements that the mask names, as the macro says.
        let load = |from: *const bf16, mask| unsafe { _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast())) };
        let pair = |first, mask, second, other| _mm512_or_si512(load(first, mask), _mm512_slli_epi32::<16>(load(second, other)));
        interleave!(values, stride, rows, columns, packed, pair);
    }

    unsafe fn transpose(from: *const Self, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
        // SAFETY: passed on from the caller; pairs lie as they are packed.
        unsafe { transpose(from.cast(), stride / 2, columns, steps, packed) };
    }
}

impl Narrow for f32 {
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn interleave(values: &[Self], stride: usize, rows: usize, columns: usize, packed: &mut [i32]) {
        // The first row's 16 elements lie in the lower half, the second one's in the upper: each beside the other.
        let order: [i16; 32] = std::array::from_fn(|i| (i / 2 + i % 2 * 16) as i16);
        // SAFETY: 64 bytes.
        let order = unsafe { _mm512_loadu_si512(order.as_ptr().cast()) };
        // SAFETY: elements that the masks name, as the macro says; two types for the same 64 bytes.
        let pair = |first: *const f32, mask, second: *const f32, other| unsafe {
            let (low, high) = (_mm512_maskz_loadu_ps(mask, first), _mm512_maskz_loadu_ps(other, second));
            let both = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low));
            _mm512_permutexvar_epi16(order, both)
        };
        interleave!(values, stride, rows, columns, packed, pair);
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn transpose(from: *const Self, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
        assert!(packed.len() >= steps * WIDTH && columns <= WIDTH);
        let (whole_columns, whole_steps) = (columns / 16 * 16, steps / 16 * 16);
        // SAFETY: whole blocks of 16 columns by 32 elements first, then what is left.
        unsafe {
            for column in (0..whole_columns).step_by(16) {
                for step in (0..whole_steps).step_by(16) {
                    let mut rows = [_mm512_setzero_si512(); 16];
                    for i in 0..16 {
                        let at = from.add((column + i) * stride + 2 * step);
                        let pairs = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(at.add(16)), _mm512_loadu_ps(at));
                        rows[i] = std::mem::transmute::<__m512bh, __m512i>(pairs);
                    }
                    transpose_registers(rows, packed.as_mut_ptr().add(step * WIDTH + column), WIDTH);
                }
            }
            let bits = |at: *const f32| i32::from(bf16::from_f32(at.read()).to_bits());
            for column in 0..columns {
                let first = if column < whole_columns { whole_steps } else { 0 };
                for step in first..steps {
                    let at = from.add(column * stride + 2 * step);
                    packed[step * WIDTH + column] = bits(at) | bits(at.add(1)) << 16;
                }
            }
        }
    }
}

/// Columns of the result, stored one after the other every `stride` units, to rows of a panel.
///
/// # Safety
/// AVX-512F must be there, and `columns` times `steps` units at `from`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(from: *const i32, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
    // SAFETY: passed on from the caller.
    unsafe {
        by_blocks::<_, 16, WIDTH>(
            from,
            stride,
            columns,
            steps,
            packed,
            |from, to| transpose_block(from, stride, to, WIDTH),
            |v| v,
        )
    };
}

/// As [`transpose`], to a panel of `PANEL` columns, with what turns a block of `SIDE` by `SIDE` elements, and what makes a unit of one.
///
/// # Safety
/// `columns` times `steps` elements must be at `from`.
#[inline(always)]
pub(super) unsafe fn by_blocks<T, const SIDE: usize, const PANEL: usize>(
    from: *const T,
    stride: usize,
    columns: usize,
    steps: usize,
    packed: &mut [i32],
    turn: impl Fn(*const T, *mut i32),
    unit: impl Fn(T) -> i32,
) {
    assert!(packed.len() >= steps * PANEL && columns <= PANEL);
    let (whole_columns, whole_steps) = (columns / SIDE * SIDE, steps / SIDE * SIDE);
    // SAFETY: whole blocks first, then what is left.
    unsafe {
        for column in (0..whole_columns).step_by(SIDE) {
            for step in (0..whole_steps).step_by(SIDE) {
                turn(from.add(column * stride + step), packed.as_mut_ptr().add(step * PANEL + column));
            }
        }
        for column in 0..columns {
            let first = if column < whole_columns { whole_steps } else { 0 };
            for step in first..steps {
                packed[step * PANEL + column] = unit(from.add(column * stride + step).read_unaligned());
            }
        }
    }
}

/// 16 rows of 16 units to as many columns.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose_block(from: *const i32, stride: usize, to: *mut i32, to_stride: usize) {
    // SAFETY: the caller has 16 rows of 16 units at both places.
    unsafe {
        let mut rows = [_mm512_setzero_si512(); 16];
        for i in 0..16 {
            rows[i] = _mm512_loadu_si512(from.add(i * stride).cast());
        }
        transpose_registers(rows, to, to_stride);
    }
}

/// As [`transpose_block`], of rows in registers: pairs, fours, then quarters of registers change places.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn transpose_registers(rows: [__m512i; 16], to: *mut i32, to_stride: usize) {
    // SAFETY: the caller has room for 16 rows of 16 units.
    unsafe {
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
