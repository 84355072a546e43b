//! Tiles: 6 rows of the left operand with a packed panel, in 24 vector registers.
#![allow(clippy::needless_range_loop, reason = "rows and columns of tiles are coordinates")]

use std::arch::x86_64::*;

/// Columns of a panel.
pub(super) const WIDTH: usize = 64;

/// Rows of a tile.
pub(super) const ROWS: usize = 6;

/// Steps (of bf16: pairs of steps) that are packed at once: 72 KiB, which the second cache keeps; fewer cost more loads and stores
/// of sums than the first cache saves.
pub(super) const DEPTH: usize = 288;

/// Rows between two requests for what is packed next.
pub(super) const FETCH_ROWS: usize = 4 * ROWS;

/// What a kernel works on. Operands are in units of four bytes: an f32, or the bf16 of two steps.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) left: *const i32,
    pub(super) row_stride: usize,
    pub(super) step_stride: usize,
    /// `[steps, WIDTH]`.
    pub(super) packed: *const i32,
    pub(super) steps: usize,
    pub(super) out: *mut f32,
    pub(super) stride: usize,
    /// Whether `out` is overwritten.
    pub(super) fresh: bool,
    /// Lanes of the last vector of columns.
    pub(super) mask: __mmask16,
}

impl Tile {
    pub(super) fn at_row(self, row: usize) -> Self {
        let (left, out) = (self.left.wrapping_add(row * self.row_stride), self.out.wrapping_add(row * self.stride));
        Self { left, out, ..self }
    }

    pub(super) fn panel(self, place: Place, packed: *const i32, mask: __mmask16) -> Self {
        let left = self.left.wrapping_add(place.step * self.step_stride);
        let out = self.out.wrapping_add(place.column);
        Self { left, packed, steps: place.steps, out, fresh: self.fresh && place.step == 0, mask, ..self }
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
    /// What this thread packs next if it goes on in order; empty at the end.
    pub(super) fn next(self, n: usize, k: usize) -> Self {
        let more = self.step + self.steps < k;
        let (column, step) = if more { (self.column, self.step + self.steps) } else { (self.column + WIDTH, 0) };
        Self { column, columns: n.saturating_sub(column).min(WIDTH), step, steps: (k - step).min(DEPTH) }
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
pub(super) unsafe fn panel<K: Kind>(tile: Tile, rows: usize, vectors: usize) {
    // SAFETY: passed on from the caller.
    unsafe {
        match vectors {
            4 => panel_rows::<K, 4>(tile, rows),
            3 => panel_rows::<K, 3>(tile, rows),
            2 => panel_rows::<K, 2>(tile, rows),
            _ => panel_rows::<K, 1>(tile, rows),
        }
    }
}

unsafe fn panel_rows<K: Kind, const C: usize>(tile: Tile, rows: usize) {
    for row in (0..rows).step_by(ROWS) {
        let tile = tile.at_row(row);
        // SAFETY: passed on from the caller.
        unsafe {
            match rows - row {
                1 => K::one_tile::<1, C>(tile),
                2 => K::one_tile::<2, C>(tile),
                3 => K::one_tile::<3, C>(tile),
                4 => K::one_tile::<4, C>(tile),
                5 => K::one_tile::<5, C>(tile),
                _ => K::one_tile::<6, C>(tile),
            }
        }
    }
}

/// The operands' type.
pub(super) trait Kind {
    /// # Safety
    /// As [`panel`].
    unsafe fn one_tile<const R: usize, const C: usize>(tile: Tile);
}

/// A kind and its kernel, with what is added to a sum at each step: a macro, because an instruction is compiled as such only
/// in a function that may use it.
macro_rules! kind {
    ($name:ident, $features:literal, |$sum:ident, $left:ident, $right:ident| $added:expr) => {
        pub(super) struct $name;

        impl Kind for $name {
            #[target_feature(enable = $features)]
            unsafe fn one_tile<const R: usize, const C: usize>(tile: Tile) {
                let mask = |c: usize| if c + 1 == C { tile.mask } else { !0 };
                let mut sums = [[_mm512_setzero_ps(); C]; R];
                // SAFETY: rows, steps and columns of the operands, as the caller promised; lanes beyond the last column are masked.
                unsafe {
                    if !tile.fresh {
                        for r in 0..R {
                            for c in 0..C {
                                sums[r][c] = _mm512_maskz_loadu_ps(mask(c), tile.out.add(r * tile.stride + c * 16));
                            }
                        }
                    }
                    for s in 0..tile.steps {
                        let mut rights = [_mm512_setzero_si512(); C];
                        for c in 0..C {
                            rights[c] = _mm512_loadu_si512(tile.packed.add(s * WIDTH + c * 16).cast());
                        }
                        for r in 0..R {
                            let $left = _mm512_set1_epi32(*tile.left.add(r * tile.row_stride + s * tile.step_stride));
                            for c in 0..C {
                                let ($sum, $right) = (sums[r][c], rights[c]);
                                sums[r][c] = $added;
                            }
                        }
                    }
                    for r in 0..R {
                        for c in 0..C {
                            _mm512_mask_storeu_ps(tile.out.add(r * tile.stride + c * 16), mask(c), sums[r][c]);
                        }
                    }
                }
            }
        }
    };
}
kind!(F32, "avx512f", |sum, left, right| _mm512_fmadd_ps(_mm512_castsi512_ps(left), _mm512_castsi512_ps(right), sum));
kind!(Bf16, "avx512f,avx512bw,avx512bf16", |sum, left, right| _mm512_dpbf16_ps(sum, pairs(left), pairs(right)));

/// The same bits as pairs of bf16.
pub(super) fn pairs(bits: __m512i) -> __m512bh {
    // SAFETY: two types for the same 64 bytes, of which every bit pattern is valid.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
}
