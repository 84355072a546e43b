//! Lion (Chen et al. 2023, arXiv:2302.06675): every element moves by the learning rate, in the direction that momentum and
//! gradient agree on. Half of AdamW's state; usual are a learning rate of a third to a tenth of AdamW's and a weight decay that is
//! larger by as much.
//!
//! ```text
//! p *= 1 - lr decay;   p -= lr sign(beta1 m + (1 - beta1) g);   m = beta2 m + (1 - beta2) g
//! ```

use super::host::{self, Kernel, Slot};
use super::{Optimizer, ParamGroup, check_at_least_zero, check_fraction, check_groups};
use crate::error::Result;
use crate::ops::vectorised;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The options of [`Lion`], with the defaults of its authors and of `lion-pytorch`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LionOptions {
    /// The learning rate. Default 1e-4.
    pub lr: f64,
    /// How much of the momentum enters the direction, and how fast the momentum forgets. Default [0.9, 0.99].
    pub betas: [f64; 2],
    /// The share of a parameter, times the learning rate, by which a step shrinks it. Default 0.
    pub weight_decay: f64,
}

impl Default for LionOptions {
    fn default() -> Self {
        Self { lr: 1e-4, betas: [0.9, 0.99], weight_decay: 0.0 }
    }
}

impl LionOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        check_at_least_zero("learning rate", self.lr)?;
        check_fraction("betas[0]", self.betas[0])?;
        check_fraction("betas[1]", self.betas[1])?;
        check_at_least_zero("weight_decay", self.weight_decay)
    }
}

/// Lion, as its authors and `lion-pytorch` compute it.
#[derive(Debug)]
pub struct Lion {
    options: LionOptions,
    groups: Vec<ParamGroup>,
    slots: Vec<Slot>,
}

const NAMES: [&str; 2] = ["exp_avg", ""];

impl Lion {
    /// An optimiser of these groups.
    ///
    /// # Errors
    /// Options out of range, no parameters, or one twice.
    pub fn new(groups: Vec<ParamGroup>, options: LionOptions) -> Result<Self> {
        options.validate()?;
        check_groups(&groups)?;
        let slots = groups.iter().flat_map(|group| &group.parameters).map(|_| Slot::default()).collect();
        Ok(Self { options, groups, slots })
    }
}

impl Optimizer for Lion {
    fn step(&mut self) -> Result<()> {
        let LionOptions { lr, betas: [beta1, beta2], weight_decay } = self.options;
        let mut slots = self.slots.iter_mut();
        for group in &self.groups {
            let (lr, decay) = (lr * group.lr_scale, group.weight_decay.unwrap_or(weight_decay));
            let kernel = Update {
                lr: lr as f32,
                shrink: (1.0 - lr * decay) as f32,
                beta1: beta1 as f32,
                enter1: (1.0 - beta1) as f32,
                beta2: beta2 as f32,
                enter2: (1.0 - beta2) as f32,
            };
            for (parameter, slot) in group.parameters.iter().zip(&mut slots) {
                if parameter.has_grad() {
                    slot.prepare(parameter, 1)?;
                    slot.update(parameter, &kernel)?;
                    slot.step += 1;
                }
            }
        }
        Ok(())
    }

    host::rate_in_options!();

    fn name(&self) -> &'static str {
        "Lion"
    }

    host::state_in_slots!(NAMES, 1);
}

struct Update {
    lr: f32,
    shrink: f32,
    beta1: f32,
    enter1: f32,
    beta2: f32,
    enter2: f32,
}

vectorised! {
    fn update(by: &Update, value: &mut [f32], gradient: &[f32], scale: f32, momentum: &mut [f32]) {
        for ((p, g), m) in value.iter_mut().zip(gradient).zip(momentum) {
            let g = scale * g;
            let direction = by.beta1 * *m + by.enter1 * g;
            // Unlike f32's signum: 0 has no direction, and not-a-number stays so.
            let sign = if direction == 0.0 { 0.0 } else { 1f32.copysign(direction) + 0.0 * direction };
            *p = *p * by.shrink - by.lr * sign;
            *m = by.beta2 * *m + by.enter2 * g;
        }
    }
}

impl Kernel for Update {
    fn apply(&self, value: &mut [f32], gradient: &[f32], scale: f32, momentum: &mut [f32], _: &mut [f32]) {
        update(self, value, gradient, scale, momentum);
    }

    fn compose(&self, value: &Tensor, gradient: &Tensor, state: &mut [Option<Tensor>; 2]) -> candle_core::Result<Tensor> {
        let Some(m) = &state[0] else { candle_core::bail!("Lion's momentum is missing") };
        let direction = ((m * f64::from(self.beta1))? + (gradient * f64::from(self.enter1))?)?;
        let new = ((value * f64::from(self.shrink))? - (direction.sign()? * f64::from(self.lr))?)?;
        state[0] = Some(((m * f64::from(self.beta2))? + (gradient * f64::from(self.enter2))?)?);
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_composition_is_the_loop() {
        let kernel = super::Update { lr: 0.1, shrink: 0.9, beta1: 0.9, enter1: 0.1, beta2: 0.99, enter2: 0.01 };
        super::host::check::composed_as_applied(&kernel, 1);
    }
}
