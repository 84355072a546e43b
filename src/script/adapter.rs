//! Adapters: `LoraConfig`, `get_peft_model`, `PeftModel` and what a model with an adapter can do.
#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::adapters::{ATTACH, attach_options};
use super::context::context;
use super::display;
use super::display::from_json;
use super::error::{IntoScript, ScriptResult, positioned};
use super::model::ModelValue;
use super::options::{Validate, options};
use crate::adapter::LoraConfig;
use crate::error::Result;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{FnPtr, Map};

impl Validate for LoraConfig {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

#[export_module]
mod functions {
    /// Options of a LoRA adapter, with PEFT's names and defaults: `r` (8), `lora_alpha` (8), `target_modules` (names, a regular
    /// expression, or "all-linear"; default q_proj and v_proj), `lora_dropout` (0), `bias` ("none", "all", "lora_only"), `use_rslora`,
    /// `use_dora`, `lora_bias`, `modules_to_save`, `init_lora_weights` (true, false, "gaussian", "orthogonal", "pissa", "pissa_niter_16",
    /// "olora"), `layers_to_transform`, `layers_pattern`, `rank_pattern`, `alpha_pattern`, `exclude_modules`, `trainable_token_indices`,
    /// `ensure_weight_tying`, `task_type`.
    ///
    /// ```rhai
    /// let config = LoraConfig(#{ r: 16, lora_alpha: 32, target_modules: ["q_proj", "v_proj"], bias: "none" });
    /// config.r // => 16
    /// ```
    #[rhai_fn(name = "LoraConfig", return_raw)]
    pub fn lora_config(given: Map) -> ScriptResult<LoraConfig> {
        options("LoraConfig", given)
    }

    #[rhai_fn(name = "LoraConfig")]
    pub fn lora_config_default() -> LoraConfig {
        LoraConfig::default()
    }

    #[rhai_fn(index_get, pure, return_raw)]
    pub fn config_field(config: &mut LoraConfig, name: &str) -> ScriptResult<Dynamic> {
        let fields = serde_json::to_value(&*config).unwrap_or_default();
        let value = fields.get(name).ok_or_else(|| format!("LoraConfig has no field `{name}`"))?;
        Ok(from_json(value))
    }

    /// Freezes a model and puts a fresh LoRA adapter on it. The result and `model` are the same model; the adapter alone is trained.
    /// Options: `adapter_name` ("default"), `autocast_adapter_dtype` (true: the adapter is f32 whatever the base is; false: bf16 or f16
    /// where the base is).
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let peft_model = get_peft_model(model, LoraConfig(#{ r: 4 }));
    /// peft_model.named_parameters().keys().filter(|name| name.contains("lora")).len() // => 8
    /// ```
    #[rhai_fn(return_raw)]
    pub fn get_peft_model(call: NativeCallContext, model: ModelValue, config: LoraConfig) -> ScriptResult<ModelValue> {
        get_peft_model_with(call, model, config, Map::new())
    }

    #[rhai_fn(name = "get_peft_model", return_raw)]
    pub fn get_peft_model_with(
        call: NativeCallContext,
        model: ModelValue,
        config: LoraConfig,
        given: Map,
    ) -> ScriptResult<ModelValue> {
        let options = attach_options("get_peft_model", None, false, given)?;
        model.attach_as(config, &options, &mut context(&call)?.random.borrow_mut()).script()?;
        Ok(model)
    }

    /// Prints how many parameters are trained, in PEFT's words.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// get_peft_model(model, LoraConfig(#{ r: 4 })).print_trainable_parameters();
    /// ```
    #[rhai_fn(return_raw)]
    pub fn print_trainable_parameters(call: NativeCallContext, model: ModelValue) -> ScriptResult<()> {
        call.call_fn::<Dynamic>("print", (model.describe_trainable(),)).map(|_| ())
    }

    /// Adds the changes of the adapters that act to the weights and takes all adapters off. Quantised weights that they change become f32.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 }));
    /// model.merge_and_unload().named_parameters().keys().filter(|name| name.contains("lora")).len() // => 0
    /// ```
    #[rhai_fn(return_raw)]
    pub fn merge_and_unload(model: ModelValue) -> ScriptResult<ModelValue> {
        model.merge_and_unload().script()?;
        Ok(model)
    }

    /// Takes the adapters off; the model is the base again, bit for bit.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// let before = model.forward([1, 2, 3]).logits;
    /// get_peft_model(model, LoraConfig(#{ r: 4 })).unload().forward([1, 2, 3]).logits == before // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn unload(model: ModelValue) -> ScriptResult<ModelValue> {
        model.unload().script()?;
        Ok(model)
    }

    /// Calls a function while the adapters are switched off, so that the model is the base; gives its result. Adapters that the function
    /// chooses with `set_adapter` act after it.
    ///
    /// ```rhai
    /// let model = get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 }));
    /// model.disable_adapter(|| model.forward([1, 2]).logits.shape) // => [1, 2, 300]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn disable_adapter(call: NativeCallContext, model: ModelValue, work: FnPtr) -> ScriptResult<Dynamic> {
        model.without_adapter(|| work.call_within_context::<Dynamic>(&call, ()))
    }

    /// Whether an adapter sits on the model.
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random").has_adapter // => false
    /// ```
    #[rhai_fn(get = "has_adapter", pure)]
    pub fn has_adapter(model: &mut ModelValue) -> bool {
        model.has_adapter()
    }
}

#[export_module]
mod peft_model {
    /// Puts a saved adapter (ours or PEFT's) on a model. `is_trainable: true` lets it be trained further; by default it is frozen. Other
    /// options: `adapter_name` ("default"), `autocast_adapter_dtype` (true). Warns where it was made for a model of another name.
    ///
    /// ```rhai
    /// get_peft_model(AutoModelForCausalLM::from_pretrained("tiny-random"), LoraConfig(#{ r: 4 })).save_pretrained("adapter");
    /// let base = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// PeftModel::from_pretrained(base, "adapter").has_adapter // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn from_pretrained(call: NativeCallContext, model: ModelValue, folder: &str) -> ScriptResult<ModelValue> {
        from_pretrained_with(call, model, folder, Map::new())
    }

    #[rhai_fn(name = "from_pretrained", return_raw)]
    pub fn from_pretrained_with(
        call: NativeCallContext,
        model: ModelValue,
        folder: &str,
        given: Map,
    ) -> ScriptResult<ModelValue> {
        let load = || {
            let options = attach_options("PeftModel::from_pretrained", None, true, given)?;
            let session = context(&call)?;
            model.refuse_second().script()?;
            let warning = model.load_adapter_as(&session.input_path(folder), &options).script()?;
            warning.into_iter().for_each(|warning| session.control.warn(warning));
            Ok(())
        };
        positioned(&call, load())?;
        Ok(model)
    }
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine
        .options::<LoraConfig>(
            &["LoraConfig"],
            &[
                ("target_modules", r#"array | string = ["q_proj", "v_proj"]"#),
                ("init_lora_weights", r#"bool | "gaussian" | "orthogonal" | "pissa" | "olora" | string = true"#),
                ("layers_to_transform", "int | array"),
                ("layers_pattern", "string | array"),
            ],
        )
        .options_by_hand("get_peft_model", ATTACH)
        .options_by_hand(
            "PeftModel::from_pretrained",
            &[
                ("is_trainable", "bool = false"),
                ("autocast_adapter_dtype", "bool = true"),
                ("adapter_name", r#"string = "default""#),
            ],
        );
    engine.register_type_with_name::<LoraConfig>("LoraConfig");
    engine.register_static_module("PeftModel", exported_module!(peft_model).into());
    engine.register_global_module(exported_module!(functions).into());
    let json = |c: &LoraConfig| serde_json::to_value(c).unwrap_or_default();
    display::register::<LoraConfig>(move |c| format!("LoraConfig({})", json(c)), json);
}
