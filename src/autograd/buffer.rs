//! Large buffers: zeroed by writing, in huge pages where the system has them, and used again.
//!
//! `vec![0.0; n]` gives memory that is mapped at first use, four KiB at a time and, when it is read first, twice. For buffers of
//! a model's size that took seconds of the first training step.

use crate::ops::parallel;
use std::ops::{Deref, DerefMut, Range};
use std::sync::{Mutex, MutexGuard};

/// Values that a computation needs for a while, in memory that goes from one buffer to the next without being cleared: what is in
/// a new one is unspecified.
#[derive(Debug, Default)]
pub struct Buffer(Vec<f32>);

impl Buffer {
    /// `n` values left over from something else.
    pub fn new(n: usize) -> Self {
        if n == 0 {
            return Self(Vec::new());
        }
        let found = pool().take(n);
        // What is new is written by whoever uses it: clearing it here as well would be for nothing.
        let mut values = found.unwrap_or_else(|| {
            let values = vec![0.0; n];
            advise(values.as_ptr().cast(), n * size_of::<f32>());
            values
        });
        values.resize(n, 0.0);
        Self(values)
    }

    /// `n` zeros.
    pub fn zeroed(n: usize) -> Self {
        let mut buffer = Self::new(n);
        buffer.fill(0.0);
        buffer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        pool().give(std::mem::take(&mut self.0));
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}

/// Free memory for buffers. Together with what is in use it never grows beyond the most that was in use at once.
struct Pool {
    free: Vec<Vec<f32>>,
    /// Elements in `free`, in buffers in use, and the most of the latter.
    held: usize,
    used: usize,
    most_used: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), held: 0, used: 0, most_used: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(|e| e.into_inner())
}

impl Pool {
    fn take(&mut self, n: usize) -> Option<Vec<f32>> {
        // The smallest that is large enough, if that does not waste much.
        let fitting = self.free.iter().enumerate().filter(|(_, v)| (n..=n + n / 4).contains(&v.capacity()));
        let found = fitting.min_by_key(|(_, v)| v.capacity()).map(|(index, _)| index).map(|index| self.free.swap_remove(index));
        self.held -= found.as_ref().map_or(0, Vec::capacity);
        self.used += found.as_ref().map_or(n, Vec::capacity);
        self.most_used = self.most_used.max(self.used);
        // Sizes that are not asked for any more make room for new ones.
        while self.held + self.used > self.most_used && !self.free.is_empty() {
            self.held -= self.free.remove(0).capacity();
        }
        found
    }

    fn give(&mut self, values: Vec<f32>) {
        self.used = self.used.saturating_sub(values.capacity());
        if values.capacity() > 0 && self.held + self.used + values.capacity() <= self.most_used {
            self.held += values.capacity();
            self.free.push(values);
        }
    }
}

/// Gives the memory that waits for buffers back to the system.
pub fn release_buffers() {
    let mut pool = pool();
    pool.free.clear();
    (pool.held, pool.most_used) = (0, pool.used);
}

/// Elements that one thread fills.
const CHUNK: usize = 1 << 17;

/// Buffers from this size on (bytes) are worth a system call; neighbours share huge pages.
const LARGE: usize = 1 << 19;

/// `n` zeros, written by all threads.
pub fn zeroed<T: Copy + Default + Send + Sync>(n: usize) -> Vec<T> {
    collected(n, |range| range.map(|_| T::default()))
}

/// `n` values, written by all threads: `part` gives those of a range of places.
pub fn collected<T: Copy + Send + Sync, I: Iterator<Item = T>>(n: usize, part: impl Fn(Range<usize>) -> I + Sync) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(n);
    advise(values.as_ptr().cast(), n * size_of::<T>());
    parallel::by_chunks(&mut values.spare_capacity_mut()[..n], CHUNK, |first, places| {
        let range = first..first + places.len();
        let written = places.iter_mut().zip(part(range)).map(|(place, value)| place.write(value)).count();
        assert_eq!(written, places.len(), "a value for every place");
    });
    // SAFETY: the first `n` elements were just written.
    unsafe { values.set_len(n) };
    values
}

/// Asks for huge pages behind a buffer that was not touched yet.
#[cfg(target_os = "linux")]
fn advise(start: *const u8, bytes: usize) {
    const PAGE: usize = 4096;
    if bytes < LARGE {
        return;
    }
    let first = (start as usize).next_multiple_of(PAGE);
    let end = (start as usize + bytes) / PAGE * PAGE;
    // SAFETY: whole pages inside one allocation of ours; the advice changes no content, and a refusal changes nothing.
    unsafe {
        libc::madvise(first as *mut libc::c_void, end - first, libc::MADV_HUGEPAGE);
    }
}

#[cfg(not(target_os = "linux"))]
fn advise(_: *const u8, _: usize) {
    let _ = LARGE;
}

/// Keeps freed memory of activations for the next step instead of giving it back to the system page by page. For the program's
/// start; glibc only.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets two numbers of the allocator, before any other thread exists.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 << 20);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 << 20);
    }
}

#[cfg(test)]
mod tests {
    use super::{Buffer, Pool};

    #[test]
    fn memory_is_used_again_and_does_not_pile_up() {
        let mut pool = Pool { free: Vec::new(), held: 0, used: 0, most_used: 0 };
        let first = pool.take(100).unwrap_or_else(|| vec![1.0; 100]);
        pool.give(first);
        assert_eq!(pool.take(90).map(|v| v[0]), Some(1.0));
        assert!(pool.take(90).is_none(), "the only one is in use");
        pool.give(vec![2.0; 100]);
        assert!(pool.take(50).is_none(), "half of it would be wasted");
        assert!(pool.free.is_empty(), "what does not fit makes room");
        for n in 1..50 {
            let values = pool.take(10 * n).unwrap_or_else(|| vec![0.0; 10 * n]);
            pool.give(values);
            assert!(pool.held + pool.used <= pool.most_used);
        }
        assert!(Buffer::zeroed(1000).iter().all(|v| *v == 0.0) && Buffer::new(0).is_empty());
    }

    #[test]
    fn buffers_of_any_size_are_zero() {
        for n in [0, 1, 1000, (4 << 20) / 4 + 3] {
            let values = super::zeroed::<f32>(n);
            assert!(values.len() == n && values.iter().all(|v| *v == 0.0));
            assert!(super::collected(n, |range| range).into_iter().eq(0..n));
        }
    }

    #[test]
    #[should_panic(expected = "a value for every place")]
    fn a_missing_value_is_noticed() {
        super::collected(3, |range| range.skip(1));
    }
}
