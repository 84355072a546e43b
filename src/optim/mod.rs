//! Optimisers with PyTorch's formulas and defaults, learning-rate schedules as transformers has them, clipping.
//!
//! Gradients are read from [`Parameter`]'s `.grad`; a parameter without one is skipped, as in PyTorch. State is f32 whatever the
//! parameter's dtype; bf16 and f16 parameters on the CPU get an f32 master copy, so that small updates are not rounded away. So do
//! bf16 parameters in [`Optimizer::step_on_device`]; elsewhere on other devices they are updated in f32 and rounded after every step.

mod adafactor;
mod adam;
mod adam8bit;
mod clip;
mod dynamic_map;
mod ema;
mod factored;
mod host;
mod lion;
mod loraplus;
mod muon;
mod plateau;
mod schedule_free;
mod scheduler;
mod sgd;

pub use adafactor::{Adafactor, AdafactorOptions};
pub use adam::{Adam, AdamOptions, AdamWOptions};
pub use adam8bit::{AdamW8bit, AdamW8bitOptions};
pub use clip::{DeviceNorm, clip_grad_norm, clip_to_norm, grad_norm, grad_norm_of_order};
pub use ema::Ema;
pub use lion::{Lion, LionOptions};
pub use loraplus::LoraPlusOptions;
pub use muon::{AdjustLr, Muon, MuonOptions};
pub use plateau::{PlateauMode, ThresholdMode};
pub use schedule_free::{AdamWScheduleFree, ScheduleFreeOptions};
pub use scheduler::{DecayShape, Schedule, ScheduleOptions, Scheduler};
pub use sgd::{Sgd, SgdOptions};

use crate::error::{Error, Result};
use crate::nn::Parameter;
use candle_core::Tensor;
use std::collections::BTreeMap;
use std::collections::HashSet;

/// Parameters that are updated with the same settings.
#[derive(Debug, Clone)]
pub struct ParamGroup {
    /// The parameters.
    pub parameters: Vec<Parameter>,
    /// The group's weight decay; `None`: the optimiser's.
    pub weight_decay: Option<f64>,
    /// The group's learning rate as a multiple of the optimiser's; schedules change both alike.
    pub lr_scale: f64,
    /// For [`Adam`] alone: the group's decay rates of the averages; `None`: the optimiser's.
    pub betas: Option<[f64; 2]>,
    /// For [`Adam`] alone: the group's term in the denominator; `None`: the optimiser's.
    pub eps: Option<f64>,
    /// For [`Sgd`] alone: the group's momentum; `None`: the optimiser's.
    pub momentum: Option<f64>,
    /// For [`Muon`] alone: whether the group's matrices are hidden ones (`Some(false)`: AdamW trains them). Default: they are.
    pub use_muon: Option<bool>,
    /// For [`AdamW8bit`] alone: whether the moments keep 32 bits however large a parameter is, as bitsandbytes and transformers have it
    /// for embeddings. Default false.
    pub wide_moments: bool,
}

impl ParamGroup {
    /// A group with the optimiser's settings.
    pub fn new(parameters: Vec<Parameter>) -> Self {
        Self {
            parameters,
            weight_decay: None,
            lr_scale: 1.0,
            betas: None,
            eps: None,
            momentum: None,
            use_muon: None,
            wide_moments: false,
        }
    }

    /// The same group with a weight decay of its own (0 for biases and norms).
    pub fn with_weight_decay(self, weight_decay: f64) -> Self {
        Self { weight_decay: Some(weight_decay), ..self }
    }
}

/// An optimiser.
pub trait Optimizer {
    /// Updates every parameter that has a gradient.
    ///
    /// # Errors
    /// A parameter's memory cannot be updated.
    fn step(&mut self) -> Result<()>;

    /// Clips the gradients to a common norm of at most `max_norm` (0: not at all) and updates every parameter, all on the parameters'
    /// device and without waiting for it. Where the norm is not finite, this step and all later ones change nothing. `None`, and nothing
    /// done, where this optimiser cannot do so for these parameters.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn step_on_device(&mut self, max_norm: f64) -> Result<Option<DeviceNorm>> {
        let _ = max_norm;
        Ok(None)
    }

    /// The learning rate.
    fn lr(&self) -> f64;

    /// Sets the learning rate.
    ///
    /// # Errors
    /// It is negative or not finite.
    fn set_lr(&mut self, lr: f64) -> Result<()>;

    /// The parameters by group.
    fn groups(&self) -> &[ParamGroup];

    /// The learning rates of the groups as multiples of the optimiser's.
    fn rate_scales(&self) -> Vec<f64> {
        self.groups().iter().map(|group| group.lr_scale).collect()
    }

    /// Puts the weights at which gradients are taken into the parameters. Only schedule-free optimisers keep others beside them.
    ///
    /// # Errors
    /// A parameter's memory cannot be updated.
    fn train_mode(&mut self) -> Result<()> {
        Ok(())
    }

    /// Puts the weights to evaluate and to save into the parameters; see [`Self::train_mode`].
    ///
    /// # Errors
    /// A parameter's memory cannot be updated.
    fn eval_mode(&mut self) -> Result<()> {
        Ok(())
    }

    /// "SGD", "Adam", "AdamW" and so on.
    fn name(&self) -> &'static str;

    /// All that a continuation needs beside the parameters: "lr", and per parameter (counted over all groups) "state.N.step",
    /// "state.N.exp_avg" and so on. Scalars are f64 tensors, so that the whole can be saved as safetensors.
    ///
    /// # Errors
    /// Out of memory.
    fn state_dict(&self) -> Result<BTreeMap<String, Tensor>>;

    /// Restores what [`Self::state_dict`] gave.
    ///
    /// # Errors
    /// Unknown names or other shapes.
    fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()>;

    /// Forgets the gradients of all parameters.
    fn zero_grad(&self) {
        self.groups().iter().flat_map(|group| &group.parameters).for_each(Parameter::zero_grad);
    }

    /// All parameters, in the order of their groups.
    fn parameters(&self) -> Vec<Parameter> {
        self.groups().iter().flat_map(|group| group.parameters.iter().cloned()).collect()
    }
}

/// Whether a parameter of this name belongs to an `nn.LayerNorm`, which transformers and PEFT tell by its class: in GPT-2 `ln_1`, `ln_2`
/// and `ln_f`. The other families' norms are no such modules.
pub(crate) fn is_layer_norm(name: &str) -> bool {
    name.split('.').any(|part| part.starts_with("ln_"))
}

/// Checks what every optimiser is given.
fn check_groups(groups: &[ParamGroup]) -> Result<()> {
    if groups.iter().all(|group| group.parameters.is_empty()) {
        return Err(Error::argument("the optimizer got no parameters; are all of them frozen?"));
    }
    let mut seen = HashSet::new();
    if !groups.iter().flat_map(|group| &group.parameters).all(|parameter| seen.insert(parameter.key())) {
        return Err(Error::argument("a parameter was given to the optimizer twice"));
    }
    for group in groups {
        check_at_least_zero("learning rate of a group", group.lr_scale)?;
        check_at_least_zero("weight_decay of a group", group.weight_decay.unwrap_or(0.0))?;
        check_at_least_zero("eps of a group", group.eps.unwrap_or(0.0))?;
        check_fraction("momentum of a group", group.momentum.unwrap_or(0.0))?;
        let [beta1, beta2] = group.betas.unwrap_or_default();
        check_fraction("betas[0] of a group", beta1)?;
        check_fraction("betas[1] of a group", beta2)?;
    }
    Ok(())
}

/// Refuses NaN, infinite and negative values in words.
fn check_at_least_zero(what: &str, value: f64) -> Result<()> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(Error::argument(format!("{what} must be a finite number >= 0, got {value}")))
}

/// Refuses values outside [0, 1).
fn check_fraction(what: &str, value: f64) -> Result<()> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(Error::argument(format!("{what} must be at least 0 and below 1, got {value}")))
}

/// Fails unless every parameter that requires a gradient has a finite one: called after each step's backward pass, because an
/// operation without a backward pass leaves gradients out silently.
///
/// # Errors
/// Names every parameter whose gradient is missing or not finite.
pub fn check_gradients(named: &[(String, Parameter)]) -> Result<()> {
    let (mut missing, mut broken) = (Vec::new(), Vec::new());
    for (name, parameter) in named.iter().filter(|(_, parameter)| parameter.requires_grad()) {
        match parameter.with_grad(host::all_finite)? {
            Some(true) => {}
            Some(false) => broken.push(name.as_str()),
            None => missing.push(name.as_str()),
        }
    }
    let mut problems = Vec::new();
    if !missing.is_empty() {
        problems.push(format!("no gradient reached {}: is it used in forward? freeze it if not", missing.join(", ")));
    }
    if !broken.is_empty() {
        problems
            .push(format!("the gradient is NaN or infinite in {}: lower the learning rate or clip gradients", broken.join(", ")));
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Training(problems.join("; "))) }
}
