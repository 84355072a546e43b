//! Decoder blocks on tensors, for devices whose memory the CPU does not reach.
//!
//! The same formulas as in [`super::block`], with the same things kept and computed again, written with whole tensors: products by
//! the device's library, the rest by kernels of our own (`kernels/*.cu`, compiled at first use). Each part has a second form on the
//! CPU, by the slices' functions, so that everything but the kernels is tested without a device.

mod block;
#[cfg(feature = "cuda")]
mod cached;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod embedding;
mod given;
mod layer;
mod loss;
mod parts;
mod product;
mod stack;
#[cfg(feature = "cuda")]
pub(crate) mod update;
mod upload;

#[cfg(feature = "cuda")]
pub(crate) use cached::{CachedRows, attend_with_rows};
#[cfg(feature = "cuda")]
pub use cuda::Module;
#[cfg(feature = "cuda")]
pub(crate) use embedding::embedding;
pub(super) use layer::linear;
pub(crate) use loss::loss_and_gradient;
pub(super) use parts::{gated, normed, rotated};
pub use stack::apply_blocks;
pub(crate) use stack::serves as serve_blocks;
pub(crate) use upload::upload;

use candle_core::{DType, Tensor};
use std::cell::Cell;

thread_local! {
    static ON_CPU: Cell<bool> = const { Cell::new(false) };
}

/// Whether blocks are computed on tensors here: for a tensor on a CUDA device, where fused operations are on.
pub(crate) fn serves(x: &Tensor) -> bool {
    let wanted = if x.device().is_cpu() { ON_CPU.with(Cell::get) && x.dtype() == DType::F32 } else { x.device().is_cuda() };
    super::fused() && wanted && matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16)
}

/// Runs `work` with tensors on the CPU treated as those of a device; for comparing the two.
pub fn with_tensors_on_cpu<T>(work: impl FnOnce() -> T) -> T {
    crate::autograd::with_flag(&ON_CPU, true, work)
}
