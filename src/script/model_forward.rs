//! `model.forward(..)`: token ids in, logits and loss out, with gradients.

use super::context::context;
use super::error::{IntoScript, ScriptResult};
use super::options::OptionMap;
use super::tensor::TensorValue;
use crate::adapter::ModelHandle;
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::model::TokenBatch;
use crate::model::batch::shifted_targets;
use crate::model::projection::Pass;
use crate::ops::cross_entropy::{Head, IGNORE_INDEX, cross_entropy, head_cross_entropy};
use candle_core::Tensor;
use rhai::{Array, Dynamic, Map, NativeCallContext};

/// What a forward pass gave.
#[derive(Clone)]
pub struct ForwardOutput {
    logits: Logits,
    masks: Vec<Vec<bool>>,
    loss: Option<Tensor>,
}

/// Logits of a forward pass, `[tokens, vocab]`, sequences end to end.
#[derive(Clone)]
enum Logits {
    /// Computed in the pass, with its dropout: an adapter changes them, and the loss is made of them.
    Known(Tensor),
    /// Of these hidden states, by this head, when they are asked for: training needs only the loss.
    Later(Tensor, Head),
}

impl Logits {
    fn of_pass(decoder: &Decoder, hidden: Tensor, pass: Pass<'_>) -> Result<Self> {
        Ok(match decoder.head().has_delta() {
            true => Self::Known(decoder.logits(&hidden, pass)?),
            false => Self::Later(hidden, decoder.head_weight()),
        })
    }

    fn values(&self) -> Result<Tensor> {
        Ok(match self {
            Self::Known(logits) => logits.clone(),
            Self::Later(hidden, head) => head.logits(hidden)?,
        })
    }

    fn loss(&self, targets: &[i64], divisor: f64) -> Result<Tensor> {
        Ok(match self {
            Self::Known(logits) => cross_entropy(logits, targets, divisor)?,
            Self::Later(hidden, head) => head_cross_entropy(hidden, head, targets, divisor)?,
        })
    }
}

impl ForwardOutput {
    /// Logits `[batch, seq, vocab]`; zero where the mask is 0.
    ///
    /// # Errors
    /// Out of memory.
    pub fn logits(&self) -> ScriptResult<TensorValue> {
        let build = || -> Result<Tensor> {
            let logits = self.logits.values()?;
            let (batch, seq) = (self.masks.len(), self.masks[0].len());
            let vocabulary = logits.dim(1)?;
            if self.masks.iter().flatten().all(|kept| *kept) {
                return Ok(logits.reshape((batch, seq, vocabulary))?);
            }
            // Row 0 is zero and stands for every masked token.
            let padded = Tensor::cat(&[&Tensor::zeros((1, vocabulary), logits.dtype(), logits.device())?, &logits], 0)?;
            let mut next = 0u32;
            let index: Vec<u32> = self
                .masks
                .iter()
                .flatten()
                .map(|kept| {
                    next += u32::from(*kept);
                    if *kept { next } else { 0 }
                })
                .collect();
            let index = Tensor::from_vec(index, batch * seq, logits.device())?;
            Ok(padded.index_select(&index, 0)?.reshape((batch, seq, vocabulary))?)
        };
        Ok(TensorValue::new(build().script()?))
    }

    /// The loss, or `()` without labels.
    pub fn loss(&self) -> Dynamic {
        self.loss.as_ref().map_or(Dynamic::UNIT, |loss| Dynamic::from(TensorValue::new(loss.clone())))
    }
}

/// An integer; masks may be written with true and false.
fn integer(value: &Dynamic) -> Option<i64> {
    value.as_int().ok().or_else(|| value.as_bool().ok().map(i64::from))
}

/// Rows of whole numbers: an array, an array of arrays, or a tensor of one or two dimensions.
fn rows_of(value: &Dynamic, what: &str) -> Result<Vec<Vec<i64>>> {
    let wrong = || Error::argument(format!("{what} must be an array of integers, or an array of such arrays"));
    if let Some(tensor) = value.read_lock::<TensorValue>() {
        let given = tensor.value();
        let tensor = given.to_dtype(candle_core::DType::I64)?;
        // A fraction would be cut off without a word.
        let whole = !given.dtype().is_float()
            || given
                .sub(&tensor.to_dtype(given.dtype())?)?
                .abs()?
                .sum_all()?
                .to_dtype(candle_core::DType::F32)?
                .to_scalar::<f32>()?
                == 0.0;
        if !whole {
            return Err(wrong());
        }
        return Ok(match tensor.dims() {
            [_] => vec![tensor.to_vec1()?],
            [_, _] => tensor.to_vec2()?,
            _ => return Err(wrong()),
        });
    }
    let items = value.read_lock::<Array>().ok_or_else(wrong)?;
    let row = |items: &Array| items.iter().map(|v| integer(v).ok_or_else(wrong)).collect::<Result<Vec<i64>>>();
    let rows: Vec<Vec<i64>> = if items.first().is_some_and(Dynamic::is_array) {
        items.iter().map(|v| row(&*v.read_lock::<Array>().ok_or_else(wrong)?)).collect::<Result<_>>()?
    } else {
        vec![row(&items)?]
    };
    let first = rows.first().map_or(0, Vec::len);
    if first == 0 {
        return Err(Error::argument(format!("{what}: there are none; give at least one for each row")));
    }
    if let Some(other) = rows.iter().position(|r| r.len() != first) {
        let length = rows[other].len();
        return Err(Error::argument(format!(
            "{what}: row {other} has {length} entries and row 0 has {first}; pad the shorter rows and give an attention_mask"
        )));
    }
    Ok(rows)
}

/// The positions of the tokens that a mask keeps, row after row; one row of positions serves all, as in transformers.
fn kept_positions(positions: &[Vec<i64>], masks: &[Vec<bool>]) -> Result<Vec<u32>> {
    let refuse = |what: String| Err(Error::argument(format!("forward: position_ids {what}")));
    let wide = |row: &Vec<i64>| row.len() == masks[0].len();
    if !(positions.len() == masks.len() || positions.len() == 1) || !positions.iter().all(wide) {
        return refuse("must have the shape of the token ids".into());
    }
    let mut kept: Vec<u32> = Vec::new();
    for (index, mask) in masks.iter().enumerate() {
        let row = positions.get(index).unwrap_or(&positions[0]);
        let start = kept.len();
        for position in row.iter().zip(mask).filter(|(_, kept)| **kept).map(|(position, _)| *position) {
            let Ok(number) = u32::try_from(position) else {
                return refuse(format!("must be whole numbers from 0 on, but row {index} has {position}"));
            };
            // Attention takes a position's predecessors for the tokens before it.
            if let Some(before) = kept[start..].last().filter(|before| **before >= number) {
                return refuse(format!("must rise within a row, but in row {index} {number} comes after {before}"));
            }
            kept.push(number);
        }
    }
    Ok(kept)
}

/// Runs the model; `given` may hold `labels`, `attention_mask` and `position_ids`.
pub(super) fn forward(call: &NativeCallContext, model: &ModelHandle, ids: &Dynamic, given: Map) -> ScriptResult<ForwardOutput> {
    let session = context(call)?;
    let mut given = OptionMap::new("forward", given);
    let (labels, mask) = (given.take_any("labels"), given.take_any("attention_mask"));
    let positions = given.take_any("position_ids");
    given.finish()?;
    let run = || -> Result<ForwardOutput> {
        let rows = rows_of(ids, "forward: the token ids")?;
        let masks: Vec<Vec<bool>> = match &mask {
            Some(mask) => rows_of(mask, "forward: attention_mask")?.iter().map(|r| r.iter().map(|v| *v != 0).collect()).collect(),
            None => rows.iter().map(|r| vec![true; r.len()]).collect(),
        };
        if masks.len() != rows.len() {
            return Err(Error::argument("forward: attention_mask has another number of rows than the token ids"));
        }
        let vocabulary = model.model().decoder().config().vocab_size as i64;
        if let Some(id) = rows.iter().flatten().find(|id| !(0..vocabulary).contains(*id)) {
            return Err(Error::argument(format!("forward: token id {id} is outside the model's vocabulary of {vocabulary}")));
        }
        let narrow: Vec<Vec<u32>> = rows.iter().map(|r| r.iter().map(|id| *id as u32).collect()).collect();
        let mut batch = TokenBatch::masked(&narrow, &masks)?;
        if let Some(positions) = &positions {
            batch.positions = kept_positions(&rows_of(positions, "forward: position_ids")?, &masks)?;
        }
        let pass = Pass { dropout: model.model().training().then_some(&session.random), ..Pass::default() };
        let decoder = model.model().decoder();
        let logits = Logits::of_pass(decoder, decoder.hidden(&batch, pass)?, pass)?;
        let loss = match &labels {
            None => None,
            Some(labels) => {
                let labels = rows_of(labels, "forward: labels")?;
                if labels.len() != rows.len() || labels.iter().zip(&rows).any(|(l, r)| l.len() != r.len()) {
                    return Err(Error::argument("forward: labels must have the shape of the token ids"));
                }
                let kept: Vec<Vec<i64>> = labels
                    .iter()
                    .zip(&masks)
                    .map(|(l, m)| l.iter().zip(m).filter(|(_, kept)| **kept).map(|(l, _)| *l).collect())
                    .collect();
                let targets = shifted_targets(kept.iter().map(Vec::as_slice));
                let count = targets.iter().filter(|t| **t != IGNORE_INDEX).count();
                if count == 0 {
                    return Err(Error::argument("forward: no label carries loss; all are -100 or each row has one token"));
                }
                Some(logits.loss(&targets, count as f64)?)
            }
        };
        Ok(ForwardOutput { logits, masks, loss })
    };
    run().script()
}
