//! Language-model head and cross-entropy in one: `loss = sum over targets of (logsumexp(z) - z[target]) / divisor`, `z = h W^T`.
//!
//! Rows without a target are skipped. Logits exist a chunk of rows at a time; backward computes them again:
//! `dz = (softmax(z) - onehot) / divisor`, `dh = dz W`, `dW = dz^T h`. With a soft cap, `z = cap tanh(h W^T / cap)`, and `dz` is
//! multiplied by `1 - (z / cap)^2`. With a smoothing `e` the target counts for `1 - e` and every token of the vocabulary for
//! `e / vocabulary`: the loss is `logsumexp(z) - (1 - e) z[target] - e mean(z)`, and in `dz` onehot becomes
//! `(1 - e) onehot + e / vocabulary`.

use super::exp::{exp, tanh, vectorised};
use super::matrix::{self, Dims, Weight};
use super::{Recording, parallel};
use crate::autograd::Parameter;
use crate::autograd::buffer::{Buffer, zeroed};
use candle_core::{CpuStorage, CustomOp1, D, DType, Layout, Result, Shape, Tensor, Var};

/// Elements of logits that are held at once (64 MiB).
pub const CHUNK_ELEMENTS: usize = 1 << 24;

/// The label that carries no loss.
pub const IGNORE_INDEX: i64 = -100;

/// What turns hidden states into logits.
#[derive(Debug, Clone)]
pub struct Head {
    /// `[vocab, hidden]`.
    pub weight: Parameter,
    /// Logits are bent to stay within plus and minus this: `cap * tanh(logit / cap)` (Gemma 2).
    pub softcap: Option<f32>,
    /// The share of a target that all tokens of the vocabulary have alike, from 0 (none) to 1: label_smoothing_factor.
    pub smoothing: f64,
}

impl Head {
    /// Logits [rows, vocab] of hidden states [rows, hidden].
    ///
    /// # Errors
    /// The shapes do not fit, or a tensor operation failed.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        capped(super::linear::linear(hidden, &self.weight, None)?, self.softcap)
    }
}

impl From<&Parameter> for Head {
    fn from(weight: &Parameter) -> Self {
        Self { weight: weight.clone(), softcap: None, smoothing: 0.0 }
    }
}

/// Cross-entropy of the next tokens, in nats: the sum over all targets, divided by `divisor`.
///
/// `hidden` is [tokens, hidden]; `targets` has one entry a token, already shifted, [`IGNORE_INDEX`] where there is none. The
/// result is a scalar.
///
/// # Errors
/// A target is outside the vocabulary, or the shapes do not fit.
pub fn head_cross_entropy(hidden: &Tensor, head: &Head, targets: &[i64], divisor: f64) -> Result<Tensor> {
    let op = HeadCrossEntropy::new(hidden, head, targets, divisor)?;
    let recorded = (hidden.track_op() || head.weight.requires_grad()) && crate::autograd::grad_enabled();
    // The device's kernel knows no smoothing.
    if head.smoothing == 0.0 && super::gpu::serves(hidden) && !recorded {
        return super::gpu::loss_and_gradient(hidden, head, targets, divisor, false).map(|(loss, _)| loss);
    }
    if !super::fused_for(hidden) {
        return composed(hidden, head, targets, divisor);
    }
    super::apply(&hidden.contiguous()?, head.weight.tracked(), |recording| HeadCrossEntropy { recording, ..op })
}

fn check_targets(targets: &[i64], vocabulary: usize) -> Result<()> {
    let bad = |t: &&i64| **t != IGNORE_INDEX && !(0..vocabulary as i64).contains(*t);
    match targets.iter().find(bad) {
        Some(target) => {
            candle_core::bail!("label {target} is outside the vocabulary of {vocabulary}; labels to ignore must be -100")
        }
        None => Ok(()),
    }
}

/// The same by candle's operations.
fn composed(hidden: &Tensor, head: &Head, targets: &[i64], divisor: f64) -> Result<Tensor> {
    let logits = hidden.matmul(&head.weight.tensor().to_dtype(hidden.dtype())?.t()?)?;
    smoothed_cross_entropy(&capped(logits, head.softcap)?, targets, divisor, head.smoothing)
}

/// `cap * tanh(logits / cap)`, by candle's operations; the logits themselves without a cap.
///
/// # Errors
/// A tensor operation failed.
pub fn capped(logits: Tensor, cap: Option<f32>) -> Result<Tensor> {
    match cap.map(f64::from) {
        Some(cap) => (logits / cap)?.tanh()? * cap,
        None => Ok(logits),
    }
}

/// Cross-entropy of given logits [tokens, vocab], by candle's operations; as [`head_cross_entropy`] otherwise.
///
/// # Errors
/// A target is outside the vocabulary, or the shapes do not fit.
pub fn cross_entropy(logits: &Tensor, targets: &[i64], divisor: f64) -> Result<Tensor> {
    smoothed_cross_entropy(logits, targets, divisor, 0.0)
}

/// As [`cross_entropy`], with a share of every target spread over the vocabulary; see [`Head::smoothing`].
///
/// # Errors
/// As [`cross_entropy`].
pub fn smoothed_cross_entropy(logits: &Tensor, targets: &[i64], divisor: f64, smoothing: f64) -> Result<Tensor> {
    check_targets(targets, logits.dim(D::Minus1)?)?;
    let kept: Vec<u32> = (0..targets.len()).filter(|i| targets[*i] != IGNORE_INDEX).map(|i| i as u32).collect();
    let wanted: Vec<u32> = kept.iter().map(|i| targets[*i as usize] as u32).collect();
    if kept.is_empty() {
        // By a sum of all, since a device launches no kernel for no rows; a factor of 0 would leave out the gradient.
        let logits = logits.to_dtype(DType::F32)?;
        let none = Tensor::zeros(logits.shape(), DType::U8, logits.device())?;
        return none.where_cond(&logits, &logits.zeros_like()?)?.sum_all();
    }
    let device = logits.device();
    let logits = logits.index_select(&Tensor::from_slice(&kept, kept.len(), device)?, 0)?.to_dtype(DType::F32)?;
    let largest = logits.max_keepdim(D::Minus1)?.detach();
    let log_sum = (logits.broadcast_sub(&largest)?.exp()?.sum_keepdim(D::Minus1)?.log()? + largest)?;
    let chosen = logits.gather(&Tensor::from_vec(wanted, (kept.len(), 1), device)?, 1)?;
    let chosen =
        if smoothing == 0.0 { chosen } else { ((chosen * (1.0 - smoothing))? + (logits.mean_keepdim(D::Minus1)? * smoothing)?)? };
    (log_sum - chosen)?.sum_all()? / divisor
}

struct HeadCrossEntropy {
    weight: Parameter,
    softcap: Option<f32>,
    smoothing: f64,
    /// Row of the hidden states, and target.
    rows: Vec<(usize, usize)>,
    divisor: f64,
    recording: Recording,
}

/// Loss of one row of logits, and its log-sum-exp.
fn row_loss(logits: &[f32], target: usize, smoothing: f64) -> (f64, f32) {
    let log_sum = log_sum_exp(logits);
    let of_target = f64::from(log_sum) - f64::from(logits[target]);
    if smoothing == 0.0 {
        return (of_target, log_sum);
    }
    let of_all = f64::from(log_sum) - sum(logits) / logits.len() as f64;
    ((1.0 - smoothing) * of_target + smoothing * of_all, log_sum)
}

vectorised! {
    fn sum(values: &[f32]) -> f64 {
        let mut sums = [0f64; 16];
        let chunks = values.chunks_exact(16);
        let rest: f64 = chunks.remainder().iter().map(|v| f64::from(*v)).sum();
        chunks.for_each(|chunk| sums.iter_mut().zip(chunk).for_each(|(s, v)| *s += f64::from(*v)));
        sums.iter().sum::<f64>() + rest
    }
}

vectorised! {
    fn log_sum_exp(logits: &[f32]) -> f32 {
        let mut most = [f32::NEG_INFINITY; 16];
        for part in logits.chunks(16) {
            most.iter_mut().zip(part).for_each(|(m, v)| *m = if *v > *m { *v } else { *m });
        }
        let largest = most.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let mut sums = [0f32; 16];
        let chunks = logits.chunks_exact(16);
        let rest: f32 = chunks.remainder().iter().map(|v| exp(v - largest)).sum();
        chunks.for_each(|chunk| sums.iter_mut().zip(chunk).for_each(|(s, v)| *s += exp(v - largest)));
        largest + (sums.iter().sum::<f32>() + rest).ln()
    }
}

vectorised! {
    /// `factor * (exp(logits - log_sum) - share)`, in place.
    fn exponentials(logits: &mut [f32], log_sum: f32, share: f32, factor: f32) {
        logits.iter_mut().for_each(|v| *v = factor * (exp(*v - log_sum) - share));
    }
}

vectorised! {
    fn bend(logits: &mut [f32], cap: f32) {
        let inner = 1.0 / cap;
        logits.iter_mut().for_each(|v| *v = cap * tanh(*v * inner));
    }
}

vectorised! {
    /// `factor * (exp(logits - log_sum) - share)` times the derivative of the bent logits, in place.
    fn capped_exponentials(logits: &mut [f32], log_sum: f32, share: f32, factor: f32, cap: f32) {
        let inner = 1.0 / cap;
        for v in logits {
            let t = *v * inner;
            *v = factor * (exp(*v - log_sum) - share) * (1.0 - t * t);
        }
    }
}

/// Turns a row of logits into the gradient by what they were before they were bent: `factor * (softmax - onehot)`, times the
/// derivative; the onehot vector is smoothed.
fn gradient_row(logits: &mut [f32], target: usize, log_sum: f32, factor: f32, (softcap, smoothing): (Option<f32>, f64)) {
    // Without smoothing 0 is taken off, and 1 multiplied by, which changes no bit.
    let (share, rest) = ((smoothing / logits.len() as f64) as f32, (1.0 - smoothing) as f32);
    match softcap {
        None => {
            exponentials(logits, log_sum, share, factor);
            logits[target] -= factor * rest;
        }
        Some(cap) => {
            let t = logits[target] / cap;
            capped_exponentials(logits, log_sum, share, factor, cap);
            logits[target] -= factor * rest * (1.0 - t * t);
        }
    }
}

/// The loss of a row of logits before they are bent; turns them into `factor` times its gradient.
pub(super) fn loss_and_gradient(logits: &mut [f32], target: usize, factor: f32, softcap: Option<f32>) -> f64 {
    if let Some(cap) = softcap {
        bend(logits, cap);
    }
    let (loss, log_sum) = row_loss(logits, target, 0.0);
    gradient_row(logits, target, log_sum, factor, (softcap, 0.0));
    loss
}

impl HeadCrossEntropy {
    fn new(hidden: &Tensor, head: &Head, targets: &[i64], divisor: f64) -> Result<Self> {
        let dims = head.weight.dims();
        if hidden.dims() != [targets.len(), dims[1]] {
            candle_core::bail!("cross-entropy: {} targets for hidden states of shape {:?}", targets.len(), hidden.dims());
        }
        check_targets(targets, dims[0])?;
        let wanted = targets.iter().enumerate().filter(|(_, target)| **target != IGNORE_INDEX);
        let rows = wanted.map(|(row, target)| (row, *target as usize)).collect();
        let (weight, softcap, smoothing) = (head.weight.clone(), head.softcap, head.smoothing);
        Ok(Self { weight, softcap, smoothing, rows, divisor, recording: Recording::default() })
    }

    /// Calls `work` with chunks of rows, their hidden states and their logits.
    fn by_chunk(
        &self,
        hidden: &[f32],
        weight: Weight<'_>,
        mut work: impl FnMut(&[(usize, usize)], &[f32], &mut [f32]) -> Result<()>,
    ) -> Result<()> {
        let dims = self.weight.dims();
        let (vocabulary, width) = (dims[0], dims[1]);
        let most = (CHUNK_ELEMENTS / vocabulary).max(1);
        // Chunks of like size need less memory than full ones and a rest.
        let at_once = self.rows.len().div_ceil(self.rows.len().div_ceil(most).max(1)).max(1);
        let mut logits = Buffer::new(at_once * vocabulary);
        for rows in self.rows.chunks(at_once) {
            let states: Vec<f32> = rows.iter().flat_map(|(row, _)| &hidden[row * width..(row + 1) * width]).copied().collect();
            let dims = Dims { rows: rows.len(), inputs: width, outputs: vocabulary };
            let logits = &mut logits[..rows.len() * vocabulary];
            matrix::times_weight_transposed(&states, weight, logits, false, dims);
            if let Some(cap) = self.softcap {
                parallel::by_rows(logits, dims.outputs, |_, logits| bend(logits, cap));
            }
            work(rows, &states, logits)?;
        }
        Ok(())
    }
}

impl CustomOp1 for HeadCrossEntropy {
    fn name(&self) -> &'static str {
        "head_cross_entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let hidden = super::elements(storage, layout)?;
        let vocabulary = self.weight.dims()[0];
        let mut losses = Vec::with_capacity(self.rows.len());
        super::layer::with_factor(&self.weight, |weight| {
            self.by_chunk(hidden, weight, |rows, _, logits| {
                let row = |i: usize| row_loss(&logits[i * vocabulary..(i + 1) * vocabulary], rows[i].1, self.smoothing).0;
                losses.extend(parallel::map(rows.len(), row));
                Ok(())
            })
        })?;
        let loss = losses.iter().sum::<f64>() / self.divisor;
        Ok((CpuStorage::F32(vec![loss as f32]), Shape::from(())))
    }

    fn bwd(&self, hidden: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let factor = (f64::from(g.to_dtype(DType::F32)?.to_scalar::<f32>()?) / self.divisor) as f32;
        if self.recording.no_input_gradient {
            super::with_elements(hidden, |hidden| self.gradients(hidden, factor, None))?;
            return Ok(None);
        }
        let mut dhidden = zeroed(hidden.elem_count());
        super::with_elements(hidden, |hidden| self.gradients(hidden, factor, Some(&mut dhidden)))?;
        Ok(Some(Tensor::from_vec(dhidden, hidden.shape(), hidden.device())?))
    }
}

impl HeadCrossEntropy {
    /// Adds `factor` times the gradient of the summed loss to the weight's gradient and, where wanted, writes that of the hidden
    /// states over `dhidden`, which is zero. Returns the summed loss.
    fn gradients(&self, hidden: &[f32], factor: f32, mut dhidden: Option<&mut [f32]>) -> Result<f64> {
        let dims = self.weight.dims();
        let (vocabulary, width) = (dims[0], dims[1]);
        let mut total = 0.0;
        super::layer::with_factor(&self.weight, |weight| {
            let mut gradients = Vec::new();
            self.by_chunk(hidden, weight, |rows, states, logits| {
                let mut losses: Vec<(f64, &mut [f32])> = logits.chunks_exact_mut(vocabulary).map(|z| (0.0, z)).collect();
                parallel::by_chunks(&mut losses, 1, |first, losses| {
                    for ((loss, z), (_, target)) in losses.iter_mut().zip(&rows[first..]) {
                        let (row_loss, log_sum) = row_loss(z, *target, self.smoothing);
                        gradient_row(z, *target, log_sum, factor, (self.softcap, self.smoothing));
                        *loss = row_loss;
                    }
                });
                total += losses.iter().map(|(loss, _)| loss).sum::<f64>();
                if self.weight.requires_grad() {
                    super::layer::add_weight_gradient(&self.weight, logits, states)?;
                }
                if let Some(dhidden) = dhidden.as_deref_mut() {
                    gradients.resize(states.len(), 0.0);
                    let dims = Dims { rows: rows.len(), inputs: width, outputs: vocabulary };
                    matrix::times_weight(logits, weight, &mut gradients, false, dims);
                    for ((row, _), gradient) in rows.iter().zip(gradients.chunks_exact(width)) {
                        dhidden[row * width..(row + 1) * width].copy_from_slice(gradient);
                    }
                }
                Ok(())
            })
        })?;
        if self.rows.is_empty() && self.weight.requires_grad() {
            let zero = |dw: &mut [f32], filled: bool| {
                if !filled {
                    dw.fill(0.0);
                }
            };
            self.weight.accumulate_with(zero).map_err(candle_core::Error::wrap)?;
        }
        Ok(total)
    }
}

/// A loss that may still be under way on a device.
#[derive(Debug, Clone)]
pub enum Loss {
    /// A number.
    Known(f64),
    /// A scalar on a device, to be waited for.
    OnDevice(Tensor),
}

impl Loss {
    /// The number; waits for a device.
    ///
    /// # Errors
    /// The device failed.
    pub fn value(&self) -> Result<f64> {
        match self {
            Self::Known(value) => Ok(*value),
            Self::OnDevice(scalar) => Ok(f64::from(scalar.to_dtype(DType::F32)?.to_scalar::<f32>()?)),
        }
    }

    /// The sum of two, without waiting.
    ///
    /// # Errors
    /// The losses are on different devices.
    pub fn plus(self, other: Self) -> Result<Self> {
        Ok(match (self, other) {
            (Self::Known(a), Self::Known(b)) => Self::Known(a + b),
            (Self::Known(known), Self::OnDevice(scalar)) | (Self::OnDevice(scalar), Self::Known(known)) => {
                Self::OnDevice((scalar + known)?)
            }
            (Self::OnDevice(a), Self::OnDevice(b)) => Self::OnDevice((a + b)?),
        })
    }
}

/// Loss and gradient in one pass: as [`head_cross_entropy`] followed by its backward pass, but logits are computed once. Adds to
/// the weight's gradient; returns the loss and its gradient by `hidden`, [tokens, hidden].
///
/// # Errors
/// As [`head_cross_entropy`].
pub fn head_loss_and_gradient(hidden: &Tensor, head: &Head, targets: &[i64], divisor: f64) -> Result<(Loss, Tensor)> {
    if head.smoothing == 0.0 && super::gpu::serves(hidden) {
        HeadCrossEntropy::new(hidden, head, targets, divisor)?;
        return match super::gpu::loss_and_gradient(hidden, head, targets, divisor, true)? {
            (loss, Some(gradient)) => Ok((Loss::OnDevice(loss), gradient)),
            (_, None) => candle_core::bail!("the loss has no gradient"),
        };
    }
    if !super::fused_for(hidden) {
        let leaf = Var::from_tensor(&hidden.detach())?;
        let loss = head_cross_entropy(leaf.as_tensor(), head, targets, divisor)?;
        let store = crate::autograd::backward_store(&loss).map_err(candle_core::Error::wrap)?;
        let gradient = store.get(&leaf).map_or_else(|| hidden.zeros_like(), |g| Ok(g.detach()))?;
        return Ok((Loss::OnDevice(loss.detach()), gradient));
    }
    let op = HeadCrossEntropy::new(hidden, head, targets, divisor)?;
    let mut dhidden = zeroed(hidden.elem_count());
    let sum = super::with_elements(hidden, |hidden| op.gradients(hidden, (1.0 / divisor) as f32, Some(&mut dhidden)))?;
    Ok((Loss::Known(sum / divisor), Tensor::from_vec(dhidden, hidden.shape(), hidden.device())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::backward;
    use crate::ops::check::{difference, tensor};
    use crate::ops::with_fused;

    fn run(fused: bool, vocabulary: usize, (softcap, smoothing): (Option<f32>, f64), targets: &[i64]) -> Vec<Tensor> {
        with_fused(fused, || {
            let hidden = Parameter::new(&tensor(&[targets.len(), 6], 1)).unwrap();
            let weight = Parameter::new(&tensor(&[vocabulary, 6], 2)).unwrap();
            let head = Head { weight: weight.clone(), softcap, smoothing };
            let loss = head_cross_entropy(&hidden.tensor(), &head, targets, 2.5).unwrap();
            backward(&(&loss * 3.0).unwrap()).unwrap();
            vec![loss.detach(), hidden.grad().unwrap().unwrap(), weight.grad().unwrap().unwrap()]
        })
    }

    #[test]
    fn fused_equals_composed_with_ignored_rows() {
        for (vocabulary, targets) in [(3, vec![2]), (37, vec![-100, 5, 0, -100, 36]), (CHUNK_ELEMENTS / 16, (0..20).collect())] {
            for how in [(None, 0.0), (Some(0.8), 0.0), (None, 0.3), (Some(0.8), 0.3)] {
                for (a, b) in run(true, vocabulary, how, &targets).iter().zip(&run(false, vocabulary, how, &targets)) {
                    let difference = difference(a, b);
                    assert!(difference < 1e-5, "{vocabulary} {how:?} {:?}: {difference}", a.dims());
                }
            }
        }
    }

    /// At once and in two passes, of the slices and by operations: one loss, one gradient.
    #[test]
    fn a_smoothed_loss_has_one_gradient_however_it_is_computed() {
        let targets = [-100, 5, 0, 36];
        let at_once = |fused: bool, cap: Option<f32>| {
            with_fused(fused, || {
                let weight = Parameter::new(&tensor(&[37, 6], 2)).unwrap();
                let head = Head { weight: weight.clone(), softcap: cap, smoothing: 0.3 };
                let (loss, gradient) = head_loss_and_gradient(&tensor(&[4, 6], 1), &head, &targets, 2.5).unwrap();
                (loss.value().unwrap(), gradient, weight.grad().unwrap().unwrap())
            })
        };
        for cap in [None, Some(0.8)] {
            let two = run(true, 37, (cap, 0.3), &targets);
            let loss = f64::from(two[0].to_scalar::<f32>().unwrap());
            // By definition: the mean over the vocabulary of the negative log-probabilities counts for the share.
            let logits = Head { weight: Parameter::new(&tensor(&[37, 6], 2)).unwrap(), softcap: cap, smoothing: 0.3 };
            let logits = logits.logits(&tensor(&[4, 6], 1)).unwrap().to_vec2::<f32>().unwrap();
            let mut expected = 0.0;
            for (row, target) in logits.iter().zip(targets).filter(|(_, target)| *target != IGNORE_INDEX) {
                let log_sum = row.iter().map(|z| f64::from(*z).exp()).sum::<f64>().ln();
                let negative = |z: &f32| log_sum - f64::from(*z);
                expected += (0.7 * negative(&row[target as usize]) + 0.3 * row.iter().map(negative).sum::<f64>() / 37.0) / 2.5;
            }
            assert!((loss - expected).abs() < 1e-5, "{cap:?}: {loss} {expected}");
            for fused in [true, false] {
                let (found, by_hidden, by_weight) = at_once(fused, cap);
                assert!((found - expected).abs() < 1e-5, "{cap:?} {fused}: {found} {expected}");
                // The other backward pass began with 3.
                assert!(difference(&(by_hidden * 3.0).unwrap(), &two[1]) < 1e-5, "{cap:?} {fused}");
                assert!(difference(&(by_weight * 3.0).unwrap(), &two[2]) < 1e-5, "{cap:?} {fused}");
            }
        }
    }

    #[test]
    fn a_label_outside_the_vocabulary_is_named() {
        let weight = Parameter::new(&tensor(&[3, 2], 1)).unwrap();
        let error = head_cross_entropy(&tensor(&[1, 2], 2), &Head::from(&weight), &[3], 1.0).unwrap_err().to_string();
        assert!(error.contains("label 3"), "{error}");
    }
}
