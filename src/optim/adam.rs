//! Adam (Kingma and Ba 2015) and AdamW (Loshchilov and Hutter 2019) as `torch.optim` computes them.
//!
//! They are one algorithm and differ in where the weight decay enters: Adam adds it to the gradient, AdamW shrinks the parameter.

use super::host::{self, Kernel, Slot};
use super::{Optimizer, ParamGroup, check_at_least_zero, check_fraction, check_groups};
use crate::error::Result;
use crate::ops::vectorised;
#[cfg(feature = "cuda")]
use crate::{
    ops::gpu::update::{Entry, Numbers, Tables, serves},
    optim::DeviceNorm,
};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The options of AdamW.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWOptions {
    /// The learning rate. Default 0.001.
    pub lr: f64,
    /// How fast the averages of the gradient and of its square forget. Default [0.9, 0.999].
    pub betas: [f64; 2],
    /// Added to the denominator. Default 1e-8.
    pub eps: f64,
    /// The share of a parameter, times the learning rate, by which a step shrinks it. Default 0.01.
    pub weight_decay: f64,
    /// Whether to go up the gradient instead of down. Default false.
    pub maximize: bool,
}

impl Default for AdamWOptions {
    fn default() -> Self {
        Self { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, maximize: false }
    }
}

/// The options of Adam.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamOptions {
    /// The learning rate. Default 0.001.
    pub lr: f64,
    /// How fast the averages of the gradient and of its square forget. Default [0.9, 0.999].
    pub betas: [f64; 2],
    /// Added to the denominator. Default 1e-8.
    pub eps: f64,
    /// Added to the gradient, times the parameter (L2 penalty). Default 0.
    pub weight_decay: f64,
    /// Whether to go up the gradient instead of down. Default false.
    pub maximize: bool,
}

impl Default for AdamOptions {
    fn default() -> Self {
        Self { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0, maximize: false }
    }
}

impl AdamWOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        check_at_least_zero("learning rate", self.lr)?;
        check_fraction("betas[0]", self.betas[0])?;
        check_fraction("betas[1]", self.betas[1])?;
        check_at_least_zero("eps", self.eps)?;
        check_at_least_zero("weight_decay", self.weight_decay)
    }
}

impl AdamOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        AdamWOptions::from(self.clone()).validate()
    }
}

impl From<AdamOptions> for AdamWOptions {
    fn from(options: AdamOptions) -> Self {
        let AdamOptions { lr, betas, eps, weight_decay, maximize } = options;
        Self { lr, betas, eps, weight_decay, maximize }
    }
}

/// `torch.optim.Adam` and `torch.optim.AdamW`.
#[derive(Debug)]
pub struct Adam {
    options: AdamWOptions,
    decoupled: bool,
    groups: Vec<ParamGroup>,
    slots: Vec<Slot>,
    #[cfg(feature = "cuda")]
    tables: Tables,
}

pub(super) const NAMES: [&str; 2] = ["exp_avg", "exp_avg_sq"];

impl Adam {
    /// Adam on these groups.
    ///
    /// # Errors
    /// Options out of range, no parameters, or one twice.
    pub fn new(groups: Vec<ParamGroup>, options: AdamOptions) -> Result<Self> {
        Self::build(groups, options.into(), false)
    }

    /// AdamW on these groups.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn adamw(groups: Vec<ParamGroup>, options: AdamWOptions) -> Result<Self> {
        Self::build(groups, options, true)
    }

    fn build(groups: Vec<ParamGroup>, options: AdamWOptions, decoupled: bool) -> Result<Self> {
        options.validate()?;
        check_groups(&groups)?;
        let slots = groups.iter().flat_map(|group| &group.parameters).map(|_| Slot::default()).collect();
        Ok(Self {
            options,
            decoupled,
            groups,
            slots,
            #[cfg(feature = "cuda")]
            tables: Tables::default(),
        })
    }
}

impl Optimizer for Adam {
    fn step(&mut self) -> Result<()> {
        let AdamWOptions { lr, weight_decay, .. } = self.options;
        let mut slots = self.slots.iter_mut();
        for group in &self.groups {
            let (lr, decay) = (lr * group.lr_scale, group.weight_decay.unwrap_or(weight_decay));
            let options = AdamWOptions {
                betas: group.betas.unwrap_or(self.options.betas),
                eps: group.eps.unwrap_or(self.options.eps),
                ..self.options.clone()
            };
            for (parameter, slot) in group.parameters.iter().zip(&mut slots) {
                if !parameter.has_grad() {
                    continue;
                }
                slot.prepare(parameter, 2)?;
                slot.step += 1;
                let kernel = Update::new(&options, lr, decay, self.decoupled, slot.step);
                slot.update(parameter, &kernel)?;
            }
        }
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn step_on_device(&mut self, max_norm: f64) -> Result<Option<DeviceNorm>> {
        let AdamWOptions { lr, weight_decay, maximize, .. } = self.options;
        if maximize {
            return Ok(None);
        }
        let mut batches: Vec<(Numbers, Vec<Entry>)> = Vec::new();
        let (mut slots, mut count) = (self.slots.iter_mut(), 0);
        for group in &self.groups {
            let (lr, decay) = (lr * group.lr_scale, group.weight_decay.unwrap_or(weight_decay));
            let [beta1, beta2] = group.betas.unwrap_or(self.options.betas);
            let eps = group.eps.unwrap_or(self.options.eps);
            for (parameter, slot) in group.parameters.iter().zip(&mut slots) {
                let Some(gradient) = parameter.grad_on_device()? else { return Ok(None) };
                let value = parameter.value();
                if !(serves(&value, &gradient) && (self.decoupled || decay == 0.0)) {
                    return Ok(None);
                }
                slot.prepare(parameter, 2)?;
                let master = slot.exact_on_device(parameter)?;
                let [Some(first), Some(second)] = slot.device.clone() else { return Ok(None) };
                let step = (slot.step + 1) as f64;
                let numbers = Numbers {
                    lr: lr as f32,
                    shares: [(1.0 - beta1) as f32, (1.0 - beta2) as f32],
                    eps: eps as f32,
                    weight_decay: decay as f32,
                    correction1: (1.0 - beta1.powf(step)) as f32,
                    correction2: (1.0 - beta2.powf(step)).sqrt() as f32,
                };
                let entry = Entry { parameter: value, gradient, first, second, master };
                match batches.iter_mut().find(|(same, _)| *same == numbers) {
                    Some((_, entries)) => entries.push(entry),
                    None => batches.push((numbers, vec![entry])),
                }
                count += 1;
            }
        }
        if count == 0 {
            return Ok(None);
        }
        let all: Vec<Entry> = batches.iter().flat_map(|(_, entries)| entries.iter().cloned()).collect();
        let norm = self.tables.norm(&all, max_norm)?;
        for (numbers, entries) in &batches {
            self.tables.adamw(entries, *numbers, &norm)?;
        }
        for (slot, parameter) in self.slots.iter_mut().zip(self.groups.iter().flat_map(|group| &group.parameters)) {
            slot.step += 1;
            parameter.changed_on_device();
            slot.followed = Some(parameter.revision());
        }
        Ok(Some(DeviceNorm(norm)))
    }

    host::rate_in_options!();

    fn name(&self) -> &'static str {
        if self.decoupled { "AdamW" } else { "Adam" }
    }

    host::state_in_slots!(NAMES, 2);
}

/// g *= sign;  p *= shrink;  g += decay p;  m += enter1 (g - m);  v = beta2 v + enter2 g^2;  p -= step_size m / (sqrt(v) / root_correction + eps).
pub(super) struct Update {
    sign: f32,
    shrink: f32,
    decay: f32,
    enter1: f32,
    beta2: f32,
    enter2: f32,
    step_size: f32,
    root_correction: f32,
    eps: f32,
}

impl Update {
    /// Step `step`, counted from 1, at this learning rate and weight decay.
    pub fn new(options: &AdamWOptions, lr: f64, decay: f64, decoupled: bool, step: u64) -> Self {
        let [beta1, beta2] = options.betas;
        let step = step as f64;
        Self {
            sign: if options.maximize { -1.0 } else { 1.0 },
            shrink: if decoupled { (1.0 - lr * decay) as f32 } else { 1.0 },
            decay: if decoupled { 0.0 } else { decay as f32 },
            enter1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            enter2: (1.0 - beta2) as f32,
            step_size: (lr / (1.0 - beta1.powf(step))) as f32,
            root_correction: (1.0 - beta2.powf(step)).sqrt() as f32,
            eps: options.eps as f32,
        }
    }
}

vectorised! {
    fn update(by: &Update, value: &mut [f32], gradient: &[f32], scale: f32, first: &mut [f32], second: &mut [f32]) {
        let scale = by.sign * scale;
        for (((p, g), m), v) in value.iter_mut().zip(gradient).zip(first).zip(second) {
            let shrunk = *p * by.shrink;
            let g = scale * g + by.decay * shrunk;
            *m += by.enter1 * (g - *m);
            *v = by.beta2 * *v + by.enter2 * g * g;
            *p = shrunk - by.step_size * *m / (v.sqrt() / by.root_correction + by.eps);
        }
    }
}

impl Kernel for Update {
    fn apply(&self, value: &mut [f32], gradient: &[f32], scale: f32, first: &mut [f32], second: &mut [f32]) {
        update(self, value, gradient, scale, first, second);
    }

    fn compose(&self, value: &Tensor, gradient: &Tensor, state: &mut [Option<Tensor>; 2]) -> candle_core::Result<Tensor> {
        let [Some(m), Some(v)] = &*state else { candle_core::bail!("Adam's moments are missing") };
        let shrunk = (value * f64::from(self.shrink))?;
        let g = ((gradient * f64::from(self.sign))? + (&shrunk * f64::from(self.decay))?)?;
        let m = (m + ((&g - m)? * f64::from(self.enter1))?)?;
        let v = ((v * f64::from(self.beta2))? + (g.sqr()? * f64::from(self.enter2))?)?;
        let root = ((v.sqrt()? / f64::from(self.root_correction))? + f64::from(self.eps))?;
        let new = (shrunk - ((&m * f64::from(self.step_size))? / root)?)?;
        *state = [Some(m), Some(v)];
        Ok(new)
    }
}

#[cfg(test)]
mod tests {
    use super::{AdamWOptions, Update, host};

    #[test]
    fn the_composition_is_the_loop() {
        for (decoupled, maximize) in [(false, false), (true, false), (false, true)] {
            let options = AdamWOptions { maximize, ..AdamWOptions::default() };
            host::check::composed_as_applied(&Update::new(&options, 0.1, 0.2, decoupled, 3), 2);
        }
    }
}
