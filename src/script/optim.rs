//! `optim::...`, learning-rate schedules and gradient clipping.

#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::error::{IntoScript, ScriptResult, positioned};
use super::module_methods::tensors_of;
use super::options::{Validate, options};
use super::tensor::TensorValue;
use super::tensor_data::kind;
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::optim::{
    self as library, Adam, AdamOptions, AdamWOptions, ParamGroup, Schedule, Scheduler as LibraryScheduler, Sgd, SgdOptions,
};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, Dynamic, Map};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;

use OptimizerValue as Optimizer;

/// An optimiser as scripts hold it.
#[derive(Clone)]
pub struct OptimizerValue(pub Rc<RefCell<dyn library::Optimizer>>);

/// A schedule and the optimiser that it drives.
#[derive(Clone)]
pub struct SchedulerValue {
    schedule: Rc<RefCell<LibraryScheduler>>,
    optimizer: OptimizerValue,
}

impl Validate for SgdOptions {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

impl Validate for AdamOptions {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

impl Validate for AdamWOptions {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

fn parameter(function: &str, at: &str, value: &Dynamic) -> Result<Parameter> {
    let Some(tensor) = value.read_lock::<TensorValue>() else {
        return Err(Error::argument(format!("{function}: parameter {at} is no tensor but {}", kind(value))));
    };
    match &tensor.leaf {
        Some(parameter) => Ok(parameter.clone()),
        None if tensor.tensor.track_op() => Err(Error::argument(format!(
            "{function}: parameter {at} was computed from other tensors; only tensors made with requires_grad: true can be optimised"
        ))),
        None => Err(Error::argument(format!(
            "{function}: parameter {at} does not require a gradient; make it with #{{ requires_grad: true }}"
        ))),
    }
}

/// Parameters from an array of tensors or a map of them.
fn parameters(function: &str, values: &Dynamic) -> Result<Vec<Parameter>> {
    if let Some(values) = values.read_lock::<Array>() {
        return values.iter().enumerate().map(|(at, value)| parameter(function, &at.to_string(), value)).collect();
    }
    if let Some(values) = values.read_lock::<Map>() {
        return values.iter().map(|(name, value)| parameter(function, name, value)).collect();
    }
    Err(Error::argument(format!("{function} needs an array of tensors, such as model.parameters(), got {}", kind(values))))
}

/// Groups from tensors, or from an array of maps with `params` and settings of their own, as PyTorch takes them.
fn groups(function: &str, values: &Dynamic, lr: f64) -> Result<Vec<ParamGroup>> {
    if let Some(maps) = values.read_lock::<Array>()
        && maps.first().is_some_and(Dynamic::is_map)
    {
        return maps.iter().map(|map| group(function, map, lr)).collect();
    }
    Ok(vec![ParamGroup::new(parameters(function, values)?)])
}

fn group(function: &str, value: &Dynamic, lr: f64) -> Result<ParamGroup> {
    let Some(map) = value.read_lock::<Map>() else {
        return Err(Error::argument(format!("{function}: parameter groups are maps, found {}", kind(value))));
    };
    let mut made = None;
    let (mut weight_decay, mut lr_scale) = (None, 1.0);
    for (key, value) in map.iter() {
        match key.as_str() {
            "params" => made = Some(parameters(function, value)?),
            "weight_decay" => weight_decay = Some(super::tensor_data::number(value)?),
            "lr" if lr > 0.0 => lr_scale = super::tensor_data::number(value)? / lr,
            "lr" => {
                return Err(Error::argument(format!(
                    "{function}: a group can have its own lr only if the optimizer's is above 0"
                )));
            }
            _ => {
                return Err(Error::argument(format!(
                    "{function}: unknown key \"{key}\" in a parameter group; there are params, lr, weight_decay"
                )));
            }
        }
    }
    match made {
        Some(parameters) => Ok(ParamGroup { parameters, weight_decay, lr_scale }),
        None => Err(Error::argument(format!("{function}: a parameter group needs the key params"))),
    }
}

fn handle(optimizer: impl library::Optimizer + 'static) -> Optimizer {
    OptimizerValue(Rc::new(RefCell::new(optimizer)))
}

fn in_use<T>(_: T) -> Error {
    Error::argument("the optimizer is in use by another call")
}

/// The constructors of an optimiser: with and without options.
macro_rules! optimizer {
    ($module:ident, $name:tt, $options:ty, $build:path, $(#[$doc:meta])*) => {
        #[export_module]
        mod $module {
            use super::*;
            $(#[$doc])*
            #[rhai_fn(name = $name, return_raw)]
            pub fn with_options(call: NativeCallContext, params: Dynamic, given: Map) -> ScriptResult<Optimizer> {
                let build = || {
                    let given: $options = options(concat!("optim::", $name), given)?;
                    let groups = groups(concat!("optim::", $name), &params, given.lr).script()?;
                    $build(groups, given).map(handle).script()
                };
                positioned(&call, build())
            }
            /// The same with PyTorch's default options.
            #[rhai_fn(name = $name, return_raw)]
            pub fn plain(call: NativeCallContext, params: Dynamic) -> ScriptResult<Optimizer> {
                with_options(call, params, Map::new())
            }
        }
    };
}

optimizer! { sgd_functions, "SGD", SgdOptions, Sgd::new,
    /// Stochastic gradient descent. Options: lr (default 0.001), momentum, dampening, weight_decay, nesterov.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let o = optim::SGD([w], #{ lr: 0.5 });
    /// (w * w).backward(); o.step(); w.item()      // => 0.0
    /// ```
}
optimizer! { adam_functions, "Adam", AdamOptions, Adam::new,
    /// Adam. Options: lr (default 0.001), betas, eps, weight_decay (an L2 penalty).
    /// ```rhai
    /// optim::Adam(nn::Linear(2, 3).parameters(), #{ lr: 0.01 }).lr      // => 0.01
    /// ```
}
optimizer! { adamw_functions, "AdamW", AdamWOptions, Adam::adamw,
    /// Adam with decoupled weight decay. Options: lr (default 0.001), betas, eps, weight_decay (default 0.01).
    /// ```rhai
    /// optim::AdamW(nn::Linear(2, 3).parameters(), #{ lr: 0.01 }).lr      // => 0.01
    /// ```
}

/// Options of `get_scheduler`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct SchedulerOptions {
    num_warmup_steps: u64,
    num_training_steps: Option<u64>,
}

impl Validate for SchedulerOptions {}

#[export_module]
mod methods {
    /// Updates the parameters by their gradients.
    pub type Optimizer = OptimizerValue;
    /// Sets an optimizer's learning rate from step to step.
    pub type Scheduler = SchedulerValue;

    /// Updates every parameter that has a gradient.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let o = optim::SGD([w], #{ lr: 0.25 });
    /// (w * 2.0).backward(); o.step(); w.item()      // => 0.5
    /// ```
    #[rhai_fn(return_raw)]
    pub fn step(optimizer: Optimizer) -> ScriptResult<()> {
        optimizer.0.try_borrow_mut().map_err(in_use).and_then(|mut optimizer| optimizer.step()).script()
    }

    /// Forgets the gradients of the optimizer's parameters.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); w.backward(); optim::SGD([w]).zero_grad(); w.grad      // => ()
    /// ```
    #[rhai_fn(return_raw)]
    pub fn zero_grad(optimizer: Optimizer) -> ScriptResult<()> {
        optimizer.0.try_borrow().map(|optimizer| optimizer.zero_grad()).map_err(in_use).script()
    }

    /// The learning rate.
    /// ```rhai
    /// let o = optim::SGD(nn::Linear(2, 3).parameters()); o.lr = 0.5; o.lr      // => 0.5
    /// ```
    #[rhai_fn(get = "lr", pure, return_raw)]
    pub fn lr(optimizer: &mut Optimizer) -> ScriptResult<f64> {
        optimizer.0.try_borrow().map(|optimizer| optimizer.lr()).map_err(in_use).script()
    }

    /// Sets the learning rate.
    #[rhai_fn(set = "lr", pure, return_raw)]
    pub fn set_lr(optimizer: &mut Optimizer, lr: Dynamic) -> ScriptResult<()> {
        let lr = super::super::tensor_data::number(&lr).script()?;
        optimizer.0.try_borrow_mut().map_err(in_use).and_then(|mut optimizer| optimizer.set_lr(lr)).script()
    }

    /// The optimizer's state as a map of tensors: "lr", "state.0.step", "state.0.exp_avg" and so on.
    /// ```rhai
    /// optim::SGD(nn::Linear(2, 3).parameters()).state_dict().keys()      // => ["lr"]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn state_dict(optimizer: Optimizer) -> ScriptResult<Map> {
        let state = optimizer.0.try_borrow().map_err(in_use).and_then(|optimizer| optimizer.state_dict()).script()?;
        Ok(state.into_iter().map(|(name, tensor)| (name.into(), Dynamic::from(TensorValue::new(tensor)))).collect())
    }

    /// Restores the state that `state_dict` gave.
    #[rhai_fn(return_raw)]
    pub fn load_state_dict(optimizer: Optimizer, state: Map) -> ScriptResult<()> {
        let state = tensors_of("load_state_dict", &state).script()?;
        optimizer.0.try_borrow_mut().map_err(in_use).and_then(|mut optimizer| optimizer.load_state_dict(&state)).script()
    }

    /// A learning-rate schedule ("linear", "cosine", "constant", "constant_with_warmup") as transformers'. Options: num_warmup_steps,
    /// num_training_steps.
    /// ```rhai
    /// let o = optim::SGD(nn::Linear(2, 3).parameters(), #{ lr: 0.1 });
    /// let s = get_scheduler("linear", o, #{ num_training_steps: 2 }); s.step(); o.lr      // => 0.05
    /// ```
    #[rhai_fn(return_raw)]
    pub fn get_scheduler(name: &str, optimizer: Optimizer, given: Map) -> ScriptResult<Scheduler> {
        let given: SchedulerOptions = options("get_scheduler", given)?;
        let schedule: Schedule = name.parse::<Schedule>().script()?;
        let total = match (given.num_training_steps, schedule) {
            (Some(total), _) => total,
            (None, Schedule::Constant | Schedule::ConstantWithWarmup) => 0,
            (None, _) => return Err(format!("get_scheduler: \"{name}\" needs num_training_steps").into()),
        };
        let made = optimizer
            .0
            .try_borrow_mut()
            .map_err(in_use)
            .and_then(|mut optimizer| LibraryScheduler::new(schedule, &mut *optimizer, given.num_warmup_steps, total));
        Ok(SchedulerValue { schedule: Rc::new(RefCell::new(made.script()?)), optimizer })
    }

    /// A learning-rate schedule without warm-up.
    #[rhai_fn(name = "get_scheduler", return_raw)]
    pub fn get_scheduler_plain(name: &str, optimizer: Optimizer) -> ScriptResult<Scheduler> {
        get_scheduler(name, optimizer, Map::new())
    }

    /// Sets the learning rate of the next optimizer step.
    #[rhai_fn(name = "step", return_raw)]
    pub fn scheduler_step(scheduler: Scheduler) -> ScriptResult<()> {
        let SchedulerValue { schedule, optimizer } = scheduler;
        let mut optimizer = optimizer.0.try_borrow_mut().map_err(in_use).script()?;
        schedule.borrow_mut().step(&mut *optimizer).script()
    }

    /// The learning rate that was set last, as an array of one.
    /// ```rhai
    /// let o = optim::SGD(nn::Linear(2, 3).parameters(), #{ lr: 0.1 });
    /// get_scheduler("constant", o).get_last_lr()      // => [0.1]
    /// ```
    pub fn get_last_lr(scheduler: Scheduler) -> Array {
        vec![Dynamic::from_float(scheduler.schedule.borrow().lr())]
    }

    /// Scales the gradients down so that their norm over all parameters is at most `max_norm`; returns the norm before.
    /// ```rhai
    /// let w = tensor([3.0, 4.0], #{ requires_grad: true }); (w * w / 2.0).sum().backward(); clip_grad_norm([w], 1.0)      // => 5.0
    /// ```
    #[rhai_fn(name = "clip_grad_norm", name = "clip_grad_norm_", return_raw)]
    pub fn clip_grad_norm(params: Dynamic, max_norm: Dynamic) -> ScriptResult<f64> {
        let max_norm = super::super::tensor_data::number(&max_norm).script()?;
        parameters("clip_grad_norm", &params).and_then(|params| library::clip_grad_norm(&params, max_norm)).script()
    }

    /// The optimizer in words.
    #[rhai_fn(name = "to_string", name = "to_debug", pure)]
    pub fn to_text(optimizer: &mut Optimizer) -> String {
        describe(optimizer)
    }
}

fn describe(optimizer: &OptimizerValue) -> String {
    match optimizer.0.try_borrow() {
        Ok(o) => format!("{}(lr={}, parameters={})", o.name(), o.lr(), o.parameters().len()),
        Err(_) => "Optimizer (in use)".into(),
    }
}

/// Registers the static module `optim`, the optimisers' methods, schedules and clipping.
pub fn register(engine: &mut Registry<'_>) {
    let mut all = rhai::Module::new();
    let _ = all
        .combine_flatten(exported_module!(sgd_functions))
        .combine_flatten(exported_module!(adam_functions))
        .combine_flatten(exported_module!(adamw_functions));
    let _ = engine.register_type_with_name::<OptimizerValue>("Optimizer").register_type_with_name::<SchedulerValue>("Scheduler");
    super::display::register::<OptimizerValue>(describe, |optimizer| describe(optimizer).into());
    let schedule = |s: &SchedulerValue| format!("Scheduler(lr={})", s.schedule.borrow().lr());
    super::display::register::<SchedulerValue>(schedule, move |s| schedule(s).into());
    engine
        .options::<SgdOptions>(&["optim::SGD"], &[])
        .options::<AdamOptions>(&["optim::Adam"], &[])
        .options::<AdamWOptions>(&["optim::AdamW"], &[])
        .options::<SchedulerOptions>(&["get_scheduler"], &[]);
    let _ = engine.register_static_module("optim", all.into()).register_global_module(exported_module!(methods).into());
}
