//! Matrix products of many rows with a weight that is packed some columns at a time.
//!
//! 6 rows of the left operand meet a panel of 64 columns in 24 vector registers of AVX-512, or one of 16 columns in 12 of AVX2
//! (Goto and van de Geijn 2008, "Anatomy of high-performance matrix multiplication"). Panels of 16 columns read the left operand
//! four times as often, so that it is packed too. Every sum runs over its steps in order, so that a row's result depends neither on
//! the other rows nor on the number of threads.
//!
//! Where there is a matrix unit (AMX), products of more rows go through it: its products of bf16 take so little time that six of them,
//! which make one of f32, take less than one in vector registers. There a row among many differs in its last bits from the same row
//! among few. `FTREPL_AMX=off` leaves the unit unused.
//!
//! Two operands in bf16 can be multiplied by the instruction made for it (`vdpbf16ps`: bf16 products, f32 sums). Whether that is
//! worth it in vector registers differs: some processors do it twice as fast as f32, some at half the speed. So the two are timed once;
//! `FTREPL_BF16=on` or `off` decides instead.

#[cfg(target_arch = "x86_64")]
mod blocks;
#[cfg(target_arch = "x86_64")]
mod instruction;
#[cfg(target_arch = "x86_64")]
mod kept;
#[cfg(target_arch = "x86_64")]
mod multiply;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod pack_avx2;
#[cfg(target_arch = "x86_64")]
mod slivers;
#[cfg(target_arch = "x86_64")]
mod split;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod unit;

/// The weight, stored by steps of the sum (`[k, n]`) or by columns of the result (`[n, k]`).
#[derive(Clone, Copy)]
pub(super) enum Right<'a, T> {
    ByStep(&'a [T]),
    ByColumn(&'a [T]),
}

/// A product's sizes, and the distance from row to row of the left operand and the result.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    /// Rows.
    pub m: usize,
    /// Columns.
    pub n: usize,
    /// Steps of every sum.
    pub k: usize,
    pub left_stride: usize,
    pub out_stride: usize,
}

impl Shape {
    /// Whether slices of these lengths hold the operands.
    fn fits(&self, left: usize, right: usize, out: usize) -> bool {
        left >= extent(self.m, self.k, self.left_stride)
            && right >= self.n * self.k
            && out >= extent(self.m, self.n, self.out_stride)
    }

    /// The same where the left operand is stored by steps.
    fn fits_transposed(&self, left: usize, right: usize, out: usize) -> bool {
        left >= extent(self.k, self.m, self.left_stride)
            && right >= self.n * self.k
            && out >= extent(self.m, self.n, self.out_stride)
    }
}

/// Elements from the first to the last of so many rows.
fn extent(rows: usize, columns: usize, stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1) * stride + columns }
}

#[cfg(target_arch = "x86_64")]
pub(super) use kept::{Kept, Panels, product_kept, rounds_few_rows};
#[cfg(target_arch = "x86_64")]
pub(super) use multiply::{
    pack_for_transposed, product, product_bf16, product_widened, transposed_product, transposed_product_bf16,
};
#[cfg(target_arch = "x86_64")]
pub(super) use unit::has_matrix_unit;

/// Whether products go through a matrix unit.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn has_matrix_unit() -> bool {
    false
}

/// Without the instructions nothing is computed: the caller takes another way.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product(_: &[f32], _: Right<'_, f32>, _: &mut [f32], _: bool, _: Shape) -> bool {
    false
}

/// As [`product`].
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn transposed_product(_: &[f32], _: &[f32], _: &mut [f32], _: bool, _: (usize, usize, usize)) -> bool {
    false
}

/// As [`product`].
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product_widened(_: &[f32], _: Right<'_, half::bf16>, _: &mut [f32], _: bool, _: Shape) -> bool {
    false
}

/// There are none.
#[cfg(not(target_arch = "x86_64"))]
pub(super) enum Panels {}

/// As [`product`].
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn pack_for_transposed(_: &[f32], _: usize, _: usize) -> Option<Panels> {
    None
}

/// There are no panels to call it with.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn transposed_product_bf16(_: &[f32], panels: &Panels, _: &mut [f32], _: bool, _: Shape) {
    match *panels {}
}

/// Nothing is kept.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Default)]
pub(super) struct Kept;

/// As [`product`].
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn rounds_few_rows(_: usize) -> bool {
    false
}

/// As [`product`].
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product_kept(_: &[f32], _: Right<'_, f32>, _: &Kept, _: &mut [f32], _: bool, _: Shape) -> bool {
    false
}

/// As [`product`].
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product_bf16<T>(_: &[f32], _: Right<'_, T>, _: &mut [f32], _: bool, _: Shape) -> bool {
    false
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::instruction::has_bf16;
    use super::multiply::{multiply_bf16, product, transposed_product_bf16};
    use super::*;
    use crate::ops::check::values;
    use crate::ops::vector::{Level, has_vectors};
    use half::bf16;

    fn shape(m: usize, n: usize, k: usize) -> Shape {
        Shape { m, n, k, left_stride: k, out_stride: n }
    }

    const SIZES: [(usize, usize, usize); 7] =
        [(1, 1, 2), (7, 3, 6), (5, 64, 16), (13, 70, 34), (6, 130, 600), (65, 17, 1030), (100, 200, 48)];

    fn exact(a: &[f32], b: &[f32], start: f32, (m, n, k): (usize, usize, usize)) -> Vec<f64> {
        let sum = |r: usize, c: usize| (0..k).map(|s| f64::from(a[r * k + s]) * f64::from(b[c * k + s])).sum::<f64>();
        (0..m * n).map(|i| sum(i / n, i % n) + f64::from(start)).collect()
    }

    fn swap(v: &[f32], rows: usize, columns: usize) -> Vec<f32> {
        (0..v.len()).map(|i| v[i % rows * columns + i / rows]).collect()
    }

    #[test]
    fn products_of_odd_sizes_equal_those_of_rounded_operands() {
        let narrow = |v: &[f32]| v.iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>();
        let widen = |v: &[bf16]| v.iter().map(|v| v.to_f32()).collect::<Vec<_>>();
        let close = |out: &[f32], expected: &[f64]| {
            out.iter().zip(expected).for_each(|(x, y)| assert!((f64::from(*x) - y).abs() < 1e-4 * (1.0 + y.abs()), "{x} {y}"));
        };
        for (m, n, k) in SIZES {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let swapped = swap(&b, n, k);
            let (b_columns, b_steps) = (narrow(&b), narrow(&swapped));
            let pairs = [
                (Right::ByColumn(&b[..]), Right::ByColumn(&b_columns[..])),
                (Right::ByStep(&swapped[..]), Right::ByStep(&b_steps[..])),
            ];
            for (wide, rounded) in pairs {
                for (add, start) in [(false, 0.0), (true, 0.5)] {
                    let (mut out, mut out_bf16) = (vec![0.5; m * n], vec![0.5; m * n]);
                    assert_eq!(product(&a, wide, &mut out, add, shape(m, n, k)), has_vectors());
                    if has_vectors() {
                        close(&out, &exact(&a, &b, start, (m, n, k)));
                    }
                    assert_eq!(multiply_bf16(&a, rounded, &mut out_bf16, add, shape(m, n, k)), has_bf16());
                    let mut out_rounded = vec![0.5; m * n];
                    assert_eq!(multiply_bf16(&a, wide, &mut out_rounded, add, shape(m, n, k)), has_bf16());
                    if has_bf16() {
                        close(&out_bf16, &exact(&widen(&narrow(&a)), &widen(&b_columns), start, (m, n, k)));
                        // An operand that is rounded while it is packed gives the same bits as one that was rounded before.
                        assert_eq!(out_rounded, out_bf16);
                    }
                }
            }
        }
    }

    /// Some columns of the left operand, in rows that are further apart, with an odd number of steps too.
    #[test]
    fn products_of_a_transpose_equal_those_of_rounded_operands() {
        if !has_bf16() {
            return;
        }
        let round = |v: &[f32]| v.iter().map(|v| bf16::from_f32(*v).to_f32()).collect::<Vec<_>>();
        let odd = [(1, 1, 1), (70, 3, 5), (64, 64, 600), (192, 100, 577), (9, 17, 1153), (3, 5, 0)];
        for (m, n, k) in SIZES.into_iter().chain(odd) {
            let (first, stride) = (2, m + 3);
            let (wide, b) = (values(k * stride, 1), values(k * n, 2));
            let a: Vec<f32> = (0..m * k).map(|i| wide[i % k.max(1) * stride + first + i / k.max(1)]).collect();
            let rounded = exact(&round(&a), &round(&swap(&b, k, n)), 0.5, (m, n, k));
            for add in [false, true] {
                let mut out = vec![0.5; m * n];
                let shape = Shape { left_stride: stride, ..shape(m, n, k) };
                let panels = Panels::pack(Right::ByStep(&b), n, k);
                transposed_product_bf16(&wide[first.min(wide.len())..], &panels, &mut out, add, shape);
                for (x, y) in out.iter().zip(&rounded) {
                    let y = if add { *y } else { y - 0.5 };
                    assert!((f64::from(*x) - y).abs() < 1e-4 * (1.0 + y.abs()), "{x} {y}, {m} {n} {k}");
                }
            }
        }
    }

    /// Elements that are widened while they are packed, and a left operand stored by steps: of more rows than are packed at once, and of more
    /// steps.
    #[test]
    fn products_in_parts_equal_the_definition() {
        if Level::best() != Level::Avx2 {
            return;
        }
        let close = |out: &[f32], expected: &[f64]| {
            out.iter().zip(expected).for_each(|(x, y)| assert!((f64::from(*x) - y).abs() < 1e-4 * (1.0 + y.abs()), "{x} {y}"));
        };
        for (m, n, k) in SIZES.into_iter().chain([(3080, 17, 9), (400, 3, 2700), (5, 3, 0)]) {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let narrow: Vec<bf16> = b.iter().map(|v| bf16::from_f32(*v)).collect();
            let wide: Vec<f32> = narrow.iter().map(|v| v.to_f32()).collect();
            let by_step: Vec<bf16> = (0..n * k).map(|i| narrow[i % n * k + i / n]).collect();
            for (add, start) in [(false, 0.0), (true, 0.5)] {
                let expected = exact(&a, &wide, start, (m, n, k));
                let mut outs = [const { Vec::new() }; 3].map(|_: Vec<f32>| vec![0.5; m * n]);
                let [by_columns, by_steps, transposed] = &mut outs;
                assert!(product_widened(&a, Right::ByColumn(&narrow), by_columns, add, shape(m, n, k)));
                assert!(product_widened(&a, Right::ByStep(&by_step), by_steps, add, shape(m, n, k)));
                let steps: Vec<f32> = by_step.iter().map(|v| v.to_f32()).collect();
                assert!(transposed_product(&swap(&a, m, k), &steps, transposed, add, (m, n, k)));
                outs.iter().for_each(|out| close(out, &expected));
                // Widened or stored so, by rows or by steps: every sum has the same order.
                assert!(outs[0] == outs[1] && outs[0] == outs[2]);
            }
        }
    }

    /// A row among few others, among many, and as part of a parallel product gives the same bits; "few" is for the matrix unit less
    /// than it is worth packing for.
    #[test]
    fn a_row_does_not_depend_on_the_others() {
        if !has_vectors() {
            return;
        }
        let (n, k) = (200, 330);
        let mut cases = vec![(40, [(0, 1), (17, 5), (30, 10)]), (150, [(0, 48), (67, 50), (101, 49)])];
        if !has_matrix_unit() {
            cases.push((150, [(0, 1), (67, 5), (140, 10)]));
        }
        for (m, parts) in cases {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            for right in [Right::ByColumn(&b[..]), Right::ByStep(&b[..])] {
                let mut whole = vec![0f32; m * n];
                product(&a, right, &mut whole, false, shape(m, n, k));
                for (first, count) in parts {
                    let mut part = vec![0f32; count * n];
                    product(&a[first * k..], right, &mut part, false, shape(count, n, k));
                    assert_eq!(part, whole[first * n..][..count * n]);
                }
            }
        }
    }
}
