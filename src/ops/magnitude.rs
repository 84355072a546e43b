//! Weight-decomposed adaptation (DoRA, Liu et al. 2024, arXiv 2402.09353): every row of the changed weight is scaled to a learned length,
//! `W' = m * (W + scaling B A) / n` with the rows' norms `n = |W + scaling B A|`.
//!
//! The norms follow the change and are a constant in the backward pass (the paper's section 4.3), so that `dm = sum over the tokens of
//! g * y / n` with the unscaled output `y`.

use super::layer::{LowRank, values, with_weight};
use super::parallel;
use crate::autograd::Parameter;
use candle_core::{DType, Result};
use std::sync::Arc;

/// Rows that a thread takes at once.
const ROWS: usize = 16;

/// Factors on a layer's outputs.
#[derive(Debug, Clone)]
pub struct Magnitude {
    /// The rows' lengths, `[outputs]`.
    pub vector: Parameter,
    /// The rows' lengths before they are scaled.
    pub norm: Arc<Vec<f32>>,
}

impl Magnitude {
    /// The factors.
    pub(super) fn factors(&self) -> Result<Vec<f32>> {
        Ok(values(&self.vector)?.iter().zip(self.norm.iter()).map(|(m, n)| m / n).collect())
    }

    /// Multiplies every row of `matrix` by the factors.
    pub(super) fn scale(matrix: &mut [f32], factors: &[f32]) {
        for row in matrix.chunks_exact_mut(factors.len().max(1)) {
            row.iter_mut().zip(factors).for_each(|(v, f)| *v *= f);
        }
    }

    /// Every row of `matrix` times the factors.
    pub(super) fn scaled(matrix: &[f32], factors: &[f32]) -> Vec<f32> {
        let mut scaled = matrix.to_vec();
        Self::scale(&mut scaled, factors);
        scaled
    }

    /// Adds every row of `matrix` times the factors to `out`.
    pub(super) fn add_scaled(out: &mut [f32], matrix: &[f32], factors: &[f32]) {
        for (out, row) in out.chunks_exact_mut(factors.len().max(1)).zip(matrix.chunks_exact(factors.len().max(1))) {
            out.iter_mut().zip(row).zip(factors).for_each(|((o, v), f)| *o += v * f);
        }
    }

    /// Adds to the vector's gradient, given those of the outputs and the outputs without the factors.
    pub(super) fn add_gradient(&self, g: &[f32], unscaled: &[f32]) -> Result<()> {
        let add = |dm: &mut [f32], add: bool| {
            if !add {
                dm.fill(0.0);
            }
            let width = dm.len().max(1);
            for (g, y) in g.chunks_exact(width).zip(unscaled.chunks_exact(width)) {
                for (((d, g), y), n) in dm.iter_mut().zip(g).zip(y).zip(self.norm.iter()) {
                    *d += g * y / n;
                }
            }
        };
        self.vector.accumulate_with(add).map_err(candle_core::Error::wrap)
    }
}

/// The norms of the rows of a weight with its changes, `[outputs]`.
///
/// # Errors
/// A tensor operation failed.
pub fn row_norms(weight: &Parameter, changes: &[LowRank]) -> Result<Vec<f32>> {
    if !weight.device().is_cpu() {
        let mut sum = weight.value().to_dtype(DType::F32)?;
        for LowRank { a, b, scaling, .. } in changes {
            let product = b.value().to_dtype(DType::F32)?.matmul(&a.value().to_dtype(DType::F32)?)?;
            sum = (sum + (product * f64::from(*scaling))?)?;
        }
        return sum.sqr()?.sum(1)?.sqrt()?.to_vec1();
    }
    let (outputs, inputs) = (weight.dims()[0], weight.dims()[1]);
    let flat = |parameter: &Parameter| parameter.value().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    let changes = changes.iter().map(|c| Ok((flat(&c.a)?, flat(&c.b)?, c.scaling))).collect::<Result<Vec<_>>>()?;
    let mut norms = vec![0f32; outputs];
    with_weight(weight, |weight| {
        parallel::by_chunks(&mut norms, ROWS, |first, norms| {
            let mut row = vec![0f32; inputs];
            for (output, norm) in (first..).zip(norms) {
                weight.copy_row(output, &mut row);
                for (a, b, scaling) in &changes {
                    let rank = a.len() / inputs.max(1);
                    for (a, b) in a.chunks_exact(inputs).zip(&b[output * rank..(output + 1) * rank]) {
                        let factor = scaling * b;
                        row.iter_mut().zip(a).for_each(|(r, a)| *r += factor * a);
                    }
                }
                *norm = row.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt() as f32;
            }
        });
        Ok(())
    })?;
    Ok(norms)
}
