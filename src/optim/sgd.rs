//! Stochastic gradient descent, with momentum as `torch.optim.SGD` has it (Sutskever et al. 2013, without the learning rate in it).

use super::host::{self, Kernel, Slot};
use super::{Optimizer, ParamGroup, check_at_least_zero, check_fraction, check_groups};
use crate::error::{Error, Result};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The options of [`Sgd`].
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SgdOptions {
    /// The learning rate. Default 0.001.
    pub lr: f64,
    /// How much of the last update's direction is kept, 0 to below 1. Default 0.
    pub momentum: f64,
    /// By how much the gradient is weakened as it enters the momentum. Default 0.
    pub dampening: f64,
    /// Added to the gradient, times the parameter (L2 penalty). Default 0.
    pub weight_decay: f64,
    /// Nesterov's look-ahead; needs momentum and no dampening. Default false.
    pub nesterov: bool,
    /// Whether to go up the gradient instead of down. Default false.
    pub maximize: bool,
}

impl Default for SgdOptions {
    fn default() -> Self {
        Self { lr: 1e-3, momentum: 0.0, dampening: 0.0, weight_decay: 0.0, nesterov: false, maximize: false }
    }
}

impl SgdOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        check_at_least_zero("learning rate", self.lr)?;
        check_fraction("momentum", self.momentum)?;
        check_at_least_zero("weight_decay", self.weight_decay)?;
        if !self.dampening.is_finite() {
            return Err(Error::argument(format!("dampening must be a finite number, got {}", self.dampening)));
        }
        if self.nesterov && (self.momentum <= 0.0 || self.dampening != 0.0) {
            return Err(Error::argument("nesterov needs a momentum above 0 and no dampening"));
        }
        Ok(())
    }
}

/// `torch.optim.SGD`.
#[derive(Debug)]
pub struct Sgd {
    options: SgdOptions,
    groups: Vec<ParamGroup>,
    slots: Vec<Slot>,
}

const NAMES: [&str; 2] = ["momentum_buffer", ""];

impl Sgd {
    /// An optimiser of these groups.
    ///
    /// # Errors
    /// Options out of range, no parameters, or one twice.
    pub fn new(groups: Vec<ParamGroup>, options: SgdOptions) -> Result<Self> {
        options.validate()?;
        check_groups(&groups)?;
        if options.nesterov && groups.iter().any(|group| group.momentum == Some(0.0)) {
            return Err(Error::argument("nesterov needs a momentum above 0 in every group"));
        }
        let slots = groups.iter().flat_map(|group| &group.parameters).map(|_| Slot::default()).collect();
        Ok(Self { options, groups, slots })
    }
}

impl Optimizer for Sgd {
    fn step(&mut self) -> Result<()> {
        let mut slots = self.slots.iter_mut();
        for group in &self.groups {
            for (parameter, slot) in group.parameters.iter().zip(&mut slots) {
                if !parameter.has_grad() {
                    continue;
                }
                let momentum = group.momentum.unwrap_or(self.options.momentum) as f32;
                slot.prepare(parameter, usize::from(momentum != 0.0))?;
                let kernel = Update {
                    lr: (self.options.lr * group.lr_scale) as f32,
                    momentum,
                    // The first gradient enters whole.
                    entering: if slot.step == 0 { 1.0 } else { (1.0 - self.options.dampening) as f32 },
                    weight_decay: group.weight_decay.unwrap_or(self.options.weight_decay) as f32,
                    nesterov: self.options.nesterov,
                    sign: if self.options.maximize { -1.0 } else { 1.0 },
                };
                slot.update(parameter, &kernel)?;
                slot.step += 1;
            }
        }
        Ok(())
    }

    host::rate_in_options!();

    fn name(&self) -> &'static str {
        "SGD"
    }

    host::state_in_slots!(NAMES, 0);
}

/// d = sign g + decay p;  m = momentum m + entering d;  p -= lr (nesterov ? d + momentum m : m).
struct Update {
    lr: f32,
    momentum: f32,
    entering: f32,
    weight_decay: f32,
    nesterov: bool,
    sign: f32,
}

impl Kernel for Update {
    fn apply(&self, value: &mut [f32], gradient: &[f32], scale: f32, buffer: &mut [f32], _: &mut [f32]) {
        let scale = self.sign * scale;
        if buffer.is_empty() {
            for (p, g) in value.iter_mut().zip(gradient) {
                *p -= self.lr * (scale * g + self.weight_decay * *p);
            }
            return;
        }
        for ((p, g), m) in value.iter_mut().zip(gradient).zip(buffer) {
            let d = scale * g + self.weight_decay * *p;
            *m = self.momentum * *m + self.entering * d;
            *p -= self.lr * if self.nesterov { d + self.momentum * *m } else { *m };
        }
    }

    fn compose(&self, value: &Tensor, gradient: &Tensor, state: &mut [Option<Tensor>; 2]) -> candle_core::Result<Tensor> {
        let d = ((gradient * f64::from(self.sign))? + (value * f64::from(self.weight_decay))?)?;
        let direction = match &state[0] {
            None => d,
            Some(m) => {
                let m = ((m * f64::from(self.momentum))? + (&d * f64::from(self.entering))?)?;
                state[0] = Some(m.clone());
                if self.nesterov { (d + (m * f64::from(self.momentum))?)? } else { m }
            }
        };
        value - (direction * f64::from(self.lr))?
    }
}
