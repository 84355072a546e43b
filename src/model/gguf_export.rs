//! What a GGUF file says of a model: its architecture and its tokenizer, as llama.cpp's converter writes them.

use super::config::{ModelConfig, Rope, RopeScaling};
use super::family::Family;
use super::gguf_names::architecture;
use super::gguf_tokenizer::{CONTROL, LLAMA3, QWEN2, UNKNOWN, USER_DEFINED};
use super::gguf_write::{Field, Fields};
use super::lm::LanguageModel;
use crate::error::{Error, Result};
use crate::ops::gated::Activation;
use serde_json::Value;
use std::collections::BTreeMap;

/// Names of tensors that hold rotary factors, with their values.
type Factors = Vec<(String, Vec<f32>)>;

/// The architecture's metadata, and tensors that are no parameters.
///
/// # Errors
/// Something of the model that llama.cpp has no place for: it would compute another model.
pub(super) fn architecture_fields(config: &ModelConfig, name: &str) -> Result<(Fields, Factors)> {
    refuse_inexpressible(config)?;
    let c = config;
    let arch = architecture(c.family);
    let mut fields: Fields = Vec::new();
    let text = |text: &str| Field::Text(text.to_string());
    fields.push(("general.architecture".into(), text(arch)));
    fields.push(("general.type".into(), text("model")));
    fields.push(("general.name".into(), text(name)));
    let mut add = |key: &str, field: Field| fields.push((format!("{arch}.{key}"), field));
    let number = |n: usize| Field::U32(n as u32);
    let float = |x: f64| Field::F32(x as f32);
    add("vocab_size", number(c.vocab_size));
    add("context_length", number(c.max_position_embeddings));
    add("embedding_length", number(c.hidden_size));
    add("block_count", number(c.num_hidden_layers));
    add("feed_forward_length", number(c.intermediate_size));
    add("attention.head_count", number(c.num_attention_heads));
    if c.family == Family::Gpt2 {
        add("attention.layer_norm_epsilon", float(c.norm_eps));
        return Ok((fields, Vec::new()));
    }
    add("attention.head_count_kv", number(c.num_key_value_heads));
    add("attention.key_length", number(c.head_dim));
    add("attention.value_length", number(c.head_dim));
    add("attention.layer_norm_rms_epsilon", float(c.norm_eps));
    if let Some(window) = c.sliding_window() {
        add("attention.sliding_window", number(window));
    }
    if let Some(cap) = c.attention_softcap {
        add("attn_logit_softcapping", float(cap));
    }
    if let Some(cap) = c.logit_softcap {
        add("final_logit_softcapping", float(cap));
    }
    if c.family == Family::Granite {
        add("attention.scale", float(c.layers.first().map_or(1.0, |layer| layer.attention_scale)));
        add("embedding_scale", float(c.scales.embedding));
        add("residual_scale", float(c.scales.residual));
        add("logit_scale", float(1.0 / c.scales.logits));
    }
    let mut factors = Vec::new();
    if let Some(rope) = c.ropes.first() {
        add("rope.dimension_count", number(rope.dims));
        add("rope.freq_base", float(rope.theta));
        match &rope.scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => {
                add("rope.scaling.type", text("linear"));
                add("rope.scaling.factor", float(*factor));
            }
            RopeScaling::Yarn { factor, original_max_position_embeddings: original, .. } => {
                add("rope.scaling.type", text("yarn"));
                add("rope.scaling.factor", float(*factor));
                add("rope.scaling.original_context_length", number(*original as usize));
            }
            RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings: original, attention_factor } => {
                add("rope.scaling.attn_factor", float(*attention_factor));
                add("rope.scaling.original_context_length", number(*original as usize));
                let narrow = |factors: &[f64]| factors.iter().map(|f| *f as f32).collect();
                factors.push(("rope_factors_long.weight".into(), narrow(long_factor)));
                factors.push(("rope_factors_short.weight".into(), narrow(short_factor)));
            }
            RopeScaling::Llama3 { .. } => {
                let plain = Rope { scaling: RopeScaling::Default, ..rope.clone() }.inverse_frequencies(1);
                let pairs = plain.iter().zip(rope.inverse_frequencies(1));
                factors.push(("rope_freqs.weight".into(), pairs.map(|(plain, scaled)| plain / scaled).collect()));
            }
            RopeScaling::Dynamic { .. } => {
                return Err(cannot("rope_scaling \"dynamic\"", "llama.cpp has no such rule"));
            }
        }
    }
    Ok((fields, factors))
}

fn cannot(what: &str, why: &str) -> Error {
    Error::argument(format!("this model cannot be written as a GGUF file: {what}: {why}; save_pretrained(folder) can hold it"))
}

/// What llama.cpp takes for granted of a family, it must be.
fn refuse_inexpressible(c: &ModelConfig) -> Result<()> {
    let layers = |expected: &dyn Fn(usize) -> bool, found: &dyn Fn(usize) -> bool| {
        (0..c.num_hidden_layers).all(|i| expected(i) == found(i))
    };
    let slides = |i: usize| c.layers[i].window.is_some();
    match c.family {
        Family::SmolLm3 if !layers(&|i| (i + 1) % 4 == 0, &|i| c.layers[i].rope.is_none()) => {
            return Err(cannot("no_rope_layers", "llama.cpp leaves RoPE out of every fourth layer"));
        }
        Family::Gemma2 if !layers(&|i| (i + 1) % 2 != 0, &slides) => {
            return Err(cannot("layer_types", "llama.cpp gives every other layer a window"));
        }
        Family::Gemma3 if !layers(&|i| (i + 1) % 6 != 0, &slides) => {
            return Err(cannot("layer_types", "llama.cpp gives five layers of six a window"));
        }
        Family::Qwen2 | Family::Qwen3 | Family::SmolLm3 | Family::Mistral if c.sliding_window().is_some() => {
            return Err(cannot("sliding_window", "llama.cpp computes this family without one"));
        }
        _ => {}
    }
    let expected = if matches!(c.family, Family::Gpt2 | Family::Gemma | Family::Gemma2 | Family::Gemma3) {
        Activation::GeluTanh
    } else {
        Activation::Silu
    };
    if c.activation != expected {
        return Err(cannot("hidden_act", "llama.cpp takes another for granted in this family"));
    }
    let large = matches!((c.family, c.num_hidden_layers), (Family::Gemma2, 46) | (Family::Gemma3, 62));
    let width = if large { c.hidden_size / c.num_attention_heads } else { c.head_dim };
    let scale = (width as f64).powf(-0.5);
    if c.family != Family::Granite && c.layers.iter().any(|layer| (layer.attention_scale / scale - 1.0).abs() > 1e-6) {
        return Err(cannot("the factor on attention's scores", "llama.cpp takes the root of the heads' width"));
    }
    Ok(())
}

/// The tokenizer's metadata, for an embedding of so many rows.
///
/// # Errors
/// A tokenizer of another kind than llama.cpp's, or with more tokens than the embedding has rows.
pub(super) fn tokenizer_fields(model: &LanguageModel, rows: usize) -> Result<Fields> {
    let mut fields: Fields = Vec::new();
    let mut add = |key: &str, field: Field| fields.push((format!("tokenizer.ggml.{key}"), field));
    let Ok(tokenizer) = model.tokenizer() else {
        add("model", Field::Text("no_vocab".into()));
        return Ok(fields);
    };
    let json = tokenizer.to_json()?;
    let refuse = |what: &str| Err(cannot("its tokenizer", what));
    let bpe = &json["model"];
    if bpe["type"] != "BPE" {
        return refuse(&format!("its kind is {}, and only BPE can be expressed", bpe["type"]));
    }
    let sentencepiece = bpe["byte_fallback"] == true;
    let mut tokens: BTreeMap<usize, (String, u64)> = BTreeMap::new();
    let id = |value: &Value| value.as_u64().and_then(|id| usize::try_from(id).ok());
    for (token, place) in bpe["vocab"].as_object().into_iter().flatten() {
        let is_byte = sentencepiece && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        let kind = if is_byte { 6 } else { 1 };
        tokens.extend(id(place).map(|id| (id, (token.clone(), kind))));
    }
    let unknown = bpe["unk_token"].as_str();
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let (Some(id), Some(content)) = (id(&added["id"]), added["content"].as_str()) else { continue };
        let kind = match added["special"] == true {
            true if unknown == Some(content) && sentencepiece => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        tokens.insert(id, (content.to_string(), kind));
    }
    if let Some((last, _)) = tokens.last_key_value().filter(|(last, _)| **last >= rows) {
        return refuse(&format!("it has a token {last}, and the embedding {rows} rows"));
    }
    // Rows without a token, as paddings of the embedding have them, are of the kind "unused".
    let all = (0..rows).map(|id| tokens.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), 5)));
    let (names, kinds): (Vec<String>, Vec<u64>) = all.unzip();
    add("model", Field::Text(if sentencepiece { "llama" } else { "gpt2" }.into()));
    add("pre", Field::Text(if sentencepiece { "default" } else { pre_tokenizer(&json)? }.into()));
    if sentencepiece {
        // The order of the pieces is that of their scores.
        let score = |(id, kind): (usize, &u64)| if *kind == 1 { -(id as f32) } else { -1000.0 };
        add("scores", Field::Floats(kinds.iter().enumerate().map(score).collect()));
        add("add_space_prefix", Field::Bool(json["normalizer"].to_string().contains("Prepend")));
    } else {
        let text = |merge: &Value| match merge {
            Value::String(merge) => Some(merge.clone()),
            Value::Array(pair) => Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)),
            _ => None,
        };
        add("merges", Field::Texts(bpe["merges"].as_array().into_iter().flatten().filter_map(text).collect()));
    }
    add("tokens", Field::Texts(names));
    add("token_type", Field::Integers(kinds.into_iter().map(|kind| kind as i32).collect()));
    for (key, token) in [("bos", tokenizer.bos()), ("eos", tokenizer.eos()), ("padding", tokenizer.pad())] {
        if let Some(token) = token {
            add(&format!("{key}_token_id"), Field::U32(token.id));
        }
    }
    if let Some(id) = unknown.and_then(|token| tokenizer.token_to_id(token)) {
        add("unknown_token_id", Field::U32(id));
    }
    let empty = tokenizer.encode("", true)?;
    let adds = |token: Option<u32>| token.is_some_and(|id| empty.contains(&id));
    add("add_bos_token", Field::Bool(adds(tokenizer.bos().map(|t| t.id))));
    add("add_eos_token", Field::Bool(adds(tokenizer.eos().map(|t| t.id))));
    if tokenizer.has_chat_template() {
        fields.push(("tokenizer.chat_template".into(), Field::Text(tokenizer.chat_template()?.source().to_string())));
    }
    Ok(fields)
}

/// llama.cpp's name for the way in which text is cut before byte pairs are merged.
fn pre_tokenizer(json: &Value) -> Result<&'static str> {
    let text = json["pre_tokenizer"].to_string();
    let regex = |pattern: &str| text.contains(&Value::from(pattern).to_string());
    Ok(match () {
        () if regex(LLAMA3) && json["model"]["ignore_merges"] == true => "llama-bpe",
        () if regex(LLAMA3) => "dbrx",
        () if regex(QWEN2) => "qwen2",
        () if text.contains("\"Split\"") => {
            return Err(cannot("its tokenizer", &format!("llama.cpp's name for this way of cutting text is not known: {text}")));
        }
        () if text.contains("\"Digits\"") => "smollm",
        () => "gpt-2",
    })
}
