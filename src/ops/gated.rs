//! The activation of a decoder's inner layer, alone or as a gate on a second half: `y = f(gate) * up` (Shazeer 2020, arXiv
//! 2002.05202, for silu and gelu).
//!
//! Backward: `d up = g f(gate)`, `d gate = g up f'(gate)`.

use super::exp::{exp, vectorised};
use super::parallel;
use crate::autograd::buffer::zeroed;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

const BLOCK: usize = 1 << 13;

/// The functions that decoders have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// `x sigmoid(x)`, also called swish.
    #[default]
    Silu,
    /// GELU's approximation by tanh (Hendrycks and Gimpel 2016, arXiv 1606.08415): transformers' "gelu_new", "gelu_pytorch_tanh".
    GeluTanh,
    /// `x` times the normal distribution function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

/// `f(gate) * up`, element by element.
///
/// # Errors
/// The shapes differ.
pub fn gated(activation: Activation, gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("gated: shapes {:?} and {:?} differ", gate.dims(), up.dims());
    }
    let recorded = (gate.track_op() || up.track_op()) && crate::autograd::grad_enabled();
    if super::gpu::serves(gate) && !recorded {
        return super::gpu::gated(activation, gate, Some(up));
    }
    if !super::fused_for(gate) {
        return composed(activation, gate)? * up;
    }
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
    if recorded { gate.apply_op2(&up, Gated(activation)) } else { gate.apply_op2_no_bwd(&up, &Gated(activation)) }
}

/// `f(x)`, element by element.
///
/// # Errors
/// A tensor operation failed.
pub fn activate(activation: Activation, x: &Tensor) -> Result<Tensor> {
    let recorded = x.track_op() && crate::autograd::grad_enabled();
    if super::gpu::serves(x) && !recorded {
        return super::gpu::gated(activation, x, None);
    }
    if !super::fused_for(x) {
        return composed(activation, x);
    }
    let x = x.contiguous()?;
    if recorded { x.apply_op1(Activate(activation)) } else { x.apply_op1_no_bwd(&Activate(activation)) }
}

/// By candle's operations.
fn composed(activation: Activation, x: &Tensor) -> Result<Tensor> {
    match activation {
        Activation::Silu => x.silu(),
        // x (1 + tanh(u)) / 2 is x sigmoid(2u); of a sigmoid made of exp, candle's gradient is 0 times infinity for large -u.
        Activation::GeluTanh => {
            let u = ((x + (x.sqr()? * x)?.affine(f64::from(CUBE), 0.0)?)? * f64::from(0.5 * DOUBLED_SCALE))?;
            x * (u.tanh()? + 1.0)?.affine(0.5, 0.0)?
        }
        Activation::Gelu => x * ((x / std::f64::consts::SQRT_2)?.erf()? + 1.0)?.affine(0.5, 0.0)?,
        // candle's own has the derivative 1 at 0.
        Activation::Relu => x.le(&x.zeros_like()?)?.where_cond(&x.zeros_like()?, x),
    }
}

const CUBE: f32 = 0.044_715;
/// `2 sqrt(2 / pi)`.
const DOUBLED_SCALE: f32 = 1.595_769;

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

fn normal_distribution(x: f32) -> f32 {
    (0.5 * (1.0 + candle_core::cpu::erf::erf_f64(f64::from(x) / std::f64::consts::SQRT_2))) as f32
}

/// The function's value and derivative.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let s = sigmoid(x);
    (x * s, s * (1.0 + x * (1.0 - s)))
}

#[inline(always)]
fn gelu_tanh(x: f32) -> (f32, f32) {
    let s = sigmoid(DOUBLED_SCALE * (x + CUBE * x * x * x));
    (x * s, s + x * s * (1.0 - s) * DOUBLED_SCALE * (1.0 + 3.0 * CUBE * x * x))
}

#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const DENSITY: f32 = 0.398_942_3;
    let s = normal_distribution(x);
    (x * s, s + x * DENSITY * exp(-0.5 * x * x))
}

#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    if x <= 0.0 { (0.0, 0.0) } else { (x, 1.0) }
}

/// `out = f(gate) * up`, without `up` where there is none.
#[inline(always)]
fn values(gate: &[f32], up: Option<&[f32]>, out: &mut [f32], f: impl Fn(f32) -> (f32, f32)) {
    match up {
        Some(up) => out.iter_mut().zip(gate).zip(up).for_each(|((o, g), u)| *o = f(*g).0 * u),
        None => out.iter_mut().zip(gate).for_each(|(o, g)| *o = f(*g).0),
    }
}

/// The gradients by the gate and, where there is one, by the other half.
#[inline(always)]
fn gradients(gate: &[f32], up: Option<(&[f32], &mut [f32])>, g: &[f32], dgate: &mut [f32], f: impl Fn(f32) -> (f32, f32)) {
    match up {
        Some((up, dup)) => {
            for ((((gate, up), g), dgate), dup) in gate.iter().zip(up).zip(g).zip(dgate).zip(dup) {
                let (value, derivative) = f(*gate);
                *dup = g * value;
                *dgate = g * up * derivative;
            }
        }
        None => gate.iter().zip(g).zip(dgate).for_each(|((gate, g), dgate)| *dgate = g * f(*gate).1),
    }
}

vectorised! {
    fn forward_block(activation: Activation, gate: &[f32], up: Option<&[f32]>, out: &mut [f32]) {
        match activation {
            Activation::Silu => values(gate, up, out, silu),
            Activation::GeluTanh => values(gate, up, out, gelu_tanh),
            Activation::Gelu => values(gate, up, out, gelu),
            Activation::Relu => values(gate, up, out, relu),
        }
    }
}

vectorised! {
    fn backward_block(activation: Activation, gate: &[f32], up: Option<(&[f32], &mut [f32])>, g: &[f32], dgate: &mut [f32]) {
        match activation {
            Activation::Silu => gradients(gate, up, g, dgate, silu),
            Activation::GeluTanh => gradients(gate, up, g, dgate, gelu_tanh),
            Activation::Gelu => gradients(gate, up, g, dgate, gelu),
            Activation::Relu => gradients(gate, up, g, dgate, relu),
        }
    }
}

/// On slices of equal length.
pub(super) fn forward(activation: Activation, gate: &[f32], up: Option<&[f32]>, out: &mut [f32]) {
    parallel::by_rows(out, 1, |first, out| {
        let end = first + out.len();
        forward_block(activation, &gate[first..end], up.map(|up| &up[first..end]), out);
    });
}

/// The gradient by `gate`, and by `up` where there is one.
pub(super) fn backward(activation: Activation, gate: &[f32], up: Option<(&[f32], &mut [f32])>, g: &[f32], dgate: &mut [f32]) {
    let (up, dup) = up.map_or((None, None), |(up, dup)| (Some(up), Some(dup)));
    let mut dups = dup.map(|dup| dup.chunks_mut(BLOCK));
    let mut parts: Vec<_> = dgate.chunks_mut(BLOCK).map(|dgate| (dgate, dups.as_mut().and_then(|dups| dups.next()))).collect();
    parallel::by_chunks(&mut parts, 1, |first, parts| {
        for (i, (dgate, dup)) in parts.iter_mut().enumerate() {
            let from = (first + i) * BLOCK;
            let range = from..from + dgate.len();
            let up = up.zip(dup.as_deref_mut()).map(|(up, dup)| (&up[range.clone()], dup));
            backward_block(activation, &gate[range.clone()], up, &g[range], dgate);
        }
    });
}

struct Gated(Activation);

impl CustomOp2 for Gated {
    fn name(&self) -> &'static str {
        "gated"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (super::elements(s1, l1)?, super::elements(s2, l2)?);
        let mut out = zeroed(gate.len());
        forward(self.0, gate, Some(up), &mut out);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dgate, dup) = super::with_elements(g, |g| {
            super::with_elements(gate, |gate| {
                super::with_elements(up, |up| {
                    let (mut dgate, mut dup) = (zeroed(g.len()), zeroed(g.len()));
                    backward(self.0, gate, Some((up, &mut dup)), g, &mut dgate);
                    Ok((dgate, dup))
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(dgate)?), Some(tensor(dup)?)))
    }
}

struct Activate(Activation);

impl CustomOp1 for Activate {
    fn name(&self) -> &'static str {
        "activate"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = super::elements(storage, layout)?;
        let mut out = zeroed(x.len());
        forward(self.0, x, None, &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let dx = super::with_elements(g, |g| {
            super::with_elements(x, |x| {
                let mut dx = zeroed(g.len());
                backward(self.0, x, None, g, &mut dx);
                Ok(dx)
            })
        })?;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Parameter, backward};
    use crate::ops::check::{difference, tensor};
    use crate::ops::with_fused;

    const ALL: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];

    #[test]
    fn fused_equals_composed() {
        for activation in ALL {
            for shape in [vec![1, 1], vec![3, 67], vec![130, 129]] {
                let run = |fused| {
                    with_fused(fused, || {
                        let (a, b) = (Parameter::new(&tensor(&shape, 1)).unwrap(), Parameter::new(&tensor(&shape, 2)).unwrap());
                        let y = gated(activation, &(a.tensor() * 4.0).unwrap(), &b.tensor()).unwrap();
                        let z = activate(activation, &(a.tensor() * 3.0).unwrap()).unwrap();
                        backward(&((&y + &z).unwrap() * &tensor(&shape, 3)).unwrap().sum_all().unwrap()).unwrap();
                        [y.detach(), z.detach(), a.grad().unwrap().unwrap(), b.grad().unwrap().unwrap()]
                    })
                };
                for (a, b) in run(true).iter().zip(&run(false)) {
                    assert!(difference(a, b) < 1e-5, "{activation:?} {shape:?}");
                }
            }
        }
    }

    #[test]
    fn far_from_zero_and_at_zero_gradients_are_finite_and_the_same() {
        for activation in ALL {
            let run = |fused| {
                with_fused(fused, || {
                    let values =
                        Tensor::new(&[-500f32, -30.0, -12.0, 0.0, 12.0, 30.0, 500.0], &candle_core::Device::Cpu).unwrap();
                    let x = Parameter::new(&values).unwrap();
                    backward(&activate(activation, &x.tensor()).unwrap().sum_all().unwrap()).unwrap();
                    x.grad().unwrap().unwrap()
                })
            };
            assert!(difference(&run(true), &run(false)) < 1e-5, "{activation:?}");
        }
    }

    /// Values at -1, 0.5 and 3 as torch.nn.functional gives them.
    #[test]
    fn values_are_those_of_pytorch() {
        let expected = [
            (Activation::Silu, [-0.268_941_43, 0.311_229_66, 2.857_722_3]),
            (Activation::GeluTanh, [-0.158_808, 0.345_714, 2.996_362_7]),
            (Activation::Gelu, [-0.158_655_25, 0.345_731_23, 2.995_950_2]),
            (Activation::Relu, [0.0, 0.5, 3.0]),
        ];
        for (activation, values) in expected {
            let x = Tensor::new(&[-1f32, 0.5, 3.0], &candle_core::Device::Cpu).unwrap();
            let y = activate(activation, &x).unwrap().to_vec1::<f32>().unwrap();
            y.iter().zip(values).for_each(|(y, v)| assert!((y - v).abs() < 1e-5, "{activation:?} {y} {v}"));
        }
    }
}
