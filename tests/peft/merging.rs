//! What merging and converting must not lose, and what cannot be merged.

use super::common::{Batch, difference};
use super::{base_folder, bits, decoder, facts, folder, handle, numbers, perturb, strings};
use candle_core::{DType, Device, Tensor};
use ftrepl::adapter::{Adapter, AttachOptions, InitLoraWeights, LoraConfig, storage};
use ftrepl::model::{Decoder, Source};
use ftrepl::random::Random;

#[test]
fn what_would_part_a_shared_matrix_is_not_merged() {
    let batch = Batch::of(&numbers("tokens_tied"));
    for options in [
        r#"{"target_modules": ["v_proj", "lm_head"]}"#,
        r#"{"target_modules": ["v_proj", "embed_tokens"]}"#,
        r#"{"modules_to_save": ["lm_head"]}"#,
        r#"{"modules_to_save": ["embed_tokens"]}"#,
        r#"{"trainable_token_indices": {"lm_head": [5]}}"#,
        r#"{"trainable_token_indices": {"embed_tokens": [5, 17], "lm_head": [5]}}"#,
    ] {
        let decoder = decoder("tokens_tied");
        let config: LoraConfig = serde_json::from_str(options).unwrap();
        let adapter = Adapter::attach(&decoder, config, &mut Random::new(0)).unwrap();
        perturb(&adapter);
        let before = bits(&batch.logits(&decoder));
        let error = adapter.merge(&decoder).unwrap_err().to_string();
        assert!(error.contains("shares its matrix"), "{options}: {error}");
        assert_eq!(bits(&batch.logits(&decoder)), before, "{options}");
    }
    // The same rows of both stay one, as in PEFT.
    let decoder = decoder("tokens_tied");
    let rows = r#"{"trainable_token_indices": {"embed_tokens": [5, 17], "lm_head": [5, 17]}}"#;
    let adapter = Adapter::attach(&decoder, serde_json::from_str(rows).unwrap(), &mut Random::new(0)).unwrap();
    assert_eq!(adapter.tokens().len(), 1);
    perturb(&adapter);
    let before = batch.logits(&decoder);
    adapter.merge(&decoder).unwrap();
    assert!(difference(&batch.logits(&decoder), &before) < 1e-4);
}

#[test]
fn an_embedding_that_would_not_be_finite_is_not_merged() {
    let decoder = Decoder::load(&Source::open(&base_folder("head")).unwrap(), Some(DType::F16), &Device::Cpu).unwrap();
    let config: LoraConfig = serde_json::from_str(r#"{"target_modules": ["v_proj", "embed_tokens"]}"#).unwrap();
    let adapter = Adapter::attach(&decoder, config, &mut Random::new(0)).unwrap();
    let (_, layer) = adapter.embedding().unwrap();
    layer.a.set(&Tensor::full(1e6f32, layer.a.dims(), &Device::Cpu).unwrap()).unwrap();
    let values = || bits(&decoder.embedding().base().value().to_dtype(DType::F32).unwrap());
    let before = values();
    let error = adapter.merge(&decoder).unwrap_err().to_string();
    assert!(error.contains("not finite"), "{error}");
    assert_eq!(values(), before);
}

#[test]
fn a_copy_of_a_module_and_another_adapters_change_of_it_are_merged_together() {
    let batch = Batch::of(&numbers("head"));
    for (saved, switched_off) in [("lm_head", false), ("embed_tokens", false), ("lm_head", true), ("embed_tokens", true)] {
        let model = handle("head");
        let copy = format!(r#"{{"target_modules": ["v_proj"], "modules_to_save": ["{saved}"]}}"#);
        let change = format!(r#"{{"target_modules": ["{saved}"], "init_lora_weights": false}}"#);
        for (name, options) in [("copy", copy), ("change", change)] {
            let attach = AttachOptions { name: name.into(), ..AttachOptions::default() };
            model.add_adapter(serde_json::from_str(&options).unwrap(), &attach, &mut Random::new(0)).unwrap();
        }
        let moved = model.with_adapter(|adapter| {
            perturb(adapter);
            Ok(())
        });
        moved.unwrap();
        let copied = batch.logits(model.model().decoder());
        model.set_adapter(&strings(&["copy", "change"])).unwrap();
        let before = batch.logits(model.model().decoder());
        assert!(difference(&before, &copied) > 1e-2, "{saved}");
        let merge = || model.merge_and_unload();
        let merged = if switched_off { model.without_adapter(merge) } else { merge() };
        merged.unwrap();
        assert!(difference(&batch.logits(model.model().decoder()), &before) < 1e-4, "{saved} {switched_off}");
    }
}

#[test]
fn what_is_converted_keeps_all_else_that_was_trained() {
    let batch = Batch::of(&numbers("pissa"));
    let tokens = facts("tokens")["options"]["trainable_token_indices"].clone();
    for options in [
        serde_json::json!({ "modules_to_save": ["lm_head", "norm"] }),
        serde_json::json!({ "bias": "all" }),
        serde_json::json!({ "trainable_token_indices": tokens }),
        serde_json::json!({ "target_modules": ["q_proj", "embed_tokens"], "rank_pattern": { "embed_tokens": 3 } }),
    ] {
        let decoder = decoder("pissa");
        let config: LoraConfig = serde_json::from_value(options.clone()).unwrap();
        let config = LoraConfig { r: 2, init_lora_weights: InitLoraWeights::Named("pissa".into()), ..config };
        let adapter = Adapter::attach(&decoder, config, &mut Random::new(0)).unwrap();
        perturb(&adapter);
        let out = tempfile::tempdir().unwrap();
        storage::save_converted(&adapter, out.path(), "base", None).unwrap();
        let fresh = super::decoder("pissa");
        storage::load(&fresh, out.path(), false).unwrap();
        let apart = difference(&batch.logits(&fresh), &batch.logits(&decoder));
        assert!(apart < 1e-4, "{options}: {apart}");
    }
    let (decoder, dora) = (decoder("dora"), folder("dora"));
    let adapter = storage::load(&decoder, &dora, true).unwrap();
    let out = tempfile::tempdir().unwrap();
    let error = storage::save_converted(&adapter, out.path(), "base", Some(&dora)).unwrap_err().to_string();
    assert!(error.contains("DoRA") && out.path().read_dir().unwrap().next().is_none(), "{error}");
    // What another adapter started as.
    let pissa = |r: usize| {
        let config = LoraConfig { r, init_lora_weights: InitLoraWeights::Named("pissa".into()), ..LoraConfig::default() };
        Adapter::attach(&super::decoder("pissa"), config, &mut Random::new(0)).unwrap()
    };
    let other = tempfile::tempdir().unwrap();
    storage::save(&pissa(3), other.path(), "base").unwrap();
    let error = storage::save_converted(&pissa(2), out.path(), "base", Some(other.path())).unwrap_err().to_string();
    assert!(error.contains("shape [3, 32]") && out.path().read_dir().unwrap().next().is_none(), "{error}");
}
