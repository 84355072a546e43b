//! Models onto the disk: the Hugging Face layout, and GGUF.
#![allow(clippy::unwrap_used, reason = "the code that rhai's macro makes of `&mut` arguments")]

use super::context::context;
use super::error::{IntoScript, ScriptResult};
use super::model::ModelValue;
use super::options::{Validate, options};
use crate::error::{Error, Result};
use crate::model::gguf_write::{GgufDtype, save_gguf};
use crate::script::registry::Registry;
use rhai::Map;
use rhai::plugin::*;
use serde::{Deserialize, Serialize};

#[derive(Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct GgufOptions {
    /// What matrices are stored in. Default "f16".
    dtype: String,
}

impl Default for GgufOptions {
    fn default() -> Self {
        Self { dtype: "f16".into() }
    }
}

impl Validate for GgufOptions {
    fn validate(&self) -> Result<()> {
        match GgufDtype::from_name(&self.dtype) {
            Some(_) => Ok(()),
            None => {
                let known = GgufDtype::NAMES.join(", ");
                Err(Error::argument(format!("dtype must be one of {known}, but it is \"{}\"", self.dtype)))
            }
        }
    }
}

fn write_gguf(call: &NativeCallContext, model: &ModelValue, path: &str, given: GgufOptions) -> ScriptResult<()> {
    let dtype = GgufDtype::from_name(&given.dtype).ok_or("save_gguf: dtype is not known")?;
    if model.has_adapter() {
        return Err(
            "save_gguf writes whole models: call merge_and_unload() first, or save the adapter with save_pretrained".into()
        );
    }
    save_gguf(model.model(), &context(call)?.output_path(path), dtype).script()
}

#[export_module]
mod methods {
    /// Writes the model as a GGUF file that llama.cpp loads, with its tokenizer and chat template. Option `dtype` says what matrices are
    /// stored in: "f16" (default), "f32", "bf16", "q8_0", "q6_k", "q5_1", "q5_0", "q4_1" or "q4_0". An adapter has to be merged first. A
    /// relative path is taken from `--out`.
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.save_gguf("tiny.gguf", #{ dtype: "q8_0" });
    /// AutoModelForCausalLM::from_pretrained("tiny.gguf").num_parameters() == model.num_parameters() // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn save_gguf(call: NativeCallContext, model: ModelValue, path: &str, given: Map) -> ScriptResult<()> {
        let given: GgufOptions = options("save_gguf", given)?;
        write_gguf(&call, &model, path, given)
    }

    /// Writes the model as a GGUF file with matrices in f16.
    ///
    /// ```rhai
    /// AutoModelForCausalLM::from_pretrained("tiny-random").save_gguf("half.gguf");
    /// ```
    #[rhai_fn(name = "save_gguf", return_raw)]
    pub fn save_gguf_f16(call: NativeCallContext, model: ModelValue, path: &str) -> ScriptResult<()> {
        write_gguf(&call, &model, path, GgufOptions::default())
    }

    /// Writes the model in the Hugging Face layout (configuration, weights, tokenizer); of a model with an adapter the adapter alone,
    /// as PEFT writes it: the one named "default" in the folder, others in a folder of their name within it. Quantised weights are
    /// written dequantised, in f32. A relative folder is taken from `--out`. Options for adapters: `selected_adapters` (names),
    /// `convert_to_lora: true` (write one that started as "pissa" or "olora" as a plain LoRA of twice the rank for the untouched base), or
    /// `path_initial_model_for_weight_conversion` (the same, given the folder in which it was saved before training).
    ///
    /// ```rhai
    /// let model = AutoModelForCausalLM::from_pretrained("tiny-random");
    /// model.save_pretrained("copy");
    /// AutoModelForCausalLM::from_pretrained("copy").num_parameters() == model.num_parameters() // => true
    /// ```
    #[rhai_fn(return_raw)]
    pub fn save_pretrained(call: NativeCallContext, model: ModelValue, folder: &str) -> ScriptResult<()> {
        model.save_pretrained(&context(&call)?.output_path(folder)).script()
    }
}

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<GgufOptions>(&["save_gguf"], &[]);
    engine.register_global_module(exported_module!(methods).into());
}
