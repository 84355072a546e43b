//! Reading a tensor's f32 elements on the CPU in place, for the small fused operations of this folder.

use candle_core::{CpuStorage, DType, Device, Layout, Result, Shape, Storage, Tensor};
use rayon::prelude::*;

/// Below this many elements one thread is faster than several.
const PARALLEL: usize = 1 << 15;

/// Whether the fused CPU path applies.
pub(super) fn is_host_f32(tensor: &Tensor) -> bool {
    tensor.dtype() == DType::F32 && tensor.device().is_cpu()
}

/// Runs `read` on a tensor's elements in row-major order; copies only where the layout demands it.
pub(super) fn read<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let tensor = if tensor.is_contiguous() { tensor.clone() } else { tensor.contiguous()? };
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(read(slice(storage, layout)?)),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

/// The contiguous f32 elements of a storage.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        _ => candle_core::bail!("expected contiguous f32 elements"),
    }
}

/// A tensor on the CPU that takes `values` over.
pub(super) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> Result<Tensor> {
    Tensor::from_vec(values, shape.into(), &Device::Cpu)
}

/// `f` of each element.
pub(super) fn map(x: &[f32], f: impl Fn(f32) -> f32 + Sync + Send) -> Vec<f32> {
    if x.len() < PARALLEL { x.iter().map(|v| f(*v)).collect() } else { x.par_iter().map(|v| f(*v)).collect() }
}

/// `f` of each triple of elements.
pub(super) fn map3(x: &[f32], y: &[f32], z: &[f32], f: impl Fn(f32, f32, f32) -> f32 + Sync + Send) -> Vec<f32> {
    if x.len() < PARALLEL {
        x.iter().zip(y).zip(z).map(|((x, y), z)| f(*x, *y, *z)).collect()
    } else {
        x.par_iter().zip(y).zip(z).map(|((x, y), z)| f(*x, *y, *z)).collect()
    }
}
