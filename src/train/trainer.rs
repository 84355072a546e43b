//! The training loop: micro batches, backward, clipping, one optimiser step, the next learning rate.

use super::arguments::TrainingArguments;
use super::best;
use super::checkpoint::{self, Progress};
use super::feed::Feed;
use super::memory;
use super::optimizer::OptimizerKind;
use super::regularizer::Regularizer;
use super::steps::{Measured, Norm, Step, finite_loss};
use super::updater::Updater;
use crate::adapter::ModelHandle;
use crate::autograd::buffer::release_buffers;
use crate::control::Control;
use crate::data::loader::groups;
use crate::data::{Encoded, TokenRows};
use crate::error::{Error, Result};
use crate::model::batch::shifted_targets;
use crate::model::generate::shared_prefix;
use crate::model::projection::Pass;
use crate::model::{Decoder, TokenBatch};
use crate::nn::Parameter;
use crate::ops::cross_entropy::{IGNORE_INDEX, Loss};
use crate::ops::{precision, team};
use crate::optim::{check_gradients, clip_to_norm, grad_norm};
use crate::random::Random;
use candle_core::DType;
use serde::{Deserialize, Serialize};
use std::borrow::{Borrow, Cow};
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

impl LogEntry {
    /// An entry that says nothing yet.
    fn of(step: u64, epoch: f64) -> Self {
        Self { step, epoch, loss: None, grad_norm: None, learning_rate: None, eval_loss: None }
    }
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
    /// Loss on the evaluation set, where it was computed after this step.
    pub eval_loss: Option<f64>,
}

/// What a training run gave.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
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
    /// The best evaluation's loss, where evaluations are compared: for `load_best_model_at_end` or `early_stopping_patience`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_metric: Option<f64>,
    /// The step after which it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_step: Option<u64>,
    /// The best checkpoint's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best_model_checkpoint: Option<String>,
}

/// Called after every step; `false` ends the training. Without one, a GPU is not waited for after every step.
pub type Callback<'a> = Option<&'a mut dyn FnMut(&StepState) -> Result<bool>>;

/// A training that is under way.
struct Run {
    trainable: Vec<(String, Parameter)>,
    parameters: Vec<Parameter>,
    steps_per_epoch: u64,
    total: u64,
    tokens: u64,
    start: Instant,
}

/// A model, its data and how to train it.
pub struct Trainer<'a> {
    /// The model; its trainable parameters change.
    pub model: ModelHandle,
    /// The options.
    pub args: TrainingArguments,
    /// Tokenised training rows; with `packing` none longer than `max_length` or the model's context.
    pub train: TokenRows,
    /// Tokenised evaluation rows; may be empty.
    pub eval: TokenRows,
    /// Added to the loss of every step.
    pub regularizer: Option<&'a dyn Regularizer>,
}

impl Trainer<'_> {
    /// Trains. With `resume`, continues from that checkpoint folder as if it had never stopped.
    ///
    /// # Errors
    /// Arguments out of range or at odds with model and data, a regularizer of another model, nothing to train, more memory needed than
    /// there is, a row too long to be packed, a missing or non-finite gradient, a loss that is not finite (the parameters are then those after the last step, which the
    /// message says), a checkpoint that cannot be written or read, Ctrl-C.
    pub fn train(&self, control: &Control, resume: Option<&Path>, callback: Callback<'_>) -> Result<TrainResult> {
        self.train_into(control, resume, callback, &mut Progress::default())
    }

    /// As [`Self::train`], and leaves in `progress` how far the training came, and its log, even where it failed or was interrupted. What
    /// is in there before is replaced when the first step begins.
    ///
    /// # Errors
    /// As [`Self::train`].
    pub fn train_into(
        &self,
        control: &Control,
        resume: Option<&Path>,
        callback: Callback<'_>,
        progress: &mut Progress,
    ) -> Result<TrainResult> {
        self.args.validate()?;
        self.check_settings()?;
        let _allowed = precision::allow(self.args.precision());
        let feed = Feed::new(self, control)?;
        let trainable = self.model.some_trainable_parameters()?;
        memory::check(self, &feed, &trainable)?;
        let parameters: Vec<Parameter> = trainable.iter().map(|(_, p)| p.clone()).collect();
        parameters.iter().for_each(Parameter::zero_grad);
        let (steps_per_epoch, total) = (feed.steps_per_epoch(), feed.total_steps());
        self.warn_of_settings(total, control);
        let mut updater = Updater::new(&self.args, &trainable, total)?;
        *progress = match resume {
            Some(folder) => checkpoint::resume(folder, &self.model, &mut updater, &self.args)?,
            None => Progress::default(),
        };
        if let Some(folder) = progress.best_model_checkpoint.take_if(|folder| !Path::new(&*folder).is_dir()) {
            control.warn(format!(
                "{folder}, the best checkpoint of the run that is resumed, is not there any more, and is left out"
            ));
        }
        if resume.is_some() && progress.step >= total {
            control.warn(format!(
                "the checkpoint is of step {} of {total}: nothing is left to train. For more, raise num_train_epochs or max_steps",
                progress.step
            ));
        }
        let mut run = Run { trainable, parameters, steps_per_epoch, total, tokens: 0, start: Instant::now() };
        let outcome = updater.begin().and_then(|()| self.run_steps(&feed, &mut run, &mut updater, progress, control, callback));
        progress.epoch = feed.passes(progress.step);
        // A stopped step leaves gradients behind that belong to nothing.
        run.parameters.iter().for_each(Parameter::drop_grad);
        // Activations are not needed any more, whatever the outcome.
        release_buffers();
        let finished = updater.finish();
        let averaged = self.args.ema_decay > 0.0 || self.args.optim == OptimizerKind::ScheduleFreeAdamw;
        outcome.map_err(|error| stopped(error, progress.step, averaged, &run.parameters)).and(finished)?;
        best::restore(&self.args, progress, &self.model, &mut updater, control)?;
        let seconds = run.start.elapsed().as_secs_f64();
        Ok(TrainResult {
            train_loss: if progress.step == 0 { 0.0 } else { progress.loss_sum / progress.step as f64 },
            steps: progress.step,
            tokens: run.tokens,
            tokens_per_second: run.tokens as f64 / seconds.max(1e-9),
            seconds,
            log_history: progress.log_history.clone(),
            best_metric: progress.best_metric,
            best_step: progress.best_global_step,
            best_model_checkpoint: progress.best_model_checkpoint.clone(),
        })
    }

    /// The steps that are left, epoch by epoch.
    fn run_steps(
        &self,
        feed: &Feed<'_>,
        run: &mut Run,
        updater: &mut Updater,
        progress: &mut Progress,
        control: &Control,
        mut callback: Callback<'_>,
    ) -> Result<()> {
        let (total, steps_per_epoch) = (run.total, run.steps_per_epoch);
        let mut pending: Vec<Step> = Vec::new();
        let seed = self.args.data_seed.unwrap_or(self.args.seed);
        while progress.step < total {
            let epoch = progress.step / steps_per_epoch;
            for group in feed.epoch(seed, epoch, progress.step % steps_per_epoch) {
                if progress.step >= total {
                    return Ok(());
                }
                control.check()?;
                let rate = updater.lr();
                let (loss, tokens) = self.gradients(&group?, &run.parameters, progress.step, rate)?;
                let (loss, norm) = self.update(run, updater, loss, (progress.step + 1, rate))?;
                progress.step += 1;
                run.tokens += tokens;
                let done = (progress.step - 1) % steps_per_epoch + 1;
                let epoch = epoch as f64 + feed.share(done);
                pending.push(Step { number: progress.step, epoch, rate, tokens: run.tokens, loss, norm });
                let evaluates = self.evaluates(progress.step, epoch, total);
                let saves = self.args.saves(progress.step, epoch, total);
                // Numbers on a device are waited for only where they are wanted.
                let logs = self.args.logs(progress.step, epoch, total);
                let known = pending.iter().all(|step| matches!((&step.loss, &step.norm), (Loss::Known(_), Norm::Known(_))));
                if !(known || logs || evaluates || saves || callback.is_some()) {
                    continue;
                }
                let mut measured = Vec::new();
                for step in pending.drain(..) {
                    let before = step.number - 1;
                    // From a step on that went wrong a device has changed nothing.
                    let step = step.measure().inspect_err(|_| progress.step = before)?;
                    self.record(progress, &step, total);
                    measured.push(step);
                }
                let (mut eval_loss, mut ends) = (None, false);
                if evaluates {
                    let loss = updater.evaluate(|| self.evaluate(control))?;
                    eval_loss = Some(loss);
                    ends = best::compare(&self.args, progress, loss);
                    progress.log_history.push(LogEntry { eval_loss: Some(loss), ..LogEntry::of(progress.step, epoch) });
                }
                if saves {
                    checkpoint::save(&self.args, progress, &self.model, updater)?;
                }
                for step in measured {
                    let Measured { number, epoch, rate, tokens, loss, norm } = step;
                    let speed = tokens as f64 / run.start.elapsed().as_secs_f64().max(1e-9);
                    let message = format!("loss {loss:.4}, lr {rate:.2e}, {speed:.0} tokens/s");
                    control.training_step(number, total, loss, message);
                    let state = StepState {
                        step: number,
                        total_steps: total,
                        epoch,
                        loss,
                        grad_norm: norm,
                        learning_rate: rate,
                        tokens,
                        eval_loss: eval_loss.filter(|_| number == progress.step),
                    };
                    if let Some(callback) = &mut callback
                        && !callback(&state)?
                    {
                        return Ok(());
                    }
                }
                if ends {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Clips the gradients and changes the parameters: on a device that does both without anybody waiting, else after a look at the
    /// gradients.
    fn update(&self, run: &Run, updater: &mut Updater, loss: Loss, (step, rate): (u64, f64)) -> Result<(Loss, Norm)> {
        let every_gradient = run.parameters.iter().all(Parameter::has_grad);
        if every_gradient
            && matches!(loss, Loss::OnDevice(_))
            && let Some(norm) = updater.step_on_device(self.args.max_grad_norm)?
        {
            return Ok((loss, Norm::OnDevice(norm)));
        }
        let loss = finite_loss(loss.value()?, step, rate)?;
        // A norm is finite exactly when every element is: one pass both measures and checks.
        let norm = grad_norm(&run.parameters)?;
        // A callback may freeze parameters on the way: they stay as they are, as in PyTorch.
        let missing = run.parameters.iter().any(|parameter| parameter.requires_grad() && !parameter.has_grad());
        if !run.parameters.iter().any(Parameter::requires_grad) {
            let message = "no parameter requires a gradient any more; a callback that freezes must leave some to train";
            return Err(at_step(step, Error::Training(message.into())));
        }
        if !norm.is_finite() || missing {
            let found = check_gradients(&run.trainable)
                .err()
                .unwrap_or_else(|| Error::Training("the norm of the gradient is not finite: lower learning_rate".into()));
            return Err(at_step(step, found));
        }
        if self.args.max_grad_norm > 0.0 {
            clip_to_norm(&run.parameters, norm, self.args.max_grad_norm);
        }
        updater.step()?;
        Ok((Loss::Known(loss), Norm::Known(norm)))
    }

    /// Mean loss of the evaluation rows: batches' means weighted by their rows, as transformers computes it. A batch without any target,
    /// which has no mean and makes transformers' NaN, is left out.
    ///
    /// # Errors
    /// No evaluation rows, none with a target, or Ctrl-C.
    pub fn evaluate(&self, control: &Control) -> Result<f64> {
        let decoder = self.model.model().decoder();
        let (mut sum, mut rows_done, mut rows_scored, mut rows_dropped) = (0.0, 0, 0, 0);
        let size = self.args.per_device_eval_batch_size;
        for rows in groups(self.eval.pass(0), size) {
            control.check()?;
            let rows = rows?;
            if self.args.dataloader_drop_last && rows.len() < size {
                rows_dropped = rows.len();
                continue;
            }
            rows_done += rows.len();
            let (batch, targets) = tokens_and_targets(&rows);
            let count = targets.iter().filter(|t| **t != IGNORE_INDEX).count();
            if count == 0 {
                continue;
            }
            let loss = crate::nn::no_grad(|| -> Result<f32> {
                let pass = Pass { label_smoothing: self.args.label_smoothing_factor, ..Pass::default() };
                let loss = decoder.loss(&decoder.hidden(&batch, pass)?, &targets, count as f64, pass)?;
                Ok(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?)
            })?;
            sum += f64::from(loss) * rows.len() as f64;
            rows_scored += rows.len();
        }
        match (rows_done, rows_scored) {
            (0, _) if rows_dropped > 0 => Err(Error::argument(format!(
                "eval_dataset has {rows_dropped} rows, which make no whole batch of per_device_eval_batch_size {size}, and \
                 dataloader_drop_last leaves out any other"
            ))),
            (0, _) => Err(Error::argument("there is no eval_dataset to evaluate on")),
            (rows, 0) => Err(Error::argument(format!(
                "none of the {rows} rows of eval_dataset has a token to score; raise max_length, or look whether the answers are \
                 empty"
            ))),
            (_, scored) => Ok(sum / scored as f64),
        }
    }

    /// Gradients of one optimiser step by the parameters that train, from its micro batches' examples; returns its loss, the mean over
    /// all their targets, and its number of tokens.
    fn gradients(&self, group: &[Vec<Cow<'_, Encoded>>], parameters: &[Parameter], step: u64, rate: f64) -> Result<(Loss, u64)> {
        let decoder: &Decoder = self.model.model().decoder();
        // One generator a step: a run that is resumed draws what it would have drawn.
        let random = RefCell::new(Random::new(self.args.seed.wrapping_mul(1_000_003).wrapping_add(step)));
        let pass = Pass { dropout: Some(&random), label_smoothing: self.args.label_smoothing_factor };
        let batches: Vec<(TokenBatch, Vec<i64>)> = group.iter().map(|examples| tokens_and_targets(examples)).collect();
        let count = batches.iter().flat_map(|(_, t)| t).filter(|t| **t != IGNORE_INDEX).count();
        let (mut loss, mut tokens) = (Loss::Known(0.0), 0);
        for (batch, targets) in &batches {
            let divisor = count.max(1) as f64;
            loss = loss.plus(decoder.loss_backward(batch, targets, divisor, pass, self.args.gradient_checkpointing)?)?;
            tokens += batch.len() as u64;
        }
        if count == 0 {
            // Every row was cut before its first target: a step that learns nothing, with a gradient of zero.
            for parameter in parameters.iter().filter(|parameter| parameter.requires_grad() && !parameter.has_grad()) {
                parameter.accumulate(&parameter.value().zeros_like()?)?;
            }
        }
        if let Some(regularizer) = self.regularizer {
            // The gradients of a loss that is not finite are not worth a penalty.
            finite_loss(loss.value()?, step + 1, rate)?;
            loss = loss.plus(Loss::Known(regularizer.add_penalty()?))?;
        }
        if let Loss::Known(known) = loss {
            finite_loss(known, step + 1, rate)?;
        }
        Ok((loss, tokens))
    }

    /// Whether an evaluation is due after a step.
    fn evaluates(&self, step: u64, epoch: f64, total: u64) -> bool {
        self.args.evaluates(step, epoch, total) && self.eval.known_len() != Some(0)
    }

    /// Adds a step to the run's progress, and to its log where that is due.
    fn record(&self, progress: &mut Progress, step: &Measured, total: u64) {
        progress.loss_sum += step.loss;
        progress.window.push(step.loss);
        if self.args.logs(step.number, step.epoch, total) {
            let mean = progress.window.iter().sum::<f64>() / progress.window.len().max(1) as f64;
            progress.window.clear();
            progress.log_history.push(LogEntry {
                loss: Some(mean),
                grad_norm: Some(step.norm),
                learning_rate: Some(step.rate),
                ..LogEntry::of(step.number, step.epoch)
            });
        }
    }
}

/// Adds to the error of a training that went wrong what the model is like now, after `step` steps.
fn stopped(error: Error, step: u64, averaged: bool, parameters: &[Parameter]) -> Error {
    let message = match error {
        Error::Training(message) => message,
        other => return other,
    };
    // A sum is finite only where every element is.
    let finite = |parameter: &Parameter| {
        let sum = parameter.value().to_dtype(DType::F32).and_then(|value| value.sum_all()?.to_scalar::<f32>());
        sum.is_ok_and(f32::is_finite)
    };
    let weights = if averaged { "has the average of the weights" } else { "is as it was" };
    let advice = match parameters.iter().all(finite) {
        true => "; if earlier steps did damage too, load it again",
        false => ", with weights that are NaN or infinite: load it again",
    };
    Error::Training(format!("{message}. Training stopped; the model {weights} after step {step}{advice}"))
}

fn at_step(step: u64, error: Error) -> Error {
    match error {
        Error::Training(message) => Error::Training(format!("step {step}: {message}")),
        other => other,
    }
}

/// Rows end to end, with their shifted targets.
pub fn tokens_and_targets(rows: &[impl Borrow<Encoded>]) -> (TokenBatch, Vec<i64>) {
    let batch = TokenBatch::new(rows.iter().map(|r| r.borrow().input_ids.as_slice()));
    (batch, shifted_targets(rows.iter().map(|r| r.borrow().labels.as_slice())))
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
            decoder.hidden_apart(&batch)?
        } else {
            let mut caches = vec![prefix.clone(); rows.len()];
            decoder.hidden_cached(&batch, &mut caches.iter_mut().collect::<Vec<_>>())?
        };
        sum += f64::from(decoder.loss(&hidden, &targets, 1.0, Pass::default())?.to_dtype(DType::F32)?.to_scalar::<f32>()?);
        count += targets.iter().filter(|target| **target != IGNORE_INDEX).count();
    }
    if count == 0 {
        return Err(Error::argument("none of the rows has a token to score"));
    }
    Ok((sum / count as f64, count))
}
