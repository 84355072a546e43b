//! The real model, SmolLM2-135M-Instruct from its package: logits and greedy continuations as transformers gives them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::Device;
use ftrepl::adapter::{LoraConfig, ModelHandle};
use ftrepl::control::Control;
use ftrepl::model::generate::{Generation, generate};
use ftrepl::model::hub::Cache;
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::projection::Pass;
use ftrepl::model::sampling::Sampling;
use ftrepl::model::{TokenBatch, Tokenizer};
use ftrepl::random::Random;
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/smollm2").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// The golden numbers come from the weights in the package, so that source is asked for.
fn model() -> LanguageModel {
    let files = Cache::from_env().unwrap().from_wheel("smollm2-135m-instruct", &Control::default()).unwrap();
    LanguageModel::load("smollm2-135m-instruct", &files.path, None, &Device::Cpu).unwrap()
}

#[test]
fn logits_of_ten_prompts_equal_transformers() {
    let model = model();
    let expected = candle_core::safetensors::load(golden("logits.safetensors"), &Device::Cpu).unwrap();
    let indices = expected["indices"].to_vec1::<i64>().unwrap();
    let values = expected["values"].to_vec3::<f32>().unwrap();
    let facts = json("logits.json");
    let prompts = facts["prompts"].as_array().unwrap();
    assert_eq!(prompts.len(), 10);
    for (i, prompt) in prompts.iter().enumerate() {
        let ids = ids(&prompt["ids"]);
        let batch = TokenBatch::new([ids.as_slice()]);
        let hidden = model.decoder().hidden(&batch, Pass::default()).unwrap();
        let logits = model.decoder().logits(&hidden, Pass::default()).unwrap().detach().to_vec2::<f32>().unwrap();
        for (which, position) in prompt["positions"].as_array().unwrap().iter().enumerate() {
            let row = &logits[position.as_u64().unwrap() as usize];
            for (index, value) in indices.iter().zip(&values[i][which]) {
                let own = row[*index as usize];
                assert!((own - value).abs() < 1e-3, "prompt {i}, logit {index}: {own} {value}");
            }
        }
    }
}

#[test]
fn greedy_continuations_of_forty_tokens_equal_transformers() {
    let model = model();
    let facts = json("greedy.json");
    let entries = facts["cases"].as_array().unwrap();
    assert_eq!(entries.len(), 10);
    let tokenizer: &Tokenizer = model.tokenizer().unwrap();
    let prompts: Vec<Vec<u32>> =
        entries.iter().map(|e| tokenizer.encode(e["input_text"].as_str().unwrap(), true).unwrap()).collect();
    let eos = tokenizer.eos().unwrap().id;
    let generation = Generation {
        max_new_tokens: 40,
        sampling: Sampling::default(),
        stop_tokens: vec![eos],
        batch_size: 10,
        seed: 0,
        prompt_lookup_num_tokens: None,
    };
    let out = generate(model.decoder(), &prompts, &generation, &Control::default(), &|_| false).unwrap();
    for (entry, new) in entries.iter().zip(out) {
        let expected: Vec<u32> = ids(&entry["new_ids"]).into_iter().filter(|id| *id != eos).collect();
        assert_eq!(new, expected, "{}", entry["input_text"]);
    }
}

#[test]
fn the_adapters_of_the_lesson_have_pefts_numbers() {
    let text = std::fs::read_to_string(golden("../print_trainable.json")).unwrap();
    let facts: Value = serde_json::from_str(&text).unwrap();
    let model = ModelHandle::new(model());
    let mut compared = 0;
    for entry in facts["printed"].as_array().unwrap().iter().filter(|e| e["base"].as_str().unwrap().starts_with("smollm2")) {
        if entry["options"]["target_modules"].to_string().contains("embed_tokens") {
            continue;
        }
        let config: LoraConfig = serde_json::from_value(entry["options"].clone()).unwrap();
        model.attach(config, &mut Random::new(0)).unwrap();
        assert_eq!(model.describe_trainable(), entry["printed"].as_str().unwrap().trim());
        model.unload().unwrap();
        compared += 1;
    }
    assert!(compared >= 6);
}
