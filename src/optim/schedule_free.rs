//! AdamW without a schedule (Defazio et al. 2024, arXiv:2405.15682), as `schedulefree.AdamWScheduleFree` computes it: instead of lowering the
//! learning rate, the weights that are used are an average of those that the steps make.
//!
//! ```text
//! z: what AdamW's steps move;   x: their average, to evaluate and to save;   y = beta1 x + (1 - beta1) z: where gradients are taken
//! v = beta2 v + (1 - beta2) g^2;   u = g / (sqrt(v / (1 - beta2^t)) + eps) + decay y
//! weight = t^r lr_max^weight_lr_power;   c = weight / (sum of the weights so far)
//! y = y + c (z - y) + lr (beta1 (1 - c) - 1) u;   z -= lr u
//! ```
//! Only y (the parameter) and z are kept: x follows from them. So the parameter holds y in training mode and x in evaluation mode,
//! and the mode must be set before each.

use super::host::{self, CHUNK, Kernel, Slot};
use super::{Optimizer, ParamGroup, check_at_least_zero, check_fraction, check_groups};
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::ops::{parallel, vectorised};
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The options of [`AdamWScheduleFree`], with its authors' names and defaults.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleFreeOptions {
    /// The learning rate. Default 0.0025.
    pub lr: f64,
    /// The average's share in where gradients are taken, above 0; and how fast the average of the squared gradient forgets. Default [0.9, 0.999].
    pub betas: [f64; 2],
    /// Added to the denominator. Default 1e-8.
    pub eps: f64,
    /// The share of a parameter, times the learning rate, by which a step shrinks it. Default 0.
    pub weight_decay: f64,
    /// Steps in which the learning rate rises. Default 0.
    pub warmup_steps: u64,
    /// The power of a step's number in its weight in the average. Default 0.
    pub r: f64,
    /// The power of the largest learning rate so far in that weight, which matters during the warm-up. Default 2.
    pub weight_lr_power: f64,
}

impl Default for ScheduleFreeOptions {
    fn default() -> Self {
        Self { lr: 0.0025, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, warmup_steps: 0, r: 0.0, weight_lr_power: 2.0 }
    }
}

impl ScheduleFreeOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        check_at_least_zero("learning rate", self.lr)?;
        if self.betas[0] <= 0.0 || self.betas[0] >= 1.0 {
            return Err(Error::argument(format!("betas[0] must be above 0 and below 1, got {}", self.betas[0])));
        }
        check_fraction("betas[1]", self.betas[1])?;
        check_at_least_zero("eps", self.eps)?;
        check_at_least_zero("weight_decay", self.weight_decay)?;
        check_at_least_zero("r", self.r)?;
        check_at_least_zero("weight_lr_power", self.weight_lr_power)
    }
}

/// `schedulefree.AdamWScheduleFree`.
#[derive(Debug)]
pub struct AdamWScheduleFree {
    options: ScheduleFreeOptions,
    groups: Vec<ParamGroup>,
    slots: Vec<Slot>,
    progress: Progress,
}

/// What all parameters have in common.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Progress {
    steps: f64,
    weight_sum: f64,
    lr_max: f64,
    training: bool,
}

const NAMES: [&str; 2] = ["z", "exp_avg_sq"];

impl AdamWScheduleFree {
    /// An optimiser of these groups, in evaluation mode as its authors have it.
    ///
    /// # Errors
    /// Options out of range, no parameters, or one twice.
    pub fn new(groups: Vec<ParamGroup>, options: ScheduleFreeOptions) -> Result<Self> {
        options.validate()?;
        check_groups(&groups)?;
        let slots = groups.iter().flat_map(|group| &group.parameters).map(|_| Slot::default()).collect();
        Ok(Self { options, groups, slots, progress: Progress::default() })
    }

    /// Moves every parameter towards its z, or away from it.
    fn blend(&mut self, weight: f64) -> Result<()> {
        let parameters = self.parameters();
        self.slots.iter_mut().zip(&parameters).filter(|(slot, _)| slot.step > 0).try_for_each(|(slot, p)| blend(slot, p, weight))
    }
}

impl Optimizer for AdamWScheduleFree {
    fn step(&mut self) -> Result<()> {
        if !self.progress.training {
            return Err(Error::argument(
                "AdamWScheduleFree is in evaluation mode, where the parameters are the averaged ones; call optimizer.train() before \
                 training, and optimizer.eval() before evaluating or saving",
            ));
        }
        let ScheduleFreeOptions { lr, betas: [beta1, beta2], eps, weight_decay, warmup_steps, r, weight_lr_power } = self.options;
        let step = self.progress.steps + 1.0;
        let lr = if step <= warmup_steps as f64 { lr * (step / warmup_steps as f64) } else { lr };
        self.progress.lr_max = self.progress.lr_max.max(lr);
        let weight = step.powf(r) * self.progress.lr_max.powf(weight_lr_power);
        self.progress.weight_sum += weight;
        let share = if self.progress.weight_sum > 0.0 { weight / self.progress.weight_sum } else { 0.0 };
        let mut slots = self.slots.iter_mut();
        for group in &self.groups {
            let lr = lr * group.lr_scale;
            let kernel = Update {
                beta2: beta2 as f32,
                enter2: (1.0 - beta2) as f32,
                correction: (1.0 - beta2.powf(step)) as f32,
                eps: eps as f32,
                decay: group.weight_decay.unwrap_or(weight_decay) as f32,
                share: share as f32,
                y_step: (lr * (beta1 * (1.0 - share) - 1.0)) as f32,
                lr: lr as f32,
            };
            for (parameter, slot) in group.parameters.iter().zip(&mut slots) {
                if !parameter.has_grad() {
                    continue;
                }
                let first = slot.step == 0;
                slot.prepare(parameter, 2)?;
                if first {
                    start_from_value(slot, parameter)?;
                }
                slot.update(parameter, &kernel)?;
                slot.step += 1;
            }
        }
        self.progress.steps = step;
        Ok(())
    }

    fn train_mode(&mut self) -> Result<()> {
        if !self.progress.training {
            self.blend(1.0 - self.options.betas[0])?;
            self.progress.training = true;
        }
        Ok(())
    }

    fn eval_mode(&mut self) -> Result<()> {
        if self.progress.training {
            self.blend(1.0 - 1.0 / self.options.betas[0])?;
            self.progress.training = false;
        }
        Ok(())
    }

    host::rate_in_options!();

    fn name(&self) -> &'static str {
        "AdamWScheduleFree"
    }

    fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = host::save_all(self.options.lr, &self.slots, &self.parameters(), NAMES)?;
        let Progress { steps, weight_sum, lr_max, training } = self.progress;
        for (name, value) in [("k", steps), ("weight_sum", weight_sum), ("lr_max", lr_max), ("train_mode", f64::from(training))] {
            state.insert(name.to_string(), Tensor::new(value, &Device::Cpu)?);
        }
        Ok(state)
    }

    fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let parameters = self.parameters();
        let mut slots: Vec<Slot> = parameters.iter().map(|_| Slot::default()).collect();
        let (mut progress, mut lr) = (Progress::default(), self.options.lr);
        let top = |name: &str, value: &Tensor| {
            match name {
                "lr" => lr = host::scalar(value)?,
                "k" => progress.steps = host::scalar(value)?,
                "weight_sum" => progress.weight_sum = host::scalar(value)?,
                "lr_max" => progress.lr_max = host::scalar(value)?,
                "train_mode" => progress.training = host::scalar(value)? != 0.0,
                _ => return Ok(false),
            }
            Ok(true)
        };
        let own = |at: usize, key: &str, value: &Tensor| slots[at].load(key, &parameters[at], NAMES, value);
        host::read_state(state, parameters.len(), top, own)?;
        for (at, (slot, parameter)) in slots.iter().zip(&parameters).enumerate() {
            slot.check_complete(at, parameter, NAMES, 2)?;
        }
        let lacks = |name: &&str| !state.contains_key(*name);
        if slots.iter().any(|slot| slot.step > 0)
            && let Some(name) = ["k", "weight_sum", "lr_max", "train_mode"].into_iter().find(lacks)
        {
            return Err(Error::argument(format!("the optimizer's state dict lacks \"{name}\"")));
        }
        self.set_lr(lr)?;
        (self.slots, self.progress) = (slots, progress);
        Ok(())
    }
}

/// z begins as the parameter.
fn start_from_value(slot: &mut Slot, parameter: &Parameter) -> Result<()> {
    if !parameter.device().is_cpu() {
        slot.device[0] = Some(parameter.value().to_dtype(DType::F32)?.copy()?);
        return Ok(());
    }
    let [z, _] = &mut slot.host;
    host::change(parameter, &mut slot.master, |value| z.copy_from_slice(value))
}

/// `p += weight (z - p)`.
fn blend(slot: &mut Slot, parameter: &Parameter, weight: f64) -> Result<()> {
    if let Some(z) = &slot.device[0] {
        let value = parameter.value().to_dtype(DType::F32)?;
        return parameter.set(&(&value + ((z - &value)? * weight)?)?);
    }
    // A state of f32 parameters has none.
    host::make_master(parameter, &mut slot.master)?;
    let z = &slot.host[0];
    host::change(parameter, &mut slot.master, |value| {
        parallel::by_chunks(value, CHUNK, |start, value| {
            value.iter_mut().zip(&z[start..]).for_each(|(p, z)| *p = towards(*p, *z, weight as f32));
        });
    })
}

/// `from + share (to - from)`, computed from the nearer end as torch's `lerp` does, so that a share of 1 gives `to` exactly.
#[inline(always)]
fn towards(from: f32, to: f32, share: f32) -> f32 {
    if share.abs() < 0.5 { from + share * (to - from) } else { to - (to - from) * (1.0 - share) }
}

struct Update {
    beta2: f32,
    enter2: f32,
    correction: f32,
    eps: f32,
    decay: f32,
    share: f32,
    y_step: f32,
    lr: f32,
}

vectorised! {
    fn update(by: &Update, value: &mut [f32], gradient: &[f32], scale: f32, averaged: &mut [f32], second: &mut [f32]) {
        for (((y, g), z), v) in value.iter_mut().zip(gradient).zip(averaged).zip(second) {
            let g = scale * g;
            *v = by.beta2 * *v + by.enter2 * g * g;
            let u = g / ((*v / by.correction).sqrt() + by.eps) + by.decay * *y;
            *y = towards(*y, *z, by.share) + by.y_step * u;
            *z -= by.lr * u;
        }
    }
}

impl Kernel for Update {
    fn apply(&self, value: &mut [f32], gradient: &[f32], scale: f32, averaged: &mut [f32], second: &mut [f32]) {
        update(self, value, gradient, scale, averaged, second);
    }

    fn compose(&self, value: &Tensor, gradient: &Tensor, state: &mut [Option<Tensor>; 2]) -> candle_core::Result<Tensor> {
        let [Some(z), Some(v)] = &*state else { candle_core::bail!("the state of AdamWScheduleFree is missing") };
        let v = ((v * f64::from(self.beta2))? + (gradient.sqr()? * f64::from(self.enter2))?)?;
        let root = ((&v / f64::from(self.correction))?.sqrt()? + f64::from(self.eps))?;
        let u = ((gradient / root)? + (value * f64::from(self.decay))?)?;
        let y = ((value + ((z - value)? * f64::from(self.share))?)? + (&u * f64::from(self.y_step))?)?;
        let z = (z - (u * f64::from(self.lr))?)?;
        *state = [Some(z), Some(v)];
        Ok(y)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_composition_is_the_loop() {
        let kernel =
            super::Update { beta2: 0.9, enter2: 0.1, correction: 0.5, eps: 1e-8, decay: 0.1, share: 0.3, y_step: -0.05, lr: 0.1 };
        super::host::check::composed_as_applied(&kernel, 2);
    }
}
