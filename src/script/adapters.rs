//! Several adapters on one model: added, loaded, switched, combined, merged for a while; and the optimiser of LoRA+.
#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::context::context;
use super::error::{IntoScript, ScriptResult, positioned};
use super::model::ModelValue;
use super::optim::OptimizerValue;
use super::options::{OptionMap, Validate, options};
use crate::adapter::{AttachOptions, CombineOptions, LoraConfig, SaveOptions};
use crate::error::{Error, Result};
use crate::optim::{Adam, AdamWOptions, LoraPlusOptions};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, Map};
use std::cell::RefCell;
use std::rc::Rc;

impl Validate for CombineOptions {}

impl Validate for LoraPlusOptions {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

/// Options of what puts an adapter on a model.
pub(super) const ATTACH: &[(&str, &str)] =
    &[("autocast_adapter_dtype", "bool = true"), ("adapter_name", r#"string = "default""#)];

/// The options in `given` of a function that puts an adapter on a model under a name that is given otherwise, or by `adapter_name`.
pub(super) fn attach_options(function: &str, name: Option<&str>, loads: bool, given: Map) -> ScriptResult<AttachOptions> {
    let mut given = OptionMap::new(function, given);
    let flag = "true or false";
    let autocast = given.take_optional::<bool>("autocast_adapter_dtype", flag)?.unwrap_or(true);
    let trainable = if loads { given.take_optional::<bool>("is_trainable", flag)?.unwrap_or(false) } else { false };
    let name = match name {
        Some(name) => Some(name.to_string()),
        None => given.take_optional::<rhai::ImmutableString>("adapter_name", "a name")?.map(String::from),
    };
    given.finish()?;
    Ok(AttachOptions { name: name.unwrap_or_else(|| AttachOptions::default().name), trainable, autocast })
}

/// The options of `save_pretrained`.
fn save_options(call: &NativeCallContext, given: Map) -> ScriptResult<SaveOptions> {
    let mut given = OptionMap::new("save_pretrained", given);
    let selected_adapters =
        given.take_any("selected_adapters").map(|value| names("save_pretrained", &value)).transpose().script()?;
    let convert_to_lora = given.take_optional::<bool>("convert_to_lora", "true or false")?.unwrap_or(false);
    let initial = given.take_optional::<rhai::ImmutableString>("path_initial_model_for_weight_conversion", "a folder")?;
    given.finish()?;
    let initial = initial.map(|folder| Ok::<_, Box<EvalAltResult>>(context(call)?.input_path(folder.as_str()))).transpose()?;
    Ok(SaveOptions { selected_adapters, convert_to_lora, path_initial_model_for_weight_conversion: initial })
}

/// One name, or an array of them.
fn names(function: &str, value: &Dynamic) -> Result<Vec<String>> {
    let one = |value: &Dynamic| {
        value.clone().into_string().map_err(|kind| Error::Argument(format!("{function} needs adapters' names, got {kind}")))
    };
    match value.read_lock::<Array>() {
        Some(values) => values.iter().map(one).collect(),
        None => Ok(vec![one(value)?]),
    }
}

#[export_module]
mod functions {
    #[rhai_fn(name = "save_pretrained", return_raw)]
    pub fn save_pretrained_with(call: NativeCallContext, model: ModelValue, folder: &str, given: Map) -> ScriptResult<()> {
        let save = || {
            let options = save_options(&call, given)?;
            model.save_adapters(&context(&call)?.output_path(folder), &options).script()
        };
        positioned(&call, save())
    }

    /// Adds a fresh adapter beside those that a model has. It acts, and is trained, after `set_adapter`; the first one does at once.
    /// `autocast_adapter_dtype: false` keeps it in the dtype of a bf16 or f16 base instead of f32.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 }));
    /// model.add_adapter("poems", LoraConfig(#{ r: 8, target_modules: ["v_proj"] }));
    /// [model.adapter_names, model.active_adapters] // => [["default", "poems"], ["default"]]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn add_adapter(call: NativeCallContext, model: ModelValue, name: &str, config: LoraConfig) -> ScriptResult<()> {
        add_adapter_with(call, model, name, config, Map::new())
    }

    #[rhai_fn(name = "add_adapter", return_raw)]
    pub fn add_adapter_with(
        call: NativeCallContext,
        model: ModelValue,
        name: &str,
        config: LoraConfig,
        given: Map,
    ) -> ScriptResult<()> {
        let add = || {
            let options = attach_options("add_adapter", Some(name), false, given)?;
            model.add_adapter(config, &options, &mut context(&call)?.random.borrow_mut()).script()
        };
        positioned(&call, add())
    }

    /// Adds a saved adapter (ours or PEFT's) beside those that a model has; it acts after `set_adapter`. Options: `is_trainable` (false),
    /// `autocast_adapter_dtype` (true). Warns where the adapter was made for a model of another name.
    ///
    /// ```rhai
    /// get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 })).save_pretrained("adapter");
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.load_adapter("adapter", "a"); model.load_adapter("adapter", "b");
    /// model.set_adapter("b");
    /// model.active_adapters // => ["b"]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn load_adapter(call: NativeCallContext, model: ModelValue, folder: &str, name: &str) -> ScriptResult<()> {
        load_adapter_with(call, model, folder, name, Map::new())
    }

    #[rhai_fn(name = "load_adapter", return_raw)]
    pub fn load_adapter_with(
        call: NativeCallContext,
        model: ModelValue,
        folder: &str,
        name: &str,
        given: Map,
    ) -> ScriptResult<()> {
        let load = || {
            let options = attach_options("load_adapter", Some(name), true, given)?;
            let session = context(&call)?;
            let warning = model.load_adapter_as(&session.input_path(folder), &options).script()?;
            warning.into_iter().for_each(|warning| session.control.warn(warning));
            Ok(())
        };
        positioned(&call, load())
    }

    /// Lets one adapter act, or several whose changes add up, and no others; those that act can be trained, the others cannot.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 }));
    /// model.add_adapter("poems", LoraConfig(#{ r: 8 }));
    /// model.set_adapter("poems");
    /// model.set_adapter(["default", "poems"]);
    /// model.active_adapters // => ["default", "poems"]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn set_adapter(call: NativeCallContext, model: ModelValue, name: Dynamic) -> ScriptResult<()> {
        positioned(&call, names("set_adapter", &name).and_then(|names| model.set_adapter(&names)).script())
    }

    /// Takes one adapter off a model. Where it was the only one that acts, the first of the others does.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 }));
    /// model.add_adapter("poems", LoraConfig(#{ r: 8 }));
    /// model.delete_adapter("default");
    /// model.active_adapters // => ["poems"]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn delete_adapter(call: NativeCallContext, model: ModelValue, name: &str) -> ScriptResult<()> {
        positioned(&call, model.delete_adapter(name).script())
    }

    /// The names of the adapters that act.
    #[rhai_fn(get = "active_adapters", pure)]
    pub fn active_adapters(model: &mut ModelValue) -> Array {
        ModelValue::active_adapters(model).into_iter().map(Dynamic::from).collect()
    }

    /// The names of all adapters that sit on a model.
    #[rhai_fn(get = "adapter_names", pure)]
    pub fn adapter_names(model: &mut ModelValue) -> Array {
        ModelValue::adapter_names(model).into_iter().map(Dynamic::from).collect()
    }

    /// Adds a new adapter that is the weighted sum of others, as PEFT does. `combination_type`: "svd" (default), "cat" (exact, the ranks
    /// add up), "linear" (a rough approximation), "ties", "dare_linear", "dare_ties", "magnitude_prune", and "ties_svd", "dare_linear_svd",
    /// "dare_ties_svd", "magnitude_prune_svd". Other options: `svd_rank`, `svd_clamp`, `density` (the share of the values to keep),
    /// `majority_sign_method` ("total", "frequency"). The new adapter acts after `set_adapter`. It is the sum also of adapters with `use_rslora`,
    /// of which PEFT makes the square root of the rank times as much.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 }));
    /// model.add_adapter("poems", LoraConfig(#{ r: 8 }));
    /// model.add_weighted_adapter(["default", "poems"], [0.7, 0.3], "both", #{ combination_type: "cat" });
    /// model.set_adapter("both");
    /// model.named_parameters()["base_model.model.model.layers.0.self_attn.q_proj.lora_A.both.weight"].shape // => [12, 32]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn add_weighted_adapter(
        call: NativeCallContext,
        model: ModelValue,
        adapters: Array,
        weights: Array,
        name: &str,
        given: Map,
    ) -> ScriptResult<()> {
        let add = || {
            let given: CombineOptions = options("add_weighted_adapter", given)?;
            let adapters = names("add_weighted_adapter", &adapters.into()).script()?;
            let weights = weights.iter().map(super::super::tensor_data::number).collect::<Result<Vec<_>>>().script()?;
            let session = context(&call)?;
            let mut random = session.random.borrow_mut();
            model.add_weighted_adapter(&adapters, &weights, name, &given, &mut random).script()
        };
        positioned(&call, add())
    }

    #[rhai_fn(name = "add_weighted_adapter", return_raw)]
    pub fn add_weighted_adapter_by_svd(
        call: NativeCallContext,
        model: ModelValue,
        adapters: Array,
        weights: Array,
        name: &str,
    ) -> ScriptResult<()> {
        add_weighted_adapter(call, model, adapters, weights, name, Map::new())
    }

    /// Lets the weights hold the changes of the adapters that act, for faster generation, until `unmerge_adapter()`.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4, init_lora_weights: false }));
    /// let before = model.forward([1, 2, 3]).logits;
    /// model.merge_adapter();
    /// model.forward([1, 2, 3]).logits.allclose(before, #{ atol: 1e-5 }) // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn merge_adapter(call: NativeCallContext, model: ModelValue) -> ScriptResult<()> {
        positioned(&call, model.merge_adapter().script())
    }

    /// Takes back what `merge_adapter()` did, bit for bit.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4, init_lora_weights: false }));
    /// let before = model.forward([1, 2, 3]).logits;
    /// model.merge_adapter();
    /// model.unmerge_adapter();
    /// model.forward([1, 2, 3]).logits == before // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn unmerge_adapter(call: NativeCallContext, model: ModelValue) -> ScriptResult<()> {
        positioned(&call, model.unmerge_adapter().script())
    }

    /// AdamW for an adapter by LoRA+ (Hayou et al. 2024, arXiv 2402.12354): B learns faster than A. Options: `lr` (0.001, A's),
    /// `loraplus_lr_ratio` (16), `loraplus_lr_embedding` (1e-6), `loraplus_weight_decay` (0, not for biases), `betas`, `eps`. The Trainer
    /// takes `loraplus_lr_ratio` in its arguments.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 }));
    /// create_loraplus_optimizer(model, #{ lr: 0.0002, loraplus_lr_ratio: 16 }).lr // => 0.0002
    /// ```
    #[rhai_fn(return_raw)]
    pub fn create_loraplus_optimizer(call: NativeCallContext, model: ModelValue, given: Map) -> ScriptResult<OptimizerValue> {
        let create = || {
            let given: LoraPlusOptions = options("create_loraplus_optimizer", given)?;
            let groups = given.groups(&model.some_trainable_parameters().script()?);
            let options =
                AdamWOptions { lr: given.lr, betas: given.betas, eps: given.eps, weight_decay: 0.0, ..AdamWOptions::default() };
            Ok(OptimizerValue(Rc::new(RefCell::new(Adam::adamw(groups, options).script()?))))
        };
        positioned(&call, create())
    }
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<CombineOptions>(
            &["add_weighted_adapter"],
            &[
                (
                    "combination_type",
                    r#""svd" | "linear" | "cat" | "ties" | "ties_svd" | "dare_linear" | "dare_ties" | "dare_linear_svd" | "dare_ties_svd" | "magnitude_prune" | "magnitude_prune_svd" = "svd""#,
                ),
                ("majority_sign_method", r#""total" | "frequency" = "total""#),
            ],
        )
        .options::<LoraPlusOptions>(&["create_loraplus_optimizer"], &[])
        .options_by_hand("add_adapter", &[("autocast_adapter_dtype", "bool = true")])
        .options_by_hand("load_adapter", &[("is_trainable", "bool = false"), ("autocast_adapter_dtype", "bool = true")])
        .options_by_hand(
            "save_pretrained",
            &[
                ("selected_adapters", "array"),
                ("convert_to_lora", "bool = false"),
                ("path_initial_model_for_weight_conversion", "string"),
            ],
        );
    engine.register_global_module(exported_module!(functions).into());
}
