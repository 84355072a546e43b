//! `model_info`: what a model is, and the memory that it needs, before it is loaded.

use super::context::context;
use super::display::{from_json, json};
use super::error::{IntoScript, ScriptResult, positioned};
use super::options::{OptionMap, Validate};
use crate::error::Result;
use crate::model::hub::Cache;
use crate::model::memory::MemoryOptions;
use crate::model::report::ModelReport;
use crate::script::registry::Registry;
use crate::show::Block;
use rhai::Map;
use rhai::plugin::*;

impl Validate for MemoryOptions {
    fn validate(&self) -> Result<()> {
        Self::validate(self)
    }
}

fn report(call: &NativeCallContext, name: &str, given: Map) -> ScriptResult<Dynamic> {
    let mut given = OptionMap::new("model_info", given);
    // A single name is meant as the only one, as `LoraConfig` takes "all-linear".
    let targets = given.take_any("target_modules");
    let targets = targets.map(|targets| super::model::texts_of(&targets, "model_info: target_modules")).transpose()?;
    let mut options: MemoryOptions = given.parse()?;
    options.target_modules = targets.unwrap_or_default();
    let session = context(call)?;
    // What a script saved under `--out` is found there again.
    let path = session.input_path(name);
    let place = if path.exists() { path.to_string_lossy() } else { name.into() };
    let found = Cache::from_env().and_then(|cache| cache.report(&place, &options, &session.control)).script()?;
    Ok(from_json(&serde_json::to_value(found).unwrap_or_default()))
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod functions {
    /// What a model is and the memory that it needs, before it is loaded: a map that shows as two tables. The name is one that
    /// `AutoModelForCausalLM::from_pretrained` takes; of a hub id config.json alone is fetched. Options: `batch_size` (1), `max_length`
    /// (512; in generation the prompt's tokens and the new ones), `r` (16, LoRA's rank), `target_modules` (LoRA's modules), `dtype` (only this
    /// one, part by part). The map's `memory.rows` have `work`, `dtype`, `gradient_checkpointing`, `total` (bytes of the process at
    /// its peak), `fits` (whether so much is available), and `parts`, the bytes by what they are for.
    ///
    /// ```rhai
    /// let info = model_info("tiny-random", #{ batch_size: 4, max_length: 128, r: 8, dtype: "f32" });
    /// let lora = info.memory.rows.find(|row| row.work == "LoRA, AdamW");
    /// [info.config.num_hidden_layers, info.memory.lora_parameters, lora.parts.optimizer] // => [2, 1792, 14336]
    /// ```
    #[rhai_fn(name = "model_info", return_raw)]
    pub fn model_info_with(call: NativeCallContext, name: &str, given: Map) -> ScriptResult<Dynamic> {
        positioned(&call, report(&call, name, given))
    }

    #[rhai_fn(name = "model_info", return_raw)]
    pub fn model_info(call: NativeCallContext, name: &str) -> ScriptResult<Dynamic> {
        positioned(&call, report(&call, name, Map::new()))
    }
}

/// How the map shows: its facts, then the memory.
pub(super) fn blocks(map: &Map) -> Option<Vec<Block>> {
    if !(map.contains_key("memory") && map.contains_key("sizes")) {
        return None;
    }
    let map = Dynamic::from_map(map.clone());
    let report: ModelReport = serde_json::from_value(json(&map)).ok()?;
    let memory = report.memory.as_ref().map(|memory| Block::Table(memory.table()));
    Some([Block::Table(report.facts_table())].into_iter().chain(memory).collect())
}

/// Adds the function to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<MemoryOptions>(&["model_info"], &[("target_modules", "array | string")]);
    engine.register_global_module(exported_module!(functions).into());
}
