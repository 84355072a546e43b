//! An operation of candle's graph whose output was computed before it was made: operations are given memory, and what works on whole
//! tensors is called first.

use crate::ops;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor, bail};
use std::sync::{Mutex, PoisonError};

/// Adds the parameters' gradients, given input and output's gradient; returns the gradient by the input where it is wanted.
pub(super) type Backward = Box<dyn Fn(&Tensor, &Tensor, bool) -> Result<Option<Tensor>> + Send + Sync>;

/// `output` as the result of an operation on `x`, recorded where parameters of it `train` or where `x` wants a gradient.
pub(super) fn recorded(x: &Tensor, trains: bool, name: &'static str, output: Tensor, backward: Backward) -> Result<Tensor> {
    ops::apply(x, trains, |recording| Given {
        name,
        output: Mutex::new(Some(output)),
        wants_input: !recording.no_input_gradient,
        backward,
    })
}

struct Given {
    name: &'static str,
    output: Mutex<Option<Tensor>>,
    wants_input: bool,
    backward: Backward,
}

impl Given {
    fn output(&self) -> Result<Tensor> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.ok_or_else(|| candle_core::Error::Msg(format!("{}: the output was taken before", self.name)))
    }
}

impl CustomOp1 for Given {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let output = self.output()?;
        let (storage, layout) = output.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("{}: the output is on another device than the input", self.name),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        let output = self.output()?;
        let (storage, layout) = output.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => bail!("{}: the output is on another device than the input", self.name),
        }
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        (self.backward)(&x.detach(), &g.detach().contiguous()?, self.wants_input)
    }
}
