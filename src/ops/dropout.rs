//! Dropout (Srivastava et al. 2014): multiplies by a mask of zeros and `1 / (1 - p)`; backward multiplies by the same mask.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::sync::Arc;

/// Multiplies `x` by `mask`, which has one factor an element and gets no gradient.
///
/// # Errors
/// `mask` has not as many elements as `x`.
pub fn masked(x: &Tensor, mask: Arc<Vec<f32>>) -> Result<Tensor> {
    if mask.len() != x.elem_count() {
        candle_core::bail!("dropout: a mask of {} elements for a tensor of shape {:?}", mask.len(), x.dims());
    }
    if !super::fused_for(x) {
        return x * Tensor::from_slice(&mask, x.shape(), x.device())?.to_dtype(x.dtype())?;
    }
    x.contiguous()?.apply_op1(Masked(mask))
}

struct Masked(Arc<Vec<f32>>);

impl CustomOp1 for Masked {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = super::elements(storage, layout)?;
        Ok((CpuStorage::F32(x.iter().zip(self.0.iter()).map(|(x, m)| x * m).collect()), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(g.contiguous()?.apply_op1_no_bwd(self)?))
    }
}
