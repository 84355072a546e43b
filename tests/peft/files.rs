//! Adapters' files that are for another base, in another form, or damaged.

use super::common::Batch;
use super::{bits, decoder, folder, handle, numbers, read};
use candle_core::Tensor;
use ftrepl::adapter::{AttachOptions, LoraConfig, storage};
use ftrepl::random::Random;
use std::collections::HashMap;
use std::path::Path;

/// What a refusal says of an adapter in this folder on the base of `variant`.
fn refusal(variant: &str, folder: &Path) -> String {
    let model = handle(variant);
    let error = model.load_adapter(folder, false).unwrap_err().to_string();
    assert!(!model.has_adapter());
    error
}

#[test]
fn an_adapter_for_another_base_is_refused_with_both_names_or_warned_of() {
    let error = refusal("dora", &folder("dora_gpt2"));
    assert!(error.contains("\"gpt2\"") && error.contains("\"qwen2\", a qwen2 model") && error.contains("c_attn"), "{error}");
    // Another model of the same family: the shapes do not fit.
    let error = refusal("tokens_tied", &folder("dora"));
    assert!(error.contains("shape") && error.contains("another base model"), "{error}");
    // A name alone is no reason to refuse.
    let copy = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(folder("dora").join(file), copy.path().join(file)).unwrap();
    }
    let path = copy.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap().replace("\"qwen2\"", "\"someone/other-model\"");
    std::fs::write(&path, text).unwrap();
    let model = handle("dora");
    let warning = model.load_adapter_as(copy.path(), &AttachOptions::default()).unwrap().unwrap();
    assert!(warning.contains("other-model") && warning.contains("qwen2"), "{warning}");
    // An embedding or a head that is not the base's would have to take its place.
    for (variant, module, words) in
        [("loraplus_embedding", "model.embed_tokens", "another embedding"), ("head", "lm_head", "another head")]
    {
        let other = tempfile::tempdir().unwrap();
        std::fs::copy(folder(variant).join("adapter_config.json"), other.path().join("adapter_config.json")).unwrap();
        let mut tensors = read(&folder(variant).join("adapter_model.safetensors"));
        let name = format!("base_model.model.{module}.base_layer.weight");
        tensors.insert(name.clone(), (&tensors[&name] * 2.0).unwrap());
        candle_core::safetensors::save(&tensors, other.path().join("adapter_model.safetensors")).unwrap();
        assert!(refusal("dora", other.path()).contains(words));
    }
}

#[test]
fn shards_are_read_and_pickles_are_refused_with_the_way_out() {
    let golden = numbers("dora");
    let out = tempfile::tempdir().unwrap();
    std::fs::copy(folder("dora").join("adapter_config.json"), out.path().join("adapter_config.json")).unwrap();
    std::fs::write(out.path().join("adapter_model.bin"), "pickle").unwrap();
    let error = refusal("dora", out.path());
    assert!(error.contains("adapter_model.bin") && error.contains("safetensors.torch.save_file"), "{error}");
    let mut tensors: Vec<(String, Tensor)> = read(&folder("dora").join("adapter_model.safetensors")).into_iter().collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let half = tensors.len() / 2;
    let mut map = serde_json::Map::new();
    for (file, part) in [("first.safetensors", &tensors[..half]), ("second.safetensors", &tensors[half..])] {
        candle_core::safetensors::save(&part.iter().cloned().collect(), out.path().join(file)).unwrap();
        part.iter().for_each(|(name, _)| drop(map.insert(name.clone(), file.into())));
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map });
    std::fs::write(out.path().join("adapter_model.safetensors.index.json"), index.to_string()).unwrap();
    let decoder = decoder("dora");
    storage::load(&decoder, out.path(), false).unwrap();
    Batch::of(&golden).check_logits(&decoder, &golden["logits"], "shards", 1e-5);
}

#[test]
fn a_file_that_does_not_fit_changes_nothing() {
    let decoder = decoder("dora");
    let adapter = storage::load(&decoder, &folder("dora"), true).unwrap();
    let values = || adapter.own().iter().map(|own| bits(&own.parameter.value())).collect::<Vec<_>>();
    let (before, other) = (values(), tempfile::tempdir().unwrap());
    let original = read(&folder("dora").join("adapter_model.safetensors"));
    // All are doubled, and the one that is looked at last is cut.
    let last = adapter.own().into_iter().map(|own| own.file_name).next_back().unwrap();
    let changed = |(name, value): (&String, &Tensor)| {
        let doubled = (value * 2.0).unwrap();
        (name.clone(), if *name == last { doubled.narrow(0, 0, 1).unwrap() } else { doubled })
    };
    let tensors: HashMap<String, Tensor> = original.iter().map(changed).collect();
    candle_core::safetensors::save(&tensors, other.path().join("adapter_model.safetensors")).unwrap();
    let error = storage::restore(&adapter, other.path()).unwrap_err().to_string();
    assert!(error.contains(&last) && error.contains("shape"), "{error}");
    assert_eq!(values(), before);
}

/// PEFT saves all that such a module holds.
#[test]
fn modules_that_hold_others_are_not_saved_in_part() {
    for (variant, target, saved) in [("saved_gpt2", "c_fc", "attn"), ("tokens", "v_proj", "mlp")] {
        let options = serde_json::json!({ "target_modules": [target], "modules_to_save": [saved] });
        let config: LoraConfig = serde_json::from_value(options).unwrap();
        let error = handle(variant).attach(config, &mut Random::new(0)).unwrap_err().to_string();
        assert!(error.contains("holds other modules"), "{saved}: {error}");
    }
}

#[test]
fn rows_that_cannot_be_trained_are_refused() {
    let refused = |options: &str| {
        let config: LoraConfig = serde_json::from_str(options).unwrap();
        handle("tokens").attach(config, &mut Random::new(0)).unwrap_err().to_string()
    };
    for (options, words) in [
        (r#"{"trainable_token_indices": []}"#, "no token"),
        (r#"{"trainable_token_indices": [5, 5]}"#, "twice"),
        (r#"{"trainable_token_indices": [96]}"#, "outside the vocabulary"),
        (r#"{"trainable_token_indices": {"embed_tokens": [5], "model.embed_tokens": [6]}}"#, "named twice"),
        (r#"{"trainable_token_indices": {"q_proj": [5]}}"#, "neither"),
        (r#"{"trainable_token_indices": [5], "modules_to_save": ["embed_tokens"]}"#, "modules_to_save already"),
        (r#"{"trainable_token_indices": [5], "target_modules": ["v_proj", "embed_tokens"]}"#, "target_modules already"),
        (r#"{"trainable_token_indices": {"lm_head": [5]}, "target_modules": ["lm_head"]}"#, "target_modules already"),
    ] {
        let error = refused(options);
        assert!(error.contains(words), "{options}: {error}");
    }
}

/// What PEFT would tie is refused by name, made and loaded; where there is nothing to tie, the option has no effect there either.
#[test]
fn a_change_that_embedding_and_head_would_share_is_refused() {
    let config = |options: &str| LoraConfig { ensure_weight_tying: true, ..serde_json::from_str(options).unwrap() };
    for (variant, options) in [
        ("tokens", r#"{"target_modules": ["v_proj", "lm_head"]}"#),
        ("tokens_tied", r#"{"ensure_weight_tying": true}"#),
        ("tokens_tied", r#"{"trainable_token_indices": [5]}"#),
        ("tokens_tied", r#"{"trainable_token_indices": {"embed_tokens": [5], "lm_head": [5]}}"#),
    ] {
        let (model, out) = (handle(variant), tempfile::tempdir().unwrap());
        model.attach(config(options), &mut Random::new(0)).unwrap();
        model.save_pretrained(out.path()).unwrap();
        handle(variant).load_adapter(out.path(), false).unwrap();
    }
    for (options, words) in [
        (r#"{"target_modules": ["v_proj", "embed_tokens"]}"#, "changes model.embed_tokens"),
        (r#"{"target_modules": ["v_proj", "lm_head"]}"#, "changes lm_head"),
        (r#"{"modules_to_save": ["embed_tokens"]}"#, "changes model.embed_tokens"),
        (r#"{"modules_to_save": ["lm_head"]}"#, "changes lm_head"),
        (r#"{"trainable_token_indices": {"embed_tokens": [5], "lm_head": [6]}}"#, "tokens for lm_head"),
    ] {
        let error = handle("tokens_tied").attach(config(options), &mut Random::new(0)).unwrap_err().to_string();
        assert!(error.contains("ensure_weight_tying") && error.contains(words), "{options}: {error}");
        let (model, out) = (handle("tokens_tied"), tempfile::tempdir().unwrap());
        let apart = LoraConfig { ensure_weight_tying: false, ..config(options) };
        model.attach(apart, &mut Random::new(0)).unwrap();
        model.save_pretrained(out.path()).unwrap();
        let path = out.path().join("adapter_config.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let tying = text.replace("\"ensure_weight_tying\": false", "\"ensure_weight_tying\": true");
        assert_ne!(tying, text);
        std::fs::write(&path, tying).unwrap();
        let error = refusal("tokens_tied", out.path());
        let named = ["adapter_config.json", "ensure_weight_tying", words].iter().all(|word| error.contains(word));
        assert!(named, "{options}: {error}");
    }
}
