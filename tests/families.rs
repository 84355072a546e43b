//! Adapters on every family of models, against PEFT: logits, loss, gradients, ten steps of training, files both ways, merging.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use candle_core::{Device, Tensor};
use common::{Batch, difference};
use ftrepl::adapter::storage;
use ftrepl::control::Control;
use ftrepl::model::generate::{Generation, generate};
use ftrepl::model::gguf_write::{GgufDtype, save_gguf};
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::sampling::Sampling;
use ftrepl::model::{Decoder, Source};
use ftrepl::ops::with_fused;
use ftrepl::optim::{Adam, AdamWOptions, Optimizer, ParamGroup};
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
        let (base, golden) = (read(name, "golden.safetensors"), read(name, "lora_golden.safetensors"));
        let batch = Batch::of(&base);
        let decoder = decoder(name);
        let adapter = storage::load(&decoder, &folder(name).join("lora"), true).unwrap();
        batch.check_logits(&decoder, &golden["logits"], name, 1e-5);
        for checkpointing in [false, true] {
            let loss = batch.loss(&decoder, checkpointing);
            assert!((loss - f64::from(golden["loss"].to_vec1::<f32>().unwrap()[0])).abs() < 1e-5, "{name}: loss {loss}");
            let own = adapter.own_parameters();
            assert_eq!(golden.keys().filter(|key| key.starts_with("grad.")).count(), own.len(), "{name}");
            for (parameter_name, parameter) in own {
                let gradient = parameter.grad().unwrap().unwrap_or_else(|| panic!("{name}: no gradient of {parameter_name}"));
                let d = difference(&gradient, &golden[&format!("grad.{parameter_name}")]);
                assert!(d < 1e-4, "{name}: gradient of {parameter_name} differs by {d}");
                parameter.zero_grad();
            }
        }

        let parameters: Vec<_> = adapter.own_parameters().into_iter().map(|(_, parameter)| parameter).collect();
        let options = AdamWOptions { lr: 1e-2, weight_decay: 0.0, ..AdamWOptions::default() };
        let mut optimizer = Adam::adamw(vec![ParamGroup::new(parameters)], options).unwrap();
        for (step, expected) in golden["losses"].to_vec1::<f32>().unwrap().into_iter().enumerate() {
            let loss = batch.loss(&decoder, step % 2 == 1);
            assert!((loss - f64::from(expected)).abs() < 1e-4 * f64::from(expected), "{name} step {step}: {loss} {expected}");
            optimizer.step().unwrap();
            optimizer.zero_grad();
        }
        for (parameter_name, parameter) in adapter.own_parameters() {
            let d = difference(&parameter.value(), &golden[&format!("after.{parameter_name}")]);
            assert!(d < 1e-3, "{name}: {parameter_name} differs by {d} after ten steps");
        }
        let prompts =
            [0, 1].map(|i| base[&format!("prompt.{i}")].to_vec1::<i64>().unwrap().iter().map(|id| *id as u32).collect());
        let generation = Generation {
            max_new_tokens: 12,
            sampling: Sampling::default(),
            stop_tokens: vec![],
            batch_size: 2,
            seed: 0,
            prompt_lookup_num_tokens: None,
        };
        let tokens = generate(&decoder, &prompts, &generation, &Control::default(), &|_| false).unwrap();
        for (found, expected) in tokens.iter().zip(golden["greedy"].to_vec2::<i64>().unwrap()) {
            assert_eq!(found.iter().map(|id| i64::from(*id)).collect::<Vec<_>>(), expected, "{name}: after ten steps");
        }
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
