//! Tiles of a few rows: dot products with rows of a weight, and sums of its rows.
#![allow(clippy::needless_range_loop, reason = "rows and columns of tiles are coordinates")]

/// A module with the kernels for one kind of register; a tile has as many rows as leave the registers room. A macro, because an
/// instruction is compiled as such only in a function that may use it.
macro_rules! kernels {
    ($module:ident, $register:ident, $features:literal, $most:literal $($fewer:literal)*) => {
        pub mod $module {
            use crate::ops::vector::{$register, Vector};

            /// Rows of a tile.
            const ROWS: usize = $most;
            const LANES: usize = $register::LANES;

            /// `out[r * stride + c] = (add ? out : 0) + x_r . w_c` for all rows of `x` and `w`.
            ///
            /// # Safety
            /// The instructions must be there; the slices must hold `rows` and `count` rows of length `k`, and `out` be valid for the
            /// result.
            #[target_feature(enable = $features)]
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
                                ($most, 4) => dot_tile::<$most, 4>(x, w, k, out, stride, add),
                                $(($fewer, 4) => dot_tile::<$fewer, 4>(x, w, k, out, stride, add),)*
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

            #[target_feature(enable = $features)]
            unsafe fn dot_tile<const R: usize, const C: usize>(
                x: *const f32,
                w: *const f32,
                k: usize,
                out: *mut f32,
                stride: usize,
                add: bool,
            ) {
                // SAFETY: every access lies in the first `k` elements of a row; the rest of the last step is masked.
                unsafe {
                    let mut sums = [[$register::zero(); C]; R];
                    let mut at = 0;
                    while at + LANES <= k {
                        let mut ws = [$register::zero(); C];
                        for c in 0..C {
                            ws[c] = $register::load(w.add(c * k + at));
                        }
                        for r in 0..R {
                            let value = $register::load(x.add(r * k + at));
                            for c in 0..C {
                                sums[r][c] = value.multiply_add(ws[c], sums[r][c]);
                            }
                        }
                        at += LANES;
                    }
                    if at < k {
                        let mask = $register::first(k - at);
                        for r in 0..R {
                            let value = $register::load_some(mask, x.add(r * k + at));
                            for c in 0..C {
                                let weight = $register::load_some(mask, w.add(c * k + at));
                                sums[r][c] = value.multiply_add(weight, sums[r][c]);
                            }
                        }
                    }
                    for r in 0..R {
                        for c in 0..C {
                            let cell = out.add(r * stride + c);
                            let sum = sums[r][c].sum();
                            *cell = if add { *cell + sum } else { sum };
                        }
                    }
                }
            }

            /// `out [rows, columns] += g [rows, depth] * w [depth, columns]`; a row of `g` begins every `stride` elements.
            ///
            /// # Safety
            /// The instructions must be there, and the slices hold what is said.
            #[target_feature(enable = $features)]
            pub unsafe fn mix(g: &[f32], stride: usize, w: &[f32], depth: usize, out: &mut [f32], rows: usize, columns: usize) {
                let (g, w, out) = (g.as_ptr(), w.as_ptr(), out.as_mut_ptr());
                // SAFETY: passed on from the caller.
                unsafe {
                    for column in (0..columns).step_by(4 * LANES) {
                        let width = (columns - column).min(4 * LANES);
                        let (w, out) = (w.add(column), out.add(column));
                        for row in (0..rows).step_by(ROWS) {
                            let (g, out) = (g.add(row * stride), out.add(row * columns));
                            match ((rows - row).min(ROWS), width == 4 * LANES) {
                                ($most, true) => mix_tile::<$most, true>(g, stride, w, depth, out, columns, width),
                                ($most, false) => mix_tile::<$most, false>(g, stride, w, depth, out, columns, width),
                                $(($fewer, _) => mix_tile::<$fewer, false>(g, stride, w, depth, out, columns, width),)*
                                _ => {}
                            }
                        }
                    }
                }
            }

            /// Masks take registers: a tile whose columns are all there does without (`WHOLE`).
            #[target_feature(enable = $features)]
            unsafe fn mix_tile<const R: usize, const WHOLE: bool>(
                g: *const f32,
                stride: usize,
                w: *const f32,
                depth: usize,
                out: *mut f32,
                columns: usize,
                width: usize,
            ) {
                // SAFETY: masked lanes are not accessed; the others lie inside the matrices.
                unsafe {
                    let mut masks = [$register::first(width); 4];
                    for c in 1..4 {
                        masks[c] = $register::first(width.saturating_sub(c * LANES));
                    }
                    let mut sums = [[$register::zero(); 4]; R];
                    for r in 0..R {
                        for c in 0..4 {
                            let from = out.wrapping_add(r * columns + c * LANES);
                            sums[r][c] = if WHOLE { $register::load(from) } else { $register::load_some(masks[c], from) };
                        }
                    }
                    for d in 0..depth {
                        let mut ws = [$register::zero(); 4];
                        for c in 0..4 {
                            let from = w.wrapping_add(d * columns + c * LANES);
                            ws[c] = if WHOLE { $register::load(from) } else { $register::load_some(masks[c], from) };
                        }
                        for r in 0..R {
                            let factor = $register::splat(g.add(r * stride + d));
                            for c in 0..4 {
                                sums[r][c] = factor.multiply_add(ws[c], sums[r][c]);
                            }
                        }
                    }
                    for r in 0..R {
                        for c in 0..4 {
                            let to = out.wrapping_add(r * columns + c * LANES);
                            if WHOLE {
                                sums[r][c].store(to);
                            } else {
                                sums[r][c].store_some(masks[c], to);
                            }
                        }
                    }
                }
            }
        }
    };
}
kernels!(avx512, V16, "avx512f", 6 5 4 3 2 1);
kernels!(avx2, V8, "avx2,fma", 3 2 1);

#[cfg(test)]
mod tests {
    use crate::ops::check::values;

    kernels!(plain, Lanes16, "sse2", 6 5 4 3 2 1);

    /// The kernels in AVX-512's sizes, on every processor.
    #[test]
    fn tiles_of_16_lanes_equal_the_definition() {
        for (rows, count, width) in [(1, 1, 1), (7, 9, 33), (5, 4, 16), (6, 3, 100), (13, 8, 130), (16, 5, 64)] {
            let (x, w, start) = (values(rows * width, 1), values(count * width, 2), values(rows * count, 3));
            let mut out = start.clone();
            // SAFETY: no instruction is needed, and the slices hold what is said.
            unsafe { plain::dots(&x, &w, rows, count, width, out.as_mut_ptr(), count, true) };
            for (i, found) in out.iter().enumerate() {
                let product = |k: usize| f64::from(x[i / count * width + k]) * f64::from(w[i % count * width + k]);
                let sum = f64::from(start[i]) + (0..width).map(product).sum::<f64>();
                assert!((f64::from(*found) - sum).abs() < 1e-4, "{rows} {count} {width}: {i}");
            }
            let (g, start) = (values(rows * count, 4), values(rows * width, 5));
            let mut out = start.clone();
            // SAFETY: as above.
            unsafe { plain::mix(&g, count, &w, count, &mut out, rows, width) };
            for (i, found) in out.iter().enumerate() {
                let product = |d: usize| f64::from(g[i / width * count + d]) * f64::from(w[d * width + i % width]);
                let sum = f64::from(start[i]) + (0..count).map(product).sum::<f64>();
                assert!((f64::from(*found) - sum).abs() < 1e-4, "{rows} {count} {width}: {i}");
            }
        }
    }
}
