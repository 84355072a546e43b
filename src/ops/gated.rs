//! SwiGLU's activation (Shazeer 2020, arXiv 2002.05202): `y = silu(gate) * up`, with `silu(x) = x * sigmoid(x)`.
//!
//! Backward: `d up = g silu(gate)`, `d gate = g up s (1 + gate (1 - s))` with `s = sigmoid(gate)`.

use super::exp::{exp, vectorised};
use super::parallel;
use crate::autograd::buffer::zeroed;
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

const BLOCK: usize = 1 << 13;

/// `silu(gate) * up`, element by element.
///
/// # Errors
/// The shapes differ.
pub fn silu_mul(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.dims() != up.dims() {
        candle_core::bail!("silu_mul: shapes {:?} and {:?} differ", gate.dims(), up.dims());
    }
    if !super::fused_for(gate) {
        return gate.silu()? * up;
    }
    let (gate, up) = (gate.contiguous()?, up.contiguous()?);
    if (gate.track_op() || up.track_op()) && crate::autograd::grad_enabled() {
        gate.apply_op2(&up, SiluMul)
    } else {
        gate.apply_op2_no_bwd(&up, &SiluMul)
    }
}

#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

vectorised! {
    fn forward_block(gate: &[f32], up: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(gate).zip(up).for_each(|((o, g), u)| *o = g * sigmoid(*g) * u);
    }
}

vectorised! {
    fn backward_block(gate: &[f32], up: &[f32], g: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
        for ((((gate, up), g), dgate), dup) in gate.iter().zip(up).zip(g).zip(dgate).zip(dup) {
            let s = sigmoid(*gate);
            *dup = g * gate * s;
            *dgate = g * up * s * (1.0 + gate * (1.0 - s));
        }
    }
}

/// On slices of equal length.
pub(super) fn forward(gate: &[f32], up: &[f32], out: &mut [f32]) {
    parallel::by_rows(out, 1, |first, out| {
        let end = first + out.len();
        forward_block(&gate[first..end], &up[first..end], out);
    });
}

/// The gradients by `gate` and `up`.
pub(super) fn backward(gate: &[f32], up: &[f32], g: &[f32], dgate: &mut [f32], dup: &mut [f32]) {
    let mut parts: Vec<_> = dgate.chunks_mut(BLOCK).zip(dup.chunks_mut(BLOCK)).collect();
    parallel::by_chunks(&mut parts, 1, |first, parts| {
        for (i, (dgate, dup)) in parts.iter_mut().enumerate() {
            let from = (first + i) * BLOCK;
            let range = from..from + dgate.len();
            backward_block(&gate[range.clone()], &up[range.clone()], &g[range], dgate, dup);
        }
    });
}

struct SiluMul;

impl CustomOp2 for SiluMul {
    fn name(&self) -> &'static str {
        "silu_mul"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (super::elements(s1, l1)?, super::elements(s2, l2)?);
        let mut out = zeroed(gate.len());
        forward(gate, up, &mut out);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dgate, dup) = super::with_elements(g, |g| {
            super::with_elements(gate, |gate| {
                super::with_elements(up, |up| {
                    let (mut dgate, mut dup) = (zeroed(g.len()), zeroed(g.len()));
                    backward(gate, up, g, &mut dgate, &mut dup);
                    Ok((dgate, dup))
                })
            })
        })?;
        let tensor = |values| Tensor::from_vec(values, gate.shape(), gate.device());
        Ok((Some(tensor(dgate)?), Some(tensor(dup)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Parameter, backward};
    use crate::ops::check::{difference, tensor};
    use crate::ops::with_fused;

    #[test]
    fn fused_equals_composed() {
        for shape in [vec![1, 1], vec![3, 67], vec![130, 129]] {
            let run = |fused| {
                with_fused(fused, || {
                    let (a, b) = (Parameter::new(&tensor(&shape, 1)).unwrap(), Parameter::new(&tensor(&shape, 2)).unwrap());
                    let y = silu_mul(&a.tensor(), &b.tensor()).unwrap();
                    backward(&(&y * &tensor(&shape, 3)).unwrap().sum_all().unwrap()).unwrap();
                    [y.detach(), a.grad().unwrap().unwrap(), b.grad().unwrap().unwrap()]
                })
            };
            for (a, b) in run(true).iter().zip(&run(false)) {
                assert!(difference(a, b) < 1e-5);
            }
        }
    }
}
