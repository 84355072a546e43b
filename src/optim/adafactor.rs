//! Adafactor (Shazeer and Stern 2018, arXiv:1804.04235): of a matrix's squared gradients only the averages of its rows and of its
//! columns are kept, so that the state of `n x m` elements is `n + m` numbers; the update is clipped by its root mean square.
//! As `transformers.optimization.Adafactor` computes it.
//!
//! ```text
//! b = 1 - step^decay_rate;   r = b r + (1 - b) mean_j(g^2 + eps0);   c = b c + (1 - b) mean_i(g^2 + eps0)
//! u = g / sqrt(r c^T / mean(r));   u /= max(1, rms(u) / clip_threshold);   u *= rate
//! rate = lr or min(0.01, 1 / sqrt(step)), times max(eps1, rms(p)) with scale_parameter
//! p -= weight_decay rate p;   p -= u
//! ```
//! Vectors keep the average of every element's square; `beta1` adds a momentum of `u`.

use super::factored::{Averages, Shape, Step};
use super::host;
use super::{Optimizer, ParamGroup, check_at_least_zero, check_fraction, check_groups};
use crate::autograd::{buffer, sum_of_squares};
use crate::error::{Error, Result};
use crate::nn::Parameter;
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The options of [`Adafactor`], with transformers' names and defaults.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdafactorOptions {
    /// The learning rate; to be given exactly where `relative_step` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Added to the squared gradient, and the least that a parameter's root mean square counts. Default [1e-30, 1e-3].
    pub eps: [f64; 2],
    /// The root mean square that an update may have. Default 1.
    pub clip_threshold: f64,
    /// How the averages lengthen: step t forgets t^decay_rate of them. Default -0.8.
    pub decay_rate: f64,
    /// How fast a momentum of the update forgets; default none, which needs no memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// The share of a parameter, times the step's rate, by which a step shrinks it. Default 0.
    pub weight_decay: f64,
    /// Whether the rate is multiplied by the parameter's root mean square. Default true.
    pub scale_parameter: bool,
    /// Whether the rate follows from the number of the step, instead of `lr`. Default true.
    pub relative_step: bool,
    /// With `relative_step`: whether the rate begins at 1e-6 a step. Default false.
    pub warmup_init: bool,
}

impl Default for AdafactorOptions {
    fn default() -> Self {
        Self {
            lr: None,
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
        }
    }
}

impl AdafactorOptions {
    /// Checks every field's range, and that the options go together.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        match (self.lr, self.relative_step) {
            (Some(lr), true) => {
                return Err(Error::argument(format!(
                    "lr {lr} cannot be combined with relative_step: true, which sets the rate itself; give relative_step: false too"
                )));
            }
            (None, false) => return Err(Error::argument("with relative_step: false a learning rate must be given as lr")),
            (Some(lr), false) => check_at_least_zero("learning rate", lr)?,
            (None, true) => {}
        }
        if self.warmup_init && !self.relative_step {
            return Err(Error::argument("warmup_init: true needs relative_step: true"));
        }
        check_at_least_zero("eps[0]", self.eps[0])?;
        check_at_least_zero("eps[1]", self.eps[1])?;
        if !self.clip_threshold.is_finite() || self.clip_threshold <= 0.0 {
            return Err(Error::argument(format!("clip_threshold must be a finite number > 0, got {}", self.clip_threshold)));
        }
        if !self.decay_rate.is_finite() || self.decay_rate > 0.0 {
            return Err(Error::argument(format!("decay_rate must be a finite number <= 0, got {}", self.decay_rate)));
        }
        check_fraction("beta1", self.beta1.unwrap_or(0.0))?;
        check_at_least_zero("weight_decay", self.weight_decay)
    }

    /// The rate of step `step`, counted from 1, before the parameter's scale.
    fn rate(&self, step: u64) -> f64 {
        let step = step.max(1) as f64;
        let least = if self.warmup_init { 1e-6 * step } else { 1e-2 };
        self.lr.unwrap_or_else(|| least.min(1.0 / step.sqrt()))
    }
}

/// `transformers.optimization.Adafactor`.
#[derive(Debug)]
pub struct Adafactor {
    options: AdafactorOptions,
    groups: Vec<ParamGroup>,
    states: Vec<State>,
}

/// Of one parameter. The averages stay in main memory whatever the parameter's device.
#[derive(Debug, Default)]
struct State {
    step: u64,
    averages: Averages,
    momentum: Vec<f32>,
    master: Vec<f32>,
}

impl Adafactor {
    /// An optimiser of these groups.
    ///
    /// # Errors
    /// Options out of range or at odds, no parameters, or one twice.
    pub fn new(groups: Vec<ParamGroup>, options: AdafactorOptions) -> Result<Self> {
        options.validate()?;
        check_groups(&groups)?;
        let states = groups.iter().flat_map(|group| &group.parameters).map(|_| State::default()).collect();
        Ok(Self { options, groups, states })
    }
}

impl Optimizer for Adafactor {
    fn step(&mut self) -> Result<()> {
        let mut states = self.states.iter_mut();
        for group in &self.groups {
            let decay = group.weight_decay.unwrap_or(self.options.weight_decay);
            for (parameter, state) in group.parameters.iter().zip(&mut states) {
                if parameter.has_grad() {
                    state.update(parameter, &self.options, group.lr_scale, decay)?;
                }
            }
        }
        Ok(())
    }

    fn lr(&self) -> f64 {
        self.options.rate(self.states.iter().map(|state| state.step).max().unwrap_or(0))
    }

    fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_at_least_zero("learning rate", lr)?;
        if self.options.relative_step {
            return Err(Error::argument("with relative_step: true Adafactor sets its learning rate itself"));
        }
        self.options.lr = Some(lr);
        Ok(())
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn name(&self) -> &'static str {
        "Adafactor"
    }

    fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        if let Some(lr) = self.options.lr {
            all.insert("lr".to_string(), Tensor::new(lr, &Device::Cpu)?);
        }
        for (at, (state, parameter)) in self.states.iter().zip(self.parameters()).enumerate() {
            if state.step > 0 {
                all.insert(format!("state.{at}.step"), Tensor::new(state.step as f64, &Device::Cpu)?);
                for (name, values, dims) in state.named(&parameter.dims()) {
                    if !values.is_empty() {
                        all.insert(format!("state.{at}.{name}"), Tensor::from_slice(values, dims, &Device::Cpu)?);
                    }
                }
            }
        }
        Ok(all)
    }

    fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let parameters = self.parameters();
        let mut states: Vec<State> = parameters.iter().map(|_| State::default()).collect();
        let mut lr = None;
        let top = |name: &str, value: &Tensor| {
            if name == "lr" {
                lr = Some(host::scalar(value)?);
            }
            Ok(name == "lr")
        };
        host::read_state(state, parameters.len(), top, |at, key, value| states[at].load(key, &parameters[at], value))?;
        for (at, (state, parameter)) in states.iter().zip(&parameters).enumerate() {
            state.check_complete(at, parameter, self.options.beta1.is_some())?;
        }
        if let Some(lr) = lr {
            self.set_lr(lr)?;
        }
        self.states = states;
        Ok(())
    }
}

impl State {
    /// The state's parts by name, with their shapes for a parameter of this shape.
    fn named(&self, dims: &[usize]) -> [(&'static str, &Vec<f32>, Vec<usize>); 5] {
        let (rows, columns) = factor_dims(dims);
        [
            ("exp_avg_sq_row", &self.averages.rows, rows),
            ("exp_avg_sq_col", &self.averages.columns, columns),
            ("exp_avg_sq", &self.averages.elements, dims.to_vec()),
            ("exp_avg", &self.momentum, dims.to_vec()),
            ("master", &self.master, dims.to_vec()),
        ]
    }

    /// Fails where a parameter with a past lacks an average, a wanted momentum among them, or the number of its steps: it would begin at 0
    /// in the middle of the training.
    fn check_complete(&self, at: usize, parameter: &Parameter, momentum: bool) -> Result<()> {
        let dims = parameter.dims();
        let mut needed = if dims.len() > 1 { vec!["exp_avg_sq_row", "exp_avg_sq_col"] } else { vec!["exp_avg_sq"] };
        if momentum {
            needed.push("exp_avg");
        }
        let parts = self.named(&dims);
        if self.step == 0 {
            let begun = parts.iter().any(|(_, values, _)| !values.is_empty());
            return if begun { Err(host::lacking(at, "step")) } else { Ok(()) };
        }
        let lacks = |name: &&&str| parts.iter().any(|(part, values, _)| part == *name && values.is_empty());
        match needed.iter().find(lacks) {
            Some(name) if parameter.elem_count() > 0 => Err(host::lacking(at, name)),
            _ => Ok(()),
        }
    }

    fn load(&mut self, key: &str, parameter: &Parameter, value: &Tensor) -> Result<()> {
        let dims = parameter.dims();
        let (rows, columns) = factor_dims(&dims);
        let (place, dims) = match key {
            "step" => {
                self.step = host::steps(value)?;
                return Ok(());
            }
            "exp_avg_sq_row" if dims.len() > 1 => (&mut self.averages.rows, rows),
            "exp_avg_sq_col" if dims.len() > 1 => (&mut self.averages.columns, columns),
            "exp_avg_sq" if dims.len() < 2 => (&mut self.averages.elements, dims),
            "exp_avg" => (&mut self.momentum, dims),
            "master" => (&mut self.master, dims),
            _ => {
                return Err(Error::argument(format!(
                    "unknown state \"{key}\" of a parameter of shape {dims:?}; Adafactor keeps step, exp_avg_sq_row and \
                     exp_avg_sq_col of matrices, exp_avg_sq of vectors, exp_avg"
                )));
            }
        };
        *place = host::shaped(key, value, &dims)?.flatten_all()?.to_vec1()?;
        Ok(())
    }

    fn update(&mut self, parameter: &Parameter, options: &AdafactorOptions, lr_scale: f64, decay: f64) -> Result<()> {
        let shape = Shape::of(&parameter.dims());
        let elements = parameter.elem_count();
        self.averages.prepare(shape, elements);
        if options.beta1.is_some() && self.momentum.is_empty() {
            self.momentum = buffer::zeroed(elements);
        }
        host::make_master(parameter, &mut self.master)?;
        self.step += 1;
        let entering = (self.step as f64).powf(options.decay_rate);
        let mut master = std::mem::take(&mut self.master);
        let done = parameter.with_grad(|gradient| {
            host::change(parameter, &mut master, |value| {
                let mut rate = options.rate(self.step) * lr_scale;
                if options.scale_parameter {
                    rate *= root_mean_square(sum_of_squares(value), elements).max(options.eps[1]);
                }
                let eps = options.eps[0] as f32;
                self.averages.enter(gradient, shape, eps, entering);
                let step = Step::new(&self.averages, shape);
                let rms = root_mean_square(step.sum_of_squares(gradient), elements);
                let size = rate / (rms / options.clip_threshold).max(1.0);
                let momentum = options.beta1.map(|beta1| (&mut self.momentum, beta1 as f32, (1.0 - beta1) as f32));
                step.apply(value, gradient, size as f32, (decay * rate) as f32, momentum);
            })
        });
        self.master = master;
        done?.unwrap_or(Ok(()))
    }
}

/// The shapes of the two averages of a parameter of this shape.
fn factor_dims(dims: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let [leading @ .., rows, columns] = dims else { return Default::default() };
    ([leading, &[*rows]].concat(), [leading, &[*columns]].concat())
}

fn root_mean_square(sum: f64, count: usize) -> f64 {
    (sum / count.max(1) as f64).sqrt()
}
