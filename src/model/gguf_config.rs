//! A GGUF file's metadata as the `config.json` that transformers would write for the same model.

use super::config::{ModelConfig, Rope, RopeScaling};
use super::gguf::extent;
use crate::error::{Error, Result};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};
use serde_json::json;
use std::collections::HashMap;
use std::path::Path;

/// A whole number from the metadata, whatever its width.
pub(super) fn integer(metadata: &HashMap<String, Value>, key: &str) -> Option<u64> {
    match metadata.get(key)? {
        Value::I8(n) => u64::try_from(*n).ok(),
        Value::I16(n) => u64::try_from(*n).ok(),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        other => other.to_u64().ok(),
    }
}

/// A string from the metadata.
pub(super) fn text<'a>(metadata: &'a HashMap<String, Value>, key: &str) -> Option<&'a str> {
    metadata.get(key)?.to_string().ok().map(String::as_str)
}

fn float(metadata: &HashMap<String, Value>, key: &str) -> Option<f64> {
    match metadata.get(key)? {
        Value::F32(x) => Some(f64::from(*x)),
        Value::F64(x) => Some(*x),
        _ => integer(metadata, key).map(|n| n as f64),
    }
}

/// The configuration of a llama model; it goes through the same checks as a `config.json`.
pub(super) fn model_config(content: &Content, bytes: &[u8], path: &Path) -> Result<ModelConfig> {
    let metadata = &content.metadata;
    let wrong = |message: String| Error::format(path, message);
    match text(metadata, "general.architecture") {
        Some("llama") => {}
        Some(other) => return Err(wrong(format!("general.architecture: \"{other}\" is not supported, only \"llama\""))),
        None => return Err(wrong("general.architecture is missing".into())),
    }
    let needed = |key: &str| integer(metadata, key).ok_or_else(|| wrong(format!("metadata {key} is missing or no whole number")));
    if let Some(experts) = integer(metadata, "llama.expert_count").filter(|&n| n > 0) {
        return Err(wrong(format!("llama.expert_count: {experts} experts; mixtures of experts are not supported")));
    }
    let hidden = needed("llama.embedding_length")?;
    let heads = needed("llama.attention.head_count")?;
    let head_dim = integer(metadata, "llama.attention.key_length").or_else(|| hidden.checked_div(heads)).unwrap_or(0);
    if let Some(rotary) = integer(metadata, "llama.rope.dimension_count")
        && rotary != head_dim
    {
        return Err(wrong(format!(
            "llama.rope.dimension_count: {rotary} of {head_dim}; partial rotary embeddings are not supported"
        )));
    }
    let theta = float(metadata, "llama.rope.freq_base").unwrap_or(10_000.0);
    let Some(embedding) = content.tensor_infos.get("token_embd.weight") else {
        return Err(wrong("tensor token_embd.weight is missing".into()));
    };
    let has = |name: &str| content.tensor_infos.contains_key(name);
    let mut raw = json!({
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": has("blk.0.attn_q.bias"),
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "head_dim": head_dim,
        "hidden_size": hidden,
        "intermediate_size": needed("llama.feed_forward_length")?,
        "max_position_embeddings": needed("llama.context_length")?,
        "mlp_bias": has("blk.0.ffn_gate.bias"),
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": needed("llama.block_count")?,
        "num_key_value_heads": integer(metadata, "llama.attention.head_count_kv").unwrap_or(heads),
        "rms_norm_eps": float(metadata, "llama.attention.layer_norm_rms_epsilon").unwrap_or(1e-6),
        "rope_theta": theta,
        "rope_scaling": rope_scaling(content, bytes, path, head_dim as usize, theta)?,
        "tie_word_embeddings": !has("output.weight"),
        "vocab_size": embedding.shape.dims().first().copied().unwrap_or(0),
    });
    if let serde_json::Value::Object(map) = &mut raw {
        for (field, key) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
            if let Some(id) = integer(metadata, &format!("tokenizer.ggml.{key}_token_id")) {
                map.insert(field.into(), id.into());
            }
        }
        map.sort_keys();
    }
    ModelConfig::from_json(raw, path)
}

/// GGUF files have no fields for Llama 3.1's rule but the factors that come of it, in the tensor `rope_freqs.weight`.
/// The published models have two settings; the one that gives the same factors is written down, any other is refused.
fn rope_scaling(content: &Content, bytes: &[u8], path: &Path, head_dim: usize, theta: f64) -> Result<serde_json::Value> {
    let metadata = &content.metadata;
    match text(metadata, "llama.rope.scaling.type") {
        None | Some("none") => {}
        Some("linear") => {
            let factor = float(metadata, "llama.rope.scaling.factor").unwrap_or(1.0);
            return Ok(json!({ "rope_type": "linear", "factor": factor }));
        }
        Some(other) => return Err(Error::format(path, format!("llama.rope.scaling.type: \"{other}\" is not supported"))),
    }
    let Some(info) = content.tensor_infos.get("rope_freqs.weight") else { return Ok(serde_json::Value::Null) };
    let (start, end) = extent(content, "rope_freqs.weight", bytes.len()).map_err(|message| Error::format(path, message))?;
    let factors: Vec<f32> = bytes[start..end].chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect();
    let frequencies = |scaling| Rope { theta, dims: head_dim, scaling }.inverse_frequencies(1);
    let plain = frequencies(RopeScaling::Default);
    for factor in [8.0, 32.0] {
        let rule =
            RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_position_embeddings: 8192.0 };
        let scaled = frequencies(rule);
        let same = factors.len() == plain.len()
            && factors.iter().zip(plain.iter().zip(&scaled)).all(|(&f, (&a, &b))| (a / b - f).abs() <= 1e-3 * f);
        if same && info.ggml_dtype == GgmlDType::F32 {
            return Ok(json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }));
        }
    }
    Err(Error::format(
        path,
        "tensor rope_freqs.weight holds rotary factors of an unknown rule; only Llama 3.1's and 3.2's are supported",
    ))
}
