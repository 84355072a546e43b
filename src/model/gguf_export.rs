//! What a GGUF file says of a model's architecture, as llama.cpp's converter writes it.

use super::config::{ModelConfig, Rope, RopeScaling};
use super::family::Family;
use super::gguf_names::architecture;
use super::gguf_write::{Field, Fields};
use crate::error::{Error, Result};
use crate::ops::gated::Activation;

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
        for (key, field) in rope_scaling(c.family, rope, &mut factors)? {
            add(&key, field);
        }
    }
    // Gemma 3's of the layers with a window.
    if let Some(local) = c.ropes.get(1) {
        if local.scaling != RopeScaling::Default {
            return Err(cannot("rope_parameters.sliding_attention", "llama.cpp changes no frequencies in layers with a window"));
        }
        add("rope.freq_base_swa", float(local.theta));
    }
    Ok((fields, factors))
}

/// The fields of a change of the rotary frequencies, without the architecture's name; `factors` gets its tensors.
fn rope_scaling(family: Family, rope: &Rope, factors: &mut Factors) -> Result<Fields> {
    let mut fields: Fields = Vec::new();
    let mut add = |key: &str, field: Field| fields.push((format!("rope.scaling.{key}"), field));
    let text = |text: &str| Field::Text(text.to_string());
    let float = |x: f64| Field::F32(x as f32);
    match &rope.scaling {
        RopeScaling::Default => {}
        RopeScaling::Linear { factor } => {
            add("type", text("linear"));
            add("factor", float(*factor));
        }
        RopeScaling::Yarn {
            factor,
            beta_fast,
            beta_slow,
            original_max_position_embeddings: original,
            attention_factor,
            truncate,
        } => {
            if (*beta_fast, *beta_slow, *truncate) != (32.0, 1.0, true) {
                let why = "llama.cpp has it with beta_fast 32, beta_slow 1 and truncate true alone";
                return Err(cannot("rope_scaling \"yarn\"", why));
            }
            add("type", text("yarn"));
            add("factor", float(*factor));
            add("original_context_length", Field::U32(*original as u32));
            // llama.cpp multiplies by what transformers takes where nothing is said.
            let usual = 0.1 * factor.max(1.0).ln() + 1.0;
            if (attention_factor / usual - 1.0).abs() > 1e-6 {
                add("attn_factor", float(attention_factor / usual));
            }
        }
        RopeScaling::LongRope { short_factor, long_factor, original_max_position_embeddings: original, attention_factor } => {
            match family {
                Family::Phi3 => {}
                Family::Llama | Family::Mistral => add("type", text("longrope")),
                _ => return Err(cannot("rope_scaling \"longrope\"", "llama.cpp has it for Llama and Phi-3 alone")),
            }
            add("attn_factor", float(*attention_factor));
            add("original_context_length", Field::U32(*original as u32));
            let narrow = |factors: &[f64]| factors.iter().map(|f| *f as f32).collect();
            factors.push(("rope_factors_long.weight".into(), narrow(long_factor)));
            factors.push(("rope_factors_short.weight".into(), narrow(short_factor)));
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position_embeddings } => {
            // llama.cpp takes the tensor alone; from this key, which it passes over, we know again which rule it comes from.
            let rule = [factor, low_freq_factor, high_freq_factor, original_max_position_embeddings];
            add("llama3", Field::Floats(rule.map(|number| *number as f32).to_vec()));
            let plain = Rope { scaling: RopeScaling::Default, ..rope.clone() }.inverse_frequencies(1);
            let pairs = plain.iter().zip(rope.inverse_frequencies(1));
            factors.push(("rope_freqs.weight".into(), pairs.map(|(plain, scaled)| plain / scaled).collect()));
        }
        RopeScaling::Dynamic { .. } => {
            return Err(cannot("rope_scaling \"dynamic\"", "llama.cpp has no such rule"));
        }
    }
    Ok(fields)
}

/// That a model cannot be written as a GGUF file.
pub(super) fn cannot(what: &str, why: &str) -> Error {
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
