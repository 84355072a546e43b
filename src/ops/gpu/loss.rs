//! Language-model head and cross-entropy on tensors; see [`crate::ops::cross_entropy`] for the formulas. Logits exist a chunk of rows at a
//! time and are overwritten by their gradients; nothing waits for the device.

use super::product::{Factor, product};
use super::{parts, upload};
use crate::ops::cross_entropy::{Head, IGNORE_INDEX};
use candle_core::{DType, Result, Tensor};

/// Elements of logits that are held at once (256 MiB in bf16).
const CHUNK_ELEMENTS: usize = 1 << 27;

/// The loss, a scalar in f32 on the device, and where it is wanted its gradient by `hidden` [tokens, hidden]; adds to the weight's
/// gradient then. Arguments as of [`crate::ops::cross_entropy::head_cross_entropy`], checked.
pub(crate) fn loss_and_gradient(
    hidden: &Tensor,
    head: &Head,
    targets: &[i64],
    divisor: f64,
    wants_gradient: bool,
) -> Result<(Tensor, Option<Tensor>)> {
    in_chunks(hidden, head, targets, divisor, wants_gradient, CHUNK_ELEMENTS)
}

fn in_chunks(
    hidden: &Tensor,
    head: &Head,
    targets: &[i64],
    divisor: f64,
    wants_gradient: bool,
    elements: usize,
) -> Result<(Tensor, Option<Tensor>)> {
    let (hidden, device) = (hidden.detach().contiguous()?, hidden.device());
    let kept: Vec<u32> = (0..).zip(targets).filter(|(_, target)| **target != IGNORE_INDEX).map(|(row, _)| row).collect();
    if kept.is_empty() {
        return Ok((Tensor::zeros((), DType::F32, device)?, wants_gradient.then(|| hidden.zeros_like()).transpose()?));
    }
    let states = match kept.len() == targets.len() {
        true => hidden.clone(),
        false => hidden.index_select(&upload(&kept, kept.len(), device)?, 0)?,
    };
    let wanted: Vec<u32> = kept.iter().map(|row| targets[*row as usize] as u32).collect();
    let wanted = upload(&wanted, kept.len(), device)?;
    let weight = head.weight.value().to_dtype(hidden.dtype())?;
    let most = (elements / weight.dim(0)?).max(1);
    // Chunks of like size need less memory than full ones and a rest.
    let at_once = kept.len().div_ceil(kept.len().div_ceil(most));
    let factor = (1.0 / divisor) as f32;
    let (mut losses, mut gradients) = (Vec::new(), Vec::new());
    for start in (0..kept.len()).step_by(at_once) {
        let rows = at_once.min(kept.len() - start);
        let states = states.narrow(0, start, rows)?;
        let logits = product(Factor(&states, false), Factor(&weight, true), None, hidden.dtype())?;
        let (loss, gradient) =
            parts::cross_entropy(logits, &wanted.narrow(0, start, rows)?, factor, head.softcap, wants_gradient)?;
        losses.push(loss.sum_all()?);
        let Some(gradient) = gradient else { continue };
        super::layer::add_product(&head.weight, &gradient, &states)?;
        gradients.push(product(Factor(&gradient, false), Factor(&weight, false), None, hidden.dtype())?);
    }
    let loss = (Tensor::stack(&losses, 0)?.sum_all()? * (1.0 / divisor))?;
    if !wants_gradient {
        return Ok((loss, None));
    }
    if kept.len() == targets.len() {
        return Ok((loss, Some(Tensor::cat(&gradients, 0)?)));
    }
    // Every token's row among those that were computed; the one behind them is zero.
    let mut places = vec![kept.len() as u32; targets.len()];
    (0..).zip(&kept).for_each(|(place, row)| places[*row as usize] = place);
    gradients.push(Tensor::zeros((1, hidden.dim(1)?), hidden.dtype(), device)?);
    let places = upload(&places, targets.len(), device)?;
    Ok((loss, Some(Tensor::cat(&gradients, 0)?.index_select(&places, 0)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::Parameter;
    use crate::ops::check::{difference, tensor};
    use crate::ops::cross_entropy::head_loss_and_gradient;

    #[test]
    fn chunks_on_tensors_give_the_loss_and_the_gradients_of_the_slices() {
        for (targets, cap) in [(vec![2i64], None), (vec![-100, 5, 0, -100, 36], None), (vec![1, 2, 3, 4, 5, 6, 7], Some(0.8))] {
            let hidden = tensor(&[targets.len(), 6], 1);
            let head = |seed| Head { weight: Parameter::new(&tensor(&[37, 6], seed)).unwrap(), softcap: cap, smoothing: 0.0 };
            let (expected, found) = (head(2), head(2));
            let (loss, gradient) = head_loss_and_gradient(&hidden, &expected, &targets, 2.5).unwrap();
            // Two rows at once.
            let (tensor_loss, by_hidden) = in_chunks(&hidden, &found, &targets, 2.5, true, 80).unwrap();
            assert!((tensor_loss.to_scalar::<f32>().unwrap() - loss.value().unwrap() as f32).abs() < 1e-5);
            assert!(difference(&by_hidden.unwrap(), &gradient) < 1e-5);
            assert!(difference(&found.weight.grad().unwrap().unwrap(), &expected.weight.grad().unwrap().unwrap()) < 1e-5);
            let (alone, none) = in_chunks(&hidden, &found, &targets, 2.5, false, 80).unwrap();
            assert!(none.is_none() && (alone.to_scalar::<f32>().unwrap() - loss.value().unwrap() as f32).abs() < 1e-5);
        }
        let head = Head { weight: Parameter::new(&tensor(&[3, 6], 2)).unwrap(), softcap: None, smoothing: 0.0 };
        let (loss, gradient) = in_chunks(&tensor(&[2, 6], 1), &head, &[-100, -100], 1.0, true, 80).unwrap();
        assert!(
            loss.to_scalar::<f32>().unwrap() == 0.0
                && gradient.unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap() == 0.0
        );
    }
}
