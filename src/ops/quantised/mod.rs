//! Quantised weights: the block formats of GGUF files, kept as they are in memory and dequantised a few rows at a time.
//!
//! A block holds 32 or 256 neighbouring weights of one row as small integers `q` with their scale: Q4_0 is `d (q - 8)`, Q8_0 is
//! `d q`, Q4_1 is `d q + m`; the K formats have scales of scales. Dequantised values are those of candle bit for bit, and products
//! are taken in f32 with them (not, as in `QMatMul`, with activations rounded to 8 bits), so that a quantised base computes what
//! the dequantised model computes, forward and backward: QLoRA (Dettmers et al. 2023, arXiv 2305.14314) on GGUF's formats.

#[cfg(target_arch = "x86_64")]
mod avx512;
mod dot;

use super::vector::Level;
use crate::autograd::buffer::{self, Buffer};
use crate::error::{Error, Result};
use crate::ops::parallel;
use candle_core::quantized::GgmlDType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, BlockQ8K, GgmlType,
};
use half::{bf16, f16};
use rayon::prelude::*;
use std::borrow::Cow;

/// Weights that one task dequantises: a multiple of every block's length.
const CHUNK: usize = 1 << 14;

/// Up to this many rows of activations are multiplied with blocks that are dequantised in registers; for more, dequantising into
/// the cache first costs less.
pub const FEW_ROWS: usize = 4;

/// Dequantises whole blocks.
pub type Decode = fn(&[u8], &mut [f32]);

/// What dequantises a format; `None` for those that only hold activations. Unquantised floats count as blocks of one.
pub fn decode_of(dtype: GgmlDType) -> Option<Decode> {
    Some(match dtype {
        GgmlDType::F32 => to_float::<f32>,
        GgmlDType::F16 => to_float::<f16>,
        GgmlDType::BF16 => to_float::<bf16>,
        GgmlDType::Q4_0 => decode_q4_0,
        GgmlDType::Q4_1 => decode_q4_1,
        GgmlDType::Q8_0 => decode_q8_0,
        GgmlDType::Q4K => decode_q4k,
        GgmlDType::Q6K => decode_q6k,
        GgmlDType::Q5_0 => to_float::<BlockQ5_0>,
        GgmlDType::Q5_1 => to_float::<BlockQ5_1>,
        GgmlDType::Q2K => to_float::<BlockQ2K>,
        GgmlDType::Q3K => to_float::<BlockQ3K>,
        GgmlDType::Q5K => to_float::<BlockQ5K>,
        GgmlDType::Q8K => to_float::<BlockQ8K>,
        GgmlDType::Q8_1 => return None,
    })
}

macro_rules! decode {
    ($($name:ident, $block:ty;)*) => {$(
        fn $name(bytes: &[u8], out: &mut [f32]) {
            #[cfg(target_arch = "x86_64")]
            if Level::best() == Level::Avx512 {
                // SAFETY: the processor was just found to have AVX-512.
                return unsafe { avx512::$name(bytes, out) };
            }
            to_float::<$block>(bytes, out)
        }
    )*};
}
decode! {
    decode_q4_0, BlockQ4_0;
    decode_q4_1, BlockQ4_1;
    decode_q8_0, BlockQ8_0;
    decode_q4k, BlockQ4K;
    decode_q6k, BlockQ6K;
}

fn to_float<B: GgmlType>(bytes: &[u8], out: &mut [f32]) {
    B::to_float(&blocks::<B>(bytes), out);
}

/// The bytes as blocks; copied where they are not aligned, which happens in files with an alignment of their own.
fn blocks<B: GgmlType>(bytes: &[u8]) -> Cow<'_, [B]> {
    let count = bytes.len() / size_of::<B>();
    if bytes.as_ptr().align_offset(align_of::<B>()) == 0 {
        // SAFETY: candle's block types are `repr(C)` and plain data, valid for every bit pattern; the bytes are aligned and
        // `count` blocks long.
        return Cow::Borrowed(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), count) });
    }
    let mut copy = vec![B::zeros(); count];
    // SAFETY: as above; the copy is `count` blocks long and does not overlap the source.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), copy.as_mut_ptr().cast(), count * size_of::<B>()) };
    Cow::Owned(copy)
}

/// A matrix of quantised weights, row-major.
pub struct Quantised {
    dtype: GgmlDType,
    decode: Decode,
    rows: usize,
    columns: usize,
    /// The blocks, row after row. Pairs of bytes, because the blocks begin with 16-bit scales.
    words: Vec<u16>,
}

impl std::fmt::Debug for Quantised {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Quantised({:?}, {} x {})", self.dtype, self.rows, self.columns)
    }
}

impl Quantised {
    /// A matrix from stored blocks: `row` gives the bytes of a row.
    ///
    /// # Errors
    /// A format that weights are not stored in, or rows that are no whole number of blocks.
    pub fn from_blocks<'a>(
        dtype: GgmlDType,
        (rows, columns): (usize, usize),
        row: impl Fn(usize) -> &'a [u8] + Sync,
    ) -> Result<Self> {
        let mut made = Self::empty(dtype, rows, columns)?;
        let length = made.row_bytes();
        made.words.par_chunks_mut((length / 2).max(1)).enumerate().with_min_len((CHUNK / length.max(1)).max(1)).for_each(
            |(index, words)| {
                let pairs = row(index).chunks_exact(2);
                words.iter_mut().zip(pairs).for_each(|(word, pair)| *word = u16::from_ne_bytes([pair[0], pair[1]]));
            },
        );
        Ok(made)
    }

    /// Quantises a matrix to Q4_0 or Q8_0, a row at a time: `fill` writes the values of a row.
    ///
    /// # Errors
    /// Another format, or rows that are no whole number of blocks.
    pub fn quantise(dtype: GgmlDType, (rows, columns): (usize, usize), fill: impl Fn(usize, &mut [f32]) + Sync) -> Result<Self> {
        let encode: fn(&[f32], &mut [u16]) = match dtype {
            GgmlDType::Q4_0 => from_float::<BlockQ4_0>,
            GgmlDType::Q8_0 => from_float::<BlockQ8_0>,
            other => return Err(Error::argument(format!("weights can be quantised to Q4_0 and Q8_0, not to {other:?}"))),
        };
        let mut made = Self::empty(dtype, rows, columns)?;
        let length = made.row_bytes() / 2;
        made.words.par_chunks_mut(length.max(1)).enumerate().with_min_len((CHUNK / columns.max(1)).max(1)).for_each_init(
            || vec![0f32; columns],
            |values, (index, words)| {
                fill(index, values);
                encode(values, words);
            },
        );
        Ok(made)
    }

    fn empty(dtype: GgmlDType, rows: usize, columns: usize) -> Result<Self> {
        let unquantised = matches!(dtype, GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16);
        let Some(decode) = decode_of(dtype).filter(|_| !unquantised && dtype != GgmlDType::Q8K) else {
            return Err(Error::argument(format!("weights are not kept as {dtype:?}")));
        };
        let block = dtype.block_size();
        if !columns.is_multiple_of(block) {
            return Err(Error::argument(format!(
                "rows of {columns} weights are no whole number of blocks of {block} ({dtype:?})"
            )));
        }
        let words = buffer::zeroed(rows * (columns / block) * (dtype.type_size() / 2));
        Ok(Self { dtype, decode, rows, columns, words })
    }

    /// The format of the blocks.
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// The format's name as users write it: "q4_0", "q6_k".
    pub fn dtype_name(&self) -> String {
        name_of(self.dtype)
    }

    /// `[rows, columns]`.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// The bytes that the blocks take.
    pub fn size_in_bytes(&self) -> usize {
        2 * self.words.len()
    }

    fn row_bytes(&self) -> usize {
        self.columns / self.dtype.block_size() * self.dtype.type_size()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the same memory, in smaller units of plain data.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), 2 * self.words.len()) }
    }

    /// Rows `from..to`, dequantised in parallel into `out`, which is made long enough.
    pub fn rows<'s>(&self, from: usize, to: usize, out: &'s mut Vec<f32>) -> &'s [f32] {
        let count = (to - from) * self.columns;
        out.resize(count, 0.0);
        let length = self.row_bytes();
        let bytes = &self.bytes()[from * length..to * length];
        let chunk = CHUNK / self.dtype.block_size() * self.dtype.type_size();
        parallel::by_chunks(out, CHUNK, |first, out| {
            let from = first / CHUNK * chunk;
            (self.decode)(&bytes[from..bytes.len().min(from + out.len().div_ceil(CHUNK) * chunk)], out);
        });
        &out[..count]
    }

    /// Row `row`, dequantised.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        let length = self.row_bytes();
        (self.decode)(&self.bytes()[row * length..(row + 1) * length], out);
    }

    /// All weights, dequantised.
    pub fn to_vec(&self) -> Vec<f32> {
        let mut values = buffer::zeroed(self.rows * self.columns);
        self.rows(0, self.rows, &mut values);
        values
    }

    /// `out [count, rows] = x [count, columns] * self^T` for a few rows of activations: every block is dequantised into registers
    /// and used at once, in parallel over the weight's rows.
    pub fn times_transposed(&self, x: &[f32], out: &mut [f32], count: usize) {
        debug_assert!(x.len() == count * self.columns && out.len() == count * self.rows);
        let row = |index: usize| &x[index * self.columns..(index + 1) * self.columns];
        let mut done = 0;
        while done < count {
            let out = &mut out[done * self.rows..];
            done += match count - done {
                1 => self.times_few([row(done)], out),
                2 => self.times_few([row(done), row(done + 1)], out),
                3 => self.times_few([row(done), row(done + 1), row(done + 2)], out),
                _ => self.times_few([row(done), row(done + 1), row(done + 2), row(done + 3)], out),
            };
        }
    }

    /// As [`Self::times_transposed`] for a number of rows known to the compiler, which it returns.
    fn times_few<const COUNT: usize>(&self, x: [&[f32]; COUNT], out: &mut [f32]) -> usize {
        let level = Level::best();
        let block = (self.rows / (4 * rayon::current_num_threads())).max(16);
        let fill = |first: usize, out: &mut [f32]| {
            let from = first / COUNT * self.row_bytes();
            self.dots(level, &self.bytes()[from..from + out.len() / COUNT * self.row_bytes()], &x, out);
        };
        if COUNT == 1 {
            parallel::by_chunks(&mut out[..self.rows], block, fill);
            return COUNT;
        }
        // The kernel gives the results of a weight's row side by side.
        let mut together = Buffer::new(self.rows * COUNT);
        parallel::by_chunks(&mut together, block * COUNT, fill);
        for (index, out) in out[..COUNT * self.rows].chunks_exact_mut(self.rows.max(1)).enumerate() {
            out.iter_mut().zip(together[index..].iter().step_by(COUNT)).for_each(|(out, value)| *out = *value);
        }
        COUNT
    }

    fn dots<const COUNT: usize>(&self, level: Level, bytes: &[u8], x: &[&[f32]; COUNT], out: &mut [f32]) {
        let rows = dot::Rows { dtype: self.dtype, decode: self.decode, bytes, row_bytes: self.row_bytes() };
        dot::dots(level, rows, x, out);
    }
}

/// A format's name as users write it: "q4_0", "q6_k", "bf16".
pub fn name_of(dtype: GgmlDType) -> String {
    let name = format!("{dtype:?}").to_lowercase();
    match name.strip_suffix('k') {
        Some(start) if !start.ends_with('_') => format!("{start}_k"),
        _ => name,
    }
}

fn from_float<B: GgmlType>(values: &[f32], words: &mut [u16]) {
    debug_assert_eq!(values.len() / B::BLCK_SIZE * size_of::<B>(), 2 * words.len());
    // SAFETY: candle's block types are `repr(C)` and plain data; those used here are aligned as u16, and the words hold exactly
    // so many of them.
    let blocks = unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast::<B>(), 2 * words.len() / size_of::<B>()) };
    B::from_float(values, blocks);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::values;
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    const KINDS: [GgmlDType; 10] = {
        use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K]
    };

    /// A matrix as candle quantises it, and candle's dequantised values.
    fn matrix(dtype: GgmlDType, rows: usize, columns: usize) -> (Quantised, Vec<f32>) {
        let scale = |i: usize| if (i / 50).is_multiple_of(3) { 1e-5 } else { 0.7 };
        let numbers: Vec<f32> = values(rows * columns, 5).into_iter().enumerate().map(|(i, v)| v * scale(i)).collect();
        let stored = QTensor::quantize(&Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap(), dtype).unwrap();
        let dequantised = stored.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let bytes = stored.data().unwrap();
        let length = bytes.len() / rows;
        let made = Quantised::from_blocks(dtype, (rows, columns), |row| &bytes[row * length..(row + 1) * length]).unwrap();
        assert_eq!(made.bytes(), &*bytes);
        (made, dequantised)
    }

    #[test]
    fn rows_are_dequantised_as_candle_does_it_bit_for_bit() {
        for dtype in KINDS {
            let (made, expected) = matrix(dtype, 67, 512);
            assert_eq!(made.to_vec(), expected, "{dtype:?}");
            let mut out = Vec::new();
            assert_eq!(made.rows(3, 40, &mut out), &expected[3 * 512..40 * 512], "{dtype:?}");
            let mut row = vec![0.0; 512];
            made.copy_row(66, &mut row);
            assert_eq!(row, expected[66 * 512..], "{dtype:?}");
        }
    }

    #[test]
    fn quantised_values_are_candles() {
        for dtype in [GgmlDType::Q4_0, GgmlDType::Q8_0] {
            let numbers = values(5 * 96, 1);
            let made = Quantised::quantise(dtype, (5, 96), |row, out| out.copy_from_slice(&numbers[row * 96..][..96])).unwrap();
            let tensor = Tensor::from_slice(&numbers, (5, 96), &Device::Cpu).unwrap();
            assert_eq!(made.bytes(), &*QTensor::quantize(&tensor, dtype).unwrap().data().unwrap());
        }
    }

    /// At every level that this processor has, for every number of rows, in odd sizes.
    #[test]
    fn dot_products_equal_those_with_dequantised_weights() {
        for dtype in KINDS {
            for (rows, blocks) in [(1, 1), (37, 3), (130, 2)] {
                let columns = blocks * dtype.block_size();
                let (made, weights) = matrix(dtype, rows, columns);
                let x = values(FEW_ROWS * columns, 9);
                let expected: Vec<(f64, f64)> = (0..FEW_ROWS * rows)
                    .map(|i| {
                        let (x, w) = (&x[i / rows * columns..], &weights[i % rows * columns..]);
                        let terms = x.iter().zip(w).take(columns).map(|(x, w)| f64::from(*x) * f64::from(*w));
                        (terms.clone().sum(), terms.map(f64::abs).sum())
                    })
                    .collect();
                for count in 1..=FEW_ROWS {
                    let mut out = vec![f32::NAN; count * rows];
                    made.times_transposed(&x[..count * columns], &mut out, count);
                    for (value, (sum, size)) in out.iter().zip(&expected) {
                        assert!((f64::from(*value) - sum).abs() <= 2e-6 * size, "{dtype:?} {rows} {count}: {value} {sum}");
                    }
                }
                for level in Level::all() {
                    let mut out = vec![f32::NAN; rows * 2];
                    made.dots(level, made.bytes(), &[&x[..columns], &x[columns..2 * columns]], &mut out);
                    for (i, value) in out.iter().enumerate() {
                        let (sum, size) = expected[i % 2 * rows + i / 2];
                        assert!((f64::from(*value) - sum).abs() <= 2e-6 * size, "{dtype:?} {level:?}: {value} {sum}");
                    }
                }
            }
        }
    }

    /// More rows than are multiplied in registers, and the product of the backward pass, over several panels.
    #[test]
    fn products_equal_those_with_the_dequantised_matrix() {
        use crate::ops::matrix::{Dims, Weight, times_weight, times_weight_transposed};
        for dtype in [GgmlDType::Q4_0, GgmlDType::Q6K] {
            let (rows, columns) = (600, 256);
            let (made, weights) = matrix(dtype, rows, columns);
            for count in [3, 21, 70] {
                let (x, g) = (values(count * columns, 3), values(count * rows, 4));
                let dims = Dims { rows: count, inputs: columns, outputs: rows };
                let products = |weight| {
                    let (mut y, mut dx) = (vec![f32::NAN; count * rows], vec![f32::NAN; count * columns]);
                    times_weight_transposed(&x, weight, &mut y, false, dims);
                    times_weight(&g, weight, &mut dx, false, dims);
                    [y, dx].concat()
                };
                for (value, expected) in products(Weight::Quantised(&made)).iter().zip(products(Weight::F32(&weights))) {
                    assert!((value - expected).abs() <= 1e-4, "{dtype:?}: {value} {expected}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_in_words() {
        let refused = |dtype, columns| Quantised::from_blocks(dtype, (1, columns), |_| &[]).unwrap_err().to_string();
        assert!(refused(GgmlDType::Q4_0, 33).contains("rows of 33 weights are no whole number of blocks of 32"));
        assert!(refused(GgmlDType::Q8_1, 32).contains("not kept as Q8_1"));
        let error = Quantised::quantise(GgmlDType::Q4K, (1, 256), |_, _| {}).unwrap_err().to_string();
        assert!(error.contains("Q4_0 and Q8_0"), "{error}");
        assert_eq!((name_of(GgmlDType::Q4_1), name_of(GgmlDType::Q6K)), ("q4_1".to_string(), "q6_k".to_string()));
    }
}
