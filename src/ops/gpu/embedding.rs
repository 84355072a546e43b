//! Token embedding on a CUDA device; see [`crate::ops::embedding`].

use super::cuda::{Argument, Module, Shape, launch, pointer, suffix};
use super::{given, upload};
use crate::autograd::Parameter;
use crate::ops::embedding::padding_mask;
use candle_core::{Result, Tensor, Var};

/// Looks up `ids`, all of which the vocabulary has; the result is [tokens, hidden] in the weight's dtype. The row of the token `padding`
/// gets no gradient.
pub(crate) fn embedding(ids: &[u32], weight: &Parameter, padding: Option<u32>) -> Result<Tensor> {
    let device = weight.device();
    let rows = weight.value().index_select(&upload(ids, ids.len(), &device)?, 0)?;
    if !weight.tracked() {
        return Ok(rows);
    }
    // The operation has no tensor input: a one-element variable stands in, so that candle records it.
    let anchor = Var::zeros(1, rows.dtype(), &device)?;
    let (ids, weight) = (ids.to_vec(), weight.clone());
    let backward = move |_: &Tensor, g: &Tensor, _: bool| {
        let trained = match padding_mask(&ids, padding, g)? {
            Some(mask) => mask.where_cond(&g.zeros_like()?, g)?,
            None => g.clone(),
        };
        let g = &trained;
        let add = |sum: Option<Tensor>| {
            let sum = match sum {
                Some(sum) => sum,
                None => Tensor::zeros(weight.dims(), g.dtype(), g.device())?,
            };
            add_rows(&ids, g, sum)
        };
        if weight.requires_grad() {
            weight.accumulate_tensor(add).map_err(candle_core::Error::wrap)?;
        }
        Ok(None)
    };
    given::recorded(&anchor, true, "embedding", rows, Box::new(backward))
}

/// Adds row `t` of `g` to row `ids[t]` of `sum`, in the order of the tokens, so that the result is the same every time.
fn add_rows(ids: &[u32], g: &Tensor, sum: Tensor) -> Result<Tensor> {
    if ids.is_empty() {
        return Ok(sum);
    }
    let device = g.device();
    if sum.dtype() != g.dtype() {
        return sum.index_add(&upload(ids, ids.len(), device)?, &g.to_dtype(sum.dtype())?, 0);
    }
    let mut order: Vec<u32> = (0..ids.len() as u32).collect();
    order.sort_by_key(|token| ids[*token as usize]);
    let (mut distinct, mut starts): (Vec<u32>, Vec<u32>) = (Vec::new(), Vec::new());
    for (place, token) in (0u32..).zip(&order) {
        let id = ids[*token as usize];
        if distinct.last() != Some(&id) {
            distinct.push(id);
            starts.push(place);
        }
    }
    starts.push(order.len() as u32);
    let width = g.dim(1)?;
    let table = |values: &[u32]| upload(values, values.len(), device);
    let (order, starts, rows) = (table(&order)?, table(&starts)?, table(&distinct)?);
    let arguments = [
        pointer(g)?,
        pointer(&order)?,
        pointer(&starts)?,
        pointer(&rows)?,
        pointer(&sum)?,
        Argument::Int(distinct.len() as i32),
        Argument::Int(width as i32),
    ];
    let shape = Shape { blocks: (distinct.len() as u32, width.div_ceil(256) as u32), threads: (256, 1), shared: 0 };
    let kernel = format!("embedding_gradient_{}", suffix(g.dtype())?);
    launch(device.as_cuda_device()?, Module::Elementwise, &kernel, shape, &arguments)?;
    Ok(sum)
}
