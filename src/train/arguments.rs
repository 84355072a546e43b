//! `TrainingArguments`: transformers' names, defaults and meanings; and the lesson's rules of thumb as a review of them.

use super::best;
use super::optimizer::{self, OptimizerArguments};
use crate::error::{Error, Result};
use crate::ops::precision::MatmulPrecision;
use crate::optim::{Schedule, ScheduleOptions};
use serde::{Deserialize, Serialize, Serializer};
use std::path::PathBuf;

pub use super::optimizer::OptimizerKind;

/// When the evaluation set's loss is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EvalStrategy {
    /// Never.
    #[default]
    No,
    /// Every `eval_steps` optimiser steps, and after the last one.
    Steps,
    /// After every epoch, and after the last step where it ends within one.
    Epoch,
}

/// When checkpoints are saved, and when the log gets an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Interval {
    /// Never.
    No,
    /// Every so many optimiser steps, and after the last one.
    #[default]
    Steps,
    /// After every epoch, and after the last step where it ends within one.
    Epoch,
}

/// Options of a training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingArguments {
    /// Where checkpoints go. Default "trainer_output".
    pub output_dir: PathBuf,
    /// Passes over the data; a fraction ends within one. Default 3.
    pub num_train_epochs: f64,
    /// Number of optimiser steps; overrides the epochs where it is above 0. Default -1.
    pub max_steps: i64,
    /// The highest learning rate of the schedule. Default 5e-5.
    pub learning_rate: f64,
    /// Rows of a micro batch; packed rows with `packing`. Default 8.
    pub per_device_train_batch_size: usize,
    /// Rows of a batch in evaluation. Default 8.
    pub per_device_eval_batch_size: usize,
    /// Micro batches whose gradients make one optimiser step. Default 1.
    pub gradient_accumulation_steps: usize,
    /// Share of the steps in which the learning rate rises from 0. Default 0.
    pub warmup_ratio: f64,
    /// The same as a number of steps; overrides the ratio where it is above 0; below 1 it is a share. Default 0.
    pub warmup_steps: f64,
    /// "linear" (default), "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt",
    /// "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay" or "reduce_lr_on_plateau", which follows the loss on
    /// the evaluation set and has no warm-up.
    pub lr_scheduler_type: Schedule,
    /// What the schedule can be told beside: `num_cycles`, `min_lr`, `num_decay_steps` and so on.
    pub lr_scheduler_kwargs: ScheduleOptions,
    /// The optimiser's weight decay; not for biases and norms. Default 0.
    pub weight_decay: f64,
    /// Default 0.9.
    pub adam_beta1: f64,
    /// Default 0.999.
    pub adam_beta2: f64,
    /// Default 1e-8.
    pub adam_epsilon: f64,
    /// "adamw_torch" (default), "sgd", "adafactor", "lion_32bit", "adamw_8bit", "schedule_free_adamw" (with `lr_scheduler_type`
    /// "constant") or "muon"; transformers' other names for the same are taken too.
    pub optim: OptimizerKind,
    /// Other options of the optimiser, such as `momentum` of "sgd" or `adjust_lr_fn` of "muon": a map, or a text such as "momentum=0.9".
    pub optim_args: OptimizerArguments,
    /// Where above 0: how much of a moving average of the weights a step keeps, such as 0.999. Evaluation, and the model when
    /// training ends, then have the averaged weights; checkpoints hold the others, and the average beside. Default 0: none.
    pub ema_decay: f64,
    /// Gradients are scaled down to this norm; 0 switches clipping off. Default 1.
    pub max_grad_norm: f64,
    /// Seed of the order of the rows and of dropout. Default 42.
    pub seed: u64,
    /// Seed of the order alone, where it should differ.
    pub data_seed: Option<u64>,
    /// When the log gets an entry: "steps" (default), "epoch" or "no".
    pub logging_strategy: Interval,
    /// Steps between entries of the log with "steps"; below 1 a share of all steps. Default 10.
    #[serde(serialize_with = "whole_as_integer")]
    pub logging_steps: f64,
    /// With "steps" the first step has an entry of its own. Default false.
    pub logging_first_step: bool,
    /// When checkpoints are saved: "steps" (default), "epoch" or "no".
    pub save_strategy: Interval,
    /// Steps between checkpoints with "steps"; below 1 a share of all steps; 0 (default): none.
    #[serde(serialize_with = "whole_as_integer")]
    pub save_steps: f64,
    /// Checkpoints to keep, the newest, and with `load_best_model_at_end` the best; default all.
    pub save_total_limit: Option<usize>,
    /// When to evaluate: "no" (default), "steps", "epoch".
    pub eval_strategy: EvalStrategy,
    /// Steps between evaluations with "steps"; below 1 a share of all steps; the last step is evaluated in any case. Default 100.
    #[serde(serialize_with = "whole_as_integer")]
    pub eval_steps: f64,
    /// The model has, when training ends, the weights of the checkpoint with the best evaluation. Checkpoints are then to be saved
    /// when evaluations are made, or after every so many of them. Default false.
    pub load_best_model_at_end: bool,
    /// What the best model is the best by: "loss" or "eval_loss", which are the same. Default: the loss where it is asked for.
    pub metric_for_best_model: Option<String>,
    /// Whether more of that metric is better. Default false, since it is a loss.
    pub greater_is_better: Option<bool>,
    /// Training ends after so many evaluations in a row that were not better than the best before them; transformers'
    /// EarlyStoppingCallback. Default: it goes on.
    pub early_stopping_patience: Option<u64>,
    /// An evaluation is better only where it is by more than this. Default 0.
    pub early_stopping_threshold: f64,
    /// The share of every target that the loss spreads evenly over the vocabulary, in training and evaluation. Default 0.
    pub label_smoothing_factor: f64,
    /// Leave out the last batch of an epoch, and of an evaluation, where it has fewer rows than the others. Default false.
    pub dataloader_drop_last: bool,
    /// Keep only the blocks' inputs and compute each block again in the backward pass: less memory, a third more time.
    pub gradient_checkpointing: bool,
    /// Multiply matrices of f32 rounded to bf16 where this machine does that faster, as `set_float32_matmul_precision("medium")` does,
    /// while this training runs. Unlike transformers' autocast, everything between the products stays f32. Default false.
    pub bf16: bool,
    /// The same with TF32, as "high" does.
    pub tf32: bool,
    /// Longer rows are cut to this many tokens, and `packing` fills up to as many. Default: the model's context.
    pub max_length: Option<usize>,
    /// Lay short training rows together into packed rows of up to `max_length` tokens, which must then be given, so that a step
    /// has few, full rows; as TRL's `packing` with the strategy "bfd". Every row stays a sequence of its own: none sees another,
    /// and the loss is still the mean over the step's target tokens. Steps, epochs and `per_device_train_batch_size` count packed
    /// rows. Evaluation does not pack. Default false.
    pub packing: bool,
    /// LoRA+: B's learning rate as a multiple of `learning_rate`, which is A's; for adapters, with "adamw_torch". Default: all learn alike.
    pub loraplus_lr_ratio: Option<f64>,
    /// LoRA+: the learning rate of adapters on embeddings. Default 1e-6.
    pub loraplus_lr_embedding: f64,
}

impl Default for TrainingArguments {
    fn default() -> Self {
        Self {
            output_dir: "trainer_output".into(),
            num_train_epochs: 3.0,
            max_steps: -1,
            learning_rate: 5e-5,
            per_device_train_batch_size: 8,
            per_device_eval_batch_size: 8,
            gradient_accumulation_steps: 1,
            warmup_ratio: 0.0,
            warmup_steps: 0.0,
            lr_scheduler_type: Schedule::Linear,
            lr_scheduler_kwargs: ScheduleOptions::default(),
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            optim: OptimizerKind::AdamwTorch,
            optim_args: OptimizerArguments::default(),
            ema_decay: 0.0,
            max_grad_norm: 1.0,
            seed: 42,
            data_seed: None,
            logging_strategy: Interval::Steps,
            logging_steps: 10.0,
            logging_first_step: false,
            save_strategy: Interval::Steps,
            save_steps: 0.0,
            save_total_limit: None,
            eval_strategy: EvalStrategy::No,
            eval_steps: 100.0,
            load_best_model_at_end: false,
            metric_for_best_model: None,
            greater_is_better: None,
            early_stopping_patience: None,
            early_stopping_threshold: 0.0,
            label_smoothing_factor: 0.0,
            dataloader_drop_last: false,
            gradient_checkpointing: false,
            bf16: false,
            tf32: false,
            max_length: None,
            packing: false,
            loraplus_lr_ratio: None,
            loraplus_lr_embedding: 1e-6,
        }
    }
}

/// A number of steps is an integer, as it was given; a share of them is none.
fn whole_as_integer<S: Serializer>(steps: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    if steps.fract() == 0.0 { serializer.serialize_u64(*steps as u64) } else { serializer.serialize_f64(*steps) }
}

/// The steps between two events in a run of `total` steps: `given`, or below 1 that share of all, rounded up.
fn every(given: f64, total: u64) -> u64 {
    if given < 1.0 { (total as f64 * given).ceil() as u64 } else { given as u64 }
}

/// What kind of training the rules of thumb are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// All weights.
    Full,
    /// A LoRA adapter.
    Lora,
    /// A LoRA adapter on a quantised base.
    Qlora,
}

/// One piece of advice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// The argument.
    pub field: &'static str,
    /// Its value.
    pub value: f64,
    /// What speaks against it, and what is usual.
    pub advice: String,
}

impl TrainingArguments {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        let refuse = |field: &str, given: &dyn std::fmt::Display, allowed: &str| {
            Err(Error::Argument(format!("TrainingArguments: {field} must be {allowed}, got {given}")))
        };
        let finite = [
            ("learning_rate", self.learning_rate),
            ("weight_decay", self.weight_decay),
            ("adam_epsilon", self.adam_epsilon),
            ("max_grad_norm", self.max_grad_norm),
            ("warmup_steps", self.warmup_steps),
            ("loraplus_lr_ratio", self.loraplus_lr_ratio.unwrap_or(0.0)),
            ("loraplus_lr_embedding", self.loraplus_lr_embedding),
            ("early_stopping_threshold", self.early_stopping_threshold),
        ];
        for (field, value) in finite {
            if !value.is_finite() || value < 0.0 {
                return refuse(field, &value, "a finite number of at least 0");
            }
        }
        let fractions = [("adam_beta1", self.adam_beta1), ("adam_beta2", self.adam_beta2), ("ema_decay", self.ema_decay)];
        for (field, value) in fractions {
            if !(0.0..1.0).contains(&value) {
                return refuse(field, &value, "at least 0 and below 1");
            }
        }
        for (field, value) in [("warmup_ratio", self.warmup_ratio), ("label_smoothing_factor", self.label_smoothing_factor)] {
            if !(0.0..=1.0).contains(&value) {
                return refuse(field, &value, "between 0 and 1");
            }
        }
        let steps = [("logging_steps", self.logging_steps), ("eval_steps", self.eval_steps), ("save_steps", self.save_steps)];
        for (field, value) in steps {
            let none = value == 0.0 && field == "save_steps";
            let number = value >= 1.0 && value.fract() == 0.0 && value <= i64::MAX as f64;
            if !(none || number || (value > 0.0 && value < 1.0)) {
                return refuse(field, &value, "a whole number of at least 1, or above 0 and below 1 for a share of all steps");
            }
        }
        if !self.num_train_epochs.is_finite() || (self.num_train_epochs <= 0.0 && self.max_steps <= 0) {
            return refuse("num_train_epochs", &self.num_train_epochs, "a finite number above 0");
        }
        if self.packing && self.max_length.is_none() {
            return refuse("max_length", &"nothing", "given where packing is true, as it is the length of a packed row");
        }
        if self.loraplus_lr_ratio.is_some() && self.optim != OptimizerKind::AdamwTorch {
            let given = format!("it with optim \"{}\"", self.optim.name());
            return refuse("loraplus_lr_ratio", &given, "left out or go with optim \"adamw_torch\"");
        }
        let counts = [
            ("per_device_train_batch_size", self.per_device_train_batch_size),
            ("per_device_eval_batch_size", self.per_device_eval_batch_size),
            ("gradient_accumulation_steps", self.gradient_accumulation_steps),
            ("max_length", self.max_length.unwrap_or(1)),
            ("save_total_limit", self.save_total_limit.unwrap_or(1)),
            ("early_stopping_patience", self.early_stopping_patience.unwrap_or(1) as usize),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return refuse(field, &0, "at least 1");
        }
        if self.ema_decay > 0.0 && self.optim == OptimizerKind::ScheduleFreeAdamw {
            return refuse("ema_decay", &self.ema_decay, "0 with \"schedule_free_adamw\", which averages the weights itself");
        }
        best::check(self)?;
        optimizer::check(self)?;
        let schedule = self.lr_scheduler_kwargs.check(self.lr_scheduler_type, self.learning_rate);
        schedule.map_err(|error| Error::Argument(format!("TrainingArguments: {error}")))?;
        if self.lr_scheduler_type == Schedule::ReduceLrOnPlateau && self.eval_strategy == EvalStrategy::No {
            return refuse(
                "eval_strategy",
                &"\"no\"",
                "\"steps\" or \"epoch\" with lr_scheduler_type \"reduce_lr_on_plateau\", which follows the evaluation's loss",
            );
        }
        Ok(())
    }

    /// Whether a checkpoint is due after a step, `epoch` passes over the data into a run of `total` steps.
    pub fn saves(&self, step: u64, epoch: f64, total: u64) -> bool {
        match self.save_strategy {
            Interval::No => false,
            Interval::Steps => self.save_steps > 0.0 && (step.is_multiple_of(every(self.save_steps, total)) || step == total),
            Interval::Epoch => epoch.fract() == 0.0 || step == total,
        }
    }

    /// Whether the log gets an entry for a step, `epoch` passes over the data into a run of `total` steps.
    pub fn logs(&self, step: u64, epoch: f64, total: u64) -> bool {
        match self.logging_strategy {
            Interval::No => false,
            Interval::Steps => {
                step.is_multiple_of(every(self.logging_steps, total)) || step == total || (self.logging_first_step && step == 1)
            }
            Interval::Epoch => epoch.fract() == 0.0 || step == total,
        }
    }

    /// Whether an evaluation is due after a step, `epoch` passes over the data into a run of `total` steps.
    pub fn evaluates(&self, step: u64, epoch: f64, total: u64) -> bool {
        match self.eval_strategy {
            EvalStrategy::No => false,
            EvalStrategy::Steps => step.is_multiple_of(every(self.eval_steps, total)) || step == total,
            EvalStrategy::Epoch => epoch.fract() == 0.0 || step == total,
        }
    }

    /// What products may do with their factors while this training runs, at least.
    pub fn precision(&self) -> MatmulPrecision {
        match (self.bf16, self.tf32) {
            (true, _) => MatmulPrecision::Medium,
            (false, true) => MatmulPrecision::High,
            (false, false) => MatmulPrecision::Highest,
        }
    }

    /// The most tokens that a training row has, or a packed one, in a model with a context of `context` tokens.
    pub fn longest_row(&self, context: usize) -> usize {
        self.max_length.unwrap_or(context).min(context)
    }

    /// Micro batches of an epoch over this many rows (packed ones with `packing`).
    pub fn batches_per_epoch(&self, rows: usize) -> usize {
        let batch = self.per_device_train_batch_size;
        if self.dataloader_drop_last { rows / batch } else { rows.div_ceil(batch) }
    }

    /// Optimiser steps of an epoch over this many rows (packed ones with `packing`); the last micro batches of an epoch make a
    /// step of their own.
    pub fn steps_per_epoch(&self, rows: usize) -> u64 {
        self.batches_per_epoch(rows).div_ceil(self.gradient_accumulation_steps) as u64
    }

    /// Optimiser steps of the whole run, with this many rows an epoch (packed ones with `packing`).
    pub fn total_steps(&self, rows: usize) -> u64 {
        match u64::try_from(self.max_steps) {
            Ok(steps) if steps > 0 => steps,
            _ => (self.num_train_epochs * self.steps_per_epoch(rows) as f64).ceil() as u64,
        }
    }

    /// Steps of warm-up in a run of this many steps.
    pub fn warmup(&self, total: u64) -> u64 {
        match self.warmup_steps {
            steps if steps >= 1.0 => steps as u64,
            share if share > 0.0 => (share * total as f64).ceil() as u64,
            _ => (self.warmup_ratio * total as f64).ceil() as u64,
        }
    }

    /// The lesson's rules of thumb, as advice where these arguments break them. They are habits, not laws: measure.
    pub fn review(&self, method: Method) -> Vec<Advice> {
        let mut advice = Vec::new();
        let mut add = |field, value, text: String| advice.push(Advice { field, value, advice: text });
        let (name, low, high, low_text, high_text) = match method {
            Method::Full => ("full fine-tuning", 1e-5, 2e-5, "1e-5", "2e-5"),
            Method::Lora => ("LoRA", 1e-4, 3e-4, "1e-4", "3e-4"),
            Method::Qlora => ("QLoRA", 1e-4, 2e-4, "1e-4", "2e-4"),
        };
        // Written-out decimals such as 2e-5 are not exact in binary.
        let slack = 1.0 + 1e-9;
        if self.learning_rate > high * slack {
            let text = format!("high for {name}: {low_text} to {high_text} is usual; large steps overwrite what the model knew");
            add("learning_rate", self.learning_rate, text);
        } else if self.learning_rate * slack < low {
            let text = format!("low for {name}: {low_text} to {high_text} is usual; the model may not learn the task");
            add("learning_rate", self.learning_rate, text);
        }
        let most = if method == Method::Full { 3.0 } else { 10.0 };
        if self.max_steps <= 0 && self.num_train_epochs > most {
            let text = format!(
                "many for {name}: up to {most} epochs are usual; every further pass moves the weights away from the base"
            );
            add("num_train_epochs", self.num_train_epochs, text);
        }
        if self.warmup_ratio == 0.0 && self.warmup_steps == 0.0 {
            let text = "no warm-up: the first steps are the sharpest; 0.03 to 0.1 of the steps is usual".to_string();
            add("warmup_ratio", self.warmup_ratio, text);
        }
        let rows = self.per_device_train_batch_size * self.gradient_accumulation_steps;
        // A packed row holds several examples; how many, only the data says.
        if rows < 4 && !self.packing {
            let text =
                format!("{rows} row(s) a step make noisy steps; raise the batch or gradient_accumulation_steps to 8 to 32 rows");
            add("per_device_train_batch_size", self.per_device_train_batch_size as f64, text);
        }
        advice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lessons_risky_arguments_are_warned_of_and_its_safe_ones_are_not() {
        let risky = TrainingArguments {
            num_train_epochs: 10.0,
            learning_rate: 5e-5,
            per_device_train_batch_size: 1,
            ..TrainingArguments::default()
        };
        let fields: Vec<_> = risky.review(Method::Full).iter().map(|a| a.field).collect();
        assert_eq!(fields, ["learning_rate", "num_train_epochs", "warmup_ratio", "per_device_train_batch_size"]);
        let safe = TrainingArguments {
            learning_rate: 2e-5,
            per_device_train_batch_size: 4,
            gradient_accumulation_steps: 4,
            warmup_ratio: 0.05,
            weight_decay: 0.01,
            ..TrainingArguments::default()
        };
        assert_eq!(safe.review(Method::Full), []);
        let adapter = TrainingArguments { learning_rate: 3e-4, ..safe.clone() };
        assert_eq!(adapter.review(Method::Lora), []);
        assert_eq!(adapter.review(Method::Qlora).len(), 1);
    }

    #[test]
    fn steps_count_the_last_group_and_fractions_of_epochs() {
        let args = TrainingArguments {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 4,
            num_train_epochs: 1.5,
            warmup_ratio: 0.2,
            ..TrainingArguments::default()
        };
        assert_eq!((args.steps_per_epoch(37), args.total_steps(37), args.warmup(8)), (5, 8, 2));
    }

    /// By transformers' `compute_steps`: 0.25, 0.3 and 0.4 of 11 steps are 3, 4 and 5.
    #[test]
    fn a_share_of_all_steps_is_rounded_up() {
        let args = TrainingArguments {
            logging_steps: 0.25,
            eval_strategy: EvalStrategy::Steps,
            eval_steps: 0.3,
            save_steps: 0.4,
            ..TrainingArguments::default()
        };
        let due = |of: &dyn Fn(u64) -> bool| (1..=11).filter(|step| of(*step)).collect::<Vec<u64>>();
        assert_eq!(due(&|step| args.logs(step, 0.5, 11)), [3, 6, 9, 11]);
        assert_eq!(due(&|step| args.evaluates(step, 0.5, 11)), [4, 8, 11]);
        assert_eq!(due(&|step| args.saves(step, 0.5, 11)), [5, 10, 11]);
        assert!(args.validate().is_ok());
        for wrong in [1.5, -1.0, f64::NAN, f64::INFINITY] {
            let error = TrainingArguments { save_steps: wrong, ..args.clone() }.validate().unwrap_err().to_string();
            assert!(error.contains("save_steps"), "{error}");
        }
        assert!(TrainingArguments { eval_steps: 0.0, ..args }.validate().is_err());
    }

    #[test]
    fn a_learning_rate_that_is_no_number_is_named() {
        let args = TrainingArguments { learning_rate: f64::NAN, ..TrainingArguments::default() };
        assert!(args.validate().unwrap_err().to_string().contains("learning_rate"));
    }

    #[test]
    fn packing_needs_a_length() {
        let args = TrainingArguments { packing: true, ..TrainingArguments::default() };
        let error = args.validate().unwrap_err().to_string();
        assert!(error.contains("max_length") && error.contains("packing"), "{error}");
        let args = TrainingArguments { max_length: Some(64), ..args };
        assert!(args.validate().is_ok());
        assert_eq!((args.longest_row(2048), args.longest_row(32)), (64, 32));
    }
}
