//! Normalisation of rows with a trained scale: root mean square and layer normalisation.

mod layer;
mod rms;

use super::{Recording, parallel};
use crate::autograd::Parameter;
use crate::autograd::buffer::zeroed;
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor};

/// What a norm computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NormKind {
    /// `x / rms(x) * w`.
    #[default]
    Rms,
    /// `x / rms(x) * (1 + w)`, as Gemma has it: weights start at 0.
    RmsPlusOne,
    /// `(x - mean) / deviation * w + b`.
    Layer,
}

/// A norm and its parameters.
#[derive(Debug, Clone)]
pub struct Norm {
    /// What it computes.
    pub kind: NormKind,
    /// `[width]`.
    pub weight: Parameter,
    /// `[width]`, of layer normalisation.
    pub bias: Option<Parameter>,
    /// Added to the mean square or the variance.
    pub eps: f64,
}

/// A norm's parameters as the slices that rows are computed with.
pub(super) struct NormValues {
    kind: NormKind,
    scale: Vec<f32>,
    shift: Vec<f32>,
    eps: f64,
}

/// Adds a row's part, given its input and its output's gradient, to a parameter's gradient.
type AddRow<'a> = &'a dyn Fn(&[f32], &[f32], &mut [f32]);

/// Root mean square normalisation of the last dimension of `x` [.., width], scaled by `weight` `[width]`.
///
/// # Errors
/// The last dimension is not the weight's length.
pub fn rms_norm(x: &Tensor, weight: &Parameter, eps: f64) -> Result<Tensor> {
    Norm { kind: NormKind::Rms, weight: weight.clone(), bias: None, eps }.apply(x)
}

impl Norm {
    /// Normalises the last dimension of `x` [.., width].
    ///
    /// # Errors
    /// The last dimension is not the weight's length.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        if self.weight.dims().first() != x.dims().last() {
            candle_core::bail!("norm: weight {:?} does not fit a tensor of shape {:?}", self.weight.dims(), x.dims());
        }
        if super::gpu::serves(x) {
            return super::gpu::normed(self, x);
        }
        if !super::fused_for(x) {
            return self.composed(x);
        }
        let x = x.contiguous()?;
        let values = self.values()?;
        super::apply(&x, self.tracked(), |recording| NormOp { norm: self.clone(), values, recording })
    }

    /// The same by candle's operations; moments are taken in f32, as transformers does.
    fn composed(&self, x: &Tensor) -> Result<Tensor> {
        let mut wide = x.to_dtype(DType::F32)?;
        if self.kind == NormKind::Layer {
            wide = wide.broadcast_sub(&wide.mean_keepdim(D::Minus1)?)?;
        }
        let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
        let normal = wide.broadcast_div(&(mean + self.eps)?.sqrt()?)?;
        let weight = self.weight.tensor();
        let y = match self.kind {
            NormKind::RmsPlusOne => normal.broadcast_mul(&(weight.to_dtype(DType::F32)? + 1.0)?)?.to_dtype(x.dtype())?,
            _ => normal.to_dtype(x.dtype())?.broadcast_mul(&weight.to_dtype(x.dtype())?)?,
        };
        match &self.bias {
            Some(bias) => y.broadcast_add(&bias.tensor().to_dtype(x.dtype())?),
            None => Ok(y),
        }
    }

    /// Whether an operation has to be recorded for one of the parameters.
    pub(super) fn tracked(&self) -> bool {
        self.weight.tracked() || self.bias.as_ref().is_some_and(Parameter::tracked)
    }

    /// Whether one of the parameters requires a gradient.
    pub(super) fn trains(&self) -> bool {
        self.weight.requires_grad() || self.bias.as_ref().is_some_and(Parameter::requires_grad)
    }

    pub(super) fn values(&self) -> Result<NormValues> {
        let mut scale = super::layer::values(&self.weight)?;
        if self.kind == NormKind::RmsPlusOne {
            scale.iter_mut().for_each(|w| *w += 1.0);
        }
        let shift = match (&self.bias, self.kind) {
            (Some(bias), _) => super::layer::values(bias)?,
            (None, NormKind::Layer) => vec![0.0; scale.len()],
            (None, _) => Vec::new(),
        };
        Ok(NormValues { kind: self.kind, scale, shift, eps: self.eps })
    }

    /// Adds `factor` times the gradients by the parameters, where they are wanted, for the rows `x` and their outputs' gradient `g`.
    pub(super) fn add_gradients(&self, x: &[f32], g: &[f32], factor: f32) -> Result<()> {
        let (width, eps) = (self.weight.elem_count().max(1), self.eps);
        let summed = |parameter: &Parameter, add: AddRow<'_>| {
            let sum = |out: &mut [f32], filled: bool| {
                let mut own = vec![0f32; width];
                x.chunks_exact(width).zip(g.chunks_exact(width)).for_each(|(x, g)| add(x, g, &mut own));
                if !filled {
                    out.fill(0.0);
                }
                out.iter_mut().zip(own).for_each(|(out, own)| *out += factor * own);
            };
            parameter.accumulate_with(sum).map_err(candle_core::Error::wrap)
        };
        if self.weight.requires_grad() {
            summed(&self.weight, &|x, g, out| match self.kind {
                NormKind::Layer => layer::add_scale_gradient(x, eps, g, out),
                _ => rms::add_scale_gradient(x, eps, g, out),
            })?;
        }
        if let Some(bias) = self.bias.as_ref().filter(|bias| bias.requires_grad()) {
            summed(bias, &|_, g, out| out.iter_mut().zip(g).for_each(|(out, g)| *out += g))?;
        }
        Ok(())
    }
}

impl NormValues {
    /// Normalises every row of `x` into `out`.
    pub(super) fn forward(&self, x: &[f32], out: &mut [f32]) {
        let width = self.scale.len();
        parallel::by_rows(out, width, |first, out| {
            let rows = out.chunks_exact_mut(width).zip(x[first * width..].chunks_exact(width));
            rows.for_each(|(out, x)| match self.kind {
                NormKind::Layer => layer::normalise_row(x, &self.scale, &self.shift, self.eps, out),
                _ => rms::normalise_row(x, &self.scale, self.eps, out),
            });
        });
    }

    /// Adds the gradient by `x` to `dx`.
    pub(super) fn backward(&self, x: &[f32], g: &[f32], dx: &mut [f32]) {
        let width = self.scale.len();
        parallel::by_rows(dx, width, |first, dx| {
            let (x, g) = (x[first * width..].chunks_exact(width), g[first * width..].chunks_exact(width));
            dx.chunks_exact_mut(width).zip(x).zip(g).for_each(|((dx, x), g)| match self.kind {
                NormKind::Layer => layer::backward_row(x, &self.scale, self.eps, g, dx),
                _ => rms::backward_row(x, &self.scale, self.eps, g, dx),
            });
        });
    }
}

struct NormOp {
    norm: Norm,
    values: NormValues,
    recording: Recording,
}

impl CustomOp1 for NormOp {
    fn name(&self) -> &'static str {
        "norm"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = super::elements(storage, layout)?;
        let mut out = zeroed(x.len());
        self.values.forward(x, &mut out);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let gradient = super::with_elements(g, |g| {
            super::with_elements(x, |x| {
                self.norm.add_gradients(x, g, 1.0)?;
                if self.recording.no_input_gradient {
                    return Ok(None);
                }
                let mut dx = zeroed(x.len());
                self.values.backward(x, g, &mut dx);
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

    fn run(fused: bool, kind: NormKind, shape: &[usize]) -> Vec<Tensor> {
        with_fused(fused, || {
            let x = Parameter::new(&tensor(shape, 1)).unwrap();
            let vector = |seed| Parameter::new(&tensor(&shape[shape.len() - 1..], seed)).unwrap();
            let norm = Norm { kind, weight: vector(2), bias: (kind == NormKind::Layer).then(|| vector(4)), eps: 1e-5 };
            let y = norm.apply(&x.tensor()).unwrap();
            backward(&(&y * &tensor(shape, 3)).unwrap().sum_all().unwrap()).unwrap();
            let parameters = [Some(&x), Some(&norm.weight), norm.bias.as_ref()];
            let gradients = parameters.into_iter().flatten().map(|p| p.grad().unwrap().unwrap());
            std::iter::once(y.detach()).chain(gradients).collect()
        })
    }

    #[test]
    fn fused_equals_composed_in_odd_sizes() {
        for kind in [NormKind::Rms, NormKind::RmsPlusOne, NormKind::Layer] {
            // Two elements that are centred and scaled are plus and minus one, with no gradient to compare.
            let least = if kind == NormKind::Layer { 3 } else { 2 };
            for shape in [vec![1, least], vec![1, 7], vec![3, 5, 33], vec![40, 65]] {
                let (fused, composed) = (run(true, kind, &shape), run(false, kind, &shape));
                assert_eq!(fused.len(), composed.len());
                for (a, b) in fused.iter().zip(&composed) {
                    assert!(difference(a, b) < 1e-4, "{kind:?} {shape:?}");
                }
            }
        }
    }
}
