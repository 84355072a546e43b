//! Adapters on disk, in PEFT's layout: `adapter_config.json` and `adapter_model.safetensors`.

use super::config::LoraConfig;
use super::peft::Adapter;
use crate::error::{Error, Result};
use crate::files;
use crate::model::weights::{Weights, save_safetensors};
use crate::model::{Decoder, config::read_json};
use crate::nn::Parameter;
use crate::random::Random;
use candle_core::{DType, Device};
use serde_json::{Value, json};
use std::path::Path;

/// Writes an adapter so that PEFT loads it.
///
/// # Errors
/// The folder cannot be written; no half-written file is left.
pub fn save(adapter: &Adapter, folder: &Path, base_model: &str) -> Result<()> {
    let tensors: Vec<_> = adapter.own_parameters().iter().map(|(name, p)| (file_name(name), p.value())).collect();
    save_safetensors(&folder.join("adapter_model.safetensors"), &tensors, &[("format".into(), "pt".into())])?;
    let mut config = serde_json::to_value(adapter.config()).map_err(|e| Error::argument(e.to_string()))?;
    let traits = adapter.family().traits();
    if let Value::Object(fields) = &mut config {
        fields.insert("peft_type".into(), json!("LORA"));
        fields.insert("base_model_name_or_path".into(), json!(base_model));
        fields.insert("inference_mode".into(), json!(true));
        fields.insert("fan_in_fan_out".into(), json!(traits.transposed));
        fields.insert("revision".into(), Value::Null);
        if adapter.config().target_modules.is_none() {
            // PEFT resolves its default from a table; a file is clearer.
            fields.insert("target_modules".into(), json!(traits.lora_targets));
        }
        if let Some(all) = fields.get_mut("target_modules").filter(|t| **t == json!("all-linear")) {
            let mut kinds: Vec<&str> = adapter.layers().iter().filter_map(|(name, _)| name.rsplit('.').next()).collect();
            kinds.sort_unstable();
            kinds.dedup();
            *all = json!(kinds);
        }
        if fields["lora_alpha"].as_f64().is_some_and(|a| a.fract() == 0.0) {
            fields.insert("lora_alpha".into(), json!(adapter.config().lora_alpha as i64));
        }
    }
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::argument(e.to_string()))?;
    files::write_text(&folder.join("adapter_config.json"), &(text + "\n"))
}

/// PEFT's name in the file: without the adapter's own name.
fn file_name(name: &str) -> String {
    name.replace(".default.weight", ".weight")
        .replace(".modules_to_save.weight", ".weight")
        .replace(".modules_to_save.default.bias", ".bias")
}

/// Reads `adapter_config.json`.
///
/// # Errors
/// No such file, not JSON, not a LoRA adapter, or an option that would change the numbers and is not supported.
pub fn read_config(folder: &Path) -> Result<LoraConfig> {
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
    // Whatever is set and not understood would silently change the numbers.
    const IGNORED: [&str; 10] = [
        "peft_type",
        "peft_version",
        "base_model_name_or_path",
        "inference_mode",
        "revision",
        "auto_mapping",
        "megatron_core",
        "qalora_group_size",
        "ensure_weight_tying",
        // How the base's weights are stored, which its family says.
        "fan_in_fan_out",
    ];
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
    Ok(config)
}

/// Puts a saved adapter on a decoder. With `trainable` false its parameters are frozen.
///
/// # Errors
/// A file is missing or damaged, a tensor is missing, left over, or has a shape that belongs to another base model. The
/// decoder is left as it was.
pub fn load(decoder: &Decoder, folder: &Path, trainable: bool) -> Result<Adapter> {
    let config = LoraConfig { init_lora_weights: super::config::InitLoraWeights::Default(true), ..read_config(folder)? };
    let path = folder.join("adapter_model.safetensors");
    let file = Weights::open_file(&path)?;
    let flags: Vec<(Parameter, bool)> =
        decoder.named_parameters().into_iter().map(|(_, p)| (p.clone(), p.requires_grad())).collect();
    let adapter = Adapter::attach(decoder, config, &mut Random::new(0))?;
    let outcome = fill(&adapter, &file, &path);
    if outcome.is_err() {
        adapter.disable(decoder);
        flags.iter().for_each(|(parameter, flag)| parameter.set_requires_grad(*flag));
    }
    outcome?;
    adapter.set_trainable(trainable);
    Ok(adapter)
}

/// Puts the values of a saved adapter into one that sits on a model.
///
/// # Errors
/// As [`load`].
pub fn restore(adapter: &Adapter, folder: &Path) -> Result<()> {
    let path = folder.join("adapter_model.safetensors");
    fill(adapter, &Weights::open_file(&path)?, &path)
}

fn fill(adapter: &Adapter, file: &Weights, path: &Path) -> Result<()> {
    let own = adapter.own_parameters();
    let expected: Vec<String> = own.iter().map(|(name, _)| file_name(name)).collect();
    if let Some(extra) = file.names().iter().find(|n| !expected.iter().any(|e| e == **n)) {
        return Err(Error::format(
            path,
            format!(
                "has a tensor \"{extra}\" that this model and adapter_config.json have no place for; is it for another base model?"
            ),
        ));
    }
    for ((_, parameter), name) in own.iter().zip(&expected) {
        if !file.contains(name) {
            return Err(Error::format(path, format!("lacks the tensor \"{name}\" that adapter_config.json asks for")));
        }
        let (shape, _) = file.shape_dtype(name)?;
        if shape != parameter.dims() {
            return Err(Error::format(
                path,
                format!(
                    "tensor \"{name}\" has shape {shape:?}; this model needs {:?}: it is for another base model",
                    parameter.dims()
                ),
            ));
        }
        let value = file.load(name, Some(DType::F32), &Device::Cpu)?;
        parameter.set(value.as_tensor())?;
    }
    Ok(())
}
