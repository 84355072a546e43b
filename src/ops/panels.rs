//! Matrix products of many rows with a weight that is packed a panel of 64 columns at a time.
//!
//! 6 rows of the left operand meet a panel in 24 vector registers of AVX-512 (Goto and van de Geijn 2008, "Anatomy of
//! high-performance matrix multiplication"). Every sum runs over its steps in order, so that a row's result depends neither on the
//! other rows nor on the number of threads.
//!
//! Two operands in bf16 can be multiplied by the instruction made for it (`vdpbf16ps`: bf16 products, f32 sums). Whether that is
//! worth it differs: some processors do it twice as fast as f32, some at half the speed. So the two are timed once;
//! `FTREPL_BF16=on` or `off` decides instead.

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
        let whole = |rows: usize, columns: usize, stride: usize| match rows {
            0 => 0,
            rows => (rows - 1) * stride + columns,
        };
        left >= whole(self.m, self.k, self.left_stride)
            && right >= self.n * self.k
            && out >= whole(self.m, self.n, self.out_stride)
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{product, product_bf16};

/// Without the instructions nothing is computed: the caller takes another way.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product(_: &[f32], _: Right<'_, f32>, _: &mut [f32], _: bool, _: Shape) -> bool {
    false
}

/// As [`product`].
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn product_bf16(_: &[f32], _: Right<'_, half::bf16>, _: &mut [f32], _: bool, _: Shape) -> bool {
    false
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::needless_range_loop, reason = "rows and columns of tiles are coordinates")]
mod x86 {
    use super::{Right, Shape};
    use crate::ops::few_rows::has_avx512;
    use crate::ops::parallel;
    use half::bf16;
    use std::arch::x86_64::*;
    use std::cell::RefCell;
    use std::ops::Range;
    use std::sync::OnceLock;
    use std::time::Instant;

    /// Columns of a panel.
    const WIDTH: usize = 64;

    /// Rows of a tile.
    const ROWS: usize = 6;

    /// Steps (of bf16: pairs of steps) that are packed at once: 72 KiB, which the second cache keeps; fewer cost more loads and stores
    /// of sums than the first cache saves.
    const DEPTH: usize = 288;

    /// Rows between two requests for what is packed next.
    const FETCH_ROWS: usize = 4 * ROWS;

    /// What a kernel works on. Operands are in units of four bytes: an f32, or the bf16 of two steps.
    #[derive(Clone, Copy)]
    struct Tile {
        left: *const i32,
        row_stride: usize,
        /// `[steps, WIDTH]`.
        packed: *const i32,
        steps: usize,
        out: *mut f32,
        stride: usize,
        /// Whether `out` is overwritten.
        fresh: bool,
        /// Lanes of the last vector of columns.
        mask: __mmask16,
    }

    impl Tile {
        fn at_row(self, row: usize) -> Self {
            let (left, out) = (self.left.wrapping_add(row * self.row_stride), self.out.wrapping_add(row * self.stride));
            Self { left, out, ..self }
        }

        fn panel(self, place: Place, packed: *const i32, mask: __mmask16) -> Self {
            let left = self.left.wrapping_add(place.step);
            let out = self.out.wrapping_add(place.column);
            Self { left, packed, steps: place.steps, out, fresh: self.fresh && place.step == 0, mask, ..self }
        }
    }

    /// The part of the right operand that is packed at once.
    #[derive(Clone, Copy)]
    struct Place {
        column: usize,
        columns: usize,
        step: usize,
        steps: usize,
    }

    impl Place {
        /// What this thread packs next if it goes on in order; empty at the end.
        fn next(self, n: usize, k: usize) -> Self {
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
    unsafe fn panel<K: Kind>(tile: Tile, rows: usize, vectors: usize) {
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
    trait Kind {
        /// # Safety
        /// As [`panel`].
        unsafe fn one_tile<const R: usize, const C: usize>(tile: Tile);
    }

    /// A kind and its kernel, with what is added to a sum at each step: a macro, because an instruction is compiled as such only
    /// in a function that may use it.
    macro_rules! kind {
        ($name:ident, $features:literal, |$sum:ident, $left:ident, $right:ident| $added:expr) => {
            struct $name;

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
                                let $left = _mm512_set1_epi32(*tile.left.add(r * tile.row_stride + s));
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
    fn pairs(bits: __m512i) -> __m512bh {
        // SAFETY: two types for the same 64 bytes, of which every bit pattern is valid.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(bits) }
    }

    pub(super) fn has_bf16() -> bool {
        static FOUND: OnceLock<bool> = OnceLock::new();
        *FOUND.get_or_init(|| has_avx512() && is_x86_feature_detected!("avx512bf16") && is_x86_feature_detected!("avx512bw"))
    }

    /// Whether a product in bf16 takes clearly less time than in f32.
    fn is_fast() -> bool {
        static FAST: OnceLock<bool> = OnceLock::new();
        *FAST.get_or_init(|| match std::env::var("FTREPL_BF16").as_deref() {
            Ok("on") => has_bf16(),
            Ok("off") => false,
            _ if !has_bf16() => false,
            _ => {
                // The best of several: an interruption makes one of them slow, never fast. The answer is near 2 or near 0.6.
                // SAFETY: the instructions were found.
                let best = |work: unsafe fn() -> f32| {
                    let time = |_| {
                        let start = Instant::now();
                        std::hint::black_box(unsafe { work() });
                        start.elapsed()
                    };
                    (0..20).map(time).min().unwrap_or_default().as_secs_f64()
                };
                best(single_steps) > 0.6 * best(double_steps)
            }
        })
    }

    const STEPS: usize = 2000;

    /// As many multiplications in f32 as [`double_steps`] does half of.
    #[target_feature(enable = "avx512f")]
    unsafe fn single_steps() -> f32 {
        let factor = std::hint::black_box(_mm512_set1_ps(0.5));
        let mut sums = [_mm512_setzero_ps(); 12];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(factor, factor, *sum));
        }
        sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn double_steps() -> f32 {
        let factor = pairs(std::hint::black_box(_mm512_set1_epi32(0x3f00_3f00)));
        let mut sums = [_mm512_setzero_ps(); 12];
        for _ in 0..STEPS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbf16_ps(*sum, factor, factor));
        }
        sums.iter().map(|sum| _mm512_reduce_add_ps(*sum)).sum()
    }

    /// The whole product, before it is cut into tiles.
    fn uncut(left: *const i32, row_stride: usize, out: &mut [f32], stride: usize, add: bool) -> Tile {
        let (packed, out) = (std::ptr::null(), out.as_mut_ptr());
        Tile { left, row_stride, packed, steps: 0, out, stride, fresh: !add, mask: 0 }
    }

    /// `out [m, n] = (add ? out : 0) + left * right`, with `left` `[m, k]`. `false` without AVX-512: nothing is computed then.
    pub fn product(left: &[f32], right: Right<'_, f32>, out: &mut [f32], add: bool, shape: Shape) -> bool {
        let Shape { n, k, .. } = shape;
        if !has_avx512() {
            return false;
        }
        let (Right::ByStep(values) | Right::ByColumn(values)) = right;
        assert!(shape.fits(left.len(), values.len(), out.len()));
        // SAFETY: AVX-512 was found, and the sizes were checked.
        let pack = |Place { column, columns, step, steps }: Place, packed: &mut [i32]| unsafe {
            match right {
                Right::ByStep(values) => {
                    for (step, to) in (step..step + steps).zip(packed.chunks_exact_mut(WIDTH)) {
                        let from = &values[step * n + column..][..columns];
                        std::ptr::copy_nonoverlapping(from.as_ptr().cast(), to.as_mut_ptr(), columns);
                    }
                }
                Right::ByColumn(values) => transpose(values[column * k + step..].as_ptr().cast(), k, columns, steps, packed),
            }
        };
        // Some rows of what is packed next: read from memory while the kernel computes.
        let fetch = |Place { column, columns, step, steps }: Place, some: Range<usize>| {
            let (rows, stride, start, length) = match right {
                Right::ByStep(_) => (steps, n, step * n + column, columns),
                Right::ByColumn(_) => (columns, k, column * k + step, steps),
            };
            for row in some.start.min(rows)..some.end.min(rows) {
                for line in (0..length).step_by(16) {
                    // SAFETY: a hint, for whatever address.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(values.as_ptr().wrapping_add(start + row * stride + line).cast()) };
                }
            }
        };
        let tile = uncut(left.as_ptr().cast(), shape.left_stride, out, shape.out_stride, add);
        // SAFETY: as above.
        in_panels(tile, shape, pack, fetch, |tile, rows, vectors| unsafe { panel::<F32>(tile, rows, vectors) });
        true
    }

    /// As [`product`] with `left` rounded to bf16; `false` where this is not the faster way.
    pub fn product_bf16(left: &[f32], right: Right<'_, bf16>, out: &mut [f32], add: bool, shape: Shape) -> bool {
        shape.k.is_multiple_of(2) && is_fast() && multiply_bf16(left, right, out, add, shape)
    }

    /// As [`product_bf16`], wherever the instruction exists.
    pub(super) fn multiply_bf16(left: &[f32], right: Right<'_, bf16>, out: &mut [f32], add: bool, shape: Shape) -> bool {
        let Shape { m, n, k, left_stride, out_stride } = shape;
        if !has_bf16() {
            return false;
        }
        let (Right::ByStep(values) | Right::ByColumn(values)) = right;
        assert!(left_stride == k && shape.fits(left.len(), values.len(), out.len()));
        let mut rounded = vec![bf16::ZERO; m * k];
        const CHUNK: usize = 1 << 14;
        // SAFETY: the instructions were found.
        parallel::by_chunks(&mut rounded, CHUNK, |first, to| unsafe { round(&left[first..first + to.len()], to) });
        let steps = k / 2;
        let tile = uncut(rounded.as_ptr().cast(), steps, out, out_stride, add);
        // SAFETY: the instructions were found, and the sizes checked.
        let pack = |Place { column, columns, step, steps }: Place, packed: &mut [i32]| unsafe {
            match right {
                Right::ByStep(values) => interleave(&values[2 * step * n + column..], n, steps, columns, packed),
                Right::ByColumn(values) => {
                    transpose(values[column * k + 2 * step..].as_ptr().cast(), k / 2, columns, steps, packed);
                }
            }
        };
        // SAFETY: as above.
        in_panels(
            tile,
            Shape { k: steps, ..shape },
            pack,
            |_, _| (),
            |tile, rows, vectors| unsafe { panel::<Bf16>(tile, rows, vectors) },
        );
        true
    }

    /// Packs every panel and runs the kernel on it, in parallel over panels and, where those are few, parts of the rows.
    fn in_panels(
        tile: Tile,
        Shape { m, n, k, .. }: Shape,
        pack: impl Fn(Place, &mut [i32]) + Sync,
        fetch: impl Fn(Place, Range<usize>) + Sync,
        kernel: impl Fn(Tile, usize, usize) + Sync,
    ) {
        thread_local! {
            static PACKED: RefCell<Vec<i32>> = RefCell::new(vec![0; DEPTH * WIDTH]);
        }
        if m == 0 || n == 0 {
            return;
        }
        let panels = n.div_ceil(WIDTH);
        let wanted = if parallel::inside() { 1 } else { 4 * rayon::current_num_threads() };
        let parts = wanted.div_ceil(panels).clamp(1, m.div_ceil(8 * ROWS));
        let part_rows = m.div_ceil(parts).next_multiple_of(ROWS);
        let task = |index: usize| {
            let (first_row, column) = (index % parts * part_rows, index / parts * WIDTH);
            let (rows, columns) = (m.saturating_sub(first_row).min(part_rows), (n - column).min(WIDTH));
            let vectors = columns.div_ceil(16);
            let last = columns - (vectors - 1) * 16;
            PACKED.with(|packed| {
                let mut packed = packed.borrow_mut();
                // One round even without any step, so that the result is written.
                for step in (0..k.max(1)).step_by(DEPTH) {
                    let place = Place { column, columns, step, steps: (k - step).min(DEPTH) };
                    pack(place, &mut packed);
                    let mask = (((1u32 << last) - 1) & 0xffff) as u16;
                    let tile = tile.panel(place, packed.as_ptr(), mask).at_row(first_row);
                    let next = place.next(n, k);
                    let lines = next.steps.max(next.columns);
                    for row in (0..rows).step_by(FETCH_ROWS) {
                        let count = (rows - row).min(FETCH_ROWS);
                        fetch(next, row * lines / rows..(row + count) * lines / rows);
                        kernel(tile.at_row(row), count, vectors);
                    }
                }
            });
        };
        parallel::for_each(panels * parts, m * n * k, task);
    }

    /// Pairs of rows to one row of pairs.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn interleave(values: &[bf16], stride: usize, steps: usize, columns: usize, packed: &mut [i32]) {
        for (step, to) in packed.chunks_exact_mut(WIDTH).take(steps).enumerate() {
            let (first, second) = (&values[2 * step * stride..], &values[(2 * step + 1) * stride..]);
            let (first, second) = (&first[..columns], &second[..columns]);
            let whole = columns / 16 * 16;
            for at in (0..whole).step_by(16) {
                // SAFETY: 16 elements of both rows and of the panel's row.
                unsafe {
                    let low = _mm512_cvtepu16_epi32(_mm256_loadu_si256(first.as_ptr().add(at).cast()));
                    let high = _mm512_cvtepu16_epi32(_mm256_loadu_si256(second.as_ptr().add(at).cast()));
                    let pairs = _mm512_or_si512(low, _mm512_slli_epi32::<16>(high));
                    _mm512_storeu_si512(to.as_mut_ptr().add(at).cast(), pairs);
                }
            }
            for at in whole..columns {
                to[at] = i32::from(first[at].to_bits()) | i32::from(second[at].to_bits()) << 16;
            }
        }
    }

    /// Columns of the result, stored one after the other every `stride` units, to rows of a panel.
    ///
    /// # Safety
    /// AVX-512F must be there, and `columns` times `steps` units at `from`.
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose(from: *const i32, stride: usize, columns: usize, steps: usize, packed: &mut [i32]) {
        assert!(packed.len() >= steps * WIDTH && columns <= WIDTH);
        let (whole_columns, whole_steps) = (columns / 16 * 16, steps / 16 * 16);
        // SAFETY: whole blocks of 16 by 16 units first, then what is left.
        unsafe {
            for column in (0..whole_columns).step_by(16) {
                for step in (0..whole_steps).step_by(16) {
                    transpose_block(from.add(column * stride + step), stride, packed.as_mut_ptr().add(step * WIDTH + column));
                }
            }
            for column in 0..columns {
                let first = if column < whole_columns { whole_steps } else { 0 };
                for step in first..steps {
                    packed[step * WIDTH + column] = from.add(column * stride + step).read_unaligned();
                }
            }
        }
    }

    /// 16 rows of 16 units to 16 rows of a panel: pairs, fours, then quarters of registers change places.
    #[target_feature(enable = "avx512f")]
    unsafe fn transpose_block(from: *const i32, stride: usize, to: *mut i32) {
        // SAFETY: the caller has 16 rows of 16 units at both places.
        unsafe {
            let mut rows = [_mm512_setzero_si512(); 16];
            for i in 0..16 {
                rows[i] = _mm512_loadu_si512(from.add(i * stride).cast());
            }
            let mut pairs = rows;
            for i in 0..8 {
                pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
                pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
            }
            let mut fours = pairs;
            for i in 0..4 {
                fours[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
                fours[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
                fours[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
                fours[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
            }
            for j in 0..4 {
                let even = _mm512_shuffle_i32x4::<0x88>(fours[j], fours[4 + j]);
                let odd = _mm512_shuffle_i32x4::<0xdd>(fours[j], fours[4 + j]);
                let even_high = _mm512_shuffle_i32x4::<0x88>(fours[8 + j], fours[12 + j]);
                let odd_high = _mm512_shuffle_i32x4::<0xdd>(fours[8 + j], fours[12 + j]);
                let store = |row: usize, value| _mm512_storeu_si512(to.add(row * WIDTH).cast(), value);
                store(j, _mm512_shuffle_i32x4::<0x88>(even, even_high));
                store(4 + j, _mm512_shuffle_i32x4::<0x88>(odd, odd_high));
                store(8 + j, _mm512_shuffle_i32x4::<0xdd>(even, even_high));
                store(12 + j, _mm512_shuffle_i32x4::<0xdd>(odd, odd_high));
            }
        }
    }

    /// Rounds to the nearest bf16.
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn round(from: &[f32], to: &mut [bf16]) {
        let whole = from.len() / 16 * 16;
        for at in (0..whole).step_by(16) {
            // SAFETY: 16 elements of both slices, which are equally long.
            unsafe {
                let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(from.as_ptr().add(at)));
                _mm256_storeu_si256(to.as_mut_ptr().add(at).cast(), std::mem::transmute::<__m256bh, __m256i>(rounded));
            }
        }
        to[whole..].iter_mut().zip(&from[whole..]).for_each(|(to, from)| *to = bf16::from_f32(*from));
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::x86::{has_bf16, multiply_bf16, product};
    use super::*;
    use crate::ops::check::values;
    use crate::ops::few_rows::has_avx512;
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
                    assert_eq!(product(&a, wide, &mut out, add, shape(m, n, k)), has_avx512());
                    if has_avx512() {
                        close(&out, &exact(&a, &b, start, (m, n, k)));
                    }
                    assert_eq!(multiply_bf16(&a, rounded, &mut out_bf16, add, shape(m, n, k)), has_bf16());
                    if has_bf16() {
                        close(&out_bf16, &exact(&widen(&narrow(&a)), &widen(&b_columns), start, (m, n, k)));
                    }
                }
            }
        }
    }

    /// A row alone, among others, and as part of a parallel product gives the same bits.
    #[test]
    fn a_row_does_not_depend_on_the_others() {
        if !has_avx512() {
            return;
        }
        let (m, n, k) = (150, 200, 330);
        let (a, b) = (values(m * k, 1), values(n * k, 2));
        for right in [Right::ByColumn(&b[..]), Right::ByStep(&b[..])] {
            let mut whole = vec![0f32; m * n];
            product(&a, right, &mut whole, false, shape(m, n, k));
            for (first, count) in [(0, 1), (67, 5), (140, 10)] {
                let mut part = vec![0f32; count * n];
                product(&a[first * k..], right, &mut part, false, shape(count, n, k));
                assert_eq!(part, whole[first * n..][..count * n]);
            }
        }
    }
}
