//! The training loop: micro batches, backward, clipping, one optimiser step, the next learning rate.

use super::arguments::{EvalStrategy, OptimizerKind, TrainingArguments};
use super::checkpoint::{self, Progress};
use super::memory;
use super::regularizer::Regularizer;
use crate::adapter::ModelHandle;
use crate::autograd::buffer::release_buffers;
use crate::control::Control;
use crate::data::loader::shuffled_order;
use crate::data::{Encoded, pack};
use crate::error::{Error, Result};
use crate::model::batch::shifted_targets;
use crate::model::generate::shared_prefix;
use crate::model::projection::Pass;
use crate::model::{Decoder, TokenBatch};
use crate::nn::Parameter;
use crate::ops::cross_entropy::IGNORE_INDEX;
use crate::ops::team;
use crate::optim::{
    Adam, AdamWOptions, Optimizer, ParamGroup, Sgd, SgdOptions, check_gradients, clip_to_norm, grad_norm, schedule_factor,
};
use crate::random::Random;
use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Optimiser steps done.
    pub step: u64,
    /// Passes over the data done.
    pub epoch: f64,
    /// Mean training loss since the entry before, in nats a target token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss: Option<f64>,
    /// Norm of the gradient before clipping.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub grad_norm: Option<f64>,
    /// Learning rate of the step.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub learning_rate: Option<f64>,
    /// Loss on the evaluation set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub eval_loss: Option<f64>,
}

/// What a callback is told after every step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepState {
    /// Optimiser steps done.
    pub step: u64,
    /// Optimiser steps in all.
    pub total_steps: u64,
    /// Passes over the data done.
    pub epoch: f64,
    /// The step's loss.
    pub loss: f64,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Tokens trained on so far.
    pub tokens: u64,
}

/// What a training run gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TrainResult {
    /// Mean loss over all steps.
    pub train_loss: f64,
    /// Optimiser steps done.
    pub steps: u64,
    /// Tokens trained on, this run.
    pub tokens: u64,
    /// Tokens a second.
    pub tokens_per_second: f64,
    /// Seconds of the run.
    pub seconds: f64,
    /// The log.
    pub log_history: Vec<LogEntry>,
}

/// Called after every step; `false` ends the training.
pub type Callback<'a> = &'a mut dyn FnMut(&StepState) -> Result<bool>;

/// A model, its data and how to train it.
pub struct Trainer<'a> {
    /// The model; its trainable parameters change.
    pub model: ModelHandle,
    /// The options.
    pub args: TrainingArguments,
    /// Tokenised training rows; with `packing` none longer than `max_length` or the model's context.
    pub train: Vec<Encoded>,
    /// Tokenised evaluation rows; may be empty.
    pub eval: Vec<Encoded>,
    /// Added to the loss of every step.
    pub regularizer: Option<&'a dyn Regularizer>,
}

impl Trainer<'_> {
    /// Trains. With `resume`, continues from that checkpoint folder as if it had never stopped.
    ///
    /// # Errors
    /// Arguments out of range, nothing to train, more memory needed than there is, a row too long to be packed, a missing or non-finite gradient, a loss that is
    /// not finite (the parameters are then those after the last good step), a checkpoint that cannot be written or read, Ctrl-C.
    pub fn train(&self, control: &Control, resume: Option<&Path>, callback: Callback<'_>) -> Result<TrainResult> {
        self.args.validate()?;
        if self.train.is_empty() {
            return Err(Error::argument("the training data set is empty"));
        }
        let rows = self.rows()?;
        let trainable = self.model.some_trainable_parameters()?;
        memory::check(self, &rows)?;
        let parameters: Vec<Parameter> = trainable.iter().map(|(_, p)| p.clone()).collect();
        parameters.iter().for_each(Parameter::zero_grad);
        let mut optimizer = self.optimizer(&trainable)?;
        let steps_per_epoch = self.args.steps_per_epoch(rows.len());
        let total = self.args.total_steps(rows.len());
        let warmup = self.args.warmup(total);
        let mut progress = match resume {
            Some(folder) => checkpoint::resume(folder, &self.model, optimizer.as_mut(), &self.args)?,
            None => Progress::default(),
        };
        let seed = self.args.data_seed.unwrap_or(self.args.seed);
        let start = Instant::now();
        let mut tokens_done = 0;
        let outcome = 'training: loop {
            let epoch = progress.step / steps_per_epoch;
            let order = shuffled_order(rows.len(), seed, epoch);
            let examples = |batch: &[usize]| batch.iter().flat_map(|row| &rows[*row]).copied().collect::<Vec<usize>>();
            let micro: Vec<Vec<usize>> = order.chunks(self.args.per_device_train_batch_size).map(examples).collect();
            let groups = micro.chunks(self.args.gradient_accumulation_steps);
            for group in groups.skip((progress.step % steps_per_epoch) as usize) {
                if progress.step >= total {
                    break 'training Ok(());
                }
                if let Err(error) = control.check() {
                    break 'training Err(error);
                }
                let rate = self.args.learning_rate * schedule_factor(self.args.lr_scheduler_type, progress.step, warmup, total);
                optimizer.set_lr(rate)?;
                let (loss, tokens) = match self.gradients(group, progress.step, rate) {
                    Ok(done) => done,
                    Err(error) => break 'training Err(error),
                };
                // A norm is finite exactly when every element is: one pass both measures and checks.
                let norm = grad_norm(&parameters)?;
                if !norm.is_finite() || parameters.iter().any(|p| !p.has_grad()) {
                    let found = check_gradients(&trainable)
                        .err()
                        .unwrap_or_else(|| Error::Training("the norm of the gradient is not finite: lower learning_rate".into()));
                    break 'training Err(at_step(progress.step + 1, found));
                }
                if self.args.max_grad_norm > 0.0 {
                    clip_to_norm(&parameters, norm, self.args.max_grad_norm);
                }
                optimizer.step()?;
                optimizer.zero_grad();
                progress.step += 1;
                progress.loss_sum += loss;
                progress.window.push(loss);
                tokens_done += tokens;
                let done = (progress.step - 1) % steps_per_epoch + 1;
                let epoch = epoch as f64 + done as f64 / steps_per_epoch as f64;
                self.after_step(&mut progress, epoch, (norm, rate), total, control)?;
                if self.args.save_steps > 0 && (progress.step.is_multiple_of(self.args.save_steps) || progress.step == total) {
                    checkpoint::save(&self.args, &progress, &self.model, optimizer.as_ref())?;
                }
                let seconds = start.elapsed().as_secs_f64();
                let speed = tokens_done as f64 / seconds.max(1e-9);
                let message = format!("loss {loss:.4}, lr {rate:.2e}, {speed:.0} tokens/s");
                control.training_step(progress.step, total, loss, message);
                let state = StepState {
                    step: progress.step,
                    total_steps: total,
                    epoch,
                    loss,
                    grad_norm: norm,
                    learning_rate: rate,
                    tokens: tokens_done,
                };
                if !callback(&state)? {
                    break 'training Ok(());
                }
            }
            if progress.step >= total {
                break Ok(());
            }
        };
        // A stopped step leaves gradients behind that belong to nothing.
        parameters.iter().for_each(Parameter::drop_grad);
        // Activations are not needed any more, whatever the outcome.
        release_buffers();
        outcome?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(TrainResult {
            train_loss: if progress.step == 0 { 0.0 } else { progress.loss_sum / progress.step as f64 },
            steps: progress.step,
            tokens: tokens_done,
            tokens_per_second: tokens_done as f64 / seconds.max(1e-9),
            seconds,
            log_history: progress.log_history,
        })
    }

    /// Mean loss of the evaluation rows: batches' means weighted by their rows, as transformers computes it.
    ///
    /// # Errors
    /// No evaluation rows, or Ctrl-C.
    pub fn evaluate(&self, control: &Control) -> Result<f64> {
        if self.eval.is_empty() {
            return Err(Error::argument("there is no eval_dataset to evaluate on"));
        }
        let decoder = self.model.model().decoder();
        let mut sum = 0.0;
        for rows in self.eval.chunks(self.args.per_device_eval_batch_size) {
            control.check()?;
            let rows: Vec<&Encoded> = rows.iter().collect();
            let (batch, targets) = tokens_and_targets(&rows);
            let count = targets.iter().filter(|t| **t != IGNORE_INDEX).count();
            if count == 0 {
                continue;
            }
            let loss = crate::nn::no_grad(|| -> Result<f32> {
                let loss = decoder.loss(&decoder.hidden(&batch, Pass::default())?, &targets, count as f64)?;
                Ok(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?)
            })?;
            sum += f64::from(loss) * rows.len() as f64;
        }
        Ok(sum / self.eval.len() as f64)
    }

    /// What batches are made of: for every row the numbers of its examples, of which only a packed row has more than one.
    fn rows(&self) -> Result<Vec<Vec<usize>>> {
        if !self.args.packing {
            return Ok((0..self.train.len()).map(|example| vec![example]).collect());
        }
        let lengths: Vec<usize> = self.train.iter().map(|example| example.input_ids.len()).collect();
        pack(&lengths, self.args.longest_row(self.model.model().decoder().config().max_position_embeddings))
    }

    /// Weight decay is for matrices: biases and norms are left out, as transformers does.
    fn optimizer(&self, trainable: &[(String, Parameter)]) -> Result<Box<dyn Optimizer>> {
        let (decayed, plain): (Vec<_>, Vec<_>) = trainable.iter().cloned().partition(|(name, _)| decays(name));
        let group = |named: Vec<(String, Parameter)>, decay| {
            ParamGroup::new(named.into_iter().map(|(_, p)| p).collect()).with_weight_decay(decay)
        };
        let groups = vec![group(decayed, self.args.weight_decay), group(plain, 0.0)];
        let a = &self.args;
        Ok(match a.optim {
            OptimizerKind::AdamwTorch => {
                let options = AdamWOptions {
                    lr: a.learning_rate,
                    betas: [a.adam_beta1, a.adam_beta2],
                    eps: a.adam_epsilon,
                    weight_decay: a.weight_decay,
                };
                Box::new(Adam::adamw(groups, options)?)
            }
            OptimizerKind::Sgd => Box::new(Sgd::new(groups, SgdOptions { lr: a.learning_rate, ..SgdOptions::default() })?),
        })
    }

    /// Gradients of one optimiser step, from its micro batches' examples; returns its loss, the mean over all their targets, and
    /// its number of tokens.
    fn gradients(&self, group: &[Vec<usize>], step: u64, rate: f64) -> Result<(f64, u64)> {
        let decoder: &Decoder = self.model.model().decoder();
        // One generator a step: a run that is resumed draws what it would have drawn.
        let random = RefCell::new(Random::new(self.args.seed.wrapping_mul(1_000_003).wrapping_add(step)));
        let pass = Pass { dropout: Some(&random) };
        let batches: Vec<(TokenBatch, Vec<i64>)> = group
            .iter()
            .map(|examples| tokens_and_targets(&examples.iter().map(|i| &self.train[*i]).collect::<Vec<_>>()))
            .collect();
        let count = batches.iter().flat_map(|(_, t)| t).filter(|t| **t != IGNORE_INDEX).count();
        let (mut loss, mut tokens) = (0.0, 0);
        for (batch, targets) in &batches {
            let divisor = count.max(1) as f64;
            loss += decoder.loss_backward(batch, targets, divisor, pass, self.args.gradient_checkpointing)?;
            tokens += batch.len() as u64;
        }
        if let Some(regularizer) = self.regularizer {
            let penalty = regularizer.penalty()?;
            crate::nn::backward(&penalty)?;
            loss += f64::from(penalty.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        }
        if !loss.is_finite() {
            return Err(Error::Training(format!(
                "the loss is {loss} in step {} at learning rate {rate:.3e}; training stopped and the model is as it was \
                 after step {step}. Lower learning_rate, or set max_grad_norm and a warm-up; if earlier steps did damage too, \
                 load the model again",
                step + 1
            )));
        }
        Ok((loss, tokens))
    }

    fn after_step(
        &self,
        progress: &mut Progress,
        epoch: f64,
        (norm, rate): (f64, f64),
        total: u64,
        control: &Control,
    ) -> Result<()> {
        let step = progress.step;
        let entry = LogEntry { step, epoch, loss: None, grad_norm: None, learning_rate: None, eval_loss: None };
        if step.is_multiple_of(self.args.logging_steps) || step == total {
            let mean = progress.window.iter().sum::<f64>() / progress.window.len().max(1) as f64;
            progress.window.clear();
            progress.log_history.push(LogEntry {
                loss: Some(mean),
                grad_norm: Some(norm),
                learning_rate: Some(rate),
                ..entry.clone()
            });
        }
        let due = match self.args.eval_strategy {
            EvalStrategy::No => false,
            EvalStrategy::Steps => step.is_multiple_of(self.args.eval_steps),
            EvalStrategy::Epoch => epoch.fract() == 0.0,
        };
        if due && !self.eval.is_empty() {
            progress.log_history.push(LogEntry { eval_loss: Some(self.evaluate(control)?), ..entry });
        }
        Ok(())
    }
}

fn at_step(step: u64, error: Error) -> Error {
    match error {
        Error::Training(message) => Error::Training(format!("step {step}: {message}")),
        other => other,
    }
}

/// Rows end to end, with their shifted targets.
pub fn tokens_and_targets(rows: &[&Encoded]) -> (TokenBatch, Vec<i64>) {
    let batch = TokenBatch::new(rows.iter().map(|r| r.input_ids.as_slice()));
    (batch, shifted_targets(rows.iter().map(|r| r.labels.as_slice())))
}

/// Mean loss of rows over all their targets, in nats a token, without gradient; and the number of targets. What all rows begin with and
/// no target is in, such as a chat template's system message, is computed once.
///
/// # Errors
/// No row has a target, or Ctrl-C.
pub fn mean_loss(decoder: &Decoder, rows: &[Encoded], control: &Control) -> Result<(f64, usize)> {
    crate::nn::no_grad(|| team::with(|| mean_loss_unrecorded(decoder, rows, control)))
}

fn mean_loss_unrecorded(decoder: &Decoder, rows: &[Encoded], control: &Control) -> Result<(f64, usize)> {
    let rows: Vec<&Encoded> = rows.iter().filter(|row| row.targets() > 0).collect();
    // The first target is predicted by the token before it, which has to stay with its row.
    let before = |row: &Encoded| row.labels.iter().skip(1).take_while(|label| **label == IGNORE_INDEX).count();
    let starts: Vec<(&[u32], usize)> = rows.iter().map(|row| (row.input_ids.as_slice(), before(row))).collect();
    let prefix = shared_prefix(decoder, &starts)?;
    let (mut sum, mut count) = (0.0, 0);
    for rows in rows.chunks(16) {
        control.check()?;
        let mut batch = TokenBatch::default();
        for row in rows {
            batch.push_from(&row.input_ids, prefix.len());
        }
        let targets = shifted_targets(rows.iter().map(|row| &row.labels[prefix.len()..]));
        let hidden = if prefix.is_empty() {
            decoder.hidden(&batch, Pass::default())?
        } else {
            let mut caches = vec![prefix.clone(); rows.len()];
            decoder.hidden_cached(&batch, &mut caches.iter_mut().collect::<Vec<_>>())?
        };
        sum += f64::from(decoder.loss(&hidden, &targets, 1.0)?.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        count += targets.iter().filter(|target| **target != IGNORE_INDEX).count();
    }
    if count == 0 {
        return Err(Error::argument("none of the rows has a token to score"));
    }
    Ok((sum / count as f64, count))
}

/// Whether transformers' Trainer decays a parameter of this name.
pub fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let norm_part = name.split('.').any(|part| part == "norm" || part.ends_with("_norm"));
    !(name.contains("bias") || name.contains("layernorm") || name.contains("rmsnorm") || norm_part)
}
