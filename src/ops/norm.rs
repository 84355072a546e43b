//! Root mean square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467): `y = x / sqrt(mean(x^2) + eps) * w`.
//!
//! With `r = 1 / sqrt(mean(x^2) + eps)` and `n = x r`, backward is `dx = r (g w - n mean(g w n))`, `dw` = column sums of `g n`.

use super::exp::vectorised;
use super::{Recording, parallel};
use crate::autograd::Parameter;
use crate::autograd::buffer::zeroed;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

/// Normalises the last dimension of `x` [.., hidden] and scales it by `weight` `[hidden]`.
///
/// # Errors
/// The last dimension is not the weight's length.
pub fn rms_norm(x: &Tensor, weight: &Parameter, eps: f64) -> Result<Tensor> {
    if weight.dims().first() != x.dims().last() {
        candle_core::bail!("rms_norm: weight {:?} does not fit a tensor of shape {:?}", weight.dims(), x.dims());
    }
    if !super::fused_for(x) {
        return composed(x, weight, eps);
    }
    let x = x.contiguous()?;
    let scale = super::layer::values(weight)?;
    super::apply(&x, weight.tracked(), |recording| RmsNorm { weight: weight.clone(), scale, eps, recording })
}

/// The same by candle's operations; the mean is taken in f32, as transformers does.
fn composed(x: &Tensor, weight: &Parameter, eps: f64) -> Result<Tensor> {
    let wide = x.to_dtype(DType::F32)?;
    let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = wide.broadcast_div(&(mean + eps)?.sqrt()?)?.to_dtype(x.dtype())?;
    normal.broadcast_mul(&weight.tensor().to_dtype(x.dtype())?)
}

/// Squares summed in f64, in 16 lanes.
#[inline(always)]
fn mean_square(x: &[f32]) -> f64 {
    let mut sums = [0f64; 16];
    for part in x.chunks(16) {
        part.iter().zip(&mut sums).for_each(|(v, sum)| *sum += f64::from(*v) * f64::from(*v));
    }
    sums.iter().sum::<f64>() / x.len() as f64
}

#[inline(always)]
fn reciprocal(x: &[f32], eps: f64) -> f32 {
    (1.0 / (mean_square(x) + eps).sqrt()) as f32
}

vectorised! {
    fn normalise_row(x: &[f32], scale: &[f32], eps: f64, out: &mut [f32]) {
        let r = reciprocal(x, eps);
        out.iter_mut().zip(x).zip(scale).for_each(|((o, v), w)| *o = v * r * w);
    }
}

vectorised! {
    /// Adds to `dx`.
    fn backward_row(x: &[f32], scale: &[f32], eps: f64, g: &[f32], dx: &mut [f32]) {
        let r = reciprocal(x, eps);
        let mut sums = [0f64; 16];
        for ((x, g), w) in x.chunks(16).zip(g.chunks(16)).zip(scale.chunks(16)) {
            for (((sum, x), g), w) in sums.iter_mut().zip(x).zip(g).zip(w) {
                *sum += f64::from(x * r * g * w);
            }
        }
        let mean = (sums.iter().sum::<f64>() / x.len() as f64) as f32;
        for (((d, x), g), w) in dx.iter_mut().zip(x).zip(g).zip(scale) {
            *d += r * (g * w - x * r * mean);
        }
    }
}

vectorised! {
    fn add_scale_gradient(x: &[f32], eps: f64, g: &[f32], dw: &mut [f32]) {
        let r = reciprocal(x, eps);
        dw.iter_mut().zip(x).zip(g).for_each(|((d, x), g)| *d += x * r * g);
    }
}

/// Normalises every row of `x` into `out`.
pub(super) fn forward(x: &[f32], scale: &[f32], eps: f64, out: &mut [f32]) {
    let hidden = scale.len();
    parallel::by_rows(out, hidden, |first, out| {
        let rows = out.chunks_exact_mut(hidden).zip(x[first * hidden..].chunks_exact(hidden));
        rows.for_each(|(out, x)| normalise_row(x, scale, eps, out));
    });
}

/// Adds the gradient by `x` to `dx`.
pub(super) fn backward(x: &[f32], scale: &[f32], eps: f64, g: &[f32], dx: &mut [f32]) {
    let hidden = scale.len();
    parallel::by_rows(dx, hidden, |first, dx| {
        let (x, g) = (x[first * hidden..].chunks_exact(hidden), g[first * hidden..].chunks_exact(hidden));
        dx.chunks_exact_mut(hidden).zip(x).zip(g).for_each(|((dx, x), g)| backward_row(x, scale, eps, g, dx));
    });
}

/// Adds the gradient by the weight, where it is wanted.
pub(super) fn add_weight_gradient(weight: &Parameter, x: &[f32], eps: f64, g: &[f32]) -> Result<()> {
    if !weight.requires_grad() {
        return Ok(());
    }
    let add = |dw: &mut [f32], filled: bool| {
        if !filled {
            dw.fill(0.0);
        }
        let hidden = dw.len();
        for (x, g) in x.chunks_exact(hidden).zip(g.chunks_exact(hidden)) {
            add_scale_gradient(x, eps, g, dw);
        }
    };
    weight.accumulate_with(add).map_err(candle_core::Error::wrap)
}

struct RmsNorm {
    weight: Parameter,
    /// The weight's values in f32.
    scale: Vec<f32>,
    eps: f64,
    recording: Recording,
}

impl CustomOp1 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = super::elements(storage, layout)?;
        let mut out = zeroed(x.len());
        forward(x, &self.scale, self.eps, &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let gradient = super::with_elements(g, |g| {
            super::with_elements(x, |x| {
                add_weight_gradient(&self.weight, x, self.eps, g)?;
                if self.recording.no_input_gradient {
                    return Ok(None);
                }
                let mut dx = zeroed(x.len());
                backward(x, &self.scale, self.eps, g, &mut dx);
                Ok(Some(dx))
            })
        })?;
        gradient.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::backward;
    use crate::ops::check::{difference, tensor};
    use crate::ops::with_fused;

    fn run(fused: bool, shape: &[usize]) -> Vec<Tensor> {
        with_fused(fused, || {
            let x = Parameter::new(&tensor(shape, 1)).unwrap();
            let weight = Parameter::new(&tensor(&shape[shape.len() - 1..], 2)).unwrap();
            let y = rms_norm(&x.tensor(), &weight, 1e-5).unwrap();
            backward(&(&y * &tensor(shape, 3)).unwrap().sum_all().unwrap()).unwrap();
            vec![y.detach(), x.grad().unwrap().unwrap(), weight.grad().unwrap().unwrap()]
        })
    }

    #[test]
    fn fused_equals_composed_in_odd_sizes() {
        for shape in [vec![1, 2], vec![1, 7], vec![3, 5, 33], vec![40, 65]] {
            for (a, b) in run(true, &shape).iter().zip(&run(false, &shape)) {
                assert!(difference(a, b) < 1e-4, "{shape:?}");
            }
        }
    }
}
