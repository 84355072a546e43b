//! Differentiable operations for language models.
//!
//! Each file holds one operation: its formula, a composition of candle operations (the reference, and what devices without a
//! fused kernel run), and the fused CPU forward and backward. Activations are f32 on the CPU; weights stay in the dtype they
//! were loaded in, or quantised, and are widened as they are read.
//!
//! Weights are *captured*: an operation holds its [`Parameter`](crate::autograd::Parameter)s and adds their gradients straight into
//! `.grad`. They are no inputs of candle's graph, so a frozen weight costs no gradient, and a trained one no copies of it.

pub mod attention;
pub mod block;
pub mod cache;
pub mod cross_entropy;
pub mod dropout;
pub mod embedding;
mod exp;
mod few_rows;
pub mod gated;
pub mod gpu;
pub mod layer;
pub mod linear;
pub mod magnitude;
pub mod matrix;
pub mod norm;
mod panels;
pub(crate) mod parallel;
pub mod precision;
pub mod quantised;
pub mod rope;
pub mod stack;
pub(crate) mod team;
mod vector;

pub(crate) use exp::vectorised;

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Tensor, Var};
use std::cell::Cell;

thread_local! {
    static FUSED: Cell<bool> = Cell::new(std::env::var("FTREPL_FUSED").map_or(true, |v| v != "0"));
}

/// Whether fused CPU operations are used; `FTREPL_FUSED=0` switches to the compositions.
pub fn fused() -> bool {
    FUSED.with(Cell::get)
}

/// Runs `work` with the fused operations on or off, on this thread; for comparing the two.
pub fn with_fused<T>(on: bool, work: impl FnOnce() -> T) -> T {
    crate::autograd::with_flag(&FUSED, on, work)
}

/// Whether the fused CPU kernel serves this tensor.
pub(crate) fn fused_for(x: &Tensor) -> bool {
    fused() && x.device().is_cpu() && x.dtype() == DType::F32
}

/// The elements of a contiguous f32 storage.
pub(crate) fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(values) = storage else { candle_core::bail!("a fused operation got a tensor that is not f32") };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => candle_core::bail!("a fused operation got a tensor that is not contiguous"),
    }
}

/// Runs `read` on the elements of a contiguous f32 CPU tensor.
pub(crate) fn with_elements<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<T>) -> Result<T> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => read(elements(storage, layout)?),
        _ => candle_core::bail!("a fused operation got a tensor that is not on the CPU"),
    }
}

/// How an operation that captures parameters was applied.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Recording {
    /// A backward pass may follow.
    pub recorded: bool,
    /// Nobody wants the input's gradient.
    pub no_input_gradient: bool,
}

/// Applies an operation that captures parameters to `x`: recorded where one of them `trains`, or where `x` wants a gradient.
pub(crate) fn apply<Op>(x: &Tensor, trains: bool, op: impl FnOnce(Recording) -> Op) -> Result<Tensor>
where
    Op: CustomOp1 + Send + Sync + 'static,
{
    let tracked = x.track_op() && crate::autograd::grad_enabled();
    if !trains && !tracked {
        return x.apply_op1_no_bwd(&op(Recording::default()));
    }
    let op = op(Recording { recorded: true, no_input_gradient: !x.track_op() });
    // candle records an operation only for a tracked input; a copy stands in where only the parameters train.
    if x.track_op() { x.apply_op1(op) } else { Var::from_tensor(x)?.into_inner().apply_op1(op) }
}

#[cfg(test)]
pub(crate) mod check {
    //! What every operation's tests need: random tensors, comparison, finite differences.
    use candle_core::{Device, Tensor};

    /// Pseudo-random values in -1..1 that depend on nothing but the seed.
    pub fn values(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..n)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    pub fn tensor(shape: &[usize], seed: u64) -> Tensor {
        Tensor::from_vec(values(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
    }

    /// Largest absolute difference relative to the largest absolute value.
    pub fn difference(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let (a, b) = (a.flatten_all().unwrap(), b.flatten_all().unwrap());
        let (a, b) = (a.to_vec1::<f32>().unwrap(), b.to_vec1::<f32>().unwrap());
        let largest = b.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
        assert!(a.iter().chain(&b).all(|v| v.is_finite()));
        a.iter().zip(&b).fold(0f32, |m, (x, y)| m.max((x - y).abs())) / largest
    }
}
