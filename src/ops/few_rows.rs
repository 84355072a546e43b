//! Products of a few rows with a weight, as in generation and in training on short rows.
//!
//! A general matrix product packs the weight first, which pays only when many rows use it. Here the weight is read once, in
//! order, straight into vector registers: `x W^T` as dot products of some rows with 4 weight rows, `g W` as sums of weight rows.

use super::exp::vectorised;
use super::matrix::{Dims, Weight};
use super::parallel;
#[cfg(target_arch = "x86_64")]
use super::vector::Level;
use super::vector::has_vectors;
use std::cell::RefCell;

#[cfg(target_arch = "x86_64")]
mod kernels;

/// Up to this many rows the weight is not packed.
pub(super) const MOST_ROWS: usize = 16;

/// As [`MOST_ROWS`], without vector registers.
const MOST_ROWS_PORTABLE: usize = 2;

/// Rows that take little more time than one: reading the weight takes longer than multiplying it with so many.
pub(super) fn cheap_rows() -> usize {
    if has_vectors() { 6 } else { MOST_ROWS_PORTABLE }
}

/// How many rows are not too many here.
fn most_rows() -> usize {
    if has_vectors() { MOST_ROWS } else { MOST_ROWS_PORTABLE }
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
    if rows > most_rows() {
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
                {
                    let (count, out) = (last - first, cells.at(first));
                    // SAFETY: the level was found; `x` holds `rows` rows, `w` those from first to last; the columns are the task's own.
                    match Level::best() {
                        Level::Avx512 => return unsafe { kernels::avx512::dots(x, w, rows, count, inputs, out, outputs, add) },
                        Level::Avx2 => return unsafe { kernels::avx2::dots(x, w, rows, count, inputs, out, outputs, add) },
                        Level::Portable => {}
                    }
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
    if !has_vectors() || rows > MOST_ROWS {
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
                // SAFETY: the level was found; `g` holds `rows` rows of `outputs`, `w` the weight rows first to last.
                #[cfg(target_arch = "x86_64")]
                unsafe {
                    match Level::best() {
                        Level::Avx512 => kernels::avx512::mix(&g[first..], outputs, w, last - first, sums, rows, inputs),
                        _ => kernels::avx2::mix(&g[first..], outputs, w, last - first, sums, rows, inputs),
                    }
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
                assert_eq!(done, rows <= most_rows());
                if done {
                    assert_cells(&out, add.then_some(&start), outputs, |r, o| {
                        (0..inputs).map(|i| product(x[r * inputs + i], w[o * inputs + i])).sum()
                    });
                }
                let start = values(rows * inputs, 5);
                let mut out = start.clone();
                let done = times_weight(&g, Weight::F32(&w), &mut out, add, dims);
                assert_eq!(done, has_vectors() && rows <= MOST_ROWS);
                if done {
                    assert_cells(&out, add.then_some(&start), inputs, |r, i| {
                        (0..outputs).map(|o| product(g[r * outputs + o], w[o * inputs + i])).sum()
                    });
                }
            }
        }
    }
}
