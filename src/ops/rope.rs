//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in the half-split form of Hugging Face checkpoints:
//! with `(a, b)` the two halves of a head, `(a cos - b sin, b cos + a sin)`. Backward is the rotation by the negative angle.

use super::exp::vectorised;
use super::parallel;
use candle_core::{CpuStorage, CustomOp1, D, Layout, Result, Shape, Tensor};
use std::sync::{Arc, OnceLock};

/// Cosines and sines of every token of a batch, one for each pair that is turned.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[tokens, half]`.
    cos: Arc<Vec<f32>>,
    sin: Arc<Vec<f32>>,
    /// Pairs that are turned.
    half: usize,
    /// Width of a head; what lies beyond twice `half` is left as it is.
    head_dim: usize,
    /// Both on the device that first asked for them.
    #[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "devices alone ask for them"))]
    tensors: Arc<OnceLock<(Tensor, Tensor)>>,
}

impl RopeTable {
    /// The table for these positions, given the inverse frequencies `[head_dim / 2]`.
    pub fn new(positions: &[u32], inverse_frequencies: &[f32]) -> Self {
        Self::scaled(positions, inverse_frequencies, 1.0, 2 * inverse_frequencies.len())
    }

    /// The table for heads of which only the beginning may be turned, with cosines and sines times a factor (YaRN's, LongRoPE's).
    pub fn scaled(positions: &[u32], inverse_frequencies: &[f32], factor: f32, head_dim: usize) -> Self {
        // In f32, as transformers computes the angles.
        let angles = positions.iter().flat_map(|p| inverse_frequencies.iter().map(move |f| *p as f32 * f));
        let turn = |angle: f32| {
            let (sin, cos) = angle.sin_cos();
            (sin * factor, cos * factor)
        };
        let (sin, cos) = angles.map(turn).unzip();
        Self { cos: Arc::new(cos), sin: Arc::new(sin), half: inverse_frequencies.len(), head_dim, tensors: Arc::default() }
    }
}

impl RopeTable {
    /// The table of batches one after the other.
    pub fn joined(tables: &[Self]) -> Self {
        let collect =
            |angles: fn(&Self) -> &Arc<Vec<f32>>| Arc::new(tables.iter().flat_map(|t| angles(t).iter()).copied().collect());
        let (half, head_dim) = tables.first().map_or((0, 0), |table| (table.half, table.head_dim));
        Self { cos: collect(|table| &table.cos), sin: collect(|table| &table.sin), half, head_dim, tensors: Arc::default() }
    }
}

#[cfg(feature = "cuda")]
impl RopeTable {
    /// Pairs that are turned, and the width of a head.
    pub(super) fn widths(&self) -> (usize, usize) {
        (self.half, self.head_dim)
    }

    /// Cosines and sines, `[tokens, half]` in f32, on a device.
    pub(super) fn on_device(&self, device: &candle_core::Device) -> Result<(Tensor, Tensor)> {
        if let Some((cos, sin)) = self.tensors.get().filter(|(cos, _)| cos.device().same_device(device)) {
            return Ok((cos.clone(), sin.clone()));
        }
        let tensor = |values: &[f32]| super::gpu::upload(values, (values.len() / self.half.max(1), self.half), device);
        let both = (tensor(&self.cos)?, tensor(&self.sin)?);
        // Another device may have been first; its tensors stay.
        let _ = self.tensors.set(both.clone());
        Ok(both)
    }
}

/// Rotates every head of `x` [tokens, heads * head_dim].
///
/// # Errors
/// The table is for another number of tokens or another head width.
pub fn rope(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    if table.half == 0 || tokens * table.half != table.cos.len() || width % table.head_dim != 0 {
        candle_core::bail!("rope: a table of {} angles does not fit a tensor of shape {:?}", table.cos.len(), x.dims());
    }
    if super::gpu::serves(x) && !(x.track_op() && crate::autograd::grad_enabled()) {
        return super::gpu::rotated(x, table, false);
    }
    if !super::fused_for(x) {
        return composed(x, table);
    }
    let op = Rope { table: table.clone(), inverse: false };
    let x = x.contiguous()?;
    if x.track_op() && crate::autograd::grad_enabled() { x.apply_op1(op) } else { x.apply_op1_no_bwd(&op) }
}

/// The same by candle's operations.
fn composed(x: &Tensor, table: &RopeTable) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let heads = width / table.head_dim;
    let angle = |values: &[f32]| {
        Tensor::from_slice(values, (tokens, 1, table.half), x.device())?
            .to_dtype(x.dtype())?
            .broadcast_as((tokens, heads, table.half))
    };
    let (cos, sin) = (angle(&table.cos)?, angle(&table.sin)?);
    let x = x.reshape((tokens, heads, table.head_dim))?;
    let (a, b) = (x.narrow(D::Minus1, 0, table.half)?, x.narrow(D::Minus1, table.half, table.half)?);
    let first = ((&a * &cos)? - (&b * &sin)?)?;
    let second = ((&b * &cos)? + (&a * &sin)?)?;
    let rest = x.narrow(D::Minus1, 2 * table.half, table.head_dim - 2 * table.half)?;
    let parts = if rest.elem_count() > 0 { vec![first, second, rest] } else { vec![first, second] };
    Tensor::cat(&parts, D::Minus1)?.reshape((tokens, width))
}

vectorised! {
    /// Rotates the heads of one token in place; `sign` is 1 for the rotation, -1 for its inverse.
    fn rotate_token(x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], sign: f32) {
        let half = cos.len();
        for head in x.chunks_exact_mut(head_dim) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                let sin = sin * sign;
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}

/// Rotates every head of the tokens from `first` on in place, each `width` elements; backwards with `inverse`.
pub(super) fn rotate(x: &mut [f32], width: usize, table: &RopeTable, first: usize, inverse: bool) {
    let sign = if inverse { -1.0 } else { 1.0 };
    parallel::by_rows(x, width, |row, x| {
        let from = (first + row) * table.half;
        let angles = table.cos[from..].chunks_exact(table.half).zip(table.sin[from..].chunks_exact(table.half));
        x.chunks_exact_mut(width.max(1)).zip(angles).for_each(|(x, (cos, sin))| rotate_token(x, table.head_dim, cos, sin, sign));
    });
}

struct Rope {
    table: RopeTable,
    inverse: bool,
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = super::elements(storage, layout)?.to_vec();
        let width = layout.dims().last().copied().unwrap_or(1);
        rotate(&mut out, width, &self.table, 0, self.inverse);
        Ok((CpuStorage::F32(out), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let inverse = Rope { table: self.table.clone(), inverse: !self.inverse };
        Ok(Some(g.contiguous()?.apply_op1_no_bwd(&inverse)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Parameter, backward};
    use crate::ops::check::{difference, tensor};
    use crate::ops::with_fused;

    #[test]
    fn fused_equals_composed_and_keeps_lengths() {
        for (tokens, heads, half, rest) in [(1, 1, 1, 0), (3, 2, 4, 0), (35, 3, 5, 0), (3, 2, 2, 3)] {
            let positions: Vec<u32> = (0..tokens as u32).map(|p| p * 3).collect();
            let frequencies: Vec<f32> = (0..half).map(|i| 100f32.powf(-(i as f32) / half as f32)).collect();
            let head_dim = 2 * half + rest;
            let table = RopeTable::scaled(&positions, &frequencies, 1.0, head_dim);
            let run = |fused| {
                with_fused(fused, || {
                    let x = Parameter::new(&tensor(&[tokens, heads * head_dim], 1)).unwrap();
                    let y = rope(&x.tensor(), &table).unwrap();
                    backward(&(&y * &tensor(y.dims(), 2)).unwrap().sum_all().unwrap()).unwrap();
                    (y.detach(), x.grad().unwrap().unwrap())
                })
            };
            let (fused, composed) = (run(true), run(false));
            assert!(difference(&fused.0, &composed.0) < 1e-5 && difference(&fused.1, &composed.1) < 1e-5);
            let norm = |t: &Tensor| t.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let x = tensor(&[tokens, heads * head_dim], 1);
            assert!((norm(&fused.0) - norm(&x)).abs() < 1e-3 * norm(&x));
        }
    }
}
