//! Linear layer: `y = x W^T + b`, with `x` `[.., inputs]`, `W` `[outputs, inputs]`, `b` `[outputs]`.
//!
//! Backward: `dx = g W`, `dW = g^T x`, `db` = column sums of `g`; the last two only where wanted.

use super::Recording;
use super::layer::Layer;
use crate::autograd::Parameter;
use crate::autograd::buffer::zeroed;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

/// Applies a linear layer. On the CPU `x` is f32 and the weight f32, bf16, f16 or quantised.
///
/// # Errors
/// The last dimension of `x` is not the weight's number of inputs.
pub fn linear(x: &Tensor, weight: &Parameter, bias: Option<&Parameter>) -> Result<Tensor> {
    let dims = weight.dims();
    let inputs = x.dims().last().copied().unwrap_or(0);
    if dims.len() != 2 || dims[1] != inputs {
        bail!("a linear layer with weight {dims:?} cannot be applied to a tensor of shape {:?}", x.dims());
    }
    let layer = Layer::plain(weight.clone(), bias.cloned());
    let recorded = layer.tracked() || (x.track_op() && crate::autograd::grad_enabled());
    // Not by candle's product, which lets cuBLAS round factors of f32 to f16.
    if x.device().is_cuda() && super::gpu::serves(x) && !recorded && x.elem_count() > 0 && weight.quantised().is_none() {
        return super::gpu::linear(&layer, x);
    }
    if !super::fused_for(x) {
        return composed(x, weight, bias);
    }
    super::apply(&x.contiguous()?, layer.tracked(), |recording| Linear { layer, recording })
}

/// The same by candle's operations.
fn composed(x: &Tensor, weight: &Parameter, bias: Option<&Parameter>) -> Result<Tensor> {
    let y = x.broadcast_matmul(&weight.tensor().to_dtype(x.dtype())?.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(&bias.tensor().to_dtype(x.dtype())?),
        None => Ok(y),
    }
}

struct Linear {
    layer: Layer,
    recording: Recording,
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = super::elements(storage, layout)?;
        let dims = self.layer.dims(x);
        let mut out = zeroed(dims.rows * dims.outputs);
        self.layer.forward(x, 0, &mut out, &mut [])?;
        let mut shape = layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = dims.outputs;
        }
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        super::with_elements(g, |g| {
            super::with_elements(x, |x| self.layer.add_gradients(x, g, &[], &[]))?;
            if self.recording.no_input_gradient {
                return Ok(None);
            }
            let mut dx = zeroed(x.elem_count());
            self.layer.backward(g, 0, Some((&mut dx, false)), &mut [])?;
            Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::backward;
    use crate::ops::check::{difference, tensor};
    use crate::ops::with_fused;
    use candle_core::Var;

    /// Output, input gradient and parameter gradients of one pass.
    fn run(fused: bool, shape: &[usize], outputs: usize) -> Vec<Tensor> {
        with_fused(fused, || {
            let x = Parameter::new(&tensor(shape, 1)).unwrap();
            let weight = Parameter::new(&tensor(&[outputs, shape[shape.len() - 1]], 2)).unwrap();
            let bias = Parameter::new(&tensor(&[outputs], 3)).unwrap();
            let y = linear(&x.tensor(), &weight, Some(&bias)).unwrap();
            let g = tensor(y.dims(), 4);
            backward(&(&y * &g).unwrap().sum_all().unwrap()).unwrap();
            let grads = [&x, &weight, &bias].map(|p| p.grad().unwrap().unwrap());
            std::iter::once(y.detach()).chain(grads).collect()
        })
    }

    #[test]
    fn fused_equals_composed_in_odd_sizes() {
        for (shape, outputs) in [(vec![1, 1], 1), (vec![1, 5], 3), (vec![2, 3, 7], 5), (vec![33, 65], 129)] {
            for (a, b) in run(true, &shape, outputs).iter().zip(&run(false, &shape, outputs)) {
                assert!(difference(a, b) < 1e-5);
            }
        }
    }

    #[test]
    fn an_untracked_input_still_trains_the_weight_and_two_passes_add_up() {
        let x = tensor(&[4, 6], 1);
        let weight = Parameter::new(&tensor(&[3, 6], 2)).unwrap();
        for _ in 0..2 {
            backward(&linear(&x, &weight, None).unwrap().sum_all().unwrap()).unwrap();
        }
        let expected = (x.sum(0).unwrap() * 2.0).unwrap().broadcast_as((3, 6)).unwrap().contiguous().unwrap();
        assert!(difference(&weight.grad().unwrap().unwrap(), &expected) < 1e-5);
    }

    #[test]
    fn a_frozen_weight_passes_the_gradient_on_and_gets_none() {
        let x = Parameter::from_var(Var::from_tensor(&tensor(&[4, 6], 1)).unwrap());
        let weight = Parameter::new(&tensor(&[3, 6], 2)).unwrap();
        weight.set_requires_grad(false);
        backward(&linear(&x.tensor(), &weight, None).unwrap().sum_all().unwrap()).unwrap();
        assert!(x.has_grad() && !weight.has_grad());
    }
}
