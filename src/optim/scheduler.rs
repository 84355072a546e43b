//! Learning-rate schedules as transformers' `get_scheduler` builds them.

use super::plateau::{Plateau, PlateauMode, ThresholdMode};
use super::{Optimizer, check_at_least_zero, host};
use crate::error::{Error, Result};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::f64::consts::PI;
use std::str::FromStr;

/// How the learning rate runs over the training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Warm-up, then down to 0 along a line.
    #[default]
    Linear,
    /// Warm-up, then down to 0 along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts).
    Cosine,
    /// Warm-up, then `num_cycles` times down to 0 along half a cosine, each time from the top (the same paper).
    CosineWithRestarts,
    /// Warm-up, then down to `lr_end` along a power.
    Polynomial,
    /// Always the same, no warm-up.
    Constant,
    /// Warm-up, then always the same.
    ConstantWithWarmup,
    /// Warm-up, then down with the root of the steps (Zhai et al. 2022, arXiv:2106.04560).
    InverseSqrt,
    /// Warm-up, then down to `min_lr` along half a cosine.
    CosineWithMinLr,
    /// The same, with a warm-up that does not begin at 0.
    CosineWarmupWithMinLr,
    /// Warm-up, a long constant middle, then down within `num_decay_steps` (Hu et al. 2024, arXiv:2404.06395).
    WarmupStableDecay,
    /// Down by a factor whenever a metric has stopped improving; no warm-up.
    ReduceLrOnPlateau,
}

impl Schedule {
    /// The names that scripts use.
    pub const NAMES: [&str; 11] = [
        "linear",
        "cosine",
        "cosine_with_restarts",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
        "cosine_with_min_lr",
        "cosine_warmup_with_min_lr",
        "warmup_stable_decay",
        "reduce_lr_on_plateau",
    ];

    /// The options that it takes.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Linear | Self::Constant | Self::ConstantWithWarmup => &[],
            Self::Cosine | Self::CosineWithRestarts => &["num_cycles"],
            Self::Polynomial => &["lr_end", "power"],
            Self::InverseSqrt => &["timescale"],
            Self::CosineWithMinLr => &["num_cycles", "min_lr", "min_lr_rate"],
            Self::CosineWarmupWithMinLr => &["num_cycles", "min_lr", "min_lr_rate", "warmup_lr_rate"],
            Self::WarmupStableDecay => {
                &["num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"]
            }
            Self::ReduceLrOnPlateau => {
                &["mode", "factor", "patience", "threshold", "threshold_mode", "cooldown", "min_lr", "eps"]
            }
        }
    }

    /// Its name.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|name| name.as_str().map(str::to_string)).unwrap_or_default()
    }

    /// Whether it can be made without knowing how many steps there will be.
    fn is_endless(self) -> bool {
        matches!(self, Self::Constant | Self::ConstantWithWarmup | Self::InverseSqrt | Self::ReduceLrOnPlateau)
    }
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        serde_json::from_value(name.into())
            .map_err(|_| Error::argument(format!("unknown scheduler \"{name}\"; there are {}", Self::NAMES.join(", "))))
    }
}

/// How the learning rate rises or falls in "warmup_stable_decay".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecayShape {
    /// Along a line.
    Linear,
    /// Along half a cosine.
    Cosine,
    /// By 1 minus the root: steep at first on the way down, at last on the way up.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

/// What some schedules can be told: transformers' `lr_scheduler_kwargs`. A schedule refuses what it does not take.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScheduleOptions {
    /// Waves of the cosine; "cosine..." and "warmup_stable_decay": default 0.5, down once; "cosine_with_restarts": half waves, default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_cycles: Option<f64>,
    /// "polynomial": the learning rate at the end. Default 1e-7.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_end: Option<f64>,
    /// "polynomial": the power. Default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub power: Option<f64>,
    /// "inverse_sqrt": steps until the rate has fallen to 0.7 of the top. Default the steps of the warm-up, or 10000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timescale: Option<u64>,
    /// "cosine_with_min_lr", "cosine_warmup_with_min_lr" (this or `min_lr_rate`): the lowest rate; "reduce_lr_on_plateau": default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr: Option<f64>,
    /// The same as a share of the highest rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_rate: Option<f64>,
    /// "cosine_warmup_with_min_lr": the first rate as a share of the highest. Default 1 / the steps of the warm-up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_lr_rate: Option<f64>,
    /// "warmup_stable_decay": steps on the way down; must be given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decay_steps: Option<u64>,
    /// "warmup_stable_decay": steps at the top. Default what warm-up and decay leave of the whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_stable_steps: Option<u64>,
    /// "warmup_stable_decay": "linear" (default), "cosine" or "1-sqrt".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warmup_type: Option<DecayShape>,
    /// "warmup_stable_decay": "linear", "cosine" (default) or "1-sqrt".
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_type: Option<DecayShape>,
    /// "warmup_stable_decay": the lowest rate as a share of the highest. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_lr_ratio: Option<f64>,
    /// "reduce_lr_on_plateau": whether the metric should fall ("min", the default) or rise ("max").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<PlateauMode>,
    /// "reduce_lr_on_plateau": what the rate is multiplied with. Default 0.1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
    /// "reduce_lr_on_plateau": values without improvement that are borne. Default 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub patience: Option<u64>,
    /// "reduce_lr_on_plateau": the least improvement that counts. Default 1e-4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// "reduce_lr_on_plateau": whether the threshold is a share of the best value ("rel", the default) or a difference ("abs").
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold_mode: Option<ThresholdMode>,
    /// "reduce_lr_on_plateau": values after a reduction that are not counted. Default 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cooldown: Option<u64>,
    /// "reduce_lr_on_plateau": a reduction by less is left out. Default 1e-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f64>,
}

impl ScheduleOptions {
    /// Checks that they suit a schedule that begins at the learning rate `lr`.
    ///
    /// # Errors
    /// Names an option that the schedule does not take, lacks, or that is out of range.
    pub fn check(&self, schedule: Schedule, lr: f64) -> Result<()> {
        let (name, takes) = (schedule.name(), schedule.options());
        let given = serde_json::to_value(self).unwrap_or_default();
        if let Some((other, _)) = given.as_object().and_then(|given| given.iter().find(|(key, _)| !takes.contains(&key.as_str())))
        {
            let takes = if takes.is_empty() { "no options".to_string() } else { takes.join(", ") };
            return Err(Error::argument(format!("the scheduler \"{name}\" does not take \"{other}\"; it takes {takes}")));
        }
        let numbers = [
            ("num_cycles", self.num_cycles),
            ("lr_end", self.lr_end),
            ("power", self.power),
            ("min_lr", self.min_lr),
            ("min_lr_rate", self.min_lr_rate),
            ("warmup_lr_rate", self.warmup_lr_rate),
            ("min_lr_ratio", self.min_lr_ratio),
            ("threshold", self.threshold),
            ("eps", self.eps),
        ];
        for (name, value) in numbers {
            check_at_least_zero(name, value.unwrap_or(0.0))?;
        }
        let lacks = |what: &str| Err(Error::argument(format!("the scheduler \"{name}\" needs {what}")));
        match schedule {
            Schedule::Polynomial if lr <= self.lr_end.unwrap_or(LR_END) => Err(Error::argument(format!(
                "lr_end must be below the learning rate {lr}, got {}",
                self.lr_end.unwrap_or(LR_END)
            ))),
            Schedule::InverseSqrt if self.timescale == Some(0) => Err(Error::argument("timescale must be at least 1, got 0")),
            Schedule::CosineWithMinLr | Schedule::CosineWarmupWithMinLr => match (self.min_lr, self.min_lr_rate) {
                (None, None) => lacks("min_lr or min_lr_rate"),
                (Some(_), Some(_)) => Err(Error::argument("give min_lr or min_lr_rate, not both")),
                _ => Ok(()),
            },
            Schedule::WarmupStableDecay if self.num_decay_steps.is_none() => lacks("num_decay_steps"),
            Schedule::ReduceLrOnPlateau => Plateau::new(self).map(|_| ()),
            _ => Ok(()),
        }
    }
}

const LR_END: f64 = 1e-7;

/// A schedule that drives an optimiser; it is stepped once after each optimiser step.
#[derive(Debug, Clone)]
pub struct Scheduler {
    schedule: Schedule,
    options: ScheduleOptions,
    base: f64,
    step: u64,
    warmup: u64,
    total: u64,
    /// With the learning rate that it has come to.
    plateau: Option<(Plateau, f64)>,
}

impl Scheduler {
    /// A schedule from the optimiser's learning rate, which is set to that of step 0 at once. `total` is the number of steps of the
    /// whole training.
    ///
    /// # Errors
    /// Options that do not suit the schedule, no `total` where it is needed, or the learning rate cannot be set.
    pub fn new(
        schedule: Schedule,
        options: ScheduleOptions,
        optimizer: &mut dyn Optimizer,
        warmup: u64,
        total: Option<u64>,
    ) -> Result<Self> {
        let base = optimizer.lr();
        options.check(schedule, base)?;
        if total.is_none() && !schedule.is_endless() && options.num_stable_steps.is_none() {
            return Err(Error::argument(format!("the scheduler \"{}\" needs num_training_steps", schedule.name())));
        }
        let total = total.unwrap_or(0);
        if let (Schedule::WarmupStableDecay, Some(decay), None) = (schedule, options.num_decay_steps, options.num_stable_steps)
            && warmup.saturating_add(decay) > total
        {
            return Err(Error::argument(format!(
                "{warmup} steps of warm-up and {decay} of decay (num_decay_steps) are more than the {total} steps of the training"
            )));
        }
        let plateau = match schedule {
            Schedule::ReduceLrOnPlateau => Some((Plateau::new(&options)?, base)),
            _ => None,
        };
        let made = Self { schedule, options, base, step: 0, warmup, total, plateau };
        optimizer.set_lr(made.lr())?;
        Ok(made)
    }

    /// Sets the learning rate of the next step.
    ///
    /// # Errors
    /// The schedule follows a metric, or the learning rate cannot be set.
    pub fn step(&mut self, optimizer: &mut dyn Optimizer) -> Result<()> {
        if self.follows_metric() {
            return Err(Error::argument("the scheduler \"reduce_lr_on_plateau\" needs the metric: step(metric)"));
        }
        self.step += 1;
        optimizer.set_lr(self.lr())
    }

    /// Sets the learning rate by a metric's value, such as the loss on an evaluation set.
    ///
    /// # Errors
    /// The schedule follows the number of the step, or the learning rate cannot be set.
    pub fn step_with(&mut self, metric: f64, optimizer: &mut dyn Optimizer) -> Result<()> {
        let Some((plateau, rate)) = &mut self.plateau else {
            return Err(Error::argument(format!(
                "the scheduler \"{}\" follows the number of the step and takes no metric; only \"reduce_lr_on_plateau\" does",
                self.schedule.name()
            )));
        };
        self.step += 1;
        *rate = plateau.observe(metric, *rate);
        optimizer.set_lr(*rate)
    }

    /// Whether it is stepped by a metric, [`Self::step_with`].
    pub fn follows_metric(&self) -> bool {
        self.plateau.is_some()
    }

    /// The learning rate that was set last.
    pub fn lr(&self) -> f64 {
        match &self.plateau {
            Some((_, rate)) => *rate,
            None => self.base * self.factor(self.step),
        }
    }

    /// How far it has come: "last_epoch" (steps), and what "reduce_lr_on_plateau" remembers. Scalars are f64 tensors.
    ///
    /// # Errors
    /// Out of memory.
    pub fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut numbers = vec![("last_epoch", self.step as f64)];
        if let Some((plateau, rate)) = &self.plateau {
            let Plateau { best, bad, cooling, .. } = plateau;
            numbers.extend([
                ("lr", *rate),
                ("best", *best),
                ("num_bad_epochs", *bad as f64),
                ("cooldown_counter", *cooling as f64),
            ]);
        }
        let entry = |(name, value): (&str, f64)| Ok((name.to_string(), Tensor::new(value, &Device::Cpu)?));
        numbers.into_iter().map(entry).collect()
    }

    /// Goes to where [`Self::state_dict`] was taken, and sets the learning rate.
    ///
    /// # Errors
    /// An entry is missing or no count, or the learning rate cannot be set.
    pub fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>, optimizer: &mut dyn Optimizer) -> Result<()> {
        let entry =
            |name: &str| state.get(name).ok_or_else(|| Error::argument(format!("the scheduler's state dict lacks \"{name}\"")));
        let count = |name: &str| {
            host::steps(entry(name)?).map_err(|e| Error::argument(format!("the scheduler's state dict, \"{name}\": {e}")))
        };
        // Everything is read before anything changes.
        let step = count("last_epoch")?;
        if let Some((plateau, rate)) = &mut self.plateau {
            let (lr, best) = (host::scalar(entry("lr")?)?, host::scalar(entry("best")?)?);
            let (bad, cooling) = (count("num_bad_epochs")?, count("cooldown_counter")?);
            (*rate, plateau.best, plateau.bad, plateau.cooling) = (lr, best, bad, cooling);
        }
        self.step = step;
        optimizer.set_lr(self.lr())
    }

    /// What optimiser step `step` (from 0) multiplies the base learning rate with.
    fn factor(&self, step: u64) -> f64 {
        let Self { schedule, ref options, base, warmup, total, .. } = *self;
        let since = step.saturating_sub(warmup) as f64;
        let decaying = total.saturating_sub(warmup).max(1) as f64;
        let risen = step as f64 / warmup.max(1) as f64;
        let cosine = |progress: f64| 0.5 * (1.0 + (PI * options.num_cycles.unwrap_or(0.5) * 2.0 * progress).cos());
        let lowest = || options.min_lr_rate.or(options.min_lr.map(|lr| lr / base)).unwrap_or(0.0);
        match schedule {
            Schedule::Constant => 1.0,
            Schedule::WarmupStableDecay => self.stable(step, risen, cosine),
            Schedule::CosineWarmupWithMinLr if step < warmup => match options.warmup_lr_rate {
                None => (step as f64 + 1.0) / warmup.max(1) as f64,
                Some(first) => first + (1.0 - first) * step as f64 / (warmup.saturating_sub(1)).max(1) as f64,
            },
            _ if step < warmup => risen,
            Schedule::ConstantWithWarmup | Schedule::ReduceLrOnPlateau => 1.0,
            Schedule::Linear => total.saturating_sub(step) as f64 / decaying,
            Schedule::Cosine => cosine(since / decaying).max(0.0),
            Schedule::CosineWithRestarts if since >= decaying => 0.0,
            Schedule::CosineWithRestarts => {
                let within = (options.num_cycles.unwrap_or(1.0) * (since / decaying)) % 1.0;
                (0.5 * (1.0 + (PI * within).cos())).max(0.0)
            }
            Schedule::Polynomial => {
                let end = options.lr_end.unwrap_or(LR_END);
                if step > total {
                    return end / base;
                }
                let remaining = 1.0 - since / decaying;
                ((base - end) * remaining.powf(options.power.unwrap_or(1.0)) + end) / base
            }
            Schedule::InverseSqrt => {
                let timescale = options.timescale.unwrap_or(if warmup > 0 { warmup } else { 10_000 }) as f64;
                1.0 / ((step as f64 + (timescale - warmup as f64)) / timescale).sqrt()
            }
            Schedule::CosineWithMinLr => (cosine(since / decaying) * (1.0 - lowest()) + lowest()).max(0.0),
            Schedule::CosineWarmupWithMinLr => (cosine((since + 1.0) / decaying) * (1.0 - lowest()) + lowest()).max(0.0),
        }
    }

    /// Up, along, down, and on at the lowest.
    fn stable(&self, step: u64, risen: f64, cosine: impl Fn(f64) -> f64) -> f64 {
        let Self { options, warmup, total, .. } = self;
        let decay = options.num_decay_steps.unwrap_or(0);
        let stable = options.num_stable_steps.unwrap_or(total.saturating_sub(warmup.saturating_add(decay)));
        let lowest = options.min_lr_ratio.unwrap_or(0.0);
        let factor = if step < *warmup {
            match options.warmup_type.unwrap_or(DecayShape::Linear) {
                DecayShape::Linear => risen,
                DecayShape::Cosine => 0.5 * (1.0 - (PI * risen).cos()),
                DecayShape::OneMinusSqrt => 1.0 - (1.0 - risen).sqrt(),
            }
        } else if step - warmup < stable {
            return 1.0;
        } else if step - warmup - stable < decay {
            let progress = (step - warmup - stable) as f64 / decay.max(1) as f64;
            match options.decay_type.unwrap_or(DecayShape::Cosine) {
                DecayShape::Linear => 1.0 - progress,
                DecayShape::Cosine => cosine(progress),
                DecayShape::OneMinusSqrt => 1.0 - progress.sqrt(),
            }
        } else {
            return lowest;
        };
        (factor * (1.0 - lowest) + lowest).max(0.0)
    }
}
