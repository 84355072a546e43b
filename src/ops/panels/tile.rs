//! Tiles: 6 rows of the left operand with a packed panel, in 24 vector registers of 16 lanes or 12 of 8.
#![allow(clippy::needless_range_loop, reason = "rows and columns of tiles are coordinates")]

use super::pack;
use super::pack_avx2::{self, Widen};
use crate::ops::vector::{V8, V16, Vector};
use std::arch::x86_64::*;

/// Columns that are packed at once at least; with AVX-512 those of a panel.
pub(super) const WIDTH: usize = 64;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;

/// Steps (of bf16: pairs of steps) that are packed at once: 72 KiB, which the second cache keeps; fewer cost more loads and stores
/// of sums than the first cache saves.
pub(super) const DEPTH: usize = 288;

/// Lines of what is packed next that are asked for in a step: as many as come from memory in the time of two.
const LINES_A_STEP: usize = 2;

/// What a kernel works on. Operands are in units of four bytes: an f32, or the bf16 of two steps.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) left: *const i32,
    pub(super) row_stride: usize,
    pub(super) step_stride: usize,
    /// From a tile to the next one, a row: [`Self::row_stride`] unless the rows of a tile lie side by side.
    pub(super) tile_stride: usize,
    /// `[steps, Kind::WIDTH]`.
    pub(super) packed: *const i32,
    pub(super) steps: usize,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    /// Whether `out` is overwritten.
    pub(super) fresh: bool,
    /// Columns, a panel's at most.
    pub(super) columns: usize,
    pub(super) next: Lines,
}

/// What is packed next: a kernel asks for it line by line, so that it comes from memory meanwhile. All at once would leave no way to memory
/// for what the kernel itself reads.
#[derive(Clone, Copy)]
pub(super) struct Lines {
    from: *const u8,
    /// Bytes from one row to the next.
    stride: usize,
    /// Lines of a row.
    each: usize,
    /// Lines of all rows.
    count: usize,
    /// Lines that were asked for.
    asked: usize,
}

impl Lines {
    pub(super) const NONE: Self = Self { from: std::ptr::null(), stride: 0, each: 0, count: 0, asked: 0 };

    /// Of `rows` rows of `columns` elements; the first begins at `from`, each next one `stride` elements further.
    pub(super) fn new<T>(from: *const T, stride: usize, columns: usize, rows: usize) -> Self {
        let each = (columns * size_of::<T>()).div_ceil(LINE);
        Self { from: from.cast(), stride: stride * size_of::<T>(), each, count: each * rows, asked: 0 }
    }

    /// Without those that so many rows' tiles ask for in so many steps.
    pub(super) fn after_rows(self, rows: usize, steps: usize) -> Self {
        Self { asked: self.asked + rows.div_ceil(ROWS) * steps * LINES_A_STEP, ..self }
    }

    /// Those that are left.
    fn rest(self) -> Rest {
        let Self { from, stride, each, count, asked } = self;
        if asked >= count {
            return Rest { at: from, in_row: 0, each, gap: 0, steps: 0 };
        }
        let (row, line) = (asked.checked_div(each).unwrap_or(0), asked.checked_rem(each).unwrap_or(0));
        let at = from.wrapping_add(row * stride + line * LINE);
        Rest {
            at,
            in_row: each - line,
            each,
            gap: stride.wrapping_sub(each * LINE),
            steps: count.saturating_sub(asked) / LINES_A_STEP,
        }
    }
}

/// Where a kernel is in [`Lines`].
struct Rest {
    at: *const u8,
    /// Lines of this row that are left.
    in_row: usize,
    each: usize,
    /// Bytes from a row's last line's end to the next row.
    gap: usize,
    /// Steps for which there are lines.
    steps: usize,
}

impl Rest {
    #[inline]
    fn ask(&mut self) {
        for _ in 0..LINES_A_STEP {
            // SAFETY: a hint, for whatever address.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(self.at.cast()) };
            self.in_row -= 1;
            let ended = self.in_row == 0;
            self.at = self.at.wrapping_add(if ended { LINE.wrapping_add(self.gap) } else { LINE });
            self.in_row = if ended { self.each } else { self.in_row };
        }
    }
}

/// Bytes of a line of the cache.
const LINE: usize = 64;

impl Tile {
    /// From row to row and from step to step of the left operand.
    #[inline(always)]
    fn strides(self) -> (usize, usize) {
        (self.row_stride, self.step_stride)
    }

    /// The same of slivers, known to the compiler: a kernel of 16 registers needs them for sums.
    #[inline(always)]
    fn side_by_side(self) -> (usize, usize) {
        (1, ROWS)
    }

    /// Asks for the next tile's sums: its first step waits for them, and they are further apart than the processor looks ahead.
    #[inline(always)]
    fn ask_for_next_sums(self, rows: usize) {
        for row in ROWS..ROWS + rows {
            let out = self.out.wrapping_add(row * self.stride);
            // SAFETY: hints, for whatever addresses.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(out.cast());
                _mm_prefetch::<_MM_HINT_T0>(out.wrapping_add(self.columns - 1).cast());
            }
        }
    }

    /// From this row on, a tile's first.
    pub(super) fn at_row(self, row: usize) -> Self {
        let (left, out) = (self.left.wrapping_add(row * self.tile_stride), self.out.wrapping_add(row * self.stride));
        Self { left, out, ..self }
    }

    /// Of a whole product's columns and steps those of a panel.
    pub(super) fn panel(self, place: Place, packed: *const i32) -> Self {
        let left = self.left.wrapping_add(place.step * self.step_stride);
        let (out, columns) = (self.out.wrapping_add(place.column), place.columns);
        Self { left, packed, steps: place.steps, out, fresh: self.fresh && place.step == 0, columns, ..self }
    }
}

/// The part of the right operand that is packed at once.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) column: usize,
    pub(super) columns: usize,
    pub(super) step: usize,
    pub(super) steps: usize,
}

impl Place {
    /// Its panels of so many columns, one after the other.
    pub(super) fn panels(self, width: usize) -> impl Iterator<Item = Self> {
        let end = self.column + self.columns;
        (self.column..end).step_by(width).map(move |column| Self { column, columns: (end - column).min(width), ..self })
    }
}

/// In what order a task goes over the columns before `end` and all `k` steps.
#[derive(Clone, Copy)]
pub(super) struct Order {
    pub(super) end: usize,
    pub(super) k: usize,
    /// Times [`WIDTH`] columns that are packed at once. A single one begins at a multiple of [`WIDTH`] unless it is the first, as kept ones do.
    pub(super) panels: usize,
    /// Steps that are packed at once.
    pub(super) depth: usize,
}

impl Order {
    pub(super) fn at(self, column: usize, step: usize) -> Place {
        let next = if self.panels > 1 { column + self.panels * WIDTH } else { (column / WIDTH + 1) * WIDTH };
        Place { column, columns: self.end.min(next).saturating_sub(column), step, steps: (self.k - step).min(self.depth) }
    }

    /// What comes after it; without columns at the end.
    pub(super) fn after(self, place: Place) -> Place {
        let step = place.step + place.steps;
        if step < self.k { self.at(place.column, step) } else { self.at(place.column + place.columns, 0) }
    }
}

// SAFETY: parallel tasks write different cells of `out`, and only read the operands.
unsafe impl Send for Tile {}
// SAFETY: as above.
unsafe impl Sync for Tile {}

/// All rows with one panel.
///
/// # Safety
/// The instructions must be there, and every element that the tile names.
pub(super) unsafe fn panel<K: Kind>(tile: Tile, rows: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match tile.columns.div_ceil(K::Register::LANES) {
            4 => panel_rows::<K, 4>(tile, rows),
            3 => panel_rows::<K, 3>(tile, rows),
            2 => panel_rows::<K, 2>(tile, rows),
            _ => panel_rows::<K, 1>(tile, rows),
        }
    }
}

unsafe fn panel_rows<K: Kind, const C: usize>(tile: Tile, rows: usize) {
    for row in (0..rows).step_by(ROWS) {
        let next = tile.next.after_rows(row, tile.steps);
        let tile = Tile { next, ..tile.at_row(row) };
        // SAFETY: passed on from the caller.
        unsafe {
            // Counting lines takes registers of which the other kernel makes better use.
            match next.rest().steps {
                0 => some_rows::<K, C, false>(tile, rows - row),
                _ => some_rows::<K, C, true>(tile, rows - row),
            }
        }
    }
}

unsafe fn some_rows<K: Kind, const C: usize, const ASKS: bool>(tile: Tile, rows: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match rows {
            1 => K::one_tile::<1, C, ASKS>(tile),
            2 => K::one_tile::<2, C, ASKS>(tile),
            3 => K::one_tile::<3, C, ASKS>(tile),
            4 => K::one_tile::<4, C, ASKS>(tile),
            5 => K::one_tile::<5, C, ASKS>(tile),
            _ => K::one_tile::<6, C, ASKS>(tile),
        }
    }
}

/// The operands' type, and the registers that multiply them.
pub(super) trait Kind {
    type Register: Vector;

    /// Columns of a panel: as many registers as leave room for six rows' sums.
    const WIDTH: usize;

    /// # Safety
    /// As [`panel`].
    unsafe fn one_tile<const R: usize, const C: usize, const ASKS: bool>(tile: Tile);
}

/// A kind and its kernel, with the left operand's strides, whether the next tile's sums are asked for, and what is added to a sum at each
/// step: a macro, because an instruction is compiled as such only in a function that may use it.
macro_rules! kind {
    ($name:ident, $register:ty, $width:expr, $strides:expr, $out_ahead:literal, $features:literal, |$sum:ident, $left:ident, $right:ident| $added:expr) => {
        pub(super) struct $name;

        impl Kind for $name {
            type Register = $register;
            const WIDTH: usize = $width;

            #[target_feature(enable = $features)]
            unsafe fn one_tile<const R: usize, const C: usize, const ASKS: bool>(tile: Tile) {
                const LANES: usize = <$register>::LANES;
                let (mut next, last_column) = (tile.next.rest(), (C - 1) * LANES);
                if $out_ahead {
                    tile.ask_for_next_sums(R);
                }
                // SAFETY: rows, steps and columns of the operands, as the caller promised; lanes beyond the last column are masked.
                unsafe {
                    let mut sums = [[<$register>::zero(); C]; R];
                    let mask = <$register>::first(tile.columns - last_column);
                    if !tile.fresh {
                        for r in 0..R {
                            let out = tile.out.add(r * tile.stride);
                            for c in 0..C - 1 {
                                sums[r][c] = <$register>::load(out.add(c * LANES));
                            }
                            sums[r][C - 1] = <$register>::load_some(mask, out.add(last_column));
                        }
                    }
                    let (row_stride, step_stride): (usize, usize) = $strides(tile);
                    for s in 0..tile.steps {
                        if ASKS && s < next.steps {
                            next.ask();
                        }
                        let mut rights = [<$register>::zero(); C];
                        for c in 0..C {
                            rights[c] = <$register>::load(tile.packed.add(s * $width + c * LANES).cast());
                        }
                        for r in 0..R {
                            let $left = <$register>::splat(tile.left.add(r * row_stride + s * step_stride).cast());
                            for c in 0..C {
                                let ($sum, $right) = (sums[r][c], rights[c]);
                                sums[r][c] = $added;
                            }
                        }
                    }
                    for r in 0..R {
                        let out = tile.out.add(r * tile.stride);
                        for c in 0..C - 1 {
                            sums[r][c].store(out.add(c * LANES));
                        }
                        sums[r][C - 1].store_some(mask, out.add(last_column));
                    }
                }
            }
        }
    };
}
kind!(F32, V16, WIDTH, Tile::strides, false, "avx512f", |sum, left, right| left.multiply_add(right, sum));
kind!(Bf16, V16, WIDTH, Tile::strides, false, "avx512f,avx512bw,avx512bf16", |sum, left, right| V16(_mm512_dpbf16_ps(
    sum.0,
    pairs(_mm512_castps_si512(left.0)),
    pairs(_mm512_castps_si512(right.0))
)));
kind!(F32Avx2, V8, 16, Tile::side_by_side, true, "avx2,fma", |sum, left, right| left.multiply_add(right, sum));

/// A kind whose right operand's elements are of this type before they are packed, one to a unit.
pub(super) trait Packs<T>: Kind {
    /// Columns of the result, stored one after the other every `stride` elements, to rows of a panel.
    ///
    /// # Safety
    /// The kind's instructions must be there, and `columns` times `steps` elements at `from`.
    unsafe fn transpose(from: *const T, stride: usize, columns: usize, steps: usize, packed: &mut [i32]);

    /// `columns` elements of each of `steps` steps, which begin `stride` elements apart, to a row in every panel.
    ///
    /// # Safety
    /// The kind's instructions must be there.
    unsafe fn copy(values: &[T], stride: usize, columns: usize, steps: usize, packed: &mut [i32]);
}

impl Packs<f32> for F32 {
    unsafe fn transpose(from: *const f32, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
        // SAFETY: passed on from the caller.
        unsafe { pack::transpose(from.cast(), stride, columns, steps, packed) }
    }

    unsafe fn copy(values: &[f32], stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
        for step in 0..steps {
            for (panel, from) in values[step * stride..][..columns].chunks(WIDTH).enumerate() {
                let to = &mut packed[(panel * steps + step) * WIDTH..][..from.len()];
                // SAFETY: two slices of this length.
                unsafe { std::ptr::copy_nonoverlapping(from.as_ptr().cast(), to.as_mut_ptr(), from.len()) };
            }
        }
    }
}

impl<T: Widen> Packs<T> for F32Avx2 {
    unsafe fn transpose(from: *const T, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
        // SAFETY: passed on from the caller.
        unsafe { pack_avx2::transpose(from, stride, columns, steps, packed) }
    }

    unsafe fn copy(values: &[T], stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
        // SAFETY: passed on from the caller.
        unsafe { pack_avx2::copy(values, stride, columns, steps, packed) }
    }
}

/// The same bits as pairs of bf16.
pub(super) fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: two types for the same 64 bytes, of which every bit pattern is valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::values;
    use crate::ops::vector::Lanes16;

    kind!(Plain, Lanes16, WIDTH, Tile::strides, true, "sse2", |sum, left, right| left.multiply_add(right, sum));

    /// The kernel in AVX-512's sizes, on every processor: all numbers of rows and of columns, and what lies beside them.
    #[test]
    fn tiles_of_64_columns_equal_the_definition() {
        let steps = 9;
        for (rows, columns) in (1..8).flat_map(|rows| [1, 15, 16, 17, 40, 48, 63, 64].map(|columns| (rows, columns))) {
            let (left, packed, stride) = (values(rows * steps, 1), values(steps * WIDTH, 2), columns + 3);
            for fresh in [true, false] {
                let mut out = vec![0.5f32; rows * stride];
                let tile = Tile {
                    left: left.as_ptr().cast(),
                    row_stride: steps,
                    step_stride: 1,
                    tile_stride: steps,
                    packed: packed.as_ptr().cast(),
                    steps,
                    out: out.as_mut_ptr(),
                    stride,
                    fresh,
                    columns,
                    next: Lines::new(packed.as_ptr(), WIDTH, WIDTH, 2),
                };
                // SAFETY: no instruction is needed, and the slices hold what the tile names.
                unsafe { panel::<Plain>(tile, rows) };
                for (i, found) in out.iter().enumerate() {
                    let (row, column) = (i / stride, i % stride);
                    let product = |s: usize| f64::from(left[row * steps + s]) * f64::from(packed[s * WIDTH + column]);
                    let start = if fresh && column < columns { 0.0 } else { 0.5 };
                    let sum = if column < columns { (0..steps).map(product).sum() } else { 0.0 };
                    assert!((f64::from(*found) - start - sum).abs() < 1e-5, "{rows} {columns} {fresh}: {row} {column}");
                }
            }
        }
    }

    #[test]
    fn every_line_is_asked_for_once() {
        // Rows of 70 elements take 5 lines, and begin 100 elements apart.
        let values = [0f32; 1];
        let lines = Lines::new(values.as_ptr(), 100, 70, 6);
        let expected: Vec<usize> = (0..6).flat_map(|row| (0..5).map(move |line| row * 400 + line * LINE)).collect();
        let mut asked = Vec::new();
        // 7 rows are two tiles, of 3 steps each.
        for tile in 0..9 {
            let mut rest = lines.after_rows(tile * ROWS, 3).rest();
            for _ in 0..rest.steps.min(3) {
                let start = rest.at as usize - values.as_ptr() as usize;
                rest.ask();
                asked.extend([start, expected[expected.iter().position(|at| *at == start).unwrap() + 1]]);
            }
        }
        assert_eq!(asked, expected);
        assert_eq!(Lines::NONE.rest().steps + lines.after_rows(1000, 1000).rest().steps, 0);
    }

    #[test]
    fn every_column_and_step_comes_once() {
        for (first, end, k, panels, depth) in
            [(0, 576, 288, 1, 288), (288, 576, 768, 5, 115), (96, 192, 1000, 1, 288), (0, 7, 0, 1, 288)]
        {
            let order = Order { end, k, panels, depth };
            let mut seen = vec![0; end * k.max(1)];
            let mut place = order.at(first, 0);
            while place.columns > 0 {
                for panel in place.panels(WIDTH) {
                    assert!(
                        panel.columns <= WIDTH
                            && (panels > 1 || panel.column / WIDTH == (panel.column + panel.columns - 1) / WIDTH)
                    );
                    let steps = if k == 0 { 0..1 } else { panel.step..panel.step + panel.steps };
                    steps.for_each(|step| (0..panel.columns).for_each(|c| seen[step * end + panel.column + c] += 1));
                }
                place = order.after(place);
            }
            assert!(seen.iter().enumerate().all(|(i, n)| *n == usize::from(i % end >= first)), "{first} {end} {k} {panels}");
        }
    }
}
