//! The formats in AVX-512: each block is turned into vectors of 16 dequantised weights, which are stored or multiplied at once.
//!
//! Four-bit integers are looked up in a table of their 16 values, one permutation instead of a conversion, a product and a sum;
//! `vpermps` reads only the low four bits of each index. The values are computed in the order of candle's `to_float`, without
//! fused multiply-add, so that they are the same bit for bit.

use std::arch::x86_64::*;

/// The numbers 0 to 15.
#[target_feature(enable = "avx512f")]
#[inline]
fn count_up() -> __m512 {
    _mm512_setr_ps(0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.)
}

/// 16 bytes from `at` on as integers.
#[target_feature(enable = "avx512f")]
#[inline]
fn bytes(block: &[u8], at: usize) -> __m512i {
    let bytes = &block[at..at + 16];
    // SAFETY: 16 bytes are there.
    _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// The same as signed integers.
#[target_feature(enable = "avx512f")]
#[inline]
fn signed_bytes(block: &[u8], at: usize) -> __m512i {
    let bytes = &block[at..at + 16];
    // SAFETY: 16 bytes are there.
    _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Two neighbouring 16-bit scales.
#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn scales(block: &[u8], at: usize) -> (__m128, __m128) {
    let bits = u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let both = _mm_cvtph_ps(_mm_cvtsi32_si128(bits as i32));
    (both, _mm_shuffle_ps::<1>(both, both))
}

#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn scale(block: &[u8], at: usize) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes([block[at], block[at + 1]]))))
}

/// Gives the 32 values of a table of 16 for packed pairs of four bits.
#[target_feature(enable = "avx512f")]
#[inline]
fn looked_up(packed: __m512i, low: __m512, high: __m512) -> (__m512, __m512) {
    (_mm512_permutexvar_ps(packed, low), _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(packed), high))
}

// Each visitor calls `emit` with the place in the block and 16 values.

#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn visit_q4_0(block: &[u8; 18], mut emit: impl FnMut(usize, __m512)) {
    let d = _mm512_broadcastss_ps(scale(block, 0));
    let table = _mm512_mul_ps(_mm512_sub_ps(count_up(), _mm512_set1_ps(8.0)), d);
    let (low, high) = looked_up(bytes(block, 2), table, table);
    emit(0, low);
    emit(16, high);
}

#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn visit_q4_1(block: &[u8; 20], mut emit: impl FnMut(usize, __m512)) {
    let (d, m) = scales(block, 0);
    let table = _mm512_add_ps(_mm512_mul_ps(count_up(), _mm512_broadcastss_ps(d)), _mm512_broadcastss_ps(m));
    let (low, high) = looked_up(bytes(block, 4), table, table);
    emit(0, low);
    emit(16, high);
}

#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn visit_q8_0(block: &[u8; 34], mut emit: impl FnMut(usize, __m512)) {
    let d = _mm512_broadcastss_ps(scale(block, 0));
    emit(0, _mm512_mul_ps(_mm512_cvtepi32_ps(signed_bytes(block, 2)), d));
    emit(16, _mm512_mul_ps(_mm512_cvtepi32_ps(signed_bytes(block, 18)), d));
}

#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn visit_q4k(block: &[u8; 144], mut emit: impl FnMut(usize, __m512)) {
    let (d, min) = scales(block, 0);
    let (d, min) = (_mm_cvtss_f32(d), _mm_cvtss_f32(min));
    let packed = &block[4..16];
    // Scale and minimum of a group of 32, six bits each.
    let group = |at: usize| {
        if at < 4 {
            (packed[at] & 63, packed[at + 4] & 63)
        } else {
            ((packed[at + 4] & 15) | (packed[at - 4] >> 6 << 4), (packed[at + 4] >> 4) | (packed[at] >> 6 << 4))
        }
    };
    let table = |at: usize| {
        let (scale, least) = group(at);
        let values = _mm512_mul_ps(_mm512_set1_ps(d * f32::from(scale)), count_up());
        _mm512_sub_ps(values, _mm512_set1_ps(min * f32::from(least)))
    };
    for pair in 0..4 {
        let (first, second) = (table(2 * pair), table(2 * pair + 1));
        let (at, from) = (64 * pair, 16 + 32 * pair);
        let (a, c) = looked_up(bytes(block, from), first, second);
        let (b, d) = looked_up(bytes(block, from + 16), first, second);
        emit(at, a);
        emit(at + 16, b);
        emit(at + 32, c);
        emit(at + 48, d);
    }
}

#[target_feature(enable = "avx512f,f16c")]
#[inline]
fn visit_q6k(block: &[u8; 210], mut emit: impl FnMut(usize, __m512)) {
    let d = _mm_cvtss_f32(scale(block, 208));
    let (four, two) = (_mm512_set1_epi32(15), _mm512_set1_epi32(3));
    let value = |low: __m512i, high: __m512i, group: usize| {
        let high = _mm512_slli_epi32::<4>(_mm512_and_si512(high, two));
        let q = _mm512_sub_epi32(_mm512_or_si512(low, high), _mm512_set1_epi32(32));
        let scale = d * f32::from(block[192 + group] as i8);
        _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_cvtepi32_ps(q))
    };
    for half in 0..2 {
        for part in 0..2 {
            let (at, group) = (128 * half + 16 * part, 8 * half + part);
            let first = bytes(block, 64 * half + 16 * part);
            let second = bytes(block, 64 * half + 16 * part + 32);
            let high = bytes(block, 128 + 32 * half + 16 * part);
            emit(at, value(_mm512_and_si512(first, four), high, group));
            emit(at + 32, value(_mm512_and_si512(second, four), _mm512_srli_epi32::<2>(high), group + 2));
            emit(at + 64, value(_mm512_srli_epi32::<4>(first), _mm512_srli_epi32::<4>(high), group + 4));
            emit(at + 96, value(_mm512_srli_epi32::<4>(second), _mm512_srli_epi32::<6>(high), group + 6));
        }
    }
}

macro_rules! kernels {
    ($($decode:ident, $dots:ident, $visit:ident, $bytes:literal, $width:literal;)*) => {$(
        /// Dequantises whole blocks.
        #[target_feature(enable = "avx512f,f16c")]
        pub(super) fn $decode(bytes: &[u8], out: &mut [f32]) {
            for (block, out) in bytes.as_chunks::<$bytes>().0.iter().zip(out.as_chunks_mut::<$width>().0) {
                let start = out.as_mut_ptr();
                // SAFETY: every place that a visitor names is at least 16 before the end of the block's values.
                $visit(block, |at, values| unsafe { _mm512_storeu_ps(start.add(at), values) });
            }
        }

        /// Dot products of every row in `bytes` with each of `x`; a row's results stand side by side in `out`.
        ///
        /// # Safety
        /// Each of `x` has as many elements as a row has weights.
        #[target_feature(enable = "avx512f,f16c")]
        pub(super) unsafe fn $dots<const COUNT: usize>(bytes: &[u8], row_bytes: usize, x: &[&[f32]; COUNT], out: &mut [f32]) {
            for (row, out) in bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(COUNT)) {
                // Two sums each, so that one addition need not wait for the other.
                let mut sums = [[_mm512_setzero_ps(); 2]; COUNT];
                for (index, block) in row.as_chunks::<$bytes>().0.iter().enumerate() {
                    $visit(block, |at, values| {
                        for (sums, x) in sums.iter_mut().zip(x) {
                            // SAFETY: `x` has the elements of this block.
                            let x = unsafe { _mm512_loadu_ps(x.as_ptr().add(index * $width + at)) };
                            let sum = &mut sums[at / 16 % 2];
                            *sum = _mm512_fmadd_ps(values, x, *sum);
                        }
                    });
                }
                for (out, sums) in out.iter_mut().zip(&sums) {
                    *out = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1]));
                }
            }
        }
    )*};
}
kernels! {
    decode_q4_0, dots_q4_0, visit_q4_0, 18, 32;
    decode_q4_1, dots_q4_1, visit_q4_1, 20, 32;
    decode_q8_0, dots_q8_0, visit_q8_0, 34, 32;
    decode_q4k, dots_q4k, visit_q4k, 144, 256;
    decode_q6k, dots_q6k, visit_q6k, 210, 256;
}
