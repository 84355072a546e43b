//! Loss functions, with PyTorch's definitions and gradients; on the CPU one pass forward and one backward.

use super::activation::{log_softmax, softmax};
use super::algebra::{self, Binary};
use super::host;
use super::reduce;
use crate::error::{Error, Result};
use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Layout, Shape, Tensor};

/// How the elements' losses become the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduction {
    /// Their mean.
    #[default]
    Mean,
    /// Their sum.
    Sum,
    /// As they are.
    None,
}

/// The label that losses leave out: -100 in PyTorch and transformers.
pub const IGNORE_INDEX: i64 = -100;

/// The squared error of two tensors of the same shape (or shapes that broadcast).
///
/// # Errors
/// The shapes do not broadcast, or both hold integers.
pub fn mse_loss(input: &Tensor, target: &Tensor, reduction: Reduction) -> Result<Tensor> {
    if !algebra::promote(input, target).is_float() {
        return Err(algebra::not_floating("mse_loss", input));
    }
    let same = input.dims() == target.dims() && host::is_host_f32(input) && host::is_host_f32(target);
    if same && reduction != Reduction::None && input.elem_count() > 0 {
        let scale = if reduction == Reduction::Mean { 1.0 / input.elem_count() as f64 } else { 1.0 };
        return Ok(input.contiguous()?.apply_op2(&target.contiguous()?, SquaredError { scale })?);
    }
    let squares = algebra::binary(input, target, Binary::Sub)?.sqr()?;
    match reduction {
        Reduction::Mean => reduce::mean(&squares, &[], false),
        Reduction::Sum => reduce::sum(&squares, &[], false),
        Reduction::None => Ok(squares),
    }
}

struct SquaredError {
    scale: f64,
}

impl CustomOp2 for SquaredError {
    fn name(&self) -> &'static str {
        "mse_loss"
    }

    fn cpu_fwd(&self, a: &CpuStorage, la: &Layout, b: &CpuStorage, lb: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let (a, b) = (host::slice(a, la)?, host::slice(b, lb)?);
        let total: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b) * f64::from(a - b)).sum();
        Ok((CpuStorage::F32(vec![(total * self.scale) as f32]), ().into()))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        let factor = (2.0 * self.scale) as f32 * gradient.to_scalar::<f32>()?;
        let toward_b = host::read(a, |a| host::read(b, |b| host::map3(a, b, a, |a, b, _| (a - b) * factor)))??;
        let toward_b = host::tensor(toward_b, a.shape())?;
        let other = if b.track_op() { Some(toward_b.neg()?) } else { None };
        Ok((a.track_op().then_some(toward_b), other))
    }
}

/// The cross entropy in nats of `logits` `[rows, classes]` and class numbers `targets` `[rows]` (or `[classes]` and a scalar, or
/// `[rows, classes, ..]` and `[rows, ..]`); rows whose target is `ignore_index` count nothing, also not in the mean.
///
/// # Errors
/// The logits are integers, the shapes do not fit, or a target is no class.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, ignore_index: i64, reduction: Reduction) -> Result<Tensor> {
    weighted_cross_entropy(logits, targets, ignore_index, reduction, 0.0, None)
}

/// As [`cross_entropy`], with a share `smoothing` of each target spread over all classes (Szegedy et al. 2016), and with a `weight`
/// `[classes]` that says how much each class counts; the mean is then over the weights of the targets.
///
/// # Errors
/// As [`cross_entropy`], or there is not one weight for each class.
pub fn weighted_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    ignore_index: i64,
    reduction: Reduction,
    smoothing: f64,
    weight: Option<&Tensor>,
) -> Result<Tensor> {
    if !logits.dtype().is_float() {
        return Err(algebra::not_floating("cross_entropy", logits));
    }
    if logits.rank() == 1 && targets.rank() == 0 {
        let (logits, targets) = (logits.unsqueeze(0)?, targets.unsqueeze(0)?);
        let loss = weighted_cross_entropy(&logits, &targets, ignore_index, reduction, smoothing, weight)?;
        return if reduction == Reduction::None { Ok(loss.squeeze(0)?) } else { Ok(loss) };
    }
    if targets.dtype().is_float() && targets.dims() == logits.dims() && logits.rank() >= 1 {
        return soft_cross_entropy(logits, targets, reduction, smoothing, weight);
    }
    if logits.rank() > 2 && logits.elem_count() > 0 && targets.dims() == without_classes(logits.dims()) {
        let rows = classes_last(logits)?.contiguous()?.reshape(((), logits.dims()[1]))?;
        let targets_of_rows = targets.flatten_all()?;
        let losses = weighted_cross_entropy(&rows, &targets_of_rows, ignore_index, reduction, smoothing, weight)?;
        return Ok(if reduction == Reduction::None { losses.reshape(targets.dims())? } else { losses });
    }
    if logits.rank() != 2 || targets.dims() != &logits.dims()[..1] {
        return Err(Error::argument(format!(
            "cross_entropy needs logits [rows, classes] and targets [rows], got {:?} and {:?}; flatten with .reshape([-1, classes]), \
             or put the classes second",
            logits.dims(),
            targets.dims()
        )));
    }
    if targets.dtype().is_float() && targets.to_dtype(DType::F64)?.to_vec1::<f64>()?.iter().any(|label| label.fract() != 0.0) {
        return Err(Error::argument(
            "cross_entropy: class numbers are whole numbers, the targets hold others; probabilities need the shape of the logits",
        ));
    }
    let classes = logits.dims()[1];
    let labels = targets.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    if let Some((row, label)) =
        labels.iter().enumerate().find(|(_, label)| **label != ignore_index && !(0..classes as i64).contains(*label))
    {
        return Err(Error::argument(format!(
            "cross_entropy: target {label} in row {row} is not a class; allowed are 0 to {} and {ignore_index} (ignored)",
            classes as i64 - 1
        )));
    }
    let labels: Vec<Option<usize>> = labels.into_iter().map(|label| (label != ignore_index).then_some(label as usize)).collect();
    if let Some(weight) = weight {
        return of_weighted_rows(logits, &labels, &class_weights(weight, classes, logits)?, reduction, smoothing);
    }
    // The sum of nothing divided by nothing is NaN, as in PyTorch.
    let counted = labels.iter().flatten().count() as f64;
    let spread = if smoothing > 0.0 {
        let mask: Vec<f32> = labels.iter().map(|label| f32::from(label.is_some())).collect();
        let mask = Tensor::from_vec(mask, labels.len(), logits.device())?;
        let over_classes = reduce::mean(&log_softmax(&logits.to_dtype(DType::F32)?, 1)?, &[1], false)?.neg()?;
        Some((over_classes * mask)?)
    } else {
        None
    };
    let losses = if logits.device().is_cpu() {
        let wide = logits.to_dtype(DType::F32)?.contiguous()?;
        wide.apply_op1(TokenLosses { labels, classes })?
    } else {
        let picked: Vec<i64> = labels.iter().map(|label| label.unwrap_or(0) as i64).collect();
        let mask: Vec<f32> = labels.iter().map(|label| f32::from(label.is_some())).collect();
        let picked = Tensor::from_vec(picked, (labels.len(), 1), logits.device())?;
        let mask = Tensor::from_vec(mask, labels.len(), logits.device())?;
        let log_probabilities = log_softmax(&logits.to_dtype(DType::F32)?, 1)?;
        (log_probabilities.gather(&picked, 1)?.squeeze(1)?.neg()? * mask)?
    };
    let losses = match spread {
        Some(spread) => ((losses * (1.0 - smoothing))? + (spread * smoothing)?)?,
        None => losses,
    };
    let losses = match reduction {
        Reduction::None => losses,
        Reduction::Sum => reduce::sum(&losses, &[], false)?,
        Reduction::Mean => (reduce::sum(&losses, &[], false)? / counted)?,
    };
    Ok(losses.to_dtype(logits.dtype())?)
}

/// One weight for each class, in f32 and where the logits are.
fn class_weights(weight: &Tensor, classes: usize, logits: &Tensor) -> Result<Tensor> {
    if weight.dims() != [classes] {
        return Err(Error::argument(format!(
            "cross_entropy: weight needs one number for each of the {classes} classes, its shape is {:?}",
            weight.dims()
        )));
    }
    Ok(weight.detach().to_dtype(DType::F32)?.to_device(logits.device())?)
}

/// The cross entropy of rows whose classes count unequally: each row is a sum of the log-probabilities, each times what it
/// counts, with the sign of the loss.
fn of_weighted_rows(
    logits: &Tensor,
    labels: &[Option<usize>],
    weight: &Tensor,
    reduction: Reduction,
    smoothing: f64,
) -> Result<Tensor> {
    let (rows, classes) = logits.dims2()?;
    let weight: Vec<f32> = weight.to_vec1()?;
    let mut counts = vec![0f32; rows * classes];
    for (row, label) in counts.chunks_exact_mut(classes.max(1)).zip(labels) {
        let Some(label) = *label else { continue };
        for (count, weight) in row.iter_mut().zip(&weight) {
            *count = -(smoothing / classes as f64) as f32 * weight;
        }
        row[label] -= (1.0 - smoothing) as f32 * weight[label];
    }
    let counts = Tensor::from_vec(counts, (rows, classes), logits.device())?;
    let log_probabilities = log_softmax(&logits.to_dtype(DType::F32)?, 1)?;
    // A class that counts nothing may be impossible: 0 times infinity is no number.
    let nothing = counts.zeros_like()?;
    let log_probabilities = counts.ne(&nothing)?.where_cond(&log_probabilities, &nothing)?;
    let losses = reduce::sum(&algebra::binary(&log_probabilities, &counts, Binary::Mul)?, &[1], false)?;
    let losses = match reduction {
        Reduction::None => losses,
        Reduction::Sum => reduce::sum(&losses, &[], false)?,
        Reduction::Mean => {
            let counted: f64 = labels.iter().flatten().map(|label| f64::from(weight[*label])).sum();
            // Nothing divided by nothing is NaN, as in PyTorch; the sum of no numbers is -0.
            (reduce::sum(&losses, &[], false)? / (counted + 0.0))?
        }
    };
    Ok(losses.to_dtype(logits.dtype())?)
}

/// The shape of the targets of logits `[rows, classes, ..]`.
fn without_classes(dims: &[usize]) -> Vec<usize> {
    dims.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, size)| *size).collect()
}

fn classes_last(logits: &Tensor) -> Result<Tensor> {
    let order: Vec<usize> = std::iter::once(0).chain(2..logits.rank()).chain([1]).collect();
    Ok(logits.permute(order)?)
}

/// Targets that are probabilities; the classes are the second dimension, as in PyTorch, or the only one.
fn soft_cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    reduction: Reduction,
    smoothing: f64,
    weight: Option<&Tensor>,
) -> Result<Tensor> {
    let dim = (logits.rank() - 1).min(1);
    let classes = logits.dims()[dim].max(1) as f64;
    let smoothed = if smoothing > 0.0 { targets.affine(1.0 - smoothing, smoothing / classes)? } else { targets.clone() };
    let smoothed = match weight {
        None => smoothed,
        Some(weight) => {
            let mut along = vec![1; logits.rank()];
            along[dim] = logits.dims()[dim];
            let weight = class_weights(weight, along[dim], logits)?.to_dtype(smoothed.dtype())?;
            algebra::binary(&smoothed, &weight.reshape(along)?, Binary::Mul)?
        }
    };
    let products = algebra::binary(&smoothed, &log_softmax(logits, dim)?, Binary::Mul)?;
    let losses = reduce::sum(&products, &[dim], false)?.neg()?;
    match reduction {
        Reduction::Mean => reduce::mean(&losses, &[], false),
        Reduction::Sum => reduce::sum(&losses, &[], false),
        Reduction::None => Ok(losses),
    }
}

/// -log softmax(logits)[label] of each row; 0 where there is no label. Only the rows' losses are kept, not the probabilities.
struct TokenLosses {
    labels: Vec<Option<usize>>,
    classes: usize,
}

fn log_sum_exp(row: &[f32]) -> f32 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !largest.is_finite() {
        return if row.iter().any(|v| v.is_nan()) { f32::NAN } else { largest };
    }
    largest + row.iter().map(|v| f64::from((v - largest).exp())).sum::<f64>().ln() as f32
}

impl CustomOp1 for TokenLosses {
    fn name(&self) -> &'static str {
        "cross_entropy"
    }

    fn cpu_fwd(&self, logits: &CpuStorage, layout: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let rows = host::slice(logits, layout)?.chunks_exact(self.classes.max(1));
        let losses = rows.zip(&self.labels).map(|(row, label)| label.map_or(0.0, |label| log_sum_exp(row) - row[label]));
        Ok((CpuStorage::F32(losses.collect()), self.labels.len().into()))
    }

    fn bwd(&self, logits: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let mut values = vec![0f32; logits.elem_count()];
        host::read(logits, |logits| {
            host::read(gradient, |gradient| {
                let rows = logits.chunks_exact(self.classes.max(1)).zip(values.chunks_exact_mut(self.classes.max(1)));
                for (((row, out), label), g) in rows.zip(&self.labels).zip(gradient) {
                    let Some(label) = label else { continue };
                    let total = log_sum_exp(row);
                    for (out, v) in out.iter_mut().zip(row) {
                        *out = (v - total).exp() * g;
                    }
                    out[*label] -= g;
                }
            })
        })??;
        Ok(Some(host::tensor(values, logits.shape())?))
    }
}

/// The Kullback-Leibler divergence KL(p || q) in nats of the distributions softmax(p_logits) and softmax(q_logits) over the last
/// dimension, averaged over all rows: mean of sum p (log p - log q).
///
/// # Errors
/// The shapes differ or are scalars, or one of the tensors holds integers.
pub fn kl_div(p_logits: &Tensor, q_logits: &Tensor) -> Result<Tensor> {
    if let Some(integers) = [p_logits, q_logits].into_iter().find(|logits| !logits.dtype().is_float()) {
        return Err(algebra::not_floating("kl_div", integers));
    }
    if p_logits.dims() != q_logits.dims() || p_logits.rank() == 0 || p_logits.elem_count() == 0 {
        return Err(Error::argument(format!(
            "kl_div needs two tensors of the same shape [.., classes], got {:?} and {:?}",
            p_logits.dims(),
            q_logits.dims()
        )));
    }
    let dim = p_logits.rank() - 1;
    let difference = algebra::binary(&log_softmax(p_logits, dim)?, &log_softmax(q_logits, dim)?, Binary::Sub)?;
    let rows = reduce::sum(&algebra::binary(&softmax(p_logits, dim)?, &difference, Binary::Mul)?, &[dim], false)?;
    reduce::mean(&rows, &[], false)
}
