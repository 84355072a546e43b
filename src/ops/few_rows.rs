//! Products of a few rows with a weight, as in generation and in training on short rows.
//!
//! A general matrix product packs the weight first, which pays only when many rows use it. Here the weight is read once, in
//! order, straight into vector registers: `x W^T` as dot products of 6 rows with 4 weight rows, `g W` as sums of weight rows.
//! AVX-512 is found at run time; `FTREPL_SIMD=off` leaves it unused, as on machines without it.

use super::exp::vectorised;
use super::matrix::{Dims, Weight};
use super::parallel;
use std::cell::RefCell;
use std::sync::OnceLock;

/// Up to this many rows the weight is not packed.
pub(super) const MOST_ROWS: usize = 16;

/// As [`MOST_ROWS`], without AVX-512.
const MOST_ROWS_PORTABLE: usize = 2;

/// Rows of one tile, which meet a weight's rows at once.
pub(super) fn cheap_rows() -> usize {
    if has_avx512() { 6 } else { MOST_ROWS_PORTABLE }
}

/// Whether AVX-512 may be used.
pub(super) fn has_avx512() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        #[cfg(target_arch = "x86_64")]
        let found = is_x86_feature_detected!("avx512f");
        #[cfg(not(target_arch = "x86_64"))]
        let found = false;
        found && std::env::var("FTREPL_SIMD").map_or(true, |v| v != "off")
    })
}

/// A matrix of which parallel tasks write different columns.
#[derive(Clone, Copy)]
struct Columns(*mut f32);

// SAFETY: every task writes only the columns that it was given.
unsafe impl Send for Columns {}
// SAFETY: as above.
unsafe impl Sync for Columns {}

impl Columns {
    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

thread_local! {
    static WIDENED: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// Runs `read` on rows `from..to` of the weight in f32, widened where they are stored otherwise.
fn with_rows(weight: Weight<'_>, from: usize, to: usize, columns: usize, read: impl FnOnce(&[f32])) {
    if let Weight::F32(values) | Weight::Steady(values, _) = weight {
        return read(&values[from * columns..to * columns]);
    }
    WIDENED.with(|scratch| {
        let mut scratch = scratch.borrow_mut();
        scratch.resize((to - from) * columns, 0.0);
        for (row, out) in (from..to).zip(scratch.chunks_exact_mut(columns)) {
            weight.copy_row(row, out);
        }
        read(&scratch);
    });
}

/// `out [rows, outputs] = (add ? out : 0) + x [rows, inputs] * weight [outputs, inputs]^T`; `false` where this machine cannot.
pub(super) fn times_weight_transposed(x: &[f32], weight: Weight<'_>, out: &mut [f32], add: bool, dims: Dims) -> bool {
    let Dims { rows, inputs, outputs } = dims;
    if rows > if has_avx512() { MOST_ROWS } else { MOST_ROWS_PORTABLE } {
        return false;
    }
    assert!(x.len() >= rows * inputs && out.len() >= rows * outputs);
    let cells = Columns(out.as_mut_ptr());
    let task = |from: usize, to: usize| {
        // A few weight rows at a time, so that they stay in the first cache while all rows of `x` meet them.
        for first in (from..to).step_by(8) {
            let last = (first + 8).min(to);
            with_rows(weight, first, last, inputs, |w| {
                #[cfg(target_arch = "x86_64")]
                if has_avx512() {
                    // SAFETY: AVX-512 was found; `x` holds `rows` rows, `w` those from first to last; the columns are the task's own.
                    return unsafe { avx512::dots(x, w, rows, last - first, inputs, cells.at(first), outputs, add) };
                }
                for (row, x) in x.chunks_exact(inputs).take(rows).enumerate() {
                    for (column, w) in (first..last).zip(w.chunks_exact(inputs)) {
                        // SAFETY: a cell of the result, in a column that is this task's own.
                        let cell = unsafe { &mut *cells.at(row * outputs + column) };
                        *cell = dot(x, w) + if add { *cell } else { 0.0 };
                    }
                }
            });
        }
    };
    parallel::in_ranges(outputs, 8, rows * inputs * outputs, task);
    true
}

/// `out [rows, inputs] = (add ? out : 0) + g [rows, outputs] * weight [outputs, inputs]`; `false` where this machine cannot.
pub(super) fn times_weight(g: &[f32], weight: Weight<'_>, out: &mut [f32], add: bool, dims: Dims) -> bool {
    let Dims { rows, inputs, outputs } = dims;
    if !has_avx512() || rows > MOST_ROWS {
        return false;
    }
    assert!(g.len() >= rows * outputs && out.len() >= rows * inputs);
    /// Weight rows that are added up before the sums are put down.
    const DEPTH: usize = 32;
    // Parts by the shape alone, so that the sums are the same for any number of threads; long sums are cut, as they lose digits.
    let parts = (outputs / (2 * DEPTH)).clamp(1, 8).max(outputs / 4096);
    let size = outputs.div_ceil(parts).next_multiple_of(DEPTH);
    let sum_part = |part: usize, sums: &mut [f32]| {
        let end = ((part + 1) * size).min(outputs);
        for first in (part * size..end).step_by(DEPTH) {
            let last = (first + DEPTH).min(end);
            with_rows(weight, first, last, inputs, |w| {
                // SAFETY: AVX-512 was found; `g` holds `rows` rows of `outputs`, `w` the weight rows first to last.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    avx512::mix(&g[first..], outputs, w, last - first, sums, rows, inputs);
                }
            });
        }
    };
    let out = &mut out[..rows * inputs];
    if !add {
        out.fill(0.0);
    }
    if out.is_empty() {
        return true;
    }
    if parts == 1 {
        sum_part(0, out);
        return true;
    }
    let mut sums = vec![0f32; parts * rows * inputs];
    parallel::by_chunks(&mut sums, rows * inputs, |first, sums| {
        sums.chunks_mut(rows * inputs).enumerate().for_each(|(i, sums)| sum_part(first / (rows * inputs) + i, sums));
    });
    for part in sums.chunks_exact(rows * inputs) {
        out.iter_mut().zip(part).for_each(|(o, v)| *o += v);
    }
    true
}

vectorised! {
    /// In 32 independent sums, so that the compiler can use vector registers.
    fn dot(x: &[f32], w: &[f32]) -> f32 {
        let mut sums = [0f32; 32];
        for (x, w) in x.chunks(32).zip(w.chunks(32)) {
            sums.iter_mut().zip(x).zip(w).for_each(|((sum, a), b)| *sum += a * b);
        }
        sums.iter().sum()
    }
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop, reason = "rows and columns of tiles are coordinates")]
mod avx512 {
    use std::arch::x86_64::*;

    /// Rows of a tile.
    const ROWS: usize = 6;

    /// Bits for the first `count` lanes.
    fn lanes(count: usize) -> __mmask16 {
        if count >= 16 { !0 } else { (1u16 << count) - 1 }
    }

    /// `out[r * stride + c] = (add ? out : 0) + x_r . w_c` for all rows of `x` and `w`.
    ///
    /// # Safety
    /// AVX-512F must be there; the slices must hold `rows` and `count` rows of length `k`, and `out` be valid for the result.
    #[target_feature(enable = "avx512f")]
    #[allow(clippy::too_many_arguments, reason = "the shape of a matrix product")]
    pub unsafe fn dots(x: &[f32], w: &[f32], rows: usize, count: usize, k: usize, out: *mut f32, stride: usize, add: bool) {
        let (x, w) = (x.as_ptr(), w.as_ptr());
        // SAFETY: passed on from the caller: rows and columns stay below the counts.
        unsafe {
            for column in (0..count).step_by(4) {
                let (w, out) = (w.add(column * k), out.add(column));
                for row in (0..rows).step_by(ROWS) {
                    let (x, out) = (x.add(row * k), out.add(row * stride));
                    match ((rows - row).min(ROWS), (count - column).min(4)) {
                        (6, 4) => dot_tile::<6, 4>(x, w, k, out, stride, add),
                        (5, 4) => dot_tile::<5, 4>(x, w, k, out, stride, add),
                        (4, 4) => dot_tile::<4, 4>(x, w, k, out, stride, add),
                        (3, 4) => dot_tile::<3, 4>(x, w, k, out, stride, add),
                        (2, 4) => dot_tile::<2, 4>(x, w, k, out, stride, add),
                        (1, 4) => dot_tile::<1, 4>(x, w, k, out, stride, add),
                        (some, few) => {
                            for r in 0..some {
                                for c in 0..few {
                                    dot_tile::<1, 1>(x.add(r * k), w.add(c * k), k, out.add(r * stride + c), stride, add);
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn dot_tile<const R: usize, const C: usize>(
        x: *const f32,
        w: *const f32,
        k: usize,
        out: *mut f32,
        stride: usize,
        add: bool,
    ) {
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        // SAFETY: every access lies in the first `k` elements of a row; the rest of the last step is masked.
        unsafe {
            let mut at = 0;
            while at + 16 <= k {
                let mut ws = [_mm512_setzero_ps(); C];
                for c in 0..C {
                    ws[c] = _mm512_loadu_ps(w.add(c * k + at));
                }
                for r in 0..R {
                    let value = _mm512_loadu_ps(x.add(r * k + at));
                    for c in 0..C {
                        sums[r][c] = _mm512_fmadd_ps(value, ws[c], sums[r][c]);
                    }
                }
                at += 16;
            }
            if at < k {
                let mask = lanes(k - at);
                for r in 0..R {
                    let value = _mm512_maskz_loadu_ps(mask, x.add(r * k + at));
                    for c in 0..C {
                        let weight = _mm512_maskz_loadu_ps(mask, w.add(c * k + at));
                        sums[r][c] = _mm512_fmadd_ps(value, weight, sums[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..C {
                    let cell = out.add(r * stride + c);
                    let sum = _mm512_reduce_add_ps(sums[r][c]);
                    *cell = if add { *cell + sum } else { sum };
                }
            }
        }
    }

    /// `out [rows, columns] += g [rows, depth] * w [depth, columns]`; a row of `g` begins every `stride` elements.
    ///
    /// # Safety
    /// AVX-512F must be there, and the slices hold what is said.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn mix(g: &[f32], stride: usize, w: &[f32], depth: usize, out: &mut [f32], rows: usize, columns: usize) {
        let (g, w, out) = (g.as_ptr(), w.as_ptr(), out.as_mut_ptr());
        // SAFETY: passed on from the caller.
        unsafe {
            for column in (0..columns).step_by(64) {
                let width = (columns - column).min(64);
                let (w, out) = (w.add(column), out.add(column));
                for row in (0..rows).step_by(ROWS) {
                    let (g, out) = (g.add(row * stride), out.add(row * columns));
                    match (rows - row).min(ROWS) {
                        6 => mix_tile::<6>(g, stride, w, depth, out, columns, width),
                        5 => mix_tile::<5>(g, stride, w, depth, out, columns, width),
                        4 => mix_tile::<4>(g, stride, w, depth, out, columns, width),
                        3 => mix_tile::<3>(g, stride, w, depth, out, columns, width),
                        2 => mix_tile::<2>(g, stride, w, depth, out, columns, width),
                        _ => mix_tile::<1>(g, stride, w, depth, out, columns, width),
                    }
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn mix_tile<const R: usize>(
        g: *const f32,
        stride: usize,
        w: *const f32,
        depth: usize,
        out: *mut f32,
        columns: usize,
        width: usize,
    ) {
        let masks = [0, 16, 32, 48].map(|from: usize| lanes(width.saturating_sub(from)));
        let mut sums = [[_mm512_setzero_ps(); 4]; R];
        // SAFETY: masked lanes are not accessed; the others lie inside the matrices.
        unsafe {
            for r in 0..R {
                for c in 0..4 {
                    sums[r][c] = _mm512_maskz_loadu_ps(masks[c], out.wrapping_add(r * columns + c * 16));
                }
            }
            for d in 0..depth {
                let mut ws = [_mm512_setzero_ps(); 4];
                for c in 0..4 {
                    ws[c] = _mm512_maskz_loadu_ps(masks[c], w.wrapping_add(d * columns + c * 16));
                }
                for r in 0..R {
                    let factor = _mm512_set1_ps(*g.add(r * stride + d));
                    for c in 0..4 {
                        sums[r][c] = _mm512_fmadd_ps(factor, ws[c], sums[r][c]);
                    }
                }
            }
            for r in 0..R {
                for c in 0..4 {
                    _mm512_mask_storeu_ps(out.wrapping_add(r * columns + c * 16), masks[c], sums[r][c]);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::values;

    /// `start + sum over i of terms`, cell by cell, in f64.
    fn assert_cells(out: &[f32], start: Option<&[f32]>, columns: usize, cell: impl Fn(usize, usize) -> f64) {
        for (i, found) in out.iter().enumerate() {
            let exact = cell(i / columns, i % columns) + start.map_or(0.0, |start| f64::from(start[i]));
            assert!((f64::from(*found) - exact).abs() < 1e-4, "cell {i} of rows of {columns}: {found} {exact}");
        }
    }

    #[test]
    fn odd_sizes_equal_the_definition() {
        for (rows, inputs, outputs) in
            [(0, 3, 300), (1, 1, 1), (1, 100, 33), (2, 7, 3), (5, 64, 300), (7, 130, 9), (13, 31, 513), (16, 17, 70), (17, 9, 40)]
        {
            let dims = Dims { rows, inputs, outputs };
            let (x, g, w) = (values(rows * inputs, 1), values(rows * outputs, 4), values(outputs * inputs, 2));
            let product = |a: f32, b: f32| f64::from(a) * f64::from(b);
            for add in [false, true] {
                let start = values(rows * outputs, 3);
                let mut out = start.clone();
                let done = times_weight_transposed(&x, Weight::F32(&w), &mut out, add, dims);
                assert_eq!(done, rows <= if has_avx512() { MOST_ROWS } else { MOST_ROWS_PORTABLE });
                if done {
                    assert_cells(&out, add.then_some(&start), outputs, |r, o| {
                        (0..inputs).map(|i| product(x[r * inputs + i], w[o * inputs + i])).sum()
                    });
                }
                let start = values(rows * inputs, 5);
                let mut out = start.clone();
                let done = times_weight(&g, Weight::F32(&w), &mut out, add, dims);
                assert_eq!(done, has_avx512() && rows <= MOST_ROWS);
                if done {
                    assert_cells(&out, add.then_some(&start), inputs, |r, i| {
                        (0..outputs).map(|o| product(g[r * outputs + o], w[o * inputs + i])).sum()
                    });
                }
            }
        }
    }
}
