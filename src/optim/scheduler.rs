//! Learning-rate schedules as transformers' `get_scheduler` builds them.

use super::Optimizer;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// How the learning rate runs over the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Warm-up, then down to 0 along a line.
    #[default]
    Linear,
    /// Warm-up, then down to 0 along half a cosine (Loshchilov and Hutter 2017, without restarts).
    Cosine,
    /// Always the same, no warm-up.
    Constant,
    /// Warm-up, then always the same.
    ConstantWithWarmup,
}

impl Schedule {
    /// The names that scripts use.
    pub const NAMES: [&str; 4] = ["linear", "cosine", "constant", "constant_with_warmup"];
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "linear" => Ok(Self::Linear),
            "cosine" => Ok(Self::Cosine),
            "constant" => Ok(Self::Constant),
            "constant_with_warmup" => Ok(Self::ConstantWithWarmup),
            _ => Err(Error::argument(format!("unknown scheduler \"{name}\"; there are {}", Self::NAMES.join(", ")))),
        }
    }
}

/// What optimiser step `step` (from 0) multiplies the base learning rate with, with `warmup` steps of warm-up and `total` in all.
pub fn schedule_factor(schedule: Schedule, step: u64, warmup: u64, total: u64) -> f64 {
    if schedule != Schedule::Constant && step < warmup {
        return step as f64 / warmup.max(1) as f64;
    }
    let decaying = total.saturating_sub(warmup).max(1) as f64;
    match schedule {
        Schedule::Constant | Schedule::ConstantWithWarmup => 1.0,
        Schedule::Linear => total.saturating_sub(step) as f64 / decaying,
        Schedule::Cosine => {
            let progress = step.saturating_sub(warmup) as f64 / decaying;
            (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
        }
    }
}

/// A schedule that drives an optimiser; it is stepped once after each optimiser step.
#[derive(Debug, Clone)]
pub struct Scheduler {
    schedule: Schedule,
    base: f64,
    step: u64,
    warmup: u64,
    total: u64,
}

impl Scheduler {
    /// A schedule over `total` steps from the optimiser's learning rate, which is set to that of step 0 at once.
    ///
    /// # Errors
    /// The learning rate cannot be set.
    pub fn new(schedule: Schedule, optimizer: &mut dyn Optimizer, warmup: u64, total: u64) -> Result<Self> {
        let made = Self { schedule, base: optimizer.lr(), step: 0, warmup, total };
        optimizer.set_lr(made.lr())?;
        Ok(made)
    }

    /// Sets the learning rate of the next step.
    ///
    /// # Errors
    /// The learning rate cannot be set.
    pub fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        self.step += 1;
        optimizer.set_lr(self.lr())
    }

    /// The learning rate that was set last.
    pub fn lr(&self) -> f64 {
        self.base * schedule_factor(self.schedule, self.step, self.warmup, self.total)
    }
}
