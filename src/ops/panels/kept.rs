//! Panels of an operand that is multiplied more than once: packed once instead of for every product.
//!
//! Rounding and packing a weight takes as long as multiplying some ten rows with it. A frozen weight, or one of a model that only
//! generates, is multiplied again and again; so after some products its panels are kept. They hold the same bits as panels that are packed
//! for one product, so that nothing changes but the time, and take half of what the weight takes, for each of the two ways to read it.

use super::instruction::is_fast;
use super::multiply::multiply_kept;
use super::pack::Narrow;
use super::tile::WIDTH;
use super::unit::has_matrix_unit;
use super::{Right, Shape};
use crate::machine::available_memory;
use crate::ops::parallel;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Products of one value of a weight before its panels are kept: more than a step of training takes.
const USES: usize = 8;

/// Part of the memory that is free when the first panels are kept: all together take no more.
const SHARE: u64 = 4;

/// 16 units, aligned to the cache's lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "read through pointers")] [i32; 16]);

const LINES: usize = WIDTH / 16;

/// Bytes that kept panels take.
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// What is kept of one value of a weight.
#[derive(Default)]
pub(in crate::ops) struct Kept {
    by_step: Side,
    by_column: Side,
}

#[derive(Default)]
struct Side {
    uses: AtomicUsize,
    /// `None` where there is no room for them.
    panels: OnceLock<Option<(Panels, Taken)>>,
}

/// A right operand's panels, rounded to bf16: `[panels, steps, WIDTH]` units of two steps.
pub(in crate::ops) struct Panels {
    lines: Vec<Line>,
    steps: usize,
}

/// The lines of panels for `n` columns and `k` steps.
fn lines(n: usize, k: usize) -> usize {
    n.div_ceil(WIDTH) * k.div_ceil(2) * LINES
}

impl Panels {
    /// The instructions for bf16 must be there; an operand by column has an even number of steps.
    pub(super) fn pack(right: Right<'_, f32>, n: usize, k: usize) -> Self {
        let steps = k.div_ceil(2);
        let mut panels = Self { lines: vec![Line([0; 16]); lines(n, k)], steps };
        let each = (steps * LINES).max(1);
        parallel::by_chunks(&mut panels.lines, each, |first, lines| {
            for (index, lines) in lines.chunks_exact_mut(each).enumerate() {
                let column = (first / each + index) * WIDTH;
                let columns = (n - column).min(WIDTH);
                // SAFETY: a line is 16 units.
                let packed = unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), steps * WIDTH) };
                // SAFETY: the instructions were found; the weight is `[k, n]` or `[n, k]`.
                unsafe {
                    match right {
                        Right::ByStep(values) => f32::interleave(&values[column..], n, k, columns, packed),
                        Right::ByColumn(values) => f32::transpose(values[column * k..].as_ptr(), k, columns, steps, packed),
                    }
                }
            }
        });
        panels
    }

    /// Whether they are those of an operand of `n` columns, with so many units a column.
    pub(super) fn fits(&self, n: usize, steps: usize) -> bool {
        self.steps == steps && self.lines.len() == n.div_ceil(WIDTH) * steps * LINES
    }

    /// The rows of the panel with this column from this step on.
    pub(super) fn at(&self, column: usize, step: usize) -> *const i32 {
        self.lines.as_ptr().wrapping_add((column / WIDTH * self.steps + step) * LINES + column % WIDTH / 16).cast()
    }
}

/// A share of the memory for panels, until it goes.
struct Taken(u64);

impl Taken {
    /// `None` where there is not enough.
    fn take(bytes: u64) -> Option<Self> {
        static MOST: OnceLock<u64> = OnceLock::new();
        // What cannot be found out is reported by whoever loads a model.
        let most = *MOST.get_or_init(|| available_memory().ok().flatten().unwrap_or(0) / SHARE);
        let more = |taken: u64| taken.checked_add(bytes).filter(|all| *all <= most);
        TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok().then(|| Self(bytes))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Whether few rows too are multiplied rounded, with a weight of so many steps in f32, where operands may be rounded.
pub(in crate::ops) fn rounds_few_rows(k: usize) -> bool {
    k.is_multiple_of(2) && !has_matrix_unit() && is_fast()
}

/// As [`product`](super::product) with both operands rounded to bf16 and the weight's panels kept; `false` where they are not, or not yet.
pub(in crate::ops) fn product_kept(
    left: &[f32],
    right: Right<'_, f32>,
    kept: &Kept,
    out: &mut [f32],
    add: bool,
    shape: Shape,
) -> bool {
    if !rounds_few_rows(shape.k) {
        return false;
    }
    let (side, values) = match right {
        Right::ByStep(values) => (&kept.by_step, values),
        Right::ByColumn(values) => (&kept.by_column, values),
    };
    assert!(shape.fits(left.len(), values.len(), out.len()));
    if side.uses.fetch_add(1, Ordering::Relaxed) < USES {
        return false;
    }
    // Within one thread: one that waited for others could take up work meanwhile that waits for these panels.
    let panels = side.panels.get_or_init(|| {
        let taken = Taken::take((lines(shape.n, shape.k) * size_of::<Line>()) as u64)?;
        Some((parallel::within(|| Panels::pack(right, shape.n, shape.k)), taken))
    });
    panels.as_ref().is_some_and(|(panels, _)| {
        multiply_kept(left, panels, out, add, shape);
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::values;
    use crate::ops::panels::instruction::has_bf16;
    use crate::ops::panels::multiply::multiply_bf16;

    #[test]
    fn kept_panels_give_the_same_bits() {
        if !has_bf16() {
            return;
        }
        for (m, n, k) in [(1, 1, 2), (13, 70, 34), (6, 130, 600), (65, 17, 1030), (100, 200, 48)] {
            let (a, b) = (values(m * k, 1), values(n * k, 2));
            let shape = Shape { m, n, k, left_stride: k, out_stride: n };
            for right in [Right::ByColumn(&b[..]), Right::ByStep(&b[..])] {
                let (mut plain, mut out) = (vec![0.5; m * n], vec![0.5; m * n]);
                assert!(multiply_bf16(&a, right, &mut plain, true, shape));
                let panels = Panels::pack(right, n, k);
                multiply_kept(&a, &panels, &mut out, true, shape);
                assert_eq!(out, plain, "{m} {n} {k}");
            }
        }
    }

    #[test]
    fn panels_are_kept_after_some_products_and_their_memory_is_given_back() {
        if !is_fast() || has_matrix_unit() {
            return;
        }
        let (m, n, k) = (20, 70, 34);
        let (a, b) = (values(m * k, 1), values(n * k, 2));
        let (mut out, shape) = (vec![0f32; m * n], Shape { m, n, k, left_stride: k, out_stride: n });
        let (kept, before) = (Kept::default(), TAKEN.load(Ordering::Relaxed));
        for _ in 0..USES {
            assert!(!product_kept(&a, Right::ByColumn(&b), &kept, &mut out, false, shape));
        }
        assert!(product_kept(&a, Right::ByColumn(&b), &kept, &mut out, false, shape));
        // The other side counts for itself.
        assert!(!product_kept(&a, Right::ByStep(&b), &kept, &mut out, false, shape));
        assert!(Taken::take(u64::MAX).is_none());
        // Two panels of 17 units for 64 columns.
        assert_eq!(TAKEN.load(Ordering::Relaxed), before + 2 * 17 * 64 * 4);
        drop(kept);
        assert_eq!(TAKEN.load(Ordering::Relaxed), before);
    }
}
