//! Products by the matrix unit: both operands are cut into blocks of bf16, and every tile of 32 rows by 32 columns of the result stays in
//! registers for as many steps as were packed.
//!
//! With three bf16 to an f32 the six largest of the nine products are added up. What is left out is below `2^-24` of a product, less
//! than the rounding of the sum in f32; so the result is that of a product in f32, in another order of additions.

use super::pack::fetch_rows;
use super::split::{Element, LINES, STEPS, Source, UNITS, split};
use super::unit::Tiles;
use crate::ops::parallel;
use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use std::cell::RefCell;

/// Rows and columns of the result that are computed at once.
const EDGE: usize = 2 * LINES;

/// Panels of 32 columns that a task takes one after the other, at most.
const MOST_PANELS: usize = 8;

/// Steps that are packed at once, at most: a panel of the right operand, and some rows of the left one, stay in the second cache.
const DEPTH: usize = 576;

/// The same where an f32 is one bf16.
const DEPTH_OF_ONE: usize = 864;

/// The operands `[m, k]` and `[n, k]` and the result `[m, n]`, with `stride` elements from row to row.
#[derive(Clone, Copy)]
pub(super) struct Product<T> {
    pub(super) left: Source<f32>,
    pub(super) right: Source<T>,
    pub(super) out: Cells,
    pub(super) stride: usize,
    pub(super) add: bool,
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
}

/// The result, of which parallel tasks write different cells.
#[derive(Clone, Copy)]
pub(super) struct Cells(pub(super) *mut f32);

// SAFETY: as it says.
unsafe impl Send for Cells {}
// SAFETY: as above.
unsafe impl Sync for Cells {}

impl Cells {
    fn at(self, offset: usize) -> *mut f32 {
        self.0.wrapping_add(offset)
    }
}

/// Blocks on their way to the unit, aligned to the cache's lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[allow(dead_code, reason = "read through pointers")] [i32; 16]);

const LINES_OF_BLOCK: usize = UNITS / 16;

/// A buffer of whole blocks; what it held before is of no interest. It is taken out of its place meanwhile, because a thread that waits
/// for others may begin another product.
fn with_blocks<T>(
    place: &'static std::thread::LocalKey<RefCell<Vec<Line>>>,
    blocks: usize,
    work: impl FnOnce(&mut [Line]) -> T,
) -> T {
    let mut lines = place.take();
    if lines.len() < blocks * LINES_OF_BLOCK {
        lines.resize(blocks * LINES_OF_BLOCK, Line([0; 16]));
    }
    let result = work(&mut lines[..blocks * LINES_OF_BLOCK]);
    place.set(lines);
    result
}

thread_local! {
    static LEFT: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
    static RIGHT: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Packs two groups of 16 lines: for every 32 steps `P` planes of two blocks.
unsafe fn pack<T: Element, const P: usize>(from: Source<T>, lines: usize, steps: usize, across: bool, to: &mut [Line]) {
    for (index, to) in to.chunks_exact_mut(2 * P * LINES_OF_BLOCK).enumerate() {
        let step = index * STEPS;
        for half in 0..2 {
            let to = to[half * LINES_OF_BLOCK..].as_mut_ptr().cast();
            let from = from.at(half * LINES, step);
            // SAFETY: passed on from the caller; plane `p` of this half is `2 p` blocks further.
            unsafe { split::<T, P>(from, lines.saturating_sub(half * LINES), steps - step, across, to, 2 * UNITS) };
        }
    }
}

/// The product with `P` planes of bf16 to an f32.
///
/// # Safety
/// The unit must be there, and every element that the product names.
pub(super) unsafe fn multiply<T: Element, const P: usize>(product: Product<T>) {
    let Product { m, n, k, stride, .. } = product;
    if m == 0 || n == 0 {
        return;
    }
    // Depths that differ by at most a block.
    let rounds = k.div_ceil(if P == 1 { DEPTH_OF_ONE } else { DEPTH }).max(1);
    let depth = k.div_ceil(rounds).next_multiple_of(STEPS).max(STEPS);
    let (panels, row_blocks) = (n.div_ceil(EDGE), m.div_ceil(EDGE));
    // Runs of panels side by side, because the next one is read ahead; parts of the rows where panels are few.
    let threads = if parallel::inside() { 1 } else { rayon::current_num_threads() };
    let run = panels.div_ceil(4 * threads).clamp(1, MOST_PANELS);
    let runs = panels.div_ceil(run);
    let parts = threads.div_ceil(runs).min(row_blocks);
    let part = row_blocks.div_ceil(parts);
    // One round even without any step, so that the result is written.
    for step in (0..k.max(1)).step_by(depth) {
        let steps = (k - step).min(depth);
        let blocks = 2 * P * steps.div_ceil(STEPS).max(1);
        let add = product.add || step > 0;
        with_blocks(&LEFT, row_blocks * blocks, |left| {
            parallel::by_chunks(left, blocks * LINES_OF_BLOCK, |first, to| {
                let row = first / LINES_OF_BLOCK / blocks * EDGE;
                // All of them where there is one task.
                for (i, to) in to.chunks_exact_mut(blocks * LINES_OF_BLOCK).enumerate() {
                    let row = row + i * EDGE;
                    // SAFETY: passed on from the caller.
                    unsafe { pack::<f32, P>(product.left.at(row, step), m - row, steps, false, to) };
                }
            });
            let left = &*left;
            parallel::for_each(runs * parts, m * n * steps, |index| {
                let (first_panel, first) = (index / parts * run, index % parts * part);
                let last = row_blocks.min(first + part);
                with_blocks(&RIGHT, blocks, |right| {
                    for panel in first_panel..panels.min(first_panel + run) {
                        let column = panel * EDGE;
                        let columns = (n - column).min(EDGE);
                        // What this thread packs next: the panel after this one, or the first one of what is probably its next run.
                        let next = if panel + 1 < first_panel + run { panel + 1 } else { first_panel + threads * run };
                        // SAFETY: passed on from the caller.
                        unsafe {
                            pack::<T, P>(product.right.at(column, step), columns, steps, true, right);
                            let _tiles = Tiles::lay_out();
                            for block in first..last {
                                let row = block * EDGE;
                                let rows = (m - row).min(EDGE);
                                fetch(product, next * EDGE, step..step + steps, block - first, last - first);
                                let left = left[block * blocks * LINES_OF_BLOCK..].as_ptr().cast();
                                let out = product.out.at(row * stride + column);
                                whole_or_part::<P>(
                                    left,
                                    right.as_ptr().cast(),
                                    blocks / (2 * P),
                                    out,
                                    stride,
                                    add,
                                    rows,
                                    columns,
                                );
                            }
                        }
                    }
                });
            });
        });
    }
}

/// Asks for a share of the elements that are packed next.
fn fetch<T: Element>(product: Product<T>, column: usize, steps: std::ops::Range<usize>, share: usize, shares: usize) {
    let columns = product.n.saturating_sub(column).min(EDGE);
    let (rows, length) = if product.right.by_line { (columns, steps.len()) } else { (steps.len(), columns) };
    let start = product.right.at(column, steps.start);
    fetch_rows(start.values, start.stride, length, share * rows / shares..(share + 1) * rows / shares, rows);
}

/// A tile of the result; one that is not whole by way of a copy.
#[allow(clippy::too_many_arguments, reason = "the shape of a matrix product")]
unsafe fn whole_or_part<const P: usize>(
    left: *const i32,
    right: *const i32,
    count: usize,
    out: *mut f32,
    stride: usize,
    add: bool,
    rows: usize,
    columns: usize,
) {
    let run = |out: *mut f32, stride: usize| {
        let bytes = 4 * stride;
        // SAFETY: passed on from the caller.
        unsafe {
            match (rows > LINES, columns > LINES) {
                (true, true) => tile::<P, true, true>(left, right, count, out, bytes, add),
                (true, false) => tile::<P, true, false>(left, right, count, out, bytes, add),
                (false, true) => tile::<P, false, true>(left, right, count, out, bytes, add),
                (false, false) => tile::<P, false, false>(left, right, count, out, bytes, add),
            }
        }
    };
    if rows.is_multiple_of(LINES) && columns.is_multiple_of(LINES) {
        return run(out, stride);
    }
    let mut copy = [[0f32; EDGE]; EDGE];
    // SAFETY: passed on from the caller.
    unsafe {
        if add {
            for (row, copy) in copy.iter_mut().enumerate().take(rows) {
                std::ptr::copy_nonoverlapping(out.add(row * stride), copy.as_mut_ptr(), columns);
            }
        }
        run(copy.as_mut_ptr().cast(), EDGE);
        for (row, copy) in copy.iter().enumerate().take(rows) {
            std::ptr::copy_nonoverlapping(copy.as_ptr(), out.add(row * stride), columns);
        }
    }
}

/// Loads a tile register with a block.
macro_rules! load {
    ($register:literal, $from:expr) => {
        asm!(concat!("tileloadd ", $register, ", [{0} + {1}*1]"), in(reg) $from, in(reg) 64usize, options(nostack, readonly))
    };
}

/// 32 rows by 32 columns, or 16 of them, in registers 0 to 3; 4 and 5 are the left operand's, 6 and 7 the right one's.
unsafe fn tile<const P: usize, const TALL: bool, const WIDE: bool>(
    left: *const i32,
    right: *const i32,
    count: usize,
    out: *mut f32,
    bytes: usize,
    add: bool,
) {
    let (right_out, lower_out) = (out.wrapping_add(LINES), out.wrapping_byte_add(LINES * bytes));
    let last_out = lower_out.wrapping_add(LINES);
    // SAFETY: passed on from the caller; no other code uses these registers.
    unsafe {
        macro_rules! each {
            ($first:expr, $second:expr, $third:expr, $fourth:expr) => {
                $first;
                if WIDE {
                    $second;
                }
                if TALL {
                    $third;
                }
                if TALL && WIDE {
                    $fourth;
                }
            };
        }
        if add {
            each!(
                asm!("tileloadd tmm0, [{0} + {1}*1]", in(reg) out, in(reg) bytes, options(nostack, readonly)),
                asm!("tileloadd tmm1, [{0} + {1}*1]", in(reg) right_out, in(reg) bytes, options(nostack, readonly)),
                asm!("tileloadd tmm2, [{0} + {1}*1]", in(reg) lower_out, in(reg) bytes, options(nostack, readonly)),
                asm!("tileloadd tmm3, [{0} + {1}*1]", in(reg) last_out, in(reg) bytes, options(nostack, readonly))
            );
        } else {
            asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
        for step in 0..count {
            let from = step * 2 * P * UNITS;
            let (left, right) = (left.add(from), right.add(from));
            // Whatever the left operand's next block is, it follows this one; the right one's were just packed.
            let rows = |plane: usize| {
                load!("tmm4", left.add(2 * plane * UNITS));
                if TALL {
                    load!("tmm5", left.add((2 * plane + 1) * UNITS));
                }
                for line in (0..2 * UNITS).step_by(16) {
                    _mm_prefetch::<_MM_HINT_T0>(left.wrapping_add(2 * (P + plane) * UNITS + line).cast());
                }
            };
            let columns = |plane: usize| {
                load!("tmm6", right.add(2 * plane * UNITS));
                if WIDE {
                    load!("tmm7", right.add((2 * plane + 1) * UNITS));
                }
            };
            let add_products = || {
                each!(
                    asm!("tdpbf16ps tmm0, tmm4, tmm6", options(nostack, nomem)),
                    asm!("tdpbf16ps tmm1, tmm4, tmm7", options(nostack, nomem)),
                    asm!("tdpbf16ps tmm2, tmm5, tmm6", options(nostack, nomem)),
                    asm!("tdpbf16ps tmm3, tmm5, tmm7", options(nostack, nomem))
                );
            };
            // Each next to one with which it shares an operand, so that most loads serve two products.
            if P == 3 {
                columns(1);
                rows(1);
                add_products();
                columns(0);
                add_products();
                rows(2);
                add_products();
                rows(0);
                add_products();
                columns(2);
                add_products();
                columns(1);
                add_products();
            } else {
                rows(0);
                columns(0);
                add_products();
            }
        }
        each!(
            asm!("tilestored [{0} + {1}*1], tmm0", in(reg) out, in(reg) bytes, options(nostack)),
            asm!("tilestored [{0} + {1}*1], tmm1", in(reg) right_out, in(reg) bytes, options(nostack)),
            asm!("tilestored [{0} + {1}*1], tmm2", in(reg) lower_out, in(reg) bytes, options(nostack)),
            asm!("tilestored [{0} + {1}*1], tmm3", in(reg) last_out, in(reg) bytes, options(nostack))
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::values;
    use crate::ops::panels::has_matrix_unit;
    use half::bf16;

    /// `[lines, steps]` as the unit's operand, stored by line or by step.
    fn stored<T: Copy>(values: &[T], (lines, steps): (usize, usize), by_line: bool) -> Vec<T> {
        if by_line { values.to_vec() } else { (0..values.len()).map(|i| values[i % lines * steps + i / lines]).collect() }
    }

    /// The sums in f64, and those of the products' magnitudes.
    fn exact(a: &[f32], b: &[f32], (m, n, k): (usize, usize, usize)) -> Vec<(f64, f64)> {
        let pairs = |r: usize, c: usize| (0..k).map(move |s| f64::from(a[r * k + s]) * f64::from(b[c * k + s]));
        (0..m * n).map(|i| (pairs(i / n, i % n).sum(), pairs(i / n, i % n).map(f64::abs).sum())).collect()
    }

    fn run<T: Element, const P: usize>(
        a: &[f32],
        b: &[T],
        sizes: (usize, usize, usize),
        by_line: (bool, bool),
        add: bool,
    ) -> Vec<f32> {
        let (m, n, k) = sizes;
        let (left, right) = (stored(a, (m, k), by_line.0), stored(b, (n, k), by_line.1));
        // Two columns of the result's memory are not the product's.
        let mut out = vec![0.25f32; m * (n + 2)];
        let stride = |by_line: bool, lines: usize| if by_line { k } else { lines };
        let product = Product {
            left: Source { values: left.as_ptr(), stride: stride(by_line.0, m), by_line: by_line.0 },
            right: Source { values: right.as_ptr(), stride: stride(by_line.1, n), by_line: by_line.1 },
            out: Cells(out.as_mut_ptr()),
            stride: n + 2,
            add,
            m,
            n,
            k,
        };
        // SAFETY: the caller looked for the unit; the vectors hold what the sizes say.
        unsafe { multiply::<T, P>(product) };
        assert!(out.chunks(n + 2).all(|row| row[n..] == [0.25; 2]));
        out.chunks(n + 2).flat_map(|row| row[..n].to_vec()).collect()
    }

    #[test]
    fn three_bf16_to_an_f32_are_as_exact_as_f32() {
        if !has_matrix_unit() {
            eprintln!("skipped: this machine has no matrix unit, or FTREPL_AMX=off");
            return;
        }
        for sizes in [(1, 1, 1), (16, 16, 32), (17, 33, 31), (48, 64, 65), (65, 17, 600), (33, 100, 1300), (70, 5, 0)] {
            let (m, n, k) = sizes;
            // Of many magnitudes, so that the second and third bf16 count.
            let spread = |v: Vec<f32>| v.iter().enumerate().map(|(i, x)| x * 10f32.powi(i as i32 % 7 - 3)).collect::<Vec<_>>();
            let (a, b) = (spread(values(m * k, 1)), spread(values(n * k, 2)));
            let expected = exact(&a, &b, sizes);
            for by_line in [(true, true), (true, false), (false, true), (false, false)] {
                for (add, start) in [(false, 0.0), (true, 0.25)] {
                    for (x, (sum, size)) in run::<f32, 3>(&a, &b, sizes, by_line, add).iter().zip(&expected) {
                        // A few roundings of f32, each half of 2^-23, over sums of up to 1300 products.
                        let tolerance = 4.0 * f64::from(f32::EPSILON) * (size + start);
                        assert!((f64::from(*x) - sum - start).abs() <= tolerance, "{sizes:?} {by_line:?}: {x} {sum}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_bf16_to_an_f32_is_the_product_of_rounded_operands() {
        if !has_matrix_unit() {
            eprintln!("skipped: this machine has no matrix unit, or FTREPL_AMX=off");
            return;
        }
        for sizes in [(16, 16, 32), (50, 33, 70), (64, 96, 1000)] {
            let (m, n, k) = sizes;
            let (a, b) = (values(m * k, 1), values(n * k, 2).iter().map(|v| bf16::from_f32(*v)).collect::<Vec<_>>());
            let rounded: Vec<f32> = a.iter().map(|v| bf16::from_f32(*v).to_f32()).collect();
            let expected = exact(&rounded, &b.iter().map(|v| v.to_f32()).collect::<Vec<_>>(), sizes);
            for by_line in [true, false] {
                for (x, (sum, size)) in run::<bf16, 1>(&a, &b, sizes, (true, by_line), false).iter().zip(&expected) {
                    assert!(
                        (f64::from(*x) - sum).abs() <= 4.0 * f64::from(f32::EPSILON) * size,
                        "{sizes:?} {by_line}: {x} {sum}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        if !has_matrix_unit() {
            eprintln!("skipped: this machine has no matrix unit, or FTREPL_AMX=off");
            return;
        }
        let sizes = (20, 20, 40);
        for poison in [f32::NAN, f32::from_bits(0x7fff_ffff), f32::INFINITY] {
            let (mut a, b) = (values(20 * 40, 1), values(20 * 40, 2));
            a[3 * 40 + 7] = poison;
            let out = run::<f32, 3>(&a, &b, sizes, (true, true), false);
            assert!(out.iter().enumerate().all(|(i, x)| x.is_finite() == (i / 20 != 3)));
        }
    }
}
