//! Weights from a file's bytes to the dtype that is computed with, in parallel, with one copy in memory.

use crate::autograd::buffer::collected;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Var};
use half::{bf16, f16};
use std::ops::Range;

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

/// Little-endian elements of dtype `from` as f32.
pub(super) fn widen(bytes: &[u8], from: DType, out: &mut [f32]) {
    fn each<T: Float>(bytes: &[u8], out: &mut [f32]) {
        out.iter_mut().zip(bytes.chunks_exact(T::BYTES)).for_each(|(out, element)| *out = T::from_le(element).widen());
    }
    match from {
        DType::BF16 => each::<bf16>(bytes, out),
        DType::F16 => each::<f16>(bytes, out),
        _ => each::<f32>(bytes, out),
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
    let read = &read;
    let part = |range: Range<usize>| bytes[range.start * size..range.end * size].chunks_exact(size).map(read);
    Ok(Var::from_vec(collected(bytes.len() / size, part), shape, device)?)
}
