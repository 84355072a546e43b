//! The products: which panels there are, who computes which, and what is read ahead.

use super::blocks::{self, Cells, Product};
use super::instruction::{has_bf16, is_fast, is_on};
use super::kept::Panels;
use super::pack::{Narrow, round};
use super::pack_avx2::Widen;
use super::slivers::{Left, with_slivers};
use super::split::{Element, Source};
use super::tile::{Bf16, DEPTH, F32, F32Avx2, Kind, Lines, Order, Packs, Place, ROWS, Tile, WIDTH, panel};
use super::unit::has_matrix_unit;
use super::{Right, Shape};
use crate::ops::vector::{Level, has_vectors};
use crate::ops::{parallel, precision};
use half::bf16;
use std::cell::RefCell;
use std::ops::Range;

/// Rows, or steps, from which on packing for the matrix unit is worth while.
const LEAST_ROWS: usize = 48;

/// The whole product, before it is cut into tiles.
fn uncut(left: *const i32, row_stride: usize, out: &mut [f32], stride: usize, add: bool) -> Tile {
    let (packed, out) = (std::ptr::null(), out.as_mut_ptr());
    Tile {
        left,
        row_stride,
        step_stride: 1,
        tile_stride: row_stride,
        packed,
        steps: 0,
        out,
        stride,
        fresh: !add,
        columns: 0,
        next: Lines::NONE,
    }
}

/// `out [m, n] = (add ? out : 0) + left * right`, with `left` `[m, k]`. `false` without vector registers:
/// nothing is computed then.
pub(in crate::ops) fn product(left: &[f32], right: Right<'_, f32>, out: &mut [f32], add: bool, shape: Shape) -> bool {
    if !has_vectors() {
        return false;
    }
    let (Right::ByStep(values) | Right::ByColumn(values)) = right;
    let k = shape.k;
    assert!(shape.fits(left.len(), values.len(), out.len()));
    if precision::may_round() && product_bf16(left, right, out, add, shape) || by_unit(left, right, out, add, shape, 3) {
        return true;
    }
    // SAFETY: the level was found, and the sizes were checked.
    unsafe {
        match Level::best() {
            Level::Avx512 => {
                let tile = uncut(left.as_ptr().cast(), shape.left_stride, out, shape.out_stride, add);
                multiply::<F32, f32>(tile, right, shape, 0..k);
            }
            _ => multiply_slivers(Left::ByRow { values: left, stride: shape.left_stride }, right, out, add, shape),
        }
    }
    true
}

/// As [`product`], of elements that are made f32 while they are packed; `false` where this is not the faster way.
pub(in crate::ops) fn product_widened(left: &[f32], right: Right<'_, bf16>, out: &mut [f32], add: bool, shape: Shape) -> bool {
    if Level::best() != Level::Avx2 {
        return false;
    }
    let (Right::ByStep(values) | Right::ByColumn(values)) = right;
    assert!(shape.fits(left.len(), values.len(), out.len()));
    // SAFETY: the level was found, and the sizes were checked.
    unsafe { multiply_slivers(Left::ByRow { values: left, stride: shape.left_stride }, right, out, add, shape) };
    true
}

/// As [`product`], of a left operand that is packed too: panels of 16 columns read it so often that its rows lie too far apart.
///
/// # Safety
/// AVX2 must be there, and every element that the shape names.
unsafe fn multiply_slivers<T: Widen>(left: Left<'_>, right: Right<'_, T>, out: &mut [f32], add: bool, shape: Shape) {
    /// Rows and elements of the left operand that are packed at once.
    const MOST_ROWS: usize = 512 * ROWS;
    const MOST: usize = 1 << 20;
    let Shape { m, k, out_stride, .. } = shape;
    for first in (0..m).step_by(MOST_ROWS) {
        let rows = first..m.min(first + MOST_ROWS);
        // Sums go on where they were, so that the result does not depend on how steps are cut. One round even without any step.
        let most_steps = (MOST / rows.len() / DEPTH).max(1) * DEPTH;
        for step in (0..k.max(1)).step_by(most_steps) {
            let steps = step..k.min(step + most_steps);
            let work = |slivers: &[f32]| {
                let tile = uncut(slivers.as_ptr().cast(), 1, &mut out[first * out_stride..], out_stride, add || step > 0);
                let tile = Tile { step_stride: ROWS, tile_stride: steps.len(), ..tile };
                // SAFETY: passed on from the caller.
                unsafe { multiply::<F32Avx2, T>(tile, right, Shape { m: rows.len(), ..shape }, steps.clone()) };
            };
            // SAFETY: passed on from the caller.
            unsafe { with_slivers(left, rows.clone(), steps.clone(), work) };
        }
    }
}

/// These steps of a product with the left operand that the tile names.
///
/// # Safety
/// The kind's instructions must be there, and every element that the tile and the shape name.
unsafe fn multiply<K: Packs<T>, T: Copy + Sync>(tile: Tile, right: Right<'_, T>, shape: Shape, taken: Range<usize>) {
    let Shape { n, k, .. } = shape;
    let (Right::ByStep(values) | Right::ByColumn(values)) = right;
    let pack = |place: Place, packed: &mut [i32]| {
        let Place { column, columns, step, steps } = place;
        let step = taken.start + step;
        // SAFETY: passed on from the caller.
        unsafe {
            match right {
                Right::ByStep(values) => K::copy(&values[(step * n + column).min(values.len())..], n, columns, steps, packed),
                Right::ByColumn(values) => {
                    for (panel, Place { column, columns, .. }) in place.panels(K::WIDTH).enumerate() {
                        let packed = &mut packed[panel * steps * K::WIDTH..];
                        K::transpose(values[column * k + step..].as_ptr(), k, columns, steps, packed);
                    }
                }
            }
        }
        packed.as_ptr()
    };
    let lines = |Place { column, columns, step, steps }: Place| match (right, taken.start + step) {
        (Right::ByStep(_), step) => Lines::new(values.as_ptr().wrapping_add(step * n + column), n, columns, steps),
        (Right::ByColumn(_), step) => Lines::new(values.as_ptr().wrapping_add(column * k + step), k, steps, columns),
    };
    let most_rows = if matches!(right, Right::ByStep(_)) { STRIP_ROWS_F32 } else { 0 };
    // SAFETY: passed on from the caller.
    unsafe { in_panels::<K, _, _>(tile, Shape { k: taken.len(), ..shape }, Panelled { pack, lines, most_rows }) };
}

/// As [`product`], by the matrix unit with so many bf16 to an f32; `false` where there is none, or less to do than to pack.
fn by_unit<T: Element>(left: &[f32], right: Right<'_, T>, out: &mut [f32], add: bool, shape: Shape, planes: usize) -> bool {
    let Shape { m, n, k, left_stride, .. } = shape;
    if !has_matrix_unit() || m < LEAST_ROWS || n < 16 || k < 16 {
        return false;
    }
    let (by_line, values) = match right {
        Right::ByStep(values) => (false, values),
        Right::ByColumn(values) => (true, values),
    };
    assert!(shape.fits(left.len(), values.len(), out.len()));
    let left = Source { values: left.as_ptr(), stride: left_stride, by_line: true };
    let right = Source { values: values.as_ptr(), stride: if by_line { k } else { n }, by_line };
    // SAFETY: the unit was found, and the sizes were checked.
    unsafe { in_blocks(left, right, out, add, shape, planes) };
    true
}

/// `out [m, n] = (add ? out : 0) + left^T * right` with `left` `[k, m]` and `right` `[k, n]`; `false` where this is not the faster way.
pub(in crate::ops) fn transposed_product(
    left: &[f32],
    right: &[f32],
    out: &mut [f32],
    add: bool,
    (m, n, k): (usize, usize, usize),
) -> bool {
    let shape = Shape { m, n, k, left_stride: m, out_stride: n };
    assert!(shape.fits_transposed(left.len(), right.len(), out.len()));
    if has_matrix_unit() && m >= 16 && n >= 16 && k >= LEAST_ROWS {
        let source = |values: &[f32], stride: usize| Source { values: values.as_ptr(), stride, by_line: false };
        let planes = if precision::may_round() { 1 } else { 3 };
        // SAFETY: the unit was found, and the sizes were checked.
        unsafe { in_blocks(source(left, m), source(right, n), out, add, shape, planes) };
        return true;
    }
    if Level::best() != Level::Avx2 {
        return false;
    }
    let (right, left) = (Right::ByStep(right), Left::ByStep { values: left, stride: shape.left_stride });
    // SAFETY: the level was found, and the sizes were checked.
    unsafe { multiply_slivers(left, right, out, add, shape) };
    true
}

/// # Safety
/// The unit must be there, and every element that the sources and the shape name.
unsafe fn in_blocks<T: Element>(left: Source<f32>, right: Source<T>, out: &mut [f32], add: bool, shape: Shape, planes: usize) {
    let Shape { m, n, k, out_stride, .. } = shape;
    let product = Product { left, right, out: Cells(out.as_mut_ptr()), stride: out_stride, add, m, n, k };
    // SAFETY: passed on from the caller.
    unsafe {
        match planes {
            1 => blocks::multiply::<T, 1>(product),
            _ => blocks::multiply::<T, 3>(product),
        }
    }
}

/// As [`product`] with both operands rounded to bf16; `false` where this is not the faster way.
pub(in crate::ops) fn product_bf16<T: Element + Narrow>(
    left: &[f32],
    right: Right<'_, T>,
    out: &mut [f32],
    add: bool,
    shape: Shape,
) -> bool {
    if is_on() && by_unit(left, right, out, add, shape, 1) {
        return true;
    }
    shape.k.is_multiple_of(2) && is_fast() && multiply_bf16(left, right, out, add, shape)
}

/// As [`product_bf16`], wherever the instruction exists; of an even number of steps.
pub(super) fn multiply_bf16<T: Narrow>(left: &[f32], right: Right<'_, T>, out: &mut [f32], add: bool, shape: Shape) -> bool {
    let Shape { m, n, k, left_stride, out_stride } = shape;
    if !has_bf16() {
        return false;
    }
    let (Right::ByStep(values) | Right::ByColumn(values)) = right;
    assert!(k.is_multiple_of(2) && shape.fits(left.len(), values.len(), out.len()));
    let steps = k / 2;
    with_rounded(left, left_stride, (m, k), |rounded| {
        let tile = uncut(rounded.as_ptr().cast(), steps, out, out_stride, add);
        // SAFETY: the instructions were found, and the sizes checked.
        let pack = |Place { column, columns, step, steps }: Place, packed: &mut [i32]| unsafe {
            match right {
                Right::ByStep(values) => T::interleave(&values[2 * step * n + column..], n, 2 * steps, columns, packed),
                Right::ByColumn(values) => T::transpose(values[column * k + 2 * step..].as_ptr(), k, columns, steps, packed),
            }
            packed.as_ptr()
        };
        let lines = |Place { column, columns, step, steps }: Place| match right {
            Right::ByStep(_) => Lines::new(values.as_ptr().wrapping_add(2 * step * n + column), n, columns, 2 * steps),
            Right::ByColumn(_) => Lines::new(values.as_ptr().wrapping_add(column * k + 2 * step), k, 2 * steps, columns),
        };
        let shape = Shape { k: steps, ..shape };
        let most_rows = if matches!(right, Right::ByStep(_)) { STRIP_ROWS_BF16 } else { 0 };
        // SAFETY: as above.
        unsafe { in_panels::<Bf16, _, _>(tile, shape, Panelled { pack, lines, most_rows }) };
    });
    true
}

/// As [`multiply_bf16`], with the right operand's panels packed already.
///
/// The instructions must be there, and the panels be those of an operand of this shape.
pub(super) fn multiply_kept(left: &[f32], panels: &Panels, out: &mut [f32], add: bool, shape: Shape) {
    let Shape { m, k, left_stride, out_stride, .. } = shape;
    let steps = k / 2;
    with_rounded(left, left_stride, (m, k), |rounded| {
        let tile = uncut(rounded.as_ptr().cast(), steps, out, out_stride, add);
        let pack = |Place { column, step, .. }: Place, _: &mut [i32]| panels.at(column, step);
        let lines = |Place { column, columns, step, steps }: Place| Lines::new(panels.at(column, step), WIDTH, columns, steps);
        let shape = Shape { k: steps, ..shape };
        // SAFETY: the instructions were found, and the caller checked the sizes.
        unsafe { in_panels::<Bf16, _, _>(tile, shape, Panelled { pack, lines, most_rows: 0 }) };
    });
}

/// Runs `work` on a matrix `[m, k]` rounded to bf16. The memory is kept for the next one, and taken out of its place meanwhile, because a
/// thread that waits for others may begin another product.
///
/// The instructions must be there, and every element.
fn with_rounded(left: &[f32], stride: usize, (m, k): (usize, usize), work: impl FnOnce(&[bf16])) {
    const CHUNK: usize = 1 << 14;
    thread_local! {
        static ROUNDED: RefCell<Vec<bf16>> = const { RefCell::new(Vec::new()) };
    }
    let mut rounded = ROUNDED.take();
    if rounded.len() < m * k {
        rounded.resize(m * k, bf16::ZERO);
    }
    let to = &mut rounded[..m * k];
    if stride == k {
        // SAFETY: the instructions were found.
        parallel::by_chunks(to, CHUNK, |first, to| unsafe { round(&left[first..first + to.len()], to) });
    } else {
        parallel::by_chunks(to, CHUNK.div_ceil(k.max(1)) * k, |first, to| {
            for (row, to) in to.chunks_exact_mut(k.max(1)).enumerate() {
                // SAFETY: as above.
                unsafe { round(&left[(first / k + row) * stride..][..k], to) };
            }
        });
    }
    work(&rounded[..m * k]);
    ROUNDED.set(rounded);
}

/// The right operand `[k, n]` of [`transposed_product_bf16`]; `None` where that is not the faster way.
pub(in crate::ops) fn pack_for_transposed(right: &[f32], n: usize, k: usize) -> Option<Panels> {
    is_fast().then(|| Panels::pack(Right::ByStep(&right[..n * k]), n, k))
}

/// `out [m, n] = (add ? out : 0) + left^T * right` with `left` `[k, m]` and `right` `[k, n]`, both rounded to bf16, within one thread; a row
/// of `left` begins every `left_stride` elements.
pub(in crate::ops) fn transposed_product_bf16(left: &[f32], right: &Panels, out: &mut [f32], add: bool, shape: Shape) {
    thread_local! {
        static LEFT: RefCell<Vec<i32>> = const { RefCell::new(Vec::new()) };
    }
    let Shape { m, n, k, left_stride, out_stride } = shape;
    if m == 0 || n == 0 {
        return;
    }
    let steps = k.div_ceil(2);
    assert!(right.fits(n, steps) && (k == 0 || left.len() >= (k - 1) * left_stride + m) && out.len() >= (m - 1) * out_stride + n);
    let whole = uncut(std::ptr::null(), 1, out, out_stride, add);
    let whole = Tile { step_stride: WIDTH, ..whole };
    // Nothing is waited for meanwhile, so that the memory stays in its place.
    LEFT.with_borrow_mut(|packed| {
        let group = steps * WIDTH;
        if packed.len() < m.div_ceil(WIDTH) * group {
            packed.resize(m.div_ceil(WIDTH) * group, 0);
        }
        for (first, packed) in (0..m).step_by(WIDTH).zip(packed.chunks_exact_mut(group.max(1))) {
            // SAFETY: panels there are only where the instructions are; the sizes were checked.
            unsafe { f32::interleave(&left[first..], left_stride, k, (m - first).min(WIDTH), packed) };
        }
        for column in (0..n).step_by(WIDTH) {
            let columns = (n - column).min(WIDTH);
            // One round even without any step, so that the result is written.
            for step in (0..steps.max(1)).step_by(DEPTH) {
                let depth = (steps - step).min(DEPTH);
                for first in (0..m).step_by(WIDTH) {
                    let left = packed.as_ptr().wrapping_add(first / WIDTH * group + step * WIDTH);
                    let out = whole.out.wrapping_add(first * out_stride + column);
                    let fresh = whole.fresh && step == 0;
                    let tile = Tile { left, packed: right.at(column, step), steps: depth, out, fresh, columns, ..whole };
                    // SAFETY: as above.
                    unsafe { panel::<Bf16>(tile, (m - first).min(WIDTH)) };
                }
            }
        }
    });
}

/// What a product does with panels.
struct Panelled<P, L> {
    /// Given memory to pack a place into, says where it is: `[panels, steps, Kind::WIDTH]`.
    pack: P,
    /// The lines that packing a place reads.
    lines: L,
    /// Up to how many rows several panels are packed at once: where a step's columns lie one after the other, memory gives those of
    /// several panels faster than one's, but fewer steps at a time cost more loads and stores of sums.
    most_rows: usize,
}

/// Columns that a task takes in order, at least, where there are enough for several tasks a thread.
const RUN: usize = 6 * WIDTH;

/// Rows of panels that are packed at once from an operand by step: 144 KiB.
const STRIP: usize = 2 * DEPTH;

/// Up to how many rows that pays.
const STRIP_ROWS_F32: usize = 128;
/// The same for bf16, which take half the time to multiply and as much to fetch.
const STRIP_ROWS_BF16: usize = 512;

/// Panels among which these are shared.
const STRIP_PANELS: usize = 12;

/// Runs the kernel on every panel, in parallel over runs of columns and, where those are few, parts of the rows.
///
/// # Safety
/// The kind's instructions must be there, and every element that the tile and the shape name.
unsafe fn in_panels<K, P, L>(tile: Tile, Shape { m, n, k, .. }: Shape, Panelled { pack, lines, most_rows }: Panelled<P, L>)
where
    K: Kind,
    P: Fn(Place, &mut [i32]) -> *const i32 + Sync,
    L: Fn(Place) -> Lines + Sync,
{
    thread_local! {
        static PACKED: RefCell<Vec<i32>> = RefCell::new(vec![0; STRIP * WIDTH]);
    }
    if m == 0 || n == 0 {
        return;
    }
    let threads = if parallel::inside() { 1 } else { rayon::current_num_threads() };
    // As many columns for each thread, in runs: what a thread reads ahead is then what itself packs next.
    let runs = match (n / (WIDTH / 2)).clamp(1, threads) {
        1 => 1,
        some => some * (n / (threads * RUN)).clamp(1, 4),
    };
    let parts = if runs < threads { (4 * threads).div_ceil(runs).clamp(1, m.div_ceil(8 * ROWS)) } else { 1 };
    let (width, part_rows) = (n.div_ceil(runs).next_multiple_of(16), m.div_ceil(parts).next_multiple_of(ROWS));
    let task = |index: usize| {
        let (first_row, column) = (index % parts * part_rows, index / parts * width);
        let (rows, end) = (m.saturating_sub(first_row).min(part_rows), (column + width).min(n));
        let panels = if rows <= most_rows && k > STRIP { (end - column).div_ceil(WIDTH).min(STRIP_PANELS) } else { 1 };
        let order = Order { end, k, panels, depth: (STRIP / panels).min(DEPTH) };
        PACKED.with(|packed| {
            let mut packed = packed.borrow_mut();
            let mut place = order.at(column, 0);
            while place.columns > 0 {
                let (first, following) = (pack(place, &mut packed), order.after(place));
                let mut next = lines(following);
                for (index, place) in place.panels(K::WIDTH).enumerate() {
                    let tile = tile.panel(place, first.wrapping_add(index * place.steps * K::WIDTH)).at_row(first_row);
                    // SAFETY: passed on from the caller.
                    unsafe { panel::<K>(Tile { next, ..tile }, rows) };
                    next = next.after_rows(rows, place.steps);
                }
                place = following;
            }
        });
    };
    parallel::for_each(n.div_ceil(width) * parts, m * n * k, task);
}
