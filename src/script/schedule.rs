//! `get_scheduler`: learning-rate schedules.

#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::error::{IntoScript, ScriptResult};
use super::module_methods::tensor_map;
use super::optim::{OptimizerValue, in_use};
use super::options::{OptionMap, Validate};
use super::tensor::TensorValue;
use super::tensor_data::number;
use crate::error::Result;
use crate::optim::{Schedule, ScheduleOptions, Scheduler as LibraryScheduler};
use crate::script::registry::Registry;
use candle_core::{Device, Tensor as CandleTensor};
use rhai::plugin::*;
use rhai::{Array, Dynamic, Map};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use OptimizerValue as Optimizer;

/// A schedule and the optimiser that it drives.
#[derive(Clone)]
pub struct SchedulerValue {
    schedule: Rc<RefCell<LibraryScheduler>>,
    optimizer: OptimizerValue,
}

// Whether options suit the schedule is checked where the two come together.
impl Validate for ScheduleOptions {}

/// Takes a number of steps out of the options.
fn steps(given: &mut OptionMap, name: &str) -> ScriptResult<Option<u64>> {
    let Some(value) = given.take_any(name) else { return Ok(None) };
    let steps = value.as_int().ok().and_then(|steps| u64::try_from(steps).ok());
    let Some(steps) = steps else {
        let given = super::display::describe(&value);
        return Err(format!("get_scheduler: option \"{name}\" must be an integer, 0 or more, given {given}").into());
    };
    Ok(Some(steps))
}

#[export_module]
mod functions {
    /// Sets an optimizer's learning rate from step to step.
    pub type Scheduler = SchedulerValue;

    /// A learning-rate schedule as transformers': "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup",
    /// "inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr", "warmup_stable_decay", "reduce_lr_on_plateau". Options: num_warmup_steps,
    /// num_training_steps, and what the schedule takes, as they are or in the map scheduler_specific_kwargs: num_cycles; lr_end, power; timescale;
    /// min_lr or min_lr_rate; num_decay_steps, num_stable_steps, warmup_type, decay_type ("linear", "cosine", "1-sqrt"), min_lr_ratio; mode, factor,
    /// patience, threshold, threshold_mode, cooldown, min_lr, eps.
    /// ```rhai
    /// let o = optim::SGD(nn::Linear(2, 3).parameters(), #{ lr: 0.1 });
    /// let s = get_scheduler("linear", o, #{ num_training_steps: 2 }); s.step(); o.lr      // => 0.05
    /// let s = get_scheduler("warmup_stable_decay", o, #{ num_training_steps: 10, num_decay_steps: 2, decay_type: "linear" });
    /// for i in 0..9 { s.step() }
    /// o.lr      // => 0.025
    /// ```
    #[rhai_fn(return_raw)]
    pub fn get_scheduler(name: &str, optimizer: Optimizer, given: Map) -> ScriptResult<Scheduler> {
        let mut given = given;
        // What stands in a map of its own goes with the rest.
        let specific =
            super::super::options::take_optional::<Map>("get_scheduler", &mut given, "scheduler_specific_kwargs", "a map")?;
        for (key, value) in specific.unwrap_or_default() {
            if given.insert(key.clone(), value).is_some() {
                return Err(format!("get_scheduler: \"{key}\" is given twice").into());
            }
        }
        let mut given = OptionMap::new("get_scheduler", given);
        let warmup = steps(&mut given, "num_warmup_steps")?.unwrap_or(0);
        let total = steps(&mut given, "num_training_steps")?;
        given.take_any("scheduler_specific_kwargs");
        let chosen: ScheduleOptions = given.parse()?;
        let schedule: Schedule = name.parse().script()?;
        let made = optimizer
            .0
            .try_borrow_mut()
            .map_err(in_use)
            .and_then(|mut optimizer| LibraryScheduler::new(schedule, chosen, &mut *optimizer, warmup, total));
        let made = made.script()?;
        Ok(SchedulerValue { schedule: Rc::new(RefCell::new(made)), optimizer })
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

    /// As `step()`, for "reduce_lr_on_plateau": sets the learning rate by a metric's value.
    /// ```rhai
    /// let o = optim::SGD(nn::Linear(2, 3).parameters(), #{ lr: 0.5 });
    /// let s = get_scheduler("reduce_lr_on_plateau", o, #{ factor: 0.5, patience: 0 });
    /// s.step(1.0); s.step(1.0); o.lr      // => 0.25
    /// ```
    #[rhai_fn(name = "step", return_raw)]
    pub fn scheduler_step_with(scheduler: Scheduler, metric: Dynamic) -> ScriptResult<()> {
        let metric = number(&metric).script()?;
        let SchedulerValue { schedule, optimizer } = scheduler;
        let mut optimizer = optimizer.0.try_borrow_mut().map_err(in_use).script()?;
        schedule.borrow_mut().step_with(metric, &mut *optimizer).script()
    }

    /// The learning rate that was set last, of each parameter group.
    /// ```rhai
    /// let o = optim::SGD(nn::Linear(2, 3).parameters(), #{ lr: 0.1 });
    /// get_scheduler("constant", o).get_last_lr()      // => [0.1]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn get_last_lr(scheduler: Scheduler) -> ScriptResult<Array> {
        let SchedulerValue { schedule, optimizer } = scheduler;
        let lr = schedule.borrow().lr();
        let scales = optimizer.0.try_borrow().map_err(in_use).map(|optimizer| optimizer.rate_scales()).script()?;
        Ok(scales.into_iter().map(|scale| Dynamic::from_float(lr * scale)).collect())
    }

    /// As an optimizer's: how far the schedule has come, "last_epoch" and what "reduce_lr_on_plateau" remembers, as a map of tensors.
    /// ```rhai
    /// let o = optim::SGD(nn::Linear(2, 3).parameters(), #{ lr: 0.1 });
    /// let s = get_scheduler("linear", o, #{ num_training_steps: 4 }); s.step();
    /// s.state_dict().last_epoch.item()      // => 1.0
    /// ```
    #[rhai_fn(name = "state_dict", return_raw)]
    pub fn scheduler_state(scheduler: Scheduler) -> ScriptResult<Map> {
        scheduler.schedule.borrow().state_dict().map(tensor_map).script()
    }

    /// As an optimizer's: goes to where the state was taken, and sets the learning rate.
    /// ```rhai
    /// let o = optim::SGD(nn::Linear(2, 3).parameters(), #{ lr: 0.1 });
    /// let s = get_scheduler("linear", o, #{ num_training_steps: 2 }); s.load_state_dict(#{ last_epoch: 1 }); o.lr      // => 0.05
    /// ```
    #[rhai_fn(name = "load_state_dict", return_raw)]
    pub fn load_scheduler_state(scheduler: Scheduler, state: Map) -> ScriptResult<()> {
        let SchedulerValue { schedule, optimizer } = scheduler;
        let mut optimizer = optimizer.0.try_borrow_mut().map_err(in_use).script()?;
        // Numbers too, as they come out of a JSON file.
        let entries = state.into_iter().map(|(name, value)| {
            let value = match value.read_lock::<TensorValue>() {
                Some(tensor) => tensor.value(),
                None => CandleTensor::new(number(&value)?, &Device::Cpu)?,
            };
            Ok((name.to_string(), value))
        });
        let state = entries.collect::<Result<BTreeMap<String, CandleTensor>>>().script()?;
        schedule.borrow_mut().load_state_dict(&state, &mut *optimizer).script()
    }
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    let _ = engine.register_type_with_name::<SchedulerValue>("Scheduler");
    let describe = |s: &SchedulerValue| format!("Scheduler(lr={})", s.schedule.borrow().lr());
    super::display::register::<SchedulerValue>(describe, move |s| describe(s).into());
    engine.options::<ScheduleOptions>(
        &["get_scheduler"],
        &[("num_warmup_steps", "int = 0"), ("num_training_steps", "int"), ("scheduler_specific_kwargs", "map = #{}")],
    );
    let _ = engine.register_global_module(exported_module!(functions).into());
}
