//! Large buffers: zeroed by writing, in huge pages where the system has them.
//!
//! `vec![0.0; n]` gives memory that is mapped at first use, four KiB at a time and, when it is read first, twice. For buffers of
//! a model's size that took seconds of the first training step.

use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Elements that one thread fills.
const CHUNK: usize = 1 << 17;

/// Buffers from this size on (bytes) are worth a system call.
const LARGE: usize = 4 << 20;

/// `n` zeros, written by all threads.
pub fn zeroed<T: Copy + Default + Send + Sync>(n: usize) -> Vec<T> {
    let mut values: Vec<T> = Vec::with_capacity(n);
    advise(values.as_ptr().cast(), n * size_of::<T>());
    let fill = |part: &mut [MaybeUninit<T>]| {
        part.iter_mut().for_each(|value| {
            value.write(T::default());
        });
    };
    values.spare_capacity_mut()[..n].par_chunks_mut(CHUNK).for_each(fill);
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
    #[test]
    fn buffers_of_any_size_are_zero() {
        for n in [0, 1, 1000, (4 << 20) / 4 + 3] {
            let values = super::zeroed::<f32>(n);
            assert!(values.len() == n && values.iter().all(|v| *v == 0.0));
        }
    }
}
