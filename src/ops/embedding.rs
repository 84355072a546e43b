//! Token embedding: row `ids[t]` of `W` [vocab, hidden] for every token. Backward adds each token's gradient to its row.

use crate::autograd::Parameter;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};

/// Looks up `ids`; the result is [tokens, hidden], f32 on the CPU.
///
/// # Errors
/// An id is not below the vocabulary's size.
pub fn embedding(ids: &[u32], weight: &Parameter) -> Result<Tensor> {
    let vocabulary = weight.dims().first().copied().unwrap_or(0);
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        candle_core::bail!("token id {id} is outside the model's vocabulary of {vocabulary}; is this the model's tokenizer?");
    }
    let device = weight.device();
    #[cfg(feature = "cuda")]
    if super::fused() && device.is_cuda() {
        return super::gpu::embedding(ids, weight);
    }
    if !(super::fused() && device.is_cpu()) {
        let ids = Tensor::from_slice(ids, ids.len(), &device)?;
        let rows = weight.tensor().index_select(&ids, 0)?;
        // Activations are f32 on the CPU whatever the weights are.
        return if device.is_cpu() { rows.to_dtype(DType::F32) } else { Ok(rows) };
    }
    let op = Embedding { ids: ids.to_vec(), weight: weight.clone() };
    // The operation has no tensor input: a one-element variable stands in, so that candle records it.
    let anchor = Var::zeros(1, DType::F32, &Device::Cpu)?;
    if weight.tracked() { anchor.apply_op1(op) } else { anchor.apply_op1_no_bwd(&op) }
}

struct Embedding {
    ids: Vec<u32>,
    weight: Parameter,
}

impl CustomOp1 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let hidden = self.weight.dims()[1];
        let mut out = vec![0f32; self.ids.len() * hidden];
        super::layer::with_weight(&self.weight, |w| {
            for (id, out) in self.ids.iter().zip(out.chunks_exact_mut(hidden)) {
                w.copy_row(*id as usize, out);
            }
            Ok(())
        })?;
        Ok((CpuStorage::F32(out), (self.ids.len(), hidden).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let hidden = self.weight.dims()[1];
        if self.weight.requires_grad() {
            super::with_elements(g, |g| {
                if self.weight.accumulate_rows(&self.ids, g) {
                    return Ok(());
                }
                let add = |dw: &mut [f32], filled: bool| {
                    if !filled {
                        dw.fill(0.0);
                    }
                    for (id, g) in self.ids.iter().zip(g.chunks_exact(hidden)) {
                        let row = *id as usize * hidden;
                        dw[row..row + hidden].iter_mut().zip(g).for_each(|(d, v)| *d += v);
                    }
                };
                self.weight.accumulate_with(add).map_err(candle_core::Error::wrap)
            })?;
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::backward;
    use crate::ops::check::{difference, tensor};
    use crate::ops::with_fused;

    #[test]
    fn fused_equals_composed_with_repeated_ids() {
        let run = |fused| {
            with_fused(fused, || {
                let weight = Parameter::new(&tensor(&[7, 5], 1)).unwrap();
                let y = embedding(&[3, 0, 3, 6], &weight).unwrap();
                backward(&(&y * &tensor(&[4, 5], 2)).unwrap().sum_all().unwrap()).unwrap();
                (y.detach(), weight.grad().unwrap().unwrap())
            })
        };
        let (fused, composed) = (run(true), run(false));
        assert!(difference(&fused.0, &composed.0) == 0.0 && difference(&fused.1, &composed.1) < 1e-6);
    }

    #[test]
    fn an_id_outside_the_vocabulary_is_named() {
        let weight = Parameter::new(&tensor(&[7, 5], 1)).unwrap();
        assert!(embedding(&[7], &weight).unwrap_err().to_string().contains("token id 7"));
    }
}
