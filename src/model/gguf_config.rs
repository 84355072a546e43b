//! A GGUF file's metadata as the `config.json` that transformers would write for the same model.

use super::config::{ModelConfig, Rope, RopeScaling};
use super::family::Family;
use super::gguf_header::extent;
use super::gguf_metadata::Metadata;
use super::gguf_names;
use crate::error::{Error, Result};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Content;
use serde_json::{Map, Value as Json, json};
use std::collections::HashSet;
use std::path::Path;

/// Tokens that end a turn: llama.cpp stops at them also where a file names another end of text alone (`llama-vocab.cpp`).
const TURN_ENDS: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>"];

/// The metadata of one architecture, whose keys begin with its name.
struct Keys<'a> {
    content: &'a Content,
    metadata: Metadata<'a>,
    family: Family,
}

impl<'a> Keys<'a> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", gguf_names::architecture(self.family))
    }

    fn integer(&self, name: &str) -> Result<Option<u64>> {
        self.metadata.integer(&self.key(name))
    }

    fn float(&self, name: &str) -> Result<Option<f64>> {
        self.metadata.float(&self.key(name))
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>> {
        self.metadata.text(&self.key(name))
    }

    fn needed(&self, name: &str) -> Result<u64> {
        self.integer(name)?.ok_or_else(|| self.wrong(format!("metadata {} is missing", self.key(name))))
    }

    fn needed_float(&self, name: &str) -> Result<f64> {
        self.float(name)?.ok_or_else(|| self.wrong(format!("metadata {} is missing", self.key(name))))
    }

    fn has(&self, tensor: &str) -> bool {
        self.content.tensor_infos.contains_key(tensor)
    }

    fn wrong(&self, message: String) -> Error {
        self.metadata.wrong(message)
    }

    /// The number of blocks, of which the file has tensors: what is made of it takes memory for each.
    fn blocks(&self) -> Result<u64> {
        let blocks = self.needed("block_count")?;
        let last = format!("blk.{}.", blocks.saturating_sub(1));
        if blocks > 0 && !self.content.tensor_infos.keys().any(|name| name.starts_with(&last)) {
            let key = self.key("block_count");
            return Err(self.wrong(format!("{key}: {blocks}, and the file has no tensor of the last block; it is damaged")));
        }
        Ok(blocks)
    }
}

/// The configuration of a model; it goes through the same checks as a `config.json`.
pub(super) fn model_config(content: &Content, bytes: &[u8], path: &Path) -> Result<ModelConfig> {
    let wrong = |message: String| Error::format(path, message);
    let metadata = Metadata { map: &content.metadata, path };
    let family = match metadata.text("general.architecture")? {
        None => return Err(wrong("general.architecture is missing".into())),
        Some(name) => gguf_names::family(name).ok_or_else(|| {
            let known = gguf_names::architectures().join(", ");
            wrong(format!("general.architecture: \"{name}\" is not supported; supported are {known}"))
        })?,
    };
    let keys = Keys { content, metadata, family };
    if let Some(experts) = keys.integer("expert_count")?.filter(|&n| n > 0) {
        let key = keys.key("expert_count");
        return Err(wrong(format!("{key}: {experts} experts; mixtures of experts are not supported")));
    }
    let hidden = keys.needed("embedding_length")?;
    let heads = keys.needed("attention.head_count")?;
    let head_dim = keys.integer("attention.key_length")?.or_else(|| hidden.checked_div(heads)).unwrap_or(0);
    let turned = keys.integer("rope.dimension_count")?.filter(|_| family != Family::Gpt2).unwrap_or(head_dim);
    if turned != head_dim && family != Family::Phi3 {
        let key = keys.key("rope.dimension_count");
        return Err(wrong(format!("{key}: {turned} of {head_dim}; partial rotary embeddings are not supported for this family")));
    }
    let Some(embedding) = content.tensor_infos.get("token_embd.weight") else {
        return Err(wrong("tensor token_embd.weight is missing".into()));
    };
    let rows = embedding.shape.dims().first().copied().unwrap_or(0);
    let theta = keys.float("rope.freq_base")?.unwrap_or(10_000.0);
    let epsilon = if family == Family::Gpt2 { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let traits = family.traits();
    let mut raw = json!({
        "architectures": [traits.architecture],
        "attention_dropout": 0.0,
        "head_dim": head_dim,
        "hidden_size": hidden,
        "intermediate_size": keys.needed("feed_forward_length")?,
        "max_position_embeddings": keys.needed("context_length")?,
        "model_type": traits.model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": keys.blocks()?,
        "num_key_value_heads": keys.integer("attention.head_count_kv")?.unwrap_or(heads),
        "rms_norm_eps": keys.needed_float(epsilon)?,
        "rope_theta": theta,
        "rope_scaling": rope_scaling(&keys, bytes, turned as usize, theta)?,
        "tie_word_embeddings": !keys.has("output.weight"),
        "vocab_size": rows,
    });
    if let Json::Object(map) = &mut raw {
        of_family(map, &keys, family, turned as f64 / head_dim.max(1) as f64)?;
        for (field, role) in [("bos_token_id", "bos"), ("pad_token_id", "padding")] {
            map.extend(metadata.token(role, rows)?.map(|id| (field.to_string(), id.into())));
        }
        let ends = match end_tokens(metadata, rows)?.as_slice() {
            [] => None,
            [end] => Some(json!(end)),
            ends => Some(json!(ends)),
        };
        map.extend(ends.map(|ends| ("eos_token_id".to_string(), ends)));
        map.sort_keys();
    }
    ModelConfig::from_json(raw, path)
}

/// The tokens that end a text: the end of text and those of a turn and of a message, as generation has to stop at each.
fn end_tokens(metadata: Metadata<'_>, rows: usize) -> Result<Vec<usize>> {
    let mut ends = Vec::new();
    for role in ["eos", "eot", "eom"] {
        ends.extend(metadata.token(role, rows)?);
    }
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.unwrap_or_default();
    ends.extend((0..rows.min(tokens.len())).filter(|id| TURN_ENDS.contains(&tokens[*id])));
    let mut seen = HashSet::new();
    ends.retain(|id| seen.insert(*id));
    Ok(ends)
}

/// The fields that are a family's own.
fn of_family(map: &mut Map<String, Json>, keys: &Keys<'_>, family: Family, turned: f64) -> Result<()> {
    let mut set = |key: &str, value: Json| {
        map.insert(key.into(), value);
    };
    let bias = |tensor: &str| json!(keys.has(tensor));
    if !matches!(family, Family::Gemma | Family::Gemma2 | Family::Gemma3 | Family::Gpt2) {
        set("hidden_act", json!("silu"));
    }
    if !matches!(family, Family::Mistral | Family::Phi3 | Family::Qwen2 | Family::Gpt2) {
        set("attention_bias", bias("blk.0.attn_q.bias"));
    }
    if matches!(family, Family::Llama | Family::Granite | Family::SmolLm3) {
        set("mlp_bias", bias("blk.0.ffn_gate.bias"));
    }
    let window = keys.integer("attention.sliding_window")?.filter(|n| *n > 0);
    let scalar = |layers: u64, map: &Map<String, Json>| {
        // llama.cpp knows by its number of layers that the largest model scales by its hidden size.
        let large = map["num_hidden_layers"] == json!(layers);
        let heads = map["num_attention_heads"].as_u64().unwrap_or(1).max(1);
        if large { json!(map["hidden_size"].as_u64().unwrap_or(0) / heads) } else { map["head_dim"].clone() }
    };
    match family {
        Family::Gemma => set("hidden_act", json!("gelu_pytorch_tanh")),
        Family::Gemma2 | Family::Gemma3 => {
            let (default, layers) = if family == Family::Gemma2 { (4096, 46) } else { (1024, 62) };
            let scalar = scalar(layers, map);
            let mut set = |key: &str, value: Json| {
                map.insert(key.into(), value);
            };
            set("query_pre_attn_scalar", scalar);
            set("hidden_activation", json!("gelu_pytorch_tanh"));
            set("sliding_window", json!(window.unwrap_or(default)));
            let caps = if family == Family::Gemma2 { [Some(50.0), Some(30.0)] } else { [None, None] };
            set("attn_logit_softcapping", json!(keys.float("attn_logit_softcapping")?.or(caps[0])));
            set("final_logit_softcapping", json!(keys.float("final_logit_softcapping")?.or(caps[1])));
            if family == Family::Gemma3 {
                // A file without a window has none in any layer.
                let pattern = if window.is_none() { Some(1) } else { keys.integer("attention.sliding_window_pattern")? };
                set("sliding_window_pattern", json!(pattern.unwrap_or(6)));
                set("rope_local_base_freq", json!(keys.float("rope.freq_base_swa")?.unwrap_or(10_000.0)));
            }
        }
        Family::Phi3 => {
            set("sliding_window", json!(window));
            if turned != 1.0 {
                set("partial_rotary_factor", json!(turned));
            }
            if let Some(original) = keys.integer("rope.scaling.original_context_length")? {
                set("original_max_position_embeddings", json!(original));
            }
        }
        Family::Granite => {
            for (field, key) in [
                ("logits_scaling", "logit_scale"),
                ("residual_multiplier", "residual_scale"),
                ("embedding_multiplier", "embedding_scale"),
                ("attention_multiplier", "attention.scale"),
            ] {
                if let Some(factor) = keys.float(key)? {
                    set(field, json!(factor));
                }
            }
            if keys.float("attention.scale")?.is_none() {
                // llama.cpp's default; transformers' is 1.
                let head_dim = map["head_dim"].as_f64().unwrap_or(1.0);
                map.insert("attention_multiplier".into(), json!(head_dim.powf(-0.5)));
            }
        }
        Family::SmolLm3 => set("no_rope_layer_interval", json!(4)),
        Family::Gpt2 => {
            for (old, new) in [
                ("hidden_size", "n_embd"),
                ("intermediate_size", "n_inner"),
                ("max_position_embeddings", "n_positions"),
                ("num_attention_heads", "n_head"),
                ("num_hidden_layers", "n_layer"),
                ("rms_norm_eps", "layer_norm_epsilon"),
            ] {
                if let Some(value) = map.remove(old) {
                    map.insert(new.into(), value);
                }
            }
            for absent in ["attention_dropout", "head_dim", "num_key_value_heads", "rope_theta", "rope_scaling"] {
                map.remove(absent);
            }
            map.insert("activation_function".into(), json!("gelu_new"));
        }
        _ => {}
    }
    Ok(())
}

/// The numbers of a tensor of f32, where the file has it.
fn floats(keys: &Keys<'_>, bytes: &[u8], name: &str) -> Result<Option<Vec<f32>>> {
    let Some(info) = keys.content.tensor_infos.get(name) else { return Ok(None) };
    if info.ggml_dtype != GgmlDType::F32 {
        return Err(keys.wrong(format!("tensor {name}: {:?} is not supported, only F32", info.ggml_dtype)));
    }
    let (start, end) = extent(keys.content, name, bytes.len()).map_err(|message| keys.wrong(message))?;
    Ok(Some(bytes[start..end].chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect()))
}

/// The change of the rotary frequencies.
///
/// GGUF files have no fields for Llama 3.1's rule but the factors that come of it, in the tensor `rope_freqs.weight`. The published
/// models have two settings; the one that gives the same factors is written down. Files of ours say which; any other is refused.
fn rope_scaling(keys: &Keys<'_>, bytes: &[u8], dims: usize, theta: f64) -> Result<Json> {
    let original = keys.integer("rope.scaling.original_context_length")?;
    // On cosines and sines, beside what a rule has of its own.
    let attention = keys.float("rope.scaling.attn_factor")?;
    match (floats(keys, bytes, "rope_factors_short.weight")?, floats(keys, bytes, "rope_factors_long.weight")?) {
        (Some(short), Some(long)) => {
            let mut rule = json!({
                "rope_type": "longrope", "short_factor": short, "long_factor": long, "attention_factor": attention,
            });
            // Phi-3 has it outside.
            if let Some(original) = original.filter(|_| keys.family != Family::Phi3) {
                rule["original_max_position_embeddings"] = original.into();
            }
            return Ok(rule);
        }
        (None, None) => {}
        _ => {
            return Err(keys.wrong("one of the tensors rope_factors_short.weight and rope_factors_long.weight is missing".into()));
        }
    }
    let attention = attention.filter(|factor| *factor != 1.0);
    let kind = keys.text("rope.scaling.type")?;
    let factors = floats(keys, bytes, "rope_freqs.weight")?;
    let wrong_beside = |rule: &str| {
        Err(keys.wrong(format!("tensor rope_freqs.weight and rope.scaling's rule \"{rule}\" together are not supported")))
    };
    if kind == Some("yarn") {
        if factors.is_some() {
            return wrong_beside("yarn");
        }
        let factor = keys.float("rope.scaling.factor")?.unwrap_or(1.0);
        for (name, usual) in [
            ("yarn_beta_fast", 32.0),
            ("yarn_beta_slow", 1.0),
            ("yarn_ext_factor", 1.0),
            ("yarn_attn_factor", 1.0),
            ("yarn_log_multiplier", 0.0),
        ] {
            let name = format!("rope.scaling.{name}");
            if let Some(value) = keys.float(&name)?.filter(|value| *value != usual) {
                return Err(keys.wrong(format!("{}: {value} is not supported, only {usual}", keys.key(&name))));
            }
        }
        let mut rule = json!({ "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original });
        if let Some(attention) = attention {
            rule["attention_factor"] = (attention * (0.1 * factor.max(1.0).ln() + 1.0)).into();
        }
        return Ok(rule);
    }
    if let Some(factor) = attention {
        let key = keys.key("rope.scaling.attn_factor");
        return Err(keys.wrong(format!("{key}: {factor} is not supported without \"yarn\" or rope_factors_long.weight")));
    }
    match kind {
        Some("none") => {}
        // llama.cpp takes a factor without a kind for a linear one; `scale_linear` is the key of files before August 2023.
        None | Some("linear") => {
            let of_old = keys.float("rope.scale_linear")?;
            let factor = keys.float("rope.scaling.factor")?.or(of_old).filter(|factor| *factor != 0.0 && *factor != 1.0);
            match factor {
                Some(_) if factors.is_some() => return wrong_beside("linear"),
                Some(factor) => return Ok(json!({ "rope_type": "linear", "factor": factor })),
                None => {}
            }
        }
        Some(other) => {
            return Err(keys.wrong(format!("{}: \"{other}\" is not supported", keys.key("rope.scaling.type"))));
        }
    }
    let Some(factors) = factors else { return Ok(Json::Null) };
    if factors.len() != dims.div_ceil(2) {
        return Err(keys.wrong(format!("tensor rope_freqs.weight: {} factors for the pairs of {dims} dimensions", factors.len())));
    }
    let frequencies = |scaling| Rope { theta, dims, scaling }.inverse_frequencies(1);
    let plain = frequencies(RopeScaling::Default);
    // What we write ourselves beside the factors, then the two settings; where they give others, they are not the rule.
    let own = keys.metadata.floats(&keys.key("rope.scaling.llama3"))?.and_then(|rule| <[f32; 4]>::try_from(rule).ok());
    // 1.3 as 32 bits is not 1.2999999523162842.
    let exact = |number: f32| number.to_string().parse().unwrap_or(f64::from(number));
    let own = own.map(|rule| rule.map(exact)).filter(|rule| rule.iter().all(|number| number.is_finite() && *number > 0.0));
    for rule in own.into_iter().chain([8.0, 32.0].map(|factor| [factor, 1.0, 4.0, 8192.0])) {
        let [factor, low_freq_factor, high_freq_factor, original_max_position_embeddings] = rule;
        let scaled =
            frequencies(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings });
        let same = factors.iter().zip(plain.iter().zip(&scaled)).all(|(&f, (&a, &b))| (a / b - f).abs() <= 1e-3 * f);
        if same {
            let original = original_max_position_embeddings;
            return Ok(json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor, "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": if original.fract() == 0.0 { json!(original as u64) } else { json!(original) },
            }));
        }
    }
    Err(keys.wrong(
        "tensor rope_freqs.weight holds rotary factors of an unknown rule; only Llama 3.1's and 3.2's are supported".into(),
    ))
}
