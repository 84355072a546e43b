//! The penalty of elastic weight consolidation as one operation: no temporary of the parameters' size.

use super::ewc::{Anchor, host_values};
use crate::error::Result;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Shape, Tensor, Var};
use rayon::prelude::*;

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

impl CustomOp1 for Penalty {
    fn name(&self) -> &'static str {
        "ewc_penalty"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let mut total = 0.0;
        for anchor in &self.anchors {
            total += with_values(anchor, |values| {
                let blocks = values.par_chunks(BLOCK).zip(anchor.original.par_chunks(BLOCK)).zip(anchor.fisher.par_chunks(BLOCK));
                let sums: Vec<f64> = blocks
                    .map(|((p, p0), f)| {
                        let terms = p.iter().zip(p0).zip(f).map(|((p, p0), f)| f64::from(*f) * f64::from(p - p0).powi(2));
                        terms.sum::<f64>()
                    })
                    .collect();
                sums.iter().sum::<f64>()
            })?;
        }
        Ok((CpuStorage::F32(vec![(self.importance * total) as f32]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let factor = 2.0 * self.importance as f32 * g.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        for anchor in self.anchors.iter().filter(|a| a.parameter.requires_grad()) {
            with_values(anchor, |values| {
                let add = |gradient: &mut [f32], filled: bool| {
                    let inputs =
                        values.par_chunks(BLOCK).zip(anchor.original.par_chunks(BLOCK)).zip(anchor.fisher.par_chunks(BLOCK));
                    gradient.par_chunks_mut(BLOCK).zip(inputs).for_each(|(g, ((p, p0), f))| {
                        for i in 0..g.len() {
                            let term = factor * f[i] * (p[i] - p0[i]);
                            g[i] = if filled { g[i] + term } else { term };
                        }
                    });
                };
                if anchor.parameter.device().is_cpu() {
                    return anchor.parameter.accumulate_with(add);
                }
                let mut gradient = vec![0f32; values.len()];
                add(&mut gradient, false);
                let gradient = Tensor::from_vec(gradient, anchor.parameter.dims(), &anchor.parameter.device())?;
                anchor.parameter.accumulate(&gradient)
            })?
            .map_err(candle_core::Error::wrap)?;
        }
        Ok(None)
    }
}
