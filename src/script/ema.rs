//! `EMA`: moving averages of weights.

#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]
#![allow(clippy::upper_case_acronyms, reason = "scripts call the type so")]

use super::error::{IntoScript, ScriptResult};
use super::module_methods::tensors_of;
use super::optim::parameters;
use super::options::{Validate, options};
use super::tensor::TensorValue;
use crate::error::{Error, Result};
use crate::optim::Ema;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Dynamic, FnPtr, Map};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::rc::Rc;

/// An average as scripts hold it.
#[derive(Clone)]
pub struct EmaValue(Rc<RefCell<Ema>>);

/// Options of `EMA`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct EmaOptions {
    decay: f64,
}

impl Default for EmaOptions {
    fn default() -> Self {
        Self { decay: 0.999 }
    }
}

impl Validate for EmaOptions {
    fn validate(&self) -> Result<()> {
        if (0.0..=1.0).contains(&self.decay) {
            return Ok(());
        }
        Err(Error::argument(format!("decay must be between 0 and 1, got {}", self.decay)))
    }
}

impl EmaValue {
    fn change<T>(&self, work: impl FnOnce(&mut Ema) -> Result<T>) -> ScriptResult<T> {
        let busy = |_| Error::argument("the average is in use by another call");
        self.0.try_borrow_mut().map_err(busy).and_then(|mut ema| work(&mut ema)).script()
    }
}

#[export_module]
mod functions {
    /// A moving average of weights.
    pub type EMA = EmaValue;

    /// An exponential moving average of the parameters that require a gradient, with the numbers of torch's AveragedModel and
    /// get_ema_multi_avg_fn: call `update()` after each optimizer step, and `apply(|| ..)` to evaluate with the averaged weights. Options:
    /// decay (default 0.999), the share of the average that an update keeps.
    /// ```rhai
    /// let w = tensor(0.0, #{ requires_grad: true });
    /// let ema = EMA([w], #{ decay: 0.75 }); let o = optim::SGD([w], #{ lr: 1.0 });
    /// for step in 0..2 { o.zero_grad(); (w * -4.0).backward(); o.step(); ema.update(); }
    /// [w.item(), ema.apply(|| w.item()), w.item()]      // => [8.0, 5.0, 8.0]
    /// ```
    #[rhai_fn(name = "EMA", return_raw)]
    pub fn ema(params: Dynamic, given: Map) -> ScriptResult<EMA> {
        let given: EmaOptions = options("EMA", given)?;
        let made = parameters("EMA", &params).and_then(|params| Ema::new(params, given.decay));
        Ok(EmaValue(Rc::new(RefCell::new(made.script()?))))
    }

    /// An average with a decay of 0.999.
    #[rhai_fn(name = "EMA", return_raw)]
    pub fn ema_plain(params: Dynamic) -> ScriptResult<EMA> {
        ema(params, Map::new())
    }

    /// Lets the weights as they are enter the average. The first update takes them as they are.
    /// ```rhai
    /// let ema = EMA(nn::Linear(2, 3).parameters()); ema.update(); ema.num_updates      // => 1
    /// ```
    #[rhai_fn(return_raw)]
    pub fn update(ema: EMA) -> ScriptResult<()> {
        ema.change(Ema::update)
    }

    /// Keeps a copy of the weights for `restore()`.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let ema = EMA([w]);
    /// ema.store(); ema.copy_to(); ema.restore(); w.item()      // => 1.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn store(ema: EMA) -> ScriptResult<()> {
        ema.change(Ema::store)
    }

    /// Writes the averages into the parameters, for good unless `store()` was called before.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let ema = EMA([w]); let o = optim::SGD([w], #{ lr: 1.0 });
    /// w.backward(); o.step(); ema.copy_to(); w.item()      // => 1.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn copy_to(ema: EMA) -> ScriptResult<()> {
        ema.change(|ema| ema.copy_to())
    }

    /// Writes the weights that `store()` kept back into the parameters.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let ema = EMA([w]); let o = optim::SGD([w], #{ lr: 1.0 });
    /// w.backward(); o.step(); ema.store(); ema.copy_to(); ema.restore(); w.item()      // => 0.0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn restore(ema: EMA) -> ScriptResult<()> {
        ema.change(Ema::restore)
    }

    /// Runs a closure with the averages in the parameters, which then get their own values back, and gives its result; torch_ema's
    /// `with ema.average_parameters():`.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let ema = EMA([w]); let o = optim::SGD([w], #{ lr: 1.0 });
    /// w.backward(); o.step(); [ema.apply(|| w.item()), w.item()]      // => [1.0, 0.0]
    /// ```
    #[rhai_fn(name = "apply", name = "average_parameters", return_raw)]
    pub fn apply(call: NativeCallContext, ema: EMA, work: FnPtr) -> ScriptResult<Dynamic> {
        // The closure may ask the average for something: it is not borrowed meanwhile.
        ema.change(|ema| ema.store().and_then(|()| ema.copy_to()))?;
        let result = work.call_within_context::<Dynamic>(&call, ());
        ema.change(Ema::restore)?;
        result
    }

    /// The updates so far.
    /// ```rhai
    /// EMA(nn::Linear(2, 3).parameters()).num_updates      // => 0
    /// ```
    #[rhai_fn(get = "num_updates", pure)]
    pub fn num_updates(ema: &mut EMA) -> i64 {
        ema.0.borrow().updates() as i64
    }

    /// The share of the average that an update keeps.
    /// ```rhai
    /// EMA(nn::Linear(2, 3).parameters()).decay      // => 0.999
    /// ```
    #[rhai_fn(get = "decay", pure)]
    pub fn decay(ema: &mut EMA) -> f64 {
        ema.0.borrow().decay()
    }

    /// As an optimizer's: the averages as a map of tensors, "decay", "num_updates", "state.0.average" and so on.
    #[rhai_fn(name = "state_dict", return_raw)]
    pub fn ema_state_dict(ema: EMA) -> ScriptResult<Map> {
        let state = ema.change(|ema| ema.state_dict())?;
        Ok(state.into_iter().map(|(name, tensor)| (name.into(), Dynamic::from(TensorValue::new(tensor)))).collect())
    }

    /// As an optimizer's: restores what the average's `state_dict` gave.
    #[rhai_fn(name = "load_state_dict", return_raw)]
    pub fn ema_load_state_dict(ema: EMA, state: Map) -> ScriptResult<()> {
        let state = tensors_of("load_state_dict", &state).script()?;
        ema.change(|ema| ema.load_state_dict(&state))
    }
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    let _ = engine.register_type_with_name::<EmaValue>("EMA");
    let describe = |ema: &EmaValue| match ema.0.try_borrow() {
        Ok(ema) => format!("EMA(decay={}, parameters={}, updates={})", ema.decay(), ema.averages().len(), ema.updates()),
        Err(_) => "EMA (in use)".into(),
    };
    super::display::register::<EmaValue>(describe, move |ema| describe(ema).into());
    engine.options::<EmaOptions>(&["EMA"], &[]);
    let _ = engine.register_global_module(exported_module!(functions).into());
}
