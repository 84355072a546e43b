//! Dot products of quantised rows with f32 activations: which kernel serves a format on this processor, and the portable one.

use super::Decode;
use crate::ops::vector::Level;
use candle_core::quantized::GgmlDType;
use half::f16;

/// Rows of a quantised matrix.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) dtype: GgmlDType,
    pub(super) decode: Decode,
    /// The blocks, row after row.
    pub(super) bytes: &'a [u8],
    pub(super) row_bytes: usize,
}

/// Dot products of every row with each of `x`; a row's results stand side by side in `out`.
pub(super) fn dots<const COUNT: usize>(level: Level, rows: Rows<'_>, x: &[&[f32]; COUNT], out: &mut [f32]) {
    let Rows { dtype, bytes, row_bytes, .. } = rows;
    // The kernels read without further checks.
    let columns = row_bytes / dtype.type_size() * dtype.block_size();
    assert!(x.iter().all(|x| x.len() == columns) && out.len() == bytes.len() / row_bytes.max(1) * COUNT);
    #[cfg(target_arch = "x86_64")]
    {
        use super::avx512 as best;
        // SAFETY: the level was detected on this processor, and the lengths were just checked.
        match (level, dtype) {
            (Level::Avx512, GgmlDType::Q4_0) => return unsafe { best::dots_q4_0(bytes, row_bytes, x, out) },
            (Level::Avx512, GgmlDType::Q4_1) => return unsafe { best::dots_q4_1(bytes, row_bytes, x, out) },
            (Level::Avx512, GgmlDType::Q8_0) => return unsafe { best::dots_q8_0(bytes, row_bytes, x, out) },
            (Level::Avx512, GgmlDType::Q4K) => return unsafe { best::dots_q4k(bytes, row_bytes, x, out) },
            (Level::Avx512, GgmlDType::Q6K) => return unsafe { best::dots_q6k(bytes, row_bytes, x, out) },
            (Level::Avx2 | Level::Avx512, _) => return unsafe { dots_avx2(rows, x, out) },
            (Level::Portable, _) => {}
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let Level::Portable = level;
    portable(rows, x, out, |bits| f16::from_bits(bits).to_f32());
}

/// The portable kernel, compiled for wider registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn dots_avx2<const COUNT: usize>(rows: Rows<'_>, x: &[&[f32]; COUNT], out: &mut [f32]) {
    use std::arch::x86_64::{_mm_cvtph_ps, _mm_cvtsi32_si128, _mm_cvtss_f32};
    let widen = |bits: u16| _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(bits))));
    portable(rows, x, out, widen);
}

#[inline(always)]
fn portable<const COUNT: usize>(rows: Rows<'_>, x: &[&[f32]; COUNT], out: &mut [f32], widen: impl Fn(u16) -> f32) {
    let Rows { dtype, decode, bytes, row_bytes } = rows;
    let scale = |block: &[u8], at: usize| widen(u16::from_le_bytes([block[at], block[at + 1]]));
    match dtype {
        GgmlDType::Q4_0 => blockwise::<COUNT, 18, 32>(bytes, row_bytes, x, out, |block, values| {
            let d = scale(block, 0);
            nibbles(&block[2..], values, |q| (q as f32 - 8.0) * d);
        }),
        GgmlDType::Q4_1 => blockwise::<COUNT, 20, 32>(bytes, row_bytes, x, out, |block, values| {
            let (d, m) = (scale(block, 0), scale(block, 2));
            nibbles(&block[4..], values, |q| q as f32 * d + m);
        }),
        GgmlDType::Q8_0 => blockwise::<COUNT, 34, 32>(bytes, row_bytes, x, out, |block, values| {
            let d = scale(block, 0);
            values.iter_mut().zip(&block[2..]).for_each(|(value, q)| *value = f32::from(*q as i8) * d);
        }),
        GgmlDType::Q5_0 => blockwise::<COUNT, 22, 32>(bytes, row_bytes, x, out, |block, values| decode(block, values)),
        GgmlDType::Q5_1 => blockwise::<COUNT, 24, 32>(bytes, row_bytes, x, out, |block, values| decode(block, values)),
        GgmlDType::Q2K => blockwise::<COUNT, 84, 256>(bytes, row_bytes, x, out, |block, values| decode(block, values)),
        GgmlDType::Q3K => blockwise::<COUNT, 110, 256>(bytes, row_bytes, x, out, |block, values| decode(block, values)),
        GgmlDType::Q4K => blockwise::<COUNT, 144, 256>(bytes, row_bytes, x, out, |block, values| decode(block, values)),
        GgmlDType::Q5K => blockwise::<COUNT, 176, 256>(bytes, row_bytes, x, out, |block, values| decode(block, values)),
        GgmlDType::Q6K => blockwise::<COUNT, 210, 256>(bytes, row_bytes, x, out, |block, values| decode(block, values)),
        GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 | GgmlDType::Q8_1 | GgmlDType::Q8K => {
            unreachable_format(out);
        }
    }
}

/// `Quantised` holds none of the formats that have no kernel.
#[cold]
fn unreachable_format(out: &mut [f32]) {
    debug_assert!(false, "a format without a kernel");
    out.fill(f32::NAN);
}

/// The two halves of a block of 32: low and high four bits.
#[inline(always)]
fn nibbles(packed: &[u8], values: &mut [f32; 32], value: impl Fn(u8) -> f32) {
    for (at, byte) in packed.iter().take(16).enumerate() {
        values[at] = value(byte & 15);
        values[at + 16] = value(byte >> 4);
    }
}

/// Dequantises a block into registers or the stack, and adds its products in 16 independent sums.
#[inline(always)]
fn blockwise<const COUNT: usize, const BYTES: usize, const WIDTH: usize>(
    bytes: &[u8],
    row_bytes: usize,
    x: &[&[f32]; COUNT],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; WIDTH]),
) {
    const LANES: usize = 16;
    let mut values = [0f32; WIDTH];
    for (row, out) in bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(COUNT)) {
        let mut sums = [[0f32; LANES]; COUNT];
        for (index, block) in row.as_chunks::<BYTES>().0.iter().enumerate() {
            decode(block, &mut values);
            for (sums, x) in sums.iter_mut().zip(x) {
                let x = &x[index * WIDTH..(index + 1) * WIDTH];
                for (values, x) in values.chunks_exact(LANES).zip(x.chunks_exact(LANES)) {
                    for lane in 0..LANES {
                        sums[lane] += values[lane] * x[lane];
                    }
                }
            }
        }
        for (out, sums) in out.iter_mut().zip(&sums) {
            *out = sums.iter().sum();
        }
    }
}
