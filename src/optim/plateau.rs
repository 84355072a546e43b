//! Lowering the learning rate when a metric has stopped improving, as `torch.optim.lr_scheduler.ReduceLROnPlateau` does.

use super::scheduler::ScheduleOptions;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which way a metric improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlateauMode {
    /// Downwards, as a loss.
    #[default]
    Min,
    /// Upwards, as an accuracy.
    Max,
}

/// What the threshold of an improvement is a share of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdMode {
    /// Of the best value so far.
    #[default]
    Rel,
    /// Of nothing: it is the difference itself.
    Abs,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plateau {
    mode: PlateauMode,
    threshold_mode: ThresholdMode,
    factor: f64,
    patience: u64,
    threshold: f64,
    cooldown: u64,
    min_lr: f64,
    eps: f64,
    /// The best value so far.
    pub best: f64,
    /// Values since then, and values for which bad ones do not count yet.
    pub bad: u64,
    pub cooling: u64,
}

impl Plateau {
    pub fn new(options: &ScheduleOptions) -> Result<Self> {
        let mode = options.mode.unwrap_or_default();
        let made = Self {
            mode,
            threshold_mode: options.threshold_mode.unwrap_or_default(),
            factor: options.factor.unwrap_or(0.1),
            patience: options.patience.unwrap_or(10),
            threshold: options.threshold.unwrap_or(1e-4),
            cooldown: options.cooldown.unwrap_or(0),
            min_lr: options.min_lr.unwrap_or(0.0),
            eps: options.eps.unwrap_or(1e-8),
            best: if mode == PlateauMode::Min { f64::INFINITY } else { f64::NEG_INFINITY },
            bad: 0,
            cooling: 0,
        };
        if !(0.0..1.0).contains(&made.factor) {
            return Err(Error::argument(format!("factor must be at least 0 and below 1, got {}", made.factor)));
        }
        Ok(made)
    }

    /// Takes a value of the metric in, and gives the learning rate to go on with.
    pub fn observe(&mut self, metric: f64, lr: f64) -> f64 {
        if self.improves(metric) {
            self.best = metric;
            self.bad = 0;
        } else {
            self.bad += 1;
        }
        if self.cooling > 0 {
            self.cooling -= 1;
            self.bad = 0;
        }
        if self.bad <= self.patience {
            return lr;
        }
        (self.cooling, self.bad) = (self.cooldown, 0);
        let lower = (lr * self.factor).max(self.min_lr);
        if lr - lower > self.eps { lower } else { lr }
    }

    fn improves(&self, metric: f64) -> bool {
        match (self.mode, self.threshold_mode) {
            (PlateauMode::Min, ThresholdMode::Rel) => metric < self.best * (1.0 - self.threshold),
            (PlateauMode::Min, ThresholdMode::Abs) => metric < self.best - self.threshold,
            (PlateauMode::Max, ThresholdMode::Rel) => metric > self.best * (self.threshold + 1.0),
            (PlateauMode::Max, ThresholdMode::Abs) => metric > self.best + self.threshold,
        }
    }
}
