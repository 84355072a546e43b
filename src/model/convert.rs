//! Weights from a file's bytes to the dtype that is computed with, in parallel, with one copy in memory.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Var};
use half::{bf16, f16};
use rayon::prelude::*;

/// Elements that one task converts: enough that starting it costs nothing, few enough that threads share the work.
pub(super) const CHUNK: usize = 1 << 16;

/// A dtype that weights are stored or computed in.
pub(super) trait Float: candle_core::WithDType + Default + Send + Sync {
    /// Bytes an element takes in a file.
    const BYTES: usize;
    fn from_le(bytes: &[u8]) -> Self;
    fn widen(self) -> f32;
    fn narrow(value: f32) -> Self;
}

impl Float for f32 {
    const BYTES: usize = 4;
    fn from_le(bytes: &[u8]) -> Self {
        match bytes {
            &[a, b, c, d] => f32::from_le_bytes([a, b, c, d]),
            _ => 0.0,
        }
    }
    fn widen(self) -> f32 {
        self
    }
    fn narrow(value: f32) -> Self {
        value
    }
}

macro_rules! half_float {
    ($type:ty) => {
        impl Float for $type {
            const BYTES: usize = 2;
            fn from_le(bytes: &[u8]) -> Self {
                match bytes {
                    &[a, b] => <$type>::from_le_bytes([a, b]),
                    _ => <$type>::default(),
                }
            }
            fn widen(self) -> f32 {
                self.to_f32()
            }
            fn narrow(value: f32) -> Self {
                <$type>::from_f32(value)
            }
        }
    };
}
half_float!(bf16);
half_float!(f16);

/// A candle variable from little-endian bytes of dtype `from`, converted to dtype `to`.
pub(super) fn variable(bytes: &[u8], from: DType, shape: &[usize], to: DType, device: &Device) -> Result<Var> {
    match (from, to) {
        (DType::F32, DType::F32) => same::<f32>(bytes, shape, device),
        (DType::BF16, DType::BF16) => same::<bf16>(bytes, shape, device),
        (DType::F16, DType::F16) => same::<f16>(bytes, shape, device),
        (DType::F32, DType::BF16) => converted::<f32, bf16>(bytes, shape, device),
        (DType::F32, DType::F16) => converted::<f32, f16>(bytes, shape, device),
        (DType::BF16, DType::F32) => converted::<bf16, f32>(bytes, shape, device),
        (DType::BF16, DType::F16) => converted::<bf16, f16>(bytes, shape, device),
        (DType::F16, DType::F32) => converted::<f16, f32>(bytes, shape, device),
        (DType::F16, DType::BF16) => converted::<f16, bf16>(bytes, shape, device),
        (from, to) => Err(Error::argument(format!("cannot load {from:?} weights as {to:?}; use \"f32\", \"bf16\" or \"f16\""))),
    }
}

fn same<T: Float>(bytes: &[u8], shape: &[usize], device: &Device) -> Result<Var> {
    filled(bytes, shape, device, |element| T::from_le(element), T::BYTES)
}

fn converted<S: Float, T: Float>(bytes: &[u8], shape: &[usize], device: &Device) -> Result<Var> {
    filled(bytes, shape, device, |element| T::narrow(S::from_le(element).widen()), S::BYTES)
}

fn filled<T: Float>(
    bytes: &[u8],
    shape: &[usize],
    device: &Device,
    read: impl Fn(&[u8]) -> T + Sync,
    size: usize,
) -> Result<Var> {
    let count = bytes.len() / size;
    let mut values: Vec<T> = Vec::with_capacity(count);
    let spare = &mut values.spare_capacity_mut()[..count];
    ask_for_large_pages(spare);
    spare.par_chunks_mut(CHUNK).zip(bytes.par_chunks(CHUNK * size)).for_each(|(values, bytes)| {
        for (value, element) in values.iter_mut().zip(bytes.chunks_exact(size)) {
            value.write(read(element));
        }
    });
    // SAFETY: every chunk of values had a chunk of bytes with as many elements, so that the first `count` values are written.
    unsafe { values.set_len(count) };
    Ok(Var::from_vec(values, shape, device)?)
}

/// Asks the system for large pages under memory that is about to be filled: a model of billions of parameters otherwise spends
/// most of its loading in page faults.
fn ask_for_large_pages<T>(memory: &mut [std::mem::MaybeUninit<T>]) {
    #[cfg(target_os = "linux")]
    {
        const LARGE: usize = 1 << 21;
        let range = memory.as_mut_ptr_range();
        let start = (range.start as usize).next_multiple_of(LARGE);
        let end = range.end as usize / LARGE * LARGE;
        if start < end {
            // SAFETY: the range lies inside memory that is ours; the advice changes no content. It only saves time, so that it
            // does not matter whether the system takes it.
            let _ = unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
