//! Token embedding: row `ids[t]` of `W` [vocab, hidden] for every token. Backward adds each token's gradient to its row, but for the
//! token of padding (`padding_idx` in PyTorch's `nn.Embedding`), whose row is read and not trained.

use crate::autograd::Parameter;
use candle_core::{CpuStorage, CustomOp1, DType, Device, Layout, Result, Shape, Tensor, Var};
use std::borrow::Cow;

/// Looks up `ids`; the result is [tokens, hidden], f32 on the CPU. The row of the token `padding` gets no gradient.
///
/// # Errors
/// An id is not below the vocabulary's size.
pub fn embedding(ids: &[u32], weight: &Parameter, padding: Option<u32>) -> Result<Tensor> {
    let vocabulary = weight.dims().first().copied().unwrap_or(0);
    if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
        candle_core::bail!("token id {id} is outside the model's vocabulary of {vocabulary}; is this the model's tokenizer?");
    }
    let device = weight.device();
    #[cfg(feature = "cuda")]
    if super::fused() && device.is_cuda() {
        return super::gpu::embedding(ids, weight, padding);
    }
    if !(super::fused() && device.is_cpu()) {
        let rows = weight.tensor().index_select(&Tensor::from_slice(ids, ids.len(), &device)?, 0)?;
        let rows = without_gradient_of_padding(ids, padding, rows)?;
        // Activations are f32 on the CPU whatever the weights are.
        return if device.is_cpu() { rows.to_dtype(DType::F32) } else { Ok(rows) };
    }
    let op = Embedding { ids: ids.to_vec(), weight: weight.clone(), padding };
    // The operation has no tensor input: a one-element variable stands in, so that candle records it.
    let anchor = Var::zeros(1, DType::F32, &Device::Cpu)?;
    if weight.tracked() { anchor.apply_op1(op) } else { anchor.apply_op1_no_bwd(&op) }
}

/// Where tokens are padding, as a mask of `like`'s shape [tokens, width]; none where no token is.
pub(crate) fn padding_mask(ids: &[u32], padding: Option<u32>, like: &Tensor) -> Result<Option<Tensor>> {
    let Some(padding) = padding.filter(|padding| ids.contains(padding)) else { return Ok(None) };
    let flags: Vec<u8> = ids.iter().map(|id| u8::from(*id == padding)).collect();
    Ok(Some(super::gpu::upload(&flags, (ids.len(), 1), like.device())?.broadcast_as(like.shape())?))
}

/// Rows that were looked up for `ids`, as they are; no gradient goes through those of padding.
///
/// # Errors
/// A tensor operation failed.
pub fn without_gradient_of_padding(ids: &[u32], padding: Option<u32>, rows: Tensor) -> Result<Tensor> {
    match if rows.track_op() { padding_mask(ids, padding, &rows)? } else { None } {
        Some(mask) => mask.where_cond(&rows.detach(), &rows),
        None => Ok(rows),
    }
}

struct Embedding {
    ids: Vec<u32>,
    weight: Parameter,
    padding: Option<u32>,
}

impl Embedding {
    /// The gradient of the rows that were looked up, 0 where a token is padding.
    fn trained<'a>(&self, g: &'a [f32], hidden: usize) -> Cow<'a, [f32]> {
        let Some(padding) = self.padding.filter(|padding| self.ids.contains(padding)) else { return Cow::Borrowed(g) };
        let mut g = g.to_vec();
        for (id, g) in self.ids.iter().zip(g.chunks_exact_mut(hidden)) {
            if *id == padding {
                g.fill(0.0);
            }
        }
        Cow::Owned(g)
    }
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
                let trained = self.trained(g, hidden);
                let g: &[f32] = &trained;
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
                let y = embedding(&[3, 0, 3, 6], &weight, None).unwrap();
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
        assert!(embedding(&[7], &weight, None).unwrap_err().to_string().contains("token id 7"));
    }

    #[test]
    fn the_row_of_padding_is_read_and_not_trained() {
        for fused in [true, false] {
            with_fused(fused, || {
                let run = |padding| {
                    let weight = Parameter::new(&tensor(&[7, 5], 1)).unwrap();
                    let y = embedding(&[3, 0, 3, 6], &weight, padding).unwrap();
                    backward(&(&y * &tensor(&[4, 5], 2)).unwrap().sum_all().unwrap()).unwrap();
                    (y.detach(), weight.grad().unwrap().unwrap().to_vec2::<f32>().unwrap())
                };
                let ((rows, all), (same_rows, trained)) = (run(None), run(Some(3)));
                assert!(difference(&rows, &same_rows) == 0.0);
                assert!(all[3].iter().any(|g| *g != 0.0));
                for (row, (all, trained)) in all.iter().zip(&trained).enumerate() {
                    assert_eq!(*trained, if row == 3 { vec![0.0; 5] } else { all.clone() }, "fused {fused}, row {row}");
                }
            });
        }
    }
}
