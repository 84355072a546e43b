//! PyTorch's habits on top of candle's autograd: `backward` adds into each parameter's `.grad`, `no_grad` switches recording off.
//!
//! A gradient reaches a [`Parameter`] in one of two ways. Where the parameter is a leaf of candle's graph, `backward` finds it
//! in the gradient store through a registry of living leaves. Where an operation of `ops/` captured the parameter (so that
//! candle neither zeroes nor copies its gradient), that operation adds into `.grad` itself while candle walks back.

pub mod buffer;
mod gradient;
mod in_place;
pub mod parameter;

pub(crate) use gradient::sum_of_squares;
pub use gradient::{MOST_TOKENS as MOST_FACTORED_TOKENS, Pieces};
pub use parameter::Parameter;

use crate::error::{Error, Result};
use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, TensorId, Var};
use parameter::WeakParameter;
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::thread::LocalKey;

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
    static LEAVES: RefCell<HashMap<TensorId, WeakParameter>> = RefCell::new(HashMap::new());
}

/// Whether operations are being recorded for `backward` on this thread.
pub fn grad_enabled() -> bool {
    RECORDING.with(Cell::get)
}

/// Runs `work` without recording: parameters enter operations as plain tensors.
pub fn no_grad<T>(work: impl FnOnce() -> T) -> T {
    with_flag(&RECORDING, false, work)
}

/// Runs `work` with a flag of this thread at a value, and puts it back.
pub(crate) fn with_flag<T>(flag: &'static LocalKey<Cell<bool>>, value: bool, work: impl FnOnce() -> T) -> T {
    // Restored on unwinding and early return alike.
    struct Restore(&'static LocalKey<Cell<bool>>, bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            self.0.set(self.1);
        }
    }
    let _restore = Restore(flag, flag.replace(value));
    work()
}

/// Makes a leaf known to [`backward`]; called by a parameter that enters a graph.
fn register(id: TensorId, leaf: WeakParameter) {
    LEAVES.with(|l| {
        let mut leaves = l.borrow_mut();
        // Leaves die with their parameters; sweep when the map has doubled since it was last clean.
        if leaves.len() >= 1024 && leaves.len().is_power_of_two() {
            leaves.retain(|_, leaf| leaf.upgrade().is_some());
        }
        leaves.insert(id, leaf);
    });
}

thread_local! {
    static ANCHOR: OnceCell<Var> = const { OnceCell::new() };
}

/// A variable on the CPU that nobody differentiates by. An operation that captured its parameters takes it as a second input, so
/// that candle records the operation although its first input may be plain data; its `bwd` returns `None` for it.
///
/// # Errors
/// Out of memory.
pub fn anchor() -> Result<Tensor> {
    ANCHOR.with(|cell| match cell.get() {
        Some(var) => Ok(var.as_tensor().clone()),
        None => {
            let var = Var::zeros((), DType::F32, &Device::Cpu)?;
            Ok(cell.get_or_init(|| var).as_tensor().clone())
        }
    })
}

/// Runs candle's backward pass from a scalar and adds the gradients into the `.grad` of every parameter that took part.
///
/// # Errors
/// `loss` is not a scalar, or was not computed from anything that requires a gradient.
pub fn backward(loss: &Tensor) -> Result<()> {
    backward_store(loss).map(|_| ())
}

/// As [`backward`]; also returns candle's gradients, for those of leaves that are no parameters.
///
/// # Errors
/// As [`backward`].
pub fn backward_store(loss: &Tensor) -> Result<GradStore> {
    if loss.elem_count() != 1 {
        return Err(Error::argument(format!(
            "backward() needs a scalar, this tensor has shape {:?}; reduce it first with .sum() or .mean()",
            loss.dims()
        )));
    }
    if !loss.track_op() {
        return Err(Error::argument(
            "backward() on a tensor that was not computed from any tensor with requires_grad = true; \
             was it detached, or computed inside no_grad?",
        ));
    }
    let store = loss.backward()?;
    let found: Vec<(Parameter, Tensor)> = LEAVES.with(|l| {
        let leaves = l.borrow();
        store.get_ids().filter_map(|id| Some((leaves.get(id)?.upgrade()?, store.get_id(*id)?.detach()))).collect()
    });
    for (parameter, gradient) in found {
        parameter.accumulate(&gradient)?;
    }
    Ok(store)
}
