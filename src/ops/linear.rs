//! Linear layer: `y = x W^T + b`, with `x` `[.., inputs]`, `W` `[outputs, inputs]`, `b` `[outputs]`.
//!
//! Backward: `dx = g W`, `dW = g^T x`, `db` = column sums of `g`; the last two only where wanted.

use super::matrix::{self, Weight};
use crate::autograd::Parameter;
use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Storage, Tensor, bail};

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
    if !super::fused_for(x) {
        return composed(x, weight, bias);
    }
    let trains = weight.tracked() || bias.is_some_and(Parameter::tracked);
    let x = x.contiguous()?;
    let op = |no_input_gradient| Linear { weight: weight.clone(), bias: bias.cloned(), no_input_gradient };
    if trains {
        let (x, promoted) = super::tracked(&x)?;
        x.apply_op1(op(promoted))
    } else if x.track_op() && crate::autograd::grad_enabled() {
        x.apply_op1(op(false))
    } else {
        x.apply_op1_no_bwd(&op(false))
    }
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
    weight: Parameter,
    bias: Option<Parameter>,
    /// The input was made tracked by us: nobody wants its gradient.
    no_input_gradient: bool,
}

/// Runs `read` on a parameter's stored elements.
pub(super) fn with_weight<T>(weight: &Parameter, read: impl FnOnce(Weight<'_>) -> Result<T>) -> Result<T> {
    if let Some(blocks) = weight.quantised() {
        return read(Weight::Quantised(&blocks));
    }
    let value = weight.value();
    let (storage, layout) = value.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => read(Weight::from_storage(storage, start, end)?),
        _ => bail!("a fused operation got a weight that is not contiguous on the CPU"),
    }
}

/// Adds `g^T x` to the gradient of `weight` [outputs, inputs], with `g` [rows, outputs] and `x` [rows, inputs].
pub(super) fn add_weight_gradient(weight: &Parameter, g: &[f32], x: &[f32]) -> Result<()> {
    if weight.accumulate_product(g, x) {
        return Ok(());
    }
    let dims = weight.dims();
    let (outputs, inputs) = (dims[0], dims[1]);
    let rows = x.len() / inputs.max(1);
    weight
        .accumulate_with(|dw, add| matrix::weight_gradient(g, x, dw, add, rows, inputs, outputs))
        .map_err(candle_core::Error::wrap)
}

/// Adds the sums of the columns of `g` [rows, outputs] to the gradient of `bias` [outputs].
pub(super) fn add_column_sums(bias: &Parameter, g: &[f32]) -> Result<()> {
    let add = |db: &mut [f32], add: bool| {
        if !add {
            db.fill(0.0);
        }
        for row in g.chunks_exact(db.len().max(1)) {
            db.iter_mut().zip(row).for_each(|(d, v)| *d += v);
        }
    };
    bias.accumulate_with(add).map_err(candle_core::Error::wrap)
}

impl CustomOp1 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = super::elements(storage, layout)?;
        let dims = self.weight.dims();
        let (outputs, inputs) = (dims[0], dims[1]);
        let rows = x.len() / inputs.max(1);
        let mut out = vec![0f32; rows * outputs];
        with_weight(&self.weight, |w| {
            matrix::times_weight_transposed(x, w, &mut out, false, rows, inputs, outputs);
            Ok(())
        })?;
        if let Some(bias) = &self.bias {
            let bias = bias.value().to_dtype(DType::F32)?.to_vec1::<f32>()?;
            for row in out.chunks_exact_mut(outputs) {
                row.iter_mut().zip(&bias).for_each(|(o, b)| *o += b);
            }
        }
        let mut shape = layout.dims().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        Ok((CpuStorage::F32(out), shape.into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let dims = self.weight.dims();
        let (outputs, inputs) = (dims[0], dims[1]);
        let rows = x.elem_count() / inputs.max(1);
        super::with_elements(g, |g| {
            if self.weight.requires_grad() {
                super::with_elements(x, |x| add_weight_gradient(&self.weight, g, x))?;
            }
            if let Some(bias) = self.bias.as_ref().filter(|b| b.requires_grad()) {
                add_column_sums(bias, g)?;
            }
            if self.no_input_gradient {
                return Ok(None);
            }
            let mut dx = vec![0f32; rows * inputs];
            with_weight(&self.weight, |w| {
                matrix::times_weight(g, w, &mut dx, false, rows, inputs, outputs);
                Ok(())
            })?;
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
