//! Estimating the diagonal of the Fisher information: how much the likelihood depends on each parameter.
//!
//! `empirical` and `sample` take one sequence at a time: `F = mean over sequences of (gradient of the sequence's mean token
//! loss)^2`, with the data's own tokens as labels or with labels drawn from the model (the proper Fisher information, see
//! Kunstner et al. 2019, arXiv 1905.12558). `lesson` repeats the lesson's class as it is written, its mistakes included.

use super::ewc::{Anchor, Ewc};
use crate::adapter::ModelHandle;
use crate::autograd::Pieces;
use crate::control::Control;
use crate::data::loader::groups;
use crate::data::{DataLoader, Encoded};
use crate::error::{Error, Result};
use crate::model::TokenBatch;
use crate::model::projection::Pass;
use crate::ops::cross_entropy::IGNORE_INDEX;
use crate::ops::vectorised;
use crate::random::Random;
use crate::train::trainer::tokens_and_targets;
use candle_core::DType;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// How the Fisher information is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// Per sequence, with the data's labels.
    #[default]
    Empirical,
    /// Per sequence, with labels drawn from the model.
    Sample,
    /// As the lesson's class computes it.
    Lesson,
}

/// Elements that are added up at a time, about as many as stay in the cache.
const CHUNK: usize = 1 << 14;

/// What is wrong with the lesson's estimator.
pub const LESSON_WARNING: &str = "estimator \"lesson\" repeats three mistakes: gradients are never zeroed, so batch k squares \
     the sum of k gradients and the result depends on the order; it squares means over a batch, not gradients of single \
     sequences; and it divides by the batches asked for, not by those seen. Use \"empirical\" for real work";

impl Ewc {
    /// Estimates the Fisher information from up to `num_batches` batches of the loader, dropout off. Returns the number of
    /// sequences ("lesson": batches) that it is the mean of.
    ///
    /// # Errors
    /// No batch has a token to learn from, another model, a gradient that is missing or not finite, Ctrl-C (the Fisher
    /// information is as before then).
    pub fn update_fisher(
        &mut self,
        model: &ModelHandle,
        loader: &DataLoader,
        num_batches: usize,
        estimator: Estimator,
        random: &mut Random,
        control: &Control,
    ) -> Result<usize> {
        self.check_same(model, "update_fisher")?;
        let rows: Vec<_> = groups(loader.rows(0), loader.batch_size).take(num_batches).collect::<Result<_>>()?;
        let batches: Vec<Vec<&Encoded>> = rows.iter().map(|batch| batch.iter().map(AsRef::as_ref).collect()).collect();
        if num_batches == 0 || batches.is_empty() {
            return Err(Error::argument("update_fisher: num_batches must be at least 1, and the loader must have a batch"));
        }
        self.zero_gradients();
        let outcome = match estimator {
            Estimator::Lesson => {
                control.warn(LESSON_WARNING);
                self.lesson(model, &batches, num_batches, control)
            }
            _ => self.per_sequence(model, &batches, estimator, random, control),
        };
        self.anchors.iter().for_each(|a| a.parameter.drop_grad());
        let (sums, seen) = outcome?;
        for (anchor, sum) in self.anchors.iter_mut().zip(sums) {
            anchor.fisher = Arc::new(sum);
        }
        self.estimator = Some(estimator);
        Ok(seen)
    }

    fn zero_gradients(&self) {
        self.anchors.iter().for_each(|a| a.parameter.zero_grad());
    }

    fn per_sequence(
        &self,
        model: &ModelHandle,
        batches: &[Vec<&Encoded>],
        estimator: Estimator,
        random: &mut Random,
        control: &Control,
    ) -> Result<(Vec<Vec<f32>>, usize)> {
        let mut sums: Vec<Vec<f32>> = self.anchors.iter().map(|a| crate::autograd::buffer::zeroed(a.original.len())).collect();
        let mut seen = 0;
        for (index, rows) in batches.iter().enumerate() {
            for row in rows {
                control.check()?;
                let (batch, mut targets) = tokens_and_targets(&[*row]);
                if estimator == Estimator::Sample {
                    targets = drawn_targets(model, &batch, &targets, random)?;
                }
                if gradients(model, &batch, &targets)? {
                    add_squares(&self.anchors, &mut sums)?;
                    seen += 1;
                }
                self.zero_gradients();
            }
            control.progress("fisher", index as u64 + 1, batches.len() as u64, "batches", String::new());
        }
        if seen == 0 {
            return Err(Error::argument("update_fisher: no sequence has a token to learn from"));
        }
        check_finite(&self.anchors, &sums)?;
        scale(&mut sums, 1.0 / seen as f32);
        Ok((sums, seen))
    }

    fn lesson(
        &self,
        model: &ModelHandle,
        batches: &[Vec<&Encoded>],
        num_batches: usize,
        control: &Control,
    ) -> Result<(Vec<Vec<f32>>, usize)> {
        let mut sums: Vec<Vec<f32>> = self.anchors.iter().map(|a| a.fisher.to_vec()).collect();
        for (index, rows) in batches.iter().enumerate() {
            control.check()?;
            let (batch, targets) = tokens_and_targets(rows);
            gradients(model, &batch, &targets)?;
            add_squares(&self.anchors, &mut sums)?;
            control.progress("fisher", index as u64 + 1, batches.len() as u64, "batches", String::new());
        }
        check_finite(&self.anchors, &sums)?;
        scale(&mut sums, 1.0 / num_batches as f32);
        Ok((sums, batches.len()))
    }
}

/// Adds the gradients of a batch's mean token loss; `false` where no token carries loss.
fn gradients(model: &ModelHandle, batch: &TokenBatch, targets: &[i64]) -> Result<bool> {
    let count = targets.iter().filter(|t| **t != IGNORE_INDEX).count();
    if count == 0 {
        return Ok(false);
    }
    model.model().decoder().loss_backward(batch, targets, count as f64, Pass::default(), false)?;
    Ok(true)
}

/// Targets drawn from the model's own predictions, at the places where the data has one.
fn drawn_targets(model: &ModelHandle, batch: &TokenBatch, targets: &[i64], random: &mut Random) -> Result<Vec<i64>> {
    let decoder = model.model().decoder();
    let logits = crate::nn::no_grad(|| -> Result<_> {
        let logits = decoder.logits(&decoder.hidden(batch, Pass::default())?, Pass::default())?;
        Ok(logits.to_dtype(DType::F32)?.to_vec2::<f32>()?)
    })?;
    let draw = |row: &Vec<f32>, random: &mut Random| {
        let largest = row.iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
        let weights = row.iter().map(|v| f64::from(v - largest).exp());
        let mut point = random.uniform_f64() * weights.clone().sum::<f64>();
        let found = weights.into_iter().position(|w| {
            point -= w;
            point <= 0.0
        });
        found.unwrap_or(row.len() - 1) as i64
    };
    Ok(targets.iter().zip(&logits).map(|(t, row)| if *t == IGNORE_INDEX { *t } else { draw(row, random) }).collect())
}

fn add_squares(anchors: &[Anchor], sums: &mut [Vec<f32>]) -> Result<()> {
    for (anchor, sum) in anchors.iter().zip(sums) {
        // Piece by piece: a gradient that is kept as a product is multiplied out in the cache.
        let add = |gradient: &Pieces<'_>| {
            let unit = gradient.unit();
            let length = (CHUNK / unit).max(1) * unit;
            sum.par_chunks_mut(length).enumerate().for_each(|(i, part)| {
                let count = part.len();
                gradient.read(i * length, count, |piece| add_squares_of(piece, gradient.scale, part));
            });
        };
        if anchor.parameter.with_pieces(add)?.is_none() {
            return Err(Error::Training(format!("update_fisher: no gradient reached {}", anchor.name)));
        }
    }
    Ok(())
}

vectorised! {
    fn add_squares_of(gradient: &[f32], scale: f32, sum: &mut [f32]) {
        for (s, g) in sum.iter_mut().zip(gradient) {
            let g = scale * g;
            *s += g * g;
        }
    }
}

/// What is not finite stays so in a sum of squares, so that looking once at the end is enough.
fn check_finite(anchors: &[Anchor], sums: &[Vec<f32>]) -> Result<()> {
    let wrong = |sum: &Vec<f32>| sum.par_chunks(CHUNK).any(|part| !part.iter().all(|v| v.is_finite()));
    match anchors.iter().zip(sums).find(|(_, sum)| wrong(sum)) {
        Some((anchor, _)) => Err(Error::Training(format!("update_fisher: the gradient of {} is not finite", anchor.name))),
        None => Ok(()),
    }
}

fn scale(sums: &mut [Vec<f32>], factor: f32) {
    sums.par_iter_mut().for_each(|sum| sum.iter_mut().for_each(|v| *v *= factor));
}
