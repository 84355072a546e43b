//! Which fields of a `config.json` are known: what is neither read nor harmless is refused, since it could change the numbers.

use super::config_fields::Fields;
use super::family::Family;
use crate::error::Result;
use serde_json::{Value, json};

/// Read for every family.
const READ: &[&str] = &[
    "model_type",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "rms_norm_eps",
    "hidden_act",
    "max_position_embeddings",
    "tie_word_embeddings",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "torch_dtype",
    "dtype",
    "layer_types",
    "original_max_position_embeddings",
];

/// Without influence on what a loaded model computes: metadata, switches of implementations, defaults of generation and of training
/// from scratch, and fields of other tasks that transformers writes into every file.
const HARMLESS: &[&str] = &[
    "architectures",
    "auto_map",
    "transformers_version",
    "use_cache",
    "initializer_range",
    "pretraining_tp",
    "cache_implementation",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "return_dict_in_generate",
    "output_scores",
    "torchscript",
    "use_bfloat16",
    "tf_legacy_loss",
    "chunk_size_feed_forward",
    "gradient_checkpointing",
    "id2label",
    "label2id",
    "num_labels",
    "problem_type",
    "finetuning_task",
    "task_specific_params",
    "tokenizer_class",
    "prefix",
    "max_length",
    "min_length",
    "do_sample",
    "early_stopping",
    "num_beams",
    "num_beam_groups",
    "diversity_penalty",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size",
    "bad_words_ids",
    "num_return_sequences",
    "sep_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "remove_invalid_values",
    "exponential_decay_length_penalty",
    "suppress_tokens",
    "begin_suppress_tokens",
    "is_decoder",
    "pruned_heads",
    "is_llama_config",
    "transformers.js_config",
    "unsloth_fixed",
    "unsloth_version",
    "max_sequence_length",
    "model_max_length",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "reorder_and_upcast_attn",
    "attn_implementation",
    "name_or_path",
    // In GPT-2's files of the first years.
    "output_past",
    "predict_special_tokens",
];

/// Read for a family beside those that all have.
fn of_family(family: Family) -> &'static [&'static str] {
    match family {
        Family::Llama => &["attention_bias", "mlp_bias"],
        Family::Granite => &[
            "attention_bias",
            "mlp_bias",
            "embedding_multiplier",
            "attention_multiplier",
            "residual_multiplier",
            "logits_scaling",
        ],
        Family::Mistral => &["sliding_window"],
        // max_window_layers and the window are written even where use_sliding_window is false. transformers does not know of
        // attention in chunks, which changes nothing within the first of 262144 tokens.
        Family::Qwen2 => &["sliding_window", "use_sliding_window", "max_window_layers", "dual_chunk_attention_config"],
        Family::Qwen3 => {
            &["attention_bias", "sliding_window", "use_sliding_window", "max_window_layers", "dual_chunk_attention_config"]
        }
        Family::SmolLm3 => &[
            "attention_bias",
            "mlp_bias",
            "sliding_window",
            "use_sliding_window",
            "max_window_layers",
            "no_rope_layers",
            "no_rope_layer_interval",
        ],
        // hidden_activation is written beside hidden_act, which counts.
        Family::Gemma => &["attention_bias", "hidden_activation"],
        Family::Gemma2 => &[
            "attention_bias",
            "hidden_activation",
            "query_pre_attn_scalar",
            "attn_logit_softcapping",
            "final_logit_softcapping",
            "sliding_window",
        ],
        // No cap on attention's scores: transformers reads it and computes without.
        Family::Gemma3 => &[
            "attention_bias",
            "hidden_activation",
            "query_pre_attn_scalar",
            "final_logit_softcapping",
            "sliding_window",
            "sliding_window_pattern",
            "rope_local_base_freq",
        ],
        // embd_pdrop is written, and nothing is dropped by it.
        Family::Phi3 => &["sliding_window", "resid_pdrop", "embd_pdrop"],
        Family::Olmo2 => &["attention_bias"],
        Family::Gpt2 => &[
            "n_embd",
            "n_layer",
            "n_head",
            "n_inner",
            "n_positions",
            "n_ctx",
            "activation_function",
            "layer_norm_epsilon",
            "resid_pdrop",
            "embd_pdrop",
            "attn_pdrop",
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
        ],
    }
}

/// Refuses fields that are neither read nor harmless, unless they say "no": null, false, 0, or empty.
pub(super) fn refuse_unknown(f: &Fields<'_>, family: Family) -> Result<()> {
    if f.get("quantization_config").is_some() {
        let message = "weights quantised by other tools are not supported; use the unquantised model or a GGUF file";
        return Err(f.wrong("quantization_config", message));
    }
    for (key, value) in f.map {
        let known = [READ, HARMLESS, of_family(family)].iter().any(|keys| keys.contains(&key.as_str())) || key.starts_with('_');
        if !known && !says_no(value) && !changes_nothing(f, family, key, value) {
            let model_type = family.traits().model_type;
            let message = format!(
                "{value} is not supported for a {model_type} model: it may change what the model computes; if you know that it does \
                 not, remove it from the file"
            );
            return Err(f.wrong(key, message));
        }
    }
    Ok(())
}

/// Fields that published files have with the one value at which they change nothing.
fn changes_nothing(f: &Fields<'_>, family: Family, key: &str, value: &Value) -> bool {
    match key {
        // Phi-4 mini: every layer sees all positions, and none is stretched.
        "full_attn_mod" | "interpolate_factor" => value.as_f64() == Some(1.0),
        // Gemma 2 9B and 27B have the window twice.
        "sliding_window_size" => f.get("sliding_window") == Some(value),
        "sliding_window_pattern" => family == Family::Gemma2 && value.as_f64() == Some(2.0),
        _ => false,
    }
}

/// Null, false, 0, or empty.
pub(super) fn says_no(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(entries) => entries.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// The text model's part of a configuration for text and images (Gemma 3 from 4B on), as its own configuration; any other as it is.
pub(super) fn text_model(raw: Value) -> Value {
    if raw.get("model_type").and_then(Value::as_str) != Some("gemma3") {
        return raw;
    }
    let Some(Value::Object(text)) = raw.get("text_config") else { return raw };
    let mut text = text.clone();
    for key in [
        "torch_dtype",
        "dtype",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "tie_word_embeddings",
        "quantization_config",
        "transformers_version",
    ] {
        if let Some(value) = raw.get(key) {
            text.entry(key).or_insert_with(|| value.clone());
        }
    }
    text.insert("model_type".into(), json!("gemma3_text"));
    text.insert("architectures".into(), json!(["Gemma3ForCausalLM"]));
    Value::Object(text)
}
