//! How the work of an operation is shared between threads.
//!
//! Waking a thread costs as much as some thousand multiplications, so that a block of a decoder over many tokens is cut along its
//! tokens once: each thread takes some through a chain of operations. For few tokens, where reading the weights takes the time,
//! every product is cut along the weight's rows instead. A product knows by [`inside`] which of the two it is part of.

use super::few_rows::MOST_ROWS;
use super::vector::has_vectors;

use super::team;
use candle_core::Result;
use rayon::prelude::*;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Mutex;

/// At most this many tokens a part, so that what belongs to them stays in the second cache.
const MOST_TOKENS: usize = 288;

/// At least this many: each part reads all weights.
const LEAST_TOKENS: usize = 65;

const _: () = assert!(LEAST_TOKENS > MOST_ROWS);

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the caller is one of several tasks already: it must not start others.
pub(super) fn inside() -> bool {
    INSIDE.with(Cell::get)
}

/// Runs `work` on every part, in parallel; within, [`inside`] holds. A single part is run by the caller, as it is.
///
/// # Errors
/// The first error of a part, in their order.
pub(super) fn each<T: Send>(parts: Vec<T>, work: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    if parts.len() <= 1 || inside() {
        return parts.into_iter().try_for_each(work);
    }
    let parts: Vec<Mutex<(Option<T>, Result<()>)>> = parts.into_iter().map(|part| Mutex::new((Some(part), Ok(())))).collect();
    share(parts.len(), |index| {
        let mut part = parts[index].lock().unwrap_or_else(|e| e.into_inner());
        if let Some(values) = part.0.take() {
            part.1 = work(values);
        }
    });
    parts.into_iter().try_for_each(|part| part.into_inner().unwrap_or_else(|e| e.into_inner()).1)
}

/// Runs `work` as one of several tasks.
pub(super) fn within<T>(work: impl FnOnce() -> T) -> T {
    crate::autograd::with_flag(&INSIDE, true, work)
}

/// Runs `task` on `0..count` by all threads: those of the team, if there is one, else the pool's.
fn share(count: usize, task: impl Fn(usize) + Sync) {
    if !team::run(count, &task) {
        (0..count).into_par_iter().for_each(|index| within(|| task(index)));
    }
}

/// Values of which tasks write different ones.
struct Disjoint<T>(*mut T);

// SAFETY: every task writes only the values that it was given.
unsafe impl<T: Send> Send for Disjoint<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Disjoint<T> {}

impl<T> Disjoint<T> {
    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

/// Runs `task` on runs of `size` values, given the place of each run's first, in parallel unless that is all of them.
pub(crate) fn by_chunks<T: Send>(values: &mut [T], size: usize, task: impl Fn(usize, &mut [T]) + Sync) {
    let (length, size) = (values.len(), size.max(1));
    if length <= size || inside() {
        return task(0, values);
    }
    let start = Disjoint(values.as_mut_ptr());
    share(length.div_ceil(size), |index| {
        let from = index * size;
        // SAFETY: each index has a run of its own inside the values.
        task(from, unsafe { std::slice::from_raw_parts_mut(start.at(from), size.min(length - from)) });
    });
}

/// The results of `task` for `0..count`, in order, in parallel.
pub(super) fn map<T: Send + Default + Clone>(count: usize, task: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let mut results = vec![T::default(); count];
    by_chunks(&mut results, 1, |first, results| {
        results.iter_mut().enumerate().for_each(|(i, result)| *result = task(first + i));
    });
    results
}

/// Tokens that one part takes. Every part has more rows than are multiplied without packing ([`MOST_ROWS`]), so that a token's result
/// does not depend on how many threads there are.
pub(super) fn part_size(tokens: usize) -> usize {
    let threads = rayon::current_num_threads();
    // For fewer tokens some threads would have none; along the weights' rows there is work for all. A matrix unit has each weight packed
    // once for all threads.
    if threads == 1 || inside() || !has_vectors() || super::panels::has_matrix_unit() || tokens < threads * LEAST_TOKENS {
        return tokens.max(1);
    }
    tokens.div_ceil(threads * tokens.div_ceil(threads * MOST_TOKENS))
}

/// Some tokens, and what several matrices have of them.
pub(super) type Part<'a, const N: usize> = (Range<usize>, [&'a mut [f32]; N]);

/// Cuts matrices with one row a token into parts of `size` tokens; a matrix without columns has empty parts.
pub(super) fn cut<const N: usize>(matrices: [&mut [f32]; N], tokens: usize, size: usize) -> Vec<Part<'_, N>> {
    let mut rest = matrices.map(|matrix| (matrix.len() / tokens.max(1), matrix));
    let parts = (0..tokens).step_by(size.max(1)).map(|first| {
        let range = first..(first + size).min(tokens);
        let rows = rest.each_mut().map(|(columns, rest)| {
            let (part, after) = std::mem::take(rest).split_at_mut(range.len() * *columns);
            *rest = after;
            part
        });
        (range, rows)
    });
    parts.collect()
}

/// Runs `task` on ranges of `0..count` that begin at multiples of `unit`, in parallel where `work` multiplications are enough for that.
pub(super) fn in_ranges(count: usize, unit: usize, work: usize, task: impl Fn(usize, usize) + Sync) {
    if work < 1 << 16 || inside() {
        return task(0, count);
    }
    let size = count.div_ceil(4 * rayon::current_num_threads()).next_multiple_of(unit);
    share(count.div_ceil(size), |i| task(i * size, ((i + 1) * size).min(count)));
}

/// Runs `task` on runs of whole rows of a matrix, given the first row of each, in parallel where there is enough of them.
pub(super) fn by_rows(matrix: &mut [f32], columns: usize, task: impl Fn(usize, &mut [f32]) + Sync) {
    const ELEMENTS: usize = 1 << 13;
    let columns = columns.max(1);
    by_chunks(matrix, ELEMENTS.div_ceil(columns) * columns, |first, part| task(first / columns, part));
}

/// Runs `task` on `0..count`, in parallel where `work` multiplications are enough for that.
pub(super) fn for_each(count: usize, work: usize, task: impl Fn(usize) + Sync) {
    if work < 1 << 16 || inside() {
        return (0..count).for_each(task);
    }
    share(count, task);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_all_tokens_once() {
        for tokens in [0, 1, 64, 65, 129, 130, 131, 577, 2048] {
            let size = part_size(tokens);
            let (mut wide, mut empty) = (vec![0f32; tokens * 3], Vec::new());
            let parts = cut([&mut wide, &mut empty], tokens, size);
            assert_eq!(parts.len(), tokens.div_ceil(size));
            assert_eq!(parts.iter().map(|(range, _)| range.len()).sum::<usize>(), tokens);
            assert!(parts.iter().all(|(range, [wide, empty])| wide.len() == 3 * range.len() && empty.is_empty()));
            assert!(parts.len() <= 1 || parts.iter().all(|(range, _)| range.len() > MOST_ROWS), "{tokens}");
        }
    }

    #[test]
    fn within_a_part_nothing_is_shared_out_and_an_error_comes_back() {
        assert!(!inside());
        let seen: Vec<bool> = {
            let mut seen = vec![false; 4];
            each(seen.iter_mut().collect(), |place| {
                *place = inside() && part_size(10_000) == 10_000;
                Ok(())
            })
            .unwrap();
            seen
        };
        assert_eq!(seen, [true; 4]);
        assert!(!inside());
        let failed = each(vec![1, 2, 3], |part| if part > 1 { candle_core::bail!("part {part}") } else { Ok(()) });
        assert!(failed.unwrap_err().to_string().starts_with("part 2"));
        assert!(!inside());
    }
}
