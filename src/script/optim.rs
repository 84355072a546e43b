//! `optim::...`: the optimisers, what they have in common, and gradient clipping.

#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::error::{IntoScript, ScriptResult, positioned};
use super::module_methods::tensors_of;
use super::options::{OptionMap, Validate, options};
use super::tensor::TensorValue;
use super::tensor_data::{kind, number};
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::optim::{
    self as library, Adafactor, AdafactorOptions, Adam, AdamOptions, AdamW8bit, AdamW8bitOptions, AdamWOptions,
    AdamWScheduleFree, Lion, LionOptions, Muon, MuonOptions, ParamGroup, ScheduleFreeOptions, Sgd, SgdOptions,
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

/// Options of an optimiser.
trait OptimizerOptions: Validate {
    /// The learning rates against which a group's own is measured, 0 where there is none: that of most groups, and that of a group with
    /// `use_muon: false`.
    fn rates(&self) -> [f64; 2];
}

macro_rules! optimizer_options {
    ($($options:ty: |$given:ident| $rates:expr;)*) => {
        $(
            impl Validate for $options {
                fn validate(&self) -> Result<()> {
                    Self::validate(self)
                }
            }

            impl OptimizerOptions for $options {
                fn rates(&self) -> [f64; 2] {
                    let $given = self;
                    $rates
                }
            }
        )*
    };
}

optimizer_options! {
    SgdOptions: |given| [given.lr; 2];
    AdamOptions: |given| [given.lr; 2];
    AdamWOptions: |given| [given.lr; 2];
    AdamW8bitOptions: |given| [given.lr; 2];
    AdafactorOptions: |given| [given.lr.unwrap_or(0.0); 2];
    LionOptions: |given| [given.lr; 2];
    MuonOptions: |given| [given.lr, given.adamw_lr.unwrap_or(given.lr)];
    ScheduleFreeOptions: |given| [given.lr; 2];
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
pub(super) fn parameters(function: &str, values: &Dynamic) -> Result<Vec<Parameter>> {
    if let Some(values) = values.read_lock::<Array>() {
        return values.iter().enumerate().map(|(at, value)| parameter(function, &at.to_string(), value)).collect();
    }
    if let Some(values) = values.read_lock::<Map>() {
        return values.iter().map(|(name, value)| parameter(function, name, value)).collect();
    }
    Err(Error::argument(format!("{function} needs an array of tensors, such as model.parameters(), got {}", kind(values))))
}

/// Groups from tensors, or from an array of maps with `params` and settings of their own, as PyTorch takes them.
fn groups(function: &str, values: &Dynamic, rates: [f64; 2]) -> Result<Vec<ParamGroup>> {
    if let Some(maps) = values.read_lock::<Array>()
        && maps.first().is_some_and(Dynamic::is_map)
    {
        return maps.iter().map(|map| group(function, map, rates)).collect();
    }
    Ok(vec![ParamGroup::new(parameters(function, values)?)])
}

fn group(function: &str, value: &Dynamic, rates: [f64; 2]) -> Result<ParamGroup> {
    let Some(map) = value.read_lock::<Map>() else {
        return Err(Error::argument(format!("{function}: parameter groups are maps, found {}", kind(value))));
    };
    let mut made = None;
    let (mut weight_decay, mut lr, mut use_muon, mut wide_moments) = (None, None, None, false);
    let (mut betas, mut eps, mut momentum) = (None, None, None);
    let adam = matches!(function, "optim::Adam" | "optim::AdamW");
    for (key, value) in map.iter() {
        match key.as_str() {
            "params" => made = Some(parameters(function, value)?),
            "weight_decay" => weight_decay = Some(number(value)?),
            "lr" => lr = Some(number(value)?),
            "betas" if adam => betas = Some(pair(function, value)?),
            "eps" if adam => eps = Some(number(value)?),
            "momentum" if function == "optim::SGD" => momentum = Some(number(value)?),
            "use_muon" if function == "optim::Muon" => {
                let hidden = value
                    .as_bool()
                    .map_err(|_| Error::argument(format!("{function}: use_muon must be true or false, got {}", kind(value))))?;
                use_muon = Some(hidden);
            }
            "optim_bits" if function == "optim::AdamW8bit" => {
                wide_moments = match value.as_int() {
                    Ok(8) => false,
                    Ok(32) => true,
                    _ => return Err(Error::argument(format!("{function}: optim_bits must be 8 or 32, got {value}"))),
                };
            }
            _ => {
                let own = match function {
                    "optim::Adam" | "optim::AdamW" => ", betas, eps",
                    "optim::SGD" => ", momentum",
                    "optim::Muon" => ", use_muon",
                    "optim::AdamW8bit" => ", optim_bits",
                    _ => "",
                };
                return Err(Error::argument(format!(
                    "{function}: unknown key \"{key}\" in a parameter group; there are params, lr, weight_decay{own}"
                )));
            }
        }
    }
    let lr_scale = lr.map_or(Ok(1.0), |lr| scale(function, lr, rates[usize::from(use_muon == Some(false))]))?;
    match made {
        Some(parameters) => Ok(ParamGroup { parameters, weight_decay, lr_scale, betas, eps, momentum, use_muon, wide_moments }),
        None => Err(Error::argument(format!("{function}: a parameter group needs the key params"))),
    }
}

/// Two numbers.
fn pair(function: &str, value: &Dynamic) -> Result<[f64; 2]> {
    let refuse = || Error::argument(format!("{function}: betas of a parameter group must be two numbers, got {}", kind(value)));
    let array = value.read_lock::<Array>().ok_or_else(refuse)?;
    match array.as_slice() {
        [first, second] => Ok([number(first)?, number(second)?]),
        _ => Err(refuse()),
    }
}

/// A group's own learning rate as a multiple of the optimiser's.
fn scale(function: &str, lr: f64, of: f64) -> Result<f64> {
    if !lr.is_finite() || lr < 0.0 {
        return Err(Error::argument(format!("{function}: the lr of a parameter group must be a finite number >= 0, got {lr}")));
    }
    if of > 0.0 {
        return Ok(lr / of);
    }
    Err(Error::argument(format!("{function}: a group can have its own lr only if the optimizer's is above 0")))
}

/// Options of `zero_grad`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ZeroGradOptions {
    set_to_none: bool,
}

impl Default for ZeroGradOptions {
    fn default() -> Self {
        Self { set_to_none: true }
    }
}

impl Validate for ZeroGradOptions {
    fn validate(&self) -> Result<()> {
        if self.set_to_none {
            return Ok(());
        }
        Err(Error::argument("set_to_none can only be true: a gradient is forgotten, and .grad is () then"))
    }
}

/// Options of `clip_grad_norm`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct ClipOptions {
    /// Whether a norm that is not finite is an error. Default false.
    error_if_nonfinite: bool,
}

impl Validate for ClipOptions {}

/// Clips, and returns the norm before.
fn clip(params: &Dynamic, max_norm: &Dynamic, norm_type: Option<&Dynamic>, given: &ClipOptions) -> Result<f64> {
    let max_norm = number(max_norm)?;
    if max_norm.is_nan() || max_norm < 0.0 {
        return Err(Error::argument(format!("max_norm must be a number >= 0, got {max_norm}")));
    }
    let order = norm_type.map_or(Ok(2.0), |order| super::tensor_norm::order("clip_grad_norm", order))?;
    let params = parameters("clip_grad_norm", params)?;
    let norm = library::grad_norm_of_order(&params, order)?;
    if given.error_if_nonfinite && !norm.is_finite() {
        return Err(Error::argument(format!("clip_grad_norm: the norm of the gradients is {norm}; nothing was clipped")));
    }
    library::clip_to_norm(&params, norm, max_norm);
    Ok(norm)
}

fn handle(optimizer: impl library::Optimizer + 'static) -> Optimizer {
    OptimizerValue(Rc::new(RefCell::new(optimizer)))
}

pub(super) fn in_use<T>(_: T) -> Error {
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
                    let groups = groups(concat!("optim::", $name), &params, given.rates()).script()?;
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
    /// Stochastic gradient descent. Options: lr (default 0.001), momentum, dampening, weight_decay, nesterov, maximize.
    /// A parameter group may have its own lr, momentum and weight_decay.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let o = optim::SGD([w], #{ lr: 0.5 });
    /// (w * w).backward(); o.step(); w.item()      // => 0.0
    /// ```
}
optimizer! { adam_functions, "Adam", AdamOptions, Adam::new,
    /// Adam. Options: lr (default 0.001), betas, eps, weight_decay (an L2 penalty), maximize.
    /// A parameter group may have its own lr, betas, eps and weight_decay.
    /// ```rhai
    /// optim::Adam(nn::Linear(2, 3).parameters(), #{ lr: 0.01 }).lr      // => 0.01
    /// ```
}
optimizer! { adamw_functions, "AdamW", AdamWOptions, Adam::adamw,
    /// Adam with decoupled weight decay. Options: lr (default 0.001), betas, eps, weight_decay (default 0.01),
    /// maximize. A parameter group may have its own lr, betas, eps and weight_decay.
    /// ```rhai
    /// optim::AdamW(nn::Linear(2, 3).parameters(), #{ lr: 0.01 }).lr      // => 0.01
    /// ```
}

optimizer! { adamw8bit_functions, "AdamW8bit", AdamW8bitOptions, AdamW8bit::new,
    /// AdamW whose two moments take 8 bits each, a quarter of the memory, as bitsandbytes has it (arXiv:2110.02861). Options: lr (default
    /// 0.001), betas, eps, weight_decay (default 0.01), min_8bit_size (4096: smaller parameters keep 32-bit moments). Embeddings are better given
    /// as a group with optim_bits: 32, as the Trainer does.
    /// ```rhai
    /// let w = ones([64, 64], #{ requires_grad: true }); let o = optim::AdamW8bit([w], #{ lr: 0.5, weight_decay: 0 });
    /// w.sum().backward(); o.step(); o.state_dict()["state.0.state1"].dtype == "u8"      // => true
    /// ```
}
optimizer! { adafactor_functions, "Adafactor", AdafactorOptions, Adafactor::new,
    /// Adafactor as transformers has it (arXiv:1804.04235): of a matrix only the squares' averages by row and by column are kept. Options: lr
    /// (only with relative_step: false), scale_parameter (true), relative_step (true: the rate is min(0.01, 1 / sqrt(step))),
    /// warmup_init (false), eps ([1e-30, 1e-3]), clip_threshold (1), decay_rate (-0.8), beta1 (none), weight_decay (0).
    /// ```rhai
    /// optim::Adafactor(nn::Linear(2, 3).parameters(), #{ lr: 0.001, scale_parameter: false, relative_step: false }).lr      // => 0.001
    /// ```
}
optimizer! { lion_functions, "Lion", LionOptions, Lion::new,
    /// Lion (arXiv:2302.06675): every element moves by lr in the direction of its momentum. Half of AdamW's memory; usual are a third to a
    /// tenth of AdamW's lr and as much more weight_decay. Options: lr (default 1e-4), betas ([0.9, 0.99]), weight_decay (0).
    /// ```rhai
    /// let w = tensor([1.0, 1.0], #{ requires_grad: true }); let o = optim::Lion([w], #{ lr: 0.25 });
    /// (w * tensor([3.0, -0.1])).sum().backward(); o.step(); w.to_list()      // => [0.75, 1.25]
    /// ```
}
optimizer! { muon_functions, "Muon", MuonOptions, Muon::new,
    /// Muon as torch has it: the momentum of a matrix is made near orthogonal (arXiv:2502.16982). Matrices get Muon, everything else AdamW, and
    /// so should embeddings and the head: give them as a group with use_muon: false. Options: lr (default 0.001), weight_decay (0.1),
    /// momentum (0.95), nesterov (true), ns_coefficients, ns_steps (5), eps, adjust_lr_fn ("original", "match_rms_adamw": updates as large as
    /// AdamW's, "spectral_unclamped"); for AdamW adamw_lr (default lr), adamw_betas, adamw_eps, adamw_weight_decay (default weight_decay).
    /// The lr of a group is that of its matrices; vectors beside them have as much more or less of adamw_lr.
    /// ```rhai
    /// let m = #{ embedding: nn::Embedding(9, 4), hidden: nn::Linear(4, 4) };
    /// let groups = [#{ params: m.hidden.parameters() }, #{ params: m.embedding.parameters(), use_muon: false }];
    /// optim::Muon(groups, #{ lr: 0.02, adamw_lr: 3e-4, adjust_lr_fn: "match_rms_adamw" }).lr      // => 0.02
    /// ```
}
optimizer! { schedule_free_functions, "AdamWScheduleFree", ScheduleFreeOptions, AdamWScheduleFree::new,
    /// AdamW that needs no schedule (arXiv:2405.15682): to evaluate and to save there are averaged weights. Call `.train()` before training and
    /// `.eval()` before evaluating or saving. Options: lr (default 0.0025), betas ([0.9, 0.999]), eps, weight_decay (0), warmup_steps (0),
    /// r (0), weight_lr_power (2).
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let o = optim::AdamWScheduleFree([w], #{ lr: 0.5 });
    /// o.train();
    /// for step in 0..20 { (w * w).backward(); o.step(); o.zero_grad(); }
    /// o.eval();
    /// w.item() < 0.5      // => true
    /// ```
}
optimizer! { schedule_free_alias, "ScheduleFreeAdamW", ScheduleFreeOptions, AdamWScheduleFree::new,
    /// The same as `optim::AdamWScheduleFree`.
    /// ```rhai
    /// optim::ScheduleFreeAdamW(nn::Linear(2, 3).parameters()).lr      // => 0.0025
    /// ```
}

#[export_module]
mod methods {
    /// Updates the parameters by their gradients.
    pub type Optimizer = OptimizerValue;

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

    /// The same. Options: set_to_none, true as in PyTorch; gradients of zeros in the place of none are not to be had.
    #[rhai_fn(name = "zero_grad", return_raw)]
    pub fn zero_grad_with(optimizer: Optimizer, given: Map) -> ScriptResult<()> {
        let _: ZeroGradOptions = options("zero_grad", given)?;
        zero_grad(optimizer)
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

    /// As a module's: puts the weights to train into the parameters, for `optim::AdamWScheduleFree`, which needs it before the first
    /// step. Other optimizers have only these.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let o = optim::AdamWScheduleFree([w]); w.backward();
    /// o.train(); o.step(); w.item() < 1.0      // => true
    /// ```
    #[rhai_fn(name = "train", return_raw)]
    pub fn train_mode(optimizer: Optimizer) -> ScriptResult<()> {
        optimizer.0.try_borrow_mut().map_err(in_use).and_then(|mut optimizer| optimizer.train_mode()).script()
    }

    /// As `.train()`, before evaluating and saving: puts the averaged weights of `optim::AdamWScheduleFree` into the parameters.
    /// ```rhai
    /// let w = tensor(1.0, #{ requires_grad: true }); let o = optim::AdamWScheduleFree([w], #{ lr: 0.25 });
    /// o.train(); for step in 0..2 { w.backward(); o.step(); o.zero_grad(); }
    /// let trained = w.item(); o.eval(); w.item() > trained      // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn eval_mode(optimizer: Optimizer) -> ScriptResult<()> {
        optimizer.0.try_borrow_mut().map_err(in_use).and_then(|mut optimizer| optimizer.eval_mode()).script()
    }

    /// Scales the gradients down so that their norm over all parameters is at most `max_norm`; returns the norm before.
    /// ```rhai
    /// let w = tensor([3.0, 4.0], #{ requires_grad: true }); (w * w / 2.0).sum().backward(); clip_grad_norm([w], 1.0)      // => 5.0
    /// ```
    #[rhai_fn(name = "clip_grad_norm", name = "clip_grad_norm_", return_raw)]
    pub fn clip_grad_norm(params: Dynamic, max_norm: Dynamic) -> ScriptResult<f64> {
        clip(&params, &max_norm, None, &ClipOptions::default()).script()
    }

    /// The same by another norm than the 2-norm, such as 1 or "inf", the largest size; or with the options norm_type,
    /// error_if_nonfinite (false).
    /// ```rhai
    /// let w = tensor([3.0, 4.0], #{ requires_grad: true }); (w * w / 2.0).sum().backward();
    /// clip_grad_norm([w], 1.0, #{ norm_type: "inf" })      // => 4.0
    /// w.grad      // => tensor([0.7500, 1.0000])
    /// ```
    #[rhai_fn(name = "clip_grad_norm", name = "clip_grad_norm_", return_raw)]
    pub fn clip_grad_norm_by(params: Dynamic, max_norm: Dynamic, norm_type: Dynamic) -> ScriptResult<f64> {
        let Some(given) = norm_type.read_lock::<Map>().map(|given| Map::clone(&given)) else {
            return clip(&params, &max_norm, Some(&norm_type), &ClipOptions::default()).script();
        };
        let mut given = OptionMap::new("clip_grad_norm", given);
        let named = given.take_any("norm_type");
        clip(&params, &max_norm, named.as_ref(), &given.parse()?).script()
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

/// Registers the static module `optim`, the optimisers' methods, clipping, schedules and averages of weights.
pub fn register(engine: &mut Registry<'_>) {
    let mut all = rhai::Module::new();
    let _ = all
        .combine_flatten(exported_module!(sgd_functions))
        .combine_flatten(exported_module!(adam_functions))
        .combine_flatten(exported_module!(adamw_functions))
        .combine_flatten(exported_module!(adamw8bit_functions))
        .combine_flatten(exported_module!(adafactor_functions))
        .combine_flatten(exported_module!(lion_functions))
        .combine_flatten(exported_module!(muon_functions))
        .combine_flatten(exported_module!(schedule_free_functions))
        .combine_flatten(exported_module!(schedule_free_alias));
    let _ = engine.register_type_with_name::<OptimizerValue>("Optimizer");
    super::display::register::<OptimizerValue>(describe, |optimizer| describe(optimizer).into());
    engine
        .options::<ZeroGradOptions>(&["zero_grad"], &[])
        .options::<ClipOptions>(&["clip_grad_norm", "clip_grad_norm_"], &[("norm_type", "float = 2.0")])
        .options::<SgdOptions>(&["optim::SGD"], &[])
        .options::<AdamOptions>(&["optim::Adam"], &[])
        .options::<AdamWOptions>(&["optim::AdamW"], &[])
        .options::<AdamW8bitOptions>(&["optim::AdamW8bit"], &[])
        .options::<AdafactorOptions>(&["optim::Adafactor"], &[])
        .options::<LionOptions>(&["optim::Lion"], &[])
        .options::<MuonOptions>(&["optim::Muon"], &[])
        .options::<ScheduleFreeOptions>(&["optim::AdamWScheduleFree", "optim::ScheduleFreeAdamW"], &[]);
    let _ = engine.register_static_module("optim", all.into()).register_global_module(exported_module!(methods).into());
    super::schedule::register(engine);
    super::ema::register(engine);
}
