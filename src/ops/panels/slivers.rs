//! Packing the left operand into slivers: the rows of a tile side by side, step after step, as the kernel reads them.

use super::pack_avx2::transpose_block;
use super::tile::ROWS;
use crate::ops::parallel;
use std::cell::RefCell;
use std::ops::Range;

/// The left operand `[m, k]`, stored by rows, or by steps (`[k, m]`); each begins `stride` elements after the one before.
#[derive(Clone, Copy)]
pub(super) enum Left<'a> {
    ByRow { values: &'a [f32], stride: usize },
    ByStep { values: &'a [f32], stride: usize },
}

impl Left<'_> {
    /// A sliver's part of this operand: rows from `row` on, `ROWS` at most, and these steps.
    ///
    /// # Safety
    /// AVX2 must be there.
    unsafe fn pack(self, row: usize, m: usize, steps: Range<usize>, sliver: &mut [f32]) {
        /// Rows and steps that are turned at once.
        const SIDE: usize = 8;
        let rows = (m - row).min(ROWS);
        match self {
            Self::ByStep { values, stride } => {
                let (to, _) = sliver.as_chunks_mut::<ROWS>();
                for (step, to) in steps.zip(to) {
                    let from = &values[step * stride + row..];
                    match from.first_chunk() {
                        // Of a known length, without a call.
                        Some(whole) if rows == ROWS => *to = *whole,
                        _ => to[..rows].copy_from_slice(&from[..rows]),
                    }
                }
            }
            Self::ByRow { values, stride } => {
                let (count, mut step) = (steps.len(), 0);
                let values = &values[row * stride + steps.start..];
                if row + SIDE <= m {
                    // A block writes two lanes beyond its own six, which the next one overwrites: the last one has none after it.
                    while step + SIDE < count {
                        let from = &values[step..][..(SIDE - 1) * stride + SIDE];
                        let to = &mut sliver[step * ROWS..][..(SIDE - 1) * ROWS + SIDE];
                        // SAFETY: the caller has the instructions; eight rows of eight steps are there, and room for them.
                        unsafe { transpose_block(from.as_ptr(), stride, to.as_mut_ptr().cast(), ROWS) };
                        step += SIDE;
                    }
                }
                for r in 0..rows {
                    for (value, to) in values[r * stride..][step..count].iter().zip(sliver[step * ROWS..].chunks_exact_mut(ROWS))
                    {
                        to[r] = *value;
                    }
                }
            }
        }
    }
}

/// Runs `work` on slivers `[rows / ROWS, steps, ROWS]` of a part of the left operand. The memory is kept for the next one, and taken out of
/// its place meanwhile, because a thread that waits for others may begin another product.
///
/// # Safety
/// AVX2 must be there.
pub(super) unsafe fn with_slivers(left: Left<'_>, rows: Range<usize>, steps: Range<usize>, work: impl FnOnce(&[f32])) {
    /// Fewer elements are packed sooner than another thread is awake.
    const CHUNK: usize = 1 << 16;
    thread_local! {
        static SLIVERS: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    let mut slivers = SLIVERS.take();
    let sliver = ROWS * steps.len();
    let length = rows.len().div_ceil(ROWS) * sliver;
    if slivers.len() < length {
        slivers.resize(length, 0.0);
    }
    if sliver > 0 {
        parallel::by_chunks(&mut slivers[..length], CHUNK.div_ceil(sliver) * sliver, |first, slivers| {
            for (index, to) in slivers.chunks_exact_mut(sliver).enumerate() {
                let row = rows.start + (first / sliver + index) * ROWS;
                // SAFETY: passed on from the caller.
                unsafe { left.pack(row, rows.end, steps.clone(), to) };
            }
        });
    }
    work(&slivers[..length]);
    SLIVERS.set(slivers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::values;

    #[test]
    fn slivers_hold_every_element_in_its_place() {
        if !std::arch::is_x86_feature_detected!("avx2") {
            return;
        }
        for (m, k, gap) in [(1, 1, 0), (6, 8, 0), (7, 9, 2), (14, 8, 3), (29, 70, 1), (600, 40, 0), (13, 0, 0)] {
            let (by_row, by_step) = (values(m * (k + gap), 1), values(k * (m + gap), 2));
            let row = |r: usize, s: usize| by_row[r * (k + gap) + s];
            let step = |r: usize, s: usize| by_step[s * (m + gap) + r];
            for (rows, steps) in [(0..m, 0..k), (m / 2..m, k / 3..k), (0..m / 2, 0..k / 2)] {
                let check = |left: Left<'_>, at: &dyn Fn(usize, usize) -> f32| {
                    let work = |slivers: &[f32]| {
                        for (r, s) in (0..rows.len()).flat_map(|r| (0..steps.len()).map(move |s| (r, s))) {
                            let found = slivers[(r / ROWS * steps.len() + s) * ROWS + r % ROWS];
                            assert_eq!(found, at(rows.start + r, steps.start + s), "{m} {k} {gap}: {r} {s}");
                        }
                    };
                    // SAFETY: the instructions were found.
                    unsafe { with_slivers(left, rows.clone(), steps.clone(), work) };
                };
                check(Left::ByRow { values: &by_row, stride: k + gap }, &row);
                check(Left::ByStep { values: &by_step, stride: m + gap }, &step);
            }
        }
    }
}
