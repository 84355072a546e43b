//! `adapter_config.json`.

use super::config::LoraConfig;
use super::peft::Adapter;
use crate::error::{Error, Result};
use crate::files;
use crate::model::config::read_json;
use serde_json::{Value, json};
use std::path::Path;

/// What a file says.
pub struct SavedConfig {
    /// The options.
    pub config: LoraConfig,
    /// The model that the adapter was made for.
    pub base_model: Option<String>,
}

/// Writes an adapter's configuration, or `changed` in its place.
pub(super) fn write(adapter: &Adapter, changed: &LoraConfig, folder: &Path, base_model: &str) -> Result<()> {
    let mut config = serde_json::to_value(changed).map_err(|e| Error::argument(e.to_string()))?;
    let traits = adapter.family().traits();
    if let Value::Object(fields) = &mut config {
        fields.insert("peft_type".into(), json!("LORA"));
        fields.insert("base_model_name_or_path".into(), json!(base_model));
        fields.insert("inference_mode".into(), json!(true));
        fields.insert("fan_in_fan_out".into(), json!(traits.transposed));
        fields.insert("revision".into(), Value::Null);
        if changed.target_modules.is_none() {
            // PEFT resolves its default from a table; a file is clearer.
            fields.insert("target_modules".into(), json!(traits.lora_targets));
        }
        if let Some(all) = fields.get_mut("target_modules").filter(|t| **t == json!("all-linear")) {
            let mut kinds: Vec<&str> = adapter.layers().iter().filter_map(|(name, _)| name.rsplit('.').next()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            *all = json!(kinds);
        }
        if changed.lora_alpha.fract() == 0.0 {
            fields.insert("lora_alpha".into(), json!(changed.lora_alpha as i64));
        }
    }
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::argument(e.to_string()))?;
    files::write_text(&folder.join("adapter_config.json"), &(text + "\n"))
}

/// Reads `adapter_config.json`.
///
/// # Errors
/// No such file, not JSON, not a LoRA adapter, or an option that would change the numbers and is not supported.
pub fn read(folder: &Path) -> Result<SavedConfig> {
    let path = folder.join("adapter_config.json");
    if !path.is_file() {
        return Err(Error::Missing(format!(
            "{} has no adapter_config.json: an adapter is a folder with adapter_config.json and adapter_model.safetensors",
            folder.display()
        )));
    }
    let value = read_json(&path)?;
    let Value::Object(mut fields) = value else { return Err(Error::format(&path, "is not a JSON object")) };
    let kind = fields.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
    if kind != "LORA" {
        return Err(Error::format(&path, format!("is a {kind} adapter; only LORA is supported")));
    }
    let base_model = fields.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_string);
    // Whatever is set and not understood would silently change the numbers.
    const IGNORED: [&str; 8] = [
        "peft_type",
        "peft_version",
        "base_model_name_or_path",
        "inference_mode",
        "revision",
        "auto_mapping",
        "megatron_core",
        "qalora_group_size",
    ];
    // EVA finds A before training and leaves the base alone: what was trained is a plain adapter.
    if fields.get("init_lora_weights").and_then(Value::as_str) == Some("eva") {
        fields.insert("init_lora_weights".into(), json!(true));
        fields.remove("eva_config");
    }
    let known = serde_json::to_value(LoraConfig::default()).unwrap_or_default();
    let unset = |v: &Value| match v {
        Value::Null | Value::Bool(false) => true,
        Value::Object(o) => o.is_empty(),
        Value::Array(a) => a.is_empty(),
        _ => false,
    };
    let mut unsupported = Vec::new();
    fields.retain(|key, value| {
        let keep = known.get(key).is_some();
        if !keep && !IGNORED.contains(&key.as_str()) && !unset(value) {
            unsupported.push(format!("{key} = {value}"));
        }
        keep && !value.is_null()
    });
    if !unsupported.is_empty() {
        return Err(Error::format(&path, format!("options that are not supported: {}", unsupported.join(", "))));
    }
    let config: LoraConfig = serde_json::from_value(Value::Object(fields)).map_err(|e| Error::format(&path, e.to_string()))?;
    config.validate().map_err(|e| Error::format(&path, e.to_string()))?;
    Ok(SavedConfig { config, base_model })
}
