//! Adapters on every family of models, against PEFT: logits, loss, gradients, ten steps of training, files both ways, merging.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use candle_core::{Device, Tensor};
use common::{Batch, Tolerances, check_lora, difference, greedy};
use ftrepl::adapter::storage;
use ftrepl::model::gguf_write::{GgufDtype, save_gguf};
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::rope::Rope;
use ftrepl::model::{Decoder, Source};
use ftrepl::ops::gpu::with_tensors_on_cpu;
use ftrepl::ops::with_fused;
use ftrepl::optim::Optimizer;
use std::collections::HashMap;
use std::path::PathBuf;

const FAMILIES: [&str; 15] = [
    "smollm3",
    "qwen2",
    "qwen2_window",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3",
    "phi3_longrope",
    "phi3_partial",
    "olmo2",
    "granite",
    "gpt2",
    "gpt2_scaled",
    "llama_yarn",
];

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/families").join(name)
}

fn decoder(name: &str) -> Decoder {
    Decoder::load(&Source::open(&folder(name)).unwrap(), None, &Device::Cpu).unwrap()
}

fn read(name: &str, file: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder(name).join(file), &Device::Cpu).unwrap()
}

/// An adapter that PEFT made, on one family: all that PEFT computes with it.
fn check(name: &str, fused: bool) {
    with_fused(fused, || {
        let decoder = decoder(name);
        let tolerances = Tolerances { logits: 1e-5, gradients: 1e-4, losses: 1e-4, parameters: 1e-3 };
        check_lora(&decoder, &folder(name), &tolerances, |optimizer| optimizer.step().unwrap());
        let (base, golden) = (read(name, "golden.safetensors"), read(name, "lora_golden.safetensors"));
        assert_eq!(greedy(&decoder, &base), golden["greedy"].to_vec2::<i64>().unwrap(), "{name}: after ten steps");
    });
}

#[test]
fn lora_on_every_family_gives_pefts_numbers() {
    for name in FAMILIES {
        check(name, true);
    }
}

#[test]
fn lora_by_plain_compositions_gives_pefts_numbers() {
    for name in FAMILIES {
        check(name, false);
    }
}

/// What a GPU runs, but for its kernels.
#[test]
fn lora_on_tensors_gives_pefts_numbers() {
    for name in FAMILIES {
        with_tensors_on_cpu(|| check(name, true));
    }
}

#[test]
fn adapters_are_merged_and_saved_and_loaded_again() {
    for name in FAMILIES {
        let (base, golden) = (read(name, "golden.safetensors"), read(name, "lora_golden.safetensors"));
        let batch = Batch::of(&base);
        let loaded = decoder(name);
        let adapter = storage::load(&loaded, &folder(name).join("lora"), false).unwrap();
        let ours = tempfile::tempdir().unwrap();
        storage::save(&adapter, ours.path(), name).unwrap();
        let again = decoder(name);
        storage::load(&again, ours.path(), false).unwrap();
        batch.check_logits(&again, &golden["logits"], name, 1e-5);
        adapter.merge(&loaded).unwrap();
        batch.check_logits(&loaded, &golden["logits_merged"], name, 1e-4);
        let config = std::fs::read_to_string(ours.path().join("adapter_config.json")).unwrap();
        assert_eq!(config.contains("\"fan_in_fan_out\": true"), name.starts_with("gpt2"), "{name}: {config}");
    }
}

/// A model that is written is the model that was read, byte for byte in its tensors, under the names and in the shapes of the file.
#[test]
fn models_are_saved_as_they_were_read() {
    for name in FAMILIES {
        let model = LanguageModel::load(name, &folder(name), None, &Device::Cpu).unwrap();
        let saved = tempfile::tempdir().unwrap();
        model.save_pretrained(saved.path()).unwrap();
        let ours = candle_core::safetensors::load(saved.path().join("model.safetensors"), &Device::Cpu).unwrap();
        let original = read(name, "model.safetensors");
        for (tensor, value) in &ours {
            // Some checkpoints leave out the first part of the names.
            let stored = original.get(tensor).or_else(|| original.get(tensor.strip_prefix("transformer.")?));
            let stored = stored.unwrap_or_else(|| panic!("{name}: {tensor} is not in the original"));
            assert_eq!(value.dims(), stored.dims(), "{name}: {tensor}");
            assert_eq!(
                value.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
                stored.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            );
        }
        let masks = original.keys().filter(|key| key.ends_with(".attn.bias")).count();
        assert_eq!(ours.len(), original.len() - masks, "{name}");
        let config = |folder: &std::path::Path| ftrepl::model::ModelConfig::from_folder(folder).unwrap();
        let (before, after) = (config(&folder(name)), config(saved.path()));
        assert_eq!(ftrepl::model::ModelConfig { raw: before.raw.clone(), ..after }, before, "{name}");
    }
}

/// A model that llama.cpp can hold comes back from a GGUF file with the same tensors and computes the same.
#[test]
fn models_written_as_gguf_come_back() {
    let inexpressible = [
        ("smollm3", "no_rope_layers"),
        ("qwen2_window", "sliding_window"),
        ("gemma2", "the factor on attention's scores"),
        ("gemma3", "layer_types"),
        ("gpt2_scaled", "the factor on attention's scores"),
    ];
    for name in FAMILIES {
        let model = LanguageModel::load(name, &folder(name), None, &Device::Cpu).unwrap();
        let saved = tempfile::tempdir().unwrap();
        let path = saved.path().join("model.gguf");
        let outcome = save_gguf(&model, &path, GgufDtype::from_name("f32").unwrap());
        if let Some((_, reason)) = inexpressible.iter().find(|(other, _)| *other == name) {
            let error = outcome.unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains("save_pretrained"), "{name}: {error}");
            assert!(!path.exists());
            continue;
        }
        outcome.unwrap();
        let again = LanguageModel::load(name, &path, None, &Device::Cpu).unwrap();
        let base = read(name, "golden.safetensors");
        let tolerance = if name == "granite" { 1e-4 } else { 1e-5 };
        Batch::of(&base).check_logits(again.decoder(), &base["logits"], name, tolerance);
        // The same tensors, but for Gemma's norms, to which 1 is added in the file.
        for ((first, slot), (second, other)) in model.decoder().slots().iter().zip(again.decoder().slots()) {
            assert_eq!(*first, second);
            assert!(difference(&other.base().value(), &slot.base().value()) < 1e-6, "{name} {first}");
        }
        let half = saved.path().join("half.gguf");
        save_gguf(&model, &half, GgufDtype::from_name("q8_0").unwrap()).unwrap();
        assert!(half.metadata().unwrap().len() < path.metadata().unwrap().len() / 2, "{name}");
    }
}

/// A copy of a model with other fields in its configuration.
fn changed(name: &str, fields: &serde_json::Value) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    std::fs::copy(folder(name).join("model.safetensors"), copy.path().join("model.safetensors")).unwrap();
    let mut config = ftrepl::model::config::read_json(&folder(name).join("config.json")).unwrap();
    for (key, value) in fields.as_object().unwrap() {
        config[key] = value.clone();
    }
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    copy
}

/// What of rotary embeddings a GGUF file has a field for comes back; what it has none for is refused.
#[test]
fn rotary_embeddings_in_gguf_files_are_kept_or_refused() {
    use serde_json::json;
    let write = |name: &str, fields: &serde_json::Value| -> ftrepl::Result<(Vec<Rope>, Vec<Rope>)> {
        let source = changed(name, fields);
        let model = LanguageModel::load(name, source.path(), None, &Device::Cpu)?;
        let path = source.path().join("model.gguf");
        save_gguf(&model, &path, GgufDtype::from_name("f32").unwrap())?;
        Ok((model.decoder().config().ropes.clone(), Source::open(&path)?.config().ropes.clone()))
    };
    // As the published Gemma 3 but for the base of the layers with a window.
    let gemma = |local: serde_json::Value| {
        json!({ "sliding_window_pattern": 6, "query_pre_attn_scalar": 16, "rope_scaling": null, "rope_local_base_freq": 500.0,
                "rope_parameters": { "full_attention": { "rope_theta": 1e6 }, "sliding_attention": local } })
    };
    let (kept, found) = write("gemma3", &gemma(json!({ "rope_theta": 500.0 }))).unwrap();
    assert_eq!((kept[1].theta, &found), (500.0, &kept));
    let scaled = write("gemma3", &gemma(json!({ "rope_theta": 500.0, "rope_type": "linear", "factor": 2.0 })));
    assert!(scaled.unwrap_err().to_string().contains("rope_parameters.sliding_attention"));
    let yarn = |more: serde_json::Value| {
        let mut rule = json!({ "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32 });
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({ "rope_scaling": rule })
    };
    let (kept, found) = write("llama_yarn", &yarn(json!({ "attention_factor": 1.5 }))).unwrap();
    assert!((kept[0].attention_factor() - 1.5).abs() < 1e-6 && (found[0].attention_factor() - 1.5).abs() < 1e-6);
    for more in [json!({ "beta_fast": 8.0 }), json!({ "beta_slow": 2.0 }), json!({ "truncate": false })] {
        let error = write("llama_yarn", &yarn(more.clone())).unwrap_err().to_string();
        assert!(error.contains("rope_scaling \"yarn\"") && error.contains("beta_fast 32"), "{more}: {error}");
    }
    let llama3 = |low: f64, original: u32| {
        json!({ "rope_scaling": { "rope_type": "llama3", "factor": 8.0, "low_freq_factor": low, "high_freq_factor": 4.0,
            "original_max_position_embeddings": original } })
    };
    for (low, original) in [(1.0, 8192), (1.0, 16), (1.3, 100)] {
        let (kept, found) = write("llama_yarn", &llama3(low, original)).unwrap();
        assert_eq!(found, kept, "{low} {original}");
    }
    let factors = |first: f64| (0..8).map(|i| first + f64::from(i)).collect::<Vec<_>>();
    let long = json!({ "rope_scaling": { "rope_type": "longrope", "short_factor": factors(1.0), "long_factor": factors(2.0),
        "original_max_position_embeddings": 32, "attention_factor": 1.25 } });
    let (kept, found) = write("llama_yarn", &long).unwrap();
    assert_eq!((kept[0].changes_beyond(), &found), (Some(32), &kept));
    let long = json!({ "rope_scaling": { "rope_type": "longrope", "short_factor": factors(1.0)[..4], "long_factor": factors(2.0)[..4] } });
    assert!(write("olmo2", &long).unwrap_err().to_string().contains("rope_scaling \"longrope\""));
}

/// A tokenizer that is damaged is not left out of the file as if there were none.
#[test]
fn a_damaged_tokenizer_is_not_left_out_of_a_gguf_file() {
    let source = changed("llama_yarn", &serde_json::json!({}));
    std::fs::write(source.path().join("tokenizer.json"), "{\"version\":").unwrap();
    let model = LanguageModel::load("damaged", source.path(), None, &Device::Cpu).unwrap();
    let path = source.path().join("model.gguf");
    let error = save_gguf(&model, &path, GgufDtype::from_name("f32").unwrap()).unwrap_err().to_string();
    assert!(error.contains("tokenizer.json: not a tokenizer that can be read"), "{error}");
    assert!(!path.exists());
}

/// The row of the token that config.json names as padding is read and not trained, as by PyTorch's `padding_idx`; all else stays.
#[test]
fn the_row_of_padding_is_not_trained() {
    use ftrepl::model::ModelConfig;
    use serde_json::{Value, json};
    let batch = Batch::of(&read("qwen2", "golden.safetensors"));
    let token = batch.tokens.ids[1];
    let gradient = |padding: Value, fused: bool| {
        let source = changed("qwen2", &json!({ "pad_token_id": padding }));
        let decoder = Decoder::load(&Source::open(source.path()).unwrap(), None, &Device::Cpu).unwrap();
        let loss = with_fused(fused, || batch.loss(&decoder, false));
        (loss, decoder.embedding().current().grad().unwrap().unwrap().to_vec2::<f32>().unwrap())
    };
    for fused in [true, false] {
        let ((loss, all), (same_loss, trained)) = (gradient(Value::Null, fused), gradient(json!(token), fused));
        assert_eq!(loss, same_loss);
        assert!(all[token as usize].iter().any(|g| *g != 0.0));
        for (row, (all, trained)) in all.iter().zip(&trained).enumerate() {
            let expected = if row == token as usize { vec![0.0; all.len()] } else { all.clone() };
            assert_eq!(*trained, expected, "fused {fused}, row {row}");
        }
    }
    // What transformers' nn.Embedding is made with.
    let padding =
        |name: &str, fields: Value| ModelConfig::from_folder(changed(name, &fields).path()).unwrap().embedding_padding();
    let rows = ModelConfig::from_folder(&folder("qwen2")).unwrap().vocab_size;
    assert_eq!(padding("qwen2", json!({ "pad_token_id": -1 })), u32::try_from(rows - 1).ok());
    assert_eq!(padding("qwen2", json!({ "pad_token_id": rows })), None);
    assert_eq!(padding("gemma", json!({})), Some(0));
    assert_eq!(padding("gemma", json!({ "pad_token_id": null })), None);
    assert_eq!(padding("gpt2", json!({ "pad_token_id": 3 })), None);
}
