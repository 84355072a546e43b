//! The penalty of elastic weight consolidation as one operation: no temporary of the parameters' size.

use super::ewc::{Anchor, host_values};
use crate::error::Result;
use crate::ops::vectorised;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, Var};
use rayon::prelude::*;

/// Elements that one task takes: their inputs fit the second cache.
const BLOCK: usize = 1 << 14;

/// `importance * sum F (p - p0)^2` over all anchors.
pub(super) fn penalty(anchors: &[Anchor], importance: f64) -> Result<Tensor> {
    let op = Penalty { anchors: anchors.to_vec(), importance };
    // The parameters are captured, not inputs: a one-element variable stands in, so that candle records the operation.
    let stand_in = Var::zeros(1, DType::F32, &Device::Cpu)?;
    let penalty = if crate::nn::grad_enabled() { stand_in.apply_op1(op)? } else { stand_in.apply_op1_no_bwd(&op)? };
    // Where the model is, so that it can be added to a loss.
    let device = anchors.first().map_or(Device::Cpu, |anchor| anchor.parameter.device());
    Ok(penalty.to_device(&device)?)
}

struct Penalty {
    anchors: Vec<Anchor>,
    importance: f64,
}

/// Runs `read` on a parameter's elements, without a copy where they are f32 on the CPU.
fn with_values<T>(anchor: &Anchor, read: impl FnOnce(&[f32]) -> T) -> candle_core::Result<T> {
    let value = anchor.parameter.value();
    if value.device().is_cpu() && value.dtype() == DType::F32 {
        return crate::ops::with_elements(&value, |values| Ok(read(values)));
    }
    Ok(read(&host_values(&value).map_err(candle_core::Error::wrap)?))
}

vectorised! {
    /// `sum F (p - p0)^2`, in eight sums.
    fn weighted_squares(p: &[f32], p0: &[f32], f: &[f32]) -> f64 {
        let term = |p: f32, p0: f32, f: f32| f64::from(f) * f64::from(p - p0) * f64::from(p - p0);
        let ((p, last_p), (p0, last_p0), (f, last_f)) = (p.as_chunks::<8>(), p0.as_chunks::<8>(), f.as_chunks::<8>());
        let mut sums = [0f64; 8];
        for ((p, p0), f) in p.iter().zip(p0).zip(f) {
            for i in 0..8 {
                sums[i] += term(p[i], p0[i], f[i]);
            }
        }
        let last = last_p.iter().zip(last_p0).zip(last_f).map(|((p, p0), f)| term(*p, *p0, *f));
        sums.iter().sum::<f64>() + last.sum::<f64>()
    }
}

vectorised! {
    /// `g = (filled ? g : 0) + factor F (p - p0)`.
    fn add_gradient(g: &mut [f32], filled: bool, (p, p0, f): (&[f32], &[f32], &[f32]), factor: f32) {
        let terms = p.iter().zip(p0).zip(f).map(|((p, p0), f)| factor * f * (p - p0));
        if filled {
            g.iter_mut().zip(terms).for_each(|(g, term)| *g += term);
        } else {
            g.iter_mut().zip(terms).for_each(|(g, term)| *g = term);
        }
    }
}

/// `sum F (p - p0)^2` of one anchor.
fn squares(anchor: &Anchor, values: &[f32]) -> f64 {
    let blocks = values.par_chunks(BLOCK).zip(anchor.original.par_chunks(BLOCK)).zip(anchor.fisher.par_chunks(BLOCK));
    let sums: Vec<f64> = blocks.map(|((p, p0), f)| weighted_squares(p, p0, f)).collect();
    sums.iter().sum()
}

/// Adds `factor F (p - p0)` to a gradient, or writes it where none is filled; returns `sum F (p - p0)^2`, for which the elements are in the
/// cache: such a pass takes as long as the memory does.
fn squares_and_gradient(anchor: &Anchor, values: &[f32], gradient: &mut [f32], filled: bool, factor: f32) -> f64 {
    let inputs = values.par_chunks(BLOCK).zip(anchor.original.par_chunks(BLOCK)).zip(anchor.fisher.par_chunks(BLOCK));
    let blocks = gradient.par_chunks_mut(BLOCK).zip(inputs).map(|(g, ((p, p0), f))| {
        add_gradient(g, filled, (p, p0, f), factor);
        weighted_squares(p, p0, f)
    });
    blocks.collect::<Vec<f64>>().iter().sum()
}

/// Adds the penalty's gradients to the parameters', and returns the penalty.
pub(super) fn add_penalty(anchors: &[Anchor], importance: f64) -> Result<f64> {
    let mut total = 0.0;
    for anchor in anchors {
        total += add_anchor(anchor, 2.0 * importance as f32)?;
    }
    Ok(importance * total)
}

/// Adds `factor F (p - p0)` to one parameter's gradient, where it has one; returns `sum F (p - p0)^2`.
fn add_anchor(anchor: &Anchor, factor: f32) -> Result<f64> {
    let parameter = &anchor.parameter;
    with_values(anchor, |values| {
        if !parameter.requires_grad() {
            return Ok(squares(anchor, values));
        }
        let mut sum = 0.0;
        let mut add = |gradient: &mut [f32], filled: bool| {
            sum = squares_and_gradient(anchor, values, gradient, filled, factor);
        };
        if parameter.device().is_cpu() {
            parameter.accumulate_with(add)?;
        } else {
            let mut gradient = vec![0f32; values.len()];
            add(&mut gradient, false);
            parameter.accumulate(&Tensor::from_vec(gradient, parameter.dims(), &parameter.device())?)?;
        }
        Ok(sum)
    })?
}

impl CustomOp1 for Penalty {
    fn name(&self) -> &'static str {
        "ewc_penalty"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut total = 0.0;
        for anchor in &self.anchors {
            total += with_values(anchor, |values| squares(anchor, values))?;
        }
        Ok((CpuStorage::F32(vec![(self.importance * total) as f32]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let factor = 2.0 * self.importance as f32 * g.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        for anchor in &self.anchors {
            add_anchor(anchor, factor).map_err(candle_core::Error::wrap)?;
        }
        Ok(None)
    }
}
