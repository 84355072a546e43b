//! What PEFT's LoRA can do besides, against its numbers: DoRA, biases, patterns, PiSSA, OLoRA, LoRA+; several adapters at once; files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;
mod files;
mod merging;
mod scripts;
mod several;

use candle_core::{Device, Tensor};
use common::{Batch, difference};
use ftrepl::adapter::peft::Own;
use ftrepl::adapter::{Adapter, LoraConfig, ModelHandle, storage};
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::projection::Pass;
use ftrepl::model::{Decoder, Source};
use ftrepl::ops::gpu::with_tensors_on_cpu;
use ftrepl::ops::with_fused;
use ftrepl::optim::{Adam, AdamWOptions, LoraPlusOptions, Optimizer, ParamGroup};
use ftrepl::random::Random;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Variants without a start of their own.
const VARIANTS: [&str; 20] = [
    "dora",
    "dora_gpt2",
    "lora_bias",
    "rslora",
    "modules_to_save",
    "layers",
    "layers_gpt2",
    "patterns",
    "exclude",
    "exclude_list",
    "loraplus",
    "loraplus_embedding",
    "tokens",
    "tokens_both",
    "tokens_tied",
    "head",
    "random_start",
    "saved_norms",
    "saved_gpt2",
    "eva",
];

/// Those that start as a part of the weight.
const DECOMPOSED: [&str; 4] = ["pissa", "pissa_niter", "pissa_gpt2", "olora"];

fn golden() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn folder(variant: &str) -> PathBuf {
    golden().join("peft").join(variant)
}

fn facts(variant: &str) -> Value {
    let text = std::fs::read_to_string(golden().join("peft/facts.json")).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()[variant].clone()
}

fn base_folder(variant: &str) -> PathBuf {
    let base = if variant == "several" { "qwen2".to_string() } else { facts(variant)["base"].as_str().unwrap().to_string() };
    golden().join("families").join(base)
}

fn decoder(variant: &str) -> Decoder {
    Decoder::load(&Source::open(&base_folder(variant)).unwrap(), None, &Device::Cpu).unwrap()
}

fn handle(variant: &str) -> ModelHandle {
    ModelHandle::new(LanguageModel::load("qwen2", &base_folder(variant), None, &Device::Cpu).unwrap())
}

fn read(path: &Path) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

fn bits(t: &Tensor) -> Vec<u32> {
    t.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|v| v.to_bits()).collect()
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

/// The golden file of a variant.
fn numbers(variant: &str) -> HashMap<String, Tensor> {
    read(&folder(variant).join("golden.safetensors"))
}

/// A value of a parameter's shape as PEFT has it.
fn as_peft_has_it(own: &Own, value: &Tensor) -> Tensor {
    if own.transposed { value.t().unwrap() } else { value.clone() }
}

/// Moves every parameter of an adapter away from where it is.
fn perturb(adapter: &Adapter) {
    for (place, own) in adapter.own().into_iter().enumerate() {
        let (value, mut random) = (own.parameter.value(), Random::new(place as u64));
        let noise = Tensor::from_vec(random.randn(own.parameter.elem_count()), own.parameter.dims(), &Device::Cpu).unwrap();
        own.parameter.set(&(value + (noise * 0.1).unwrap()).unwrap()).unwrap();
    }
}

/// The optimiser of the golden ten steps.
fn optimizer(variant: &str, adapter: &Adapter) -> Adam {
    if variant.starts_with("loraplus") {
        let options = LoraPlusOptions { loraplus_weight_decay: 0.01, ..LoraPlusOptions::default() };
        let groups = options.groups(&adapter.own_parameters());
        return Adam::adamw(groups, AdamWOptions { lr: options.lr, weight_decay: 0.0, ..AdamWOptions::default() }).unwrap();
    }
    let parameters = adapter.own_parameters().into_iter().map(|(_, parameter)| parameter).collect();
    let options = AdamWOptions { lr: 1e-2, weight_decay: 0.0, ..AdamWOptions::default() };
    Adam::adamw(vec![ParamGroup::new(parameters)], options).unwrap()
}

/// Ten steps of training; losses and, with `values`, the parameters after them.
fn train(variant: &str, decoder: &Decoder, adapter: &Adapter, golden: &HashMap<String, Tensor>, values: bool) {
    let (batch, mut optimizer) = (Batch::of(golden), optimizer(variant, adapter));
    for (step, expected) in golden["losses"].to_vec1::<f32>().unwrap().into_iter().enumerate() {
        let loss = batch.loss(decoder, step % 2 == 1);
        assert!((loss - f64::from(expected)).abs() < 1e-4 * f64::from(expected), "{variant} step {step}: {loss} {expected}");
        optimizer.step().unwrap();
        optimizer.zero_grad();
    }
    for own in adapter.own().iter().filter(|_| values) {
        let d = difference(&as_peft_has_it(own, &own.parameter.value()), &golden[&format!("after.{}", own.name)]);
        assert!(d < 1e-3, "{variant}: {} differs by {d} after ten steps", own.name);
    }
}

fn check(variant: &str, fused: bool) {
    with_fused(fused, || {
        let golden = numbers(variant);
        let batch = Batch::of(&golden);
        let decoder = decoder(variant);
        let before = batch.logits(&decoder);
        let adapter = storage::load(&decoder, &folder(variant), true).unwrap();
        batch.check_logits(&decoder, &golden["logits"], variant, 1e-5);
        for checkpointing in [false, true] {
            let loss = batch.loss(&decoder, checkpointing);
            let expected = f64::from(golden["loss"].to_vec1::<f32>().unwrap()[0]);
            assert!((loss - expected).abs() < 1e-5, "{variant}: loss {loss} {expected}");
            let own = adapter.own();
            assert_eq!(golden.keys().filter(|key| key.starts_with("grad.")).count(), own.len(), "{variant}");
            for own in own {
                let gradient = own.parameter.grad().unwrap().unwrap_or_else(|| panic!("{variant}: no gradient of {}", own.name));
                let d = difference(&as_peft_has_it(&own, &gradient), &golden[&format!("grad.{}", own.name)]);
                assert!(d < 1e-4, "{variant}: gradient of {} differs by {d}", own.name);
                own.parameter.zero_grad();
            }
        }
        train(variant, &decoder, &adapter, &golden, true);
        adapter.disable(&decoder);
        assert_eq!(bits(&batch.logits(&decoder)), bits(&before), "{variant}: switched off");
    });
}

#[test]
fn variants_give_pefts_numbers() {
    VARIANTS.iter().for_each(|variant| check(variant, true));
}

#[test]
fn variants_by_plain_compositions_give_pefts_numbers() {
    VARIANTS.iter().for_each(|variant| check(variant, false));
}

/// What a GPU runs, but for its kernels.
#[test]
fn variants_on_tensors_give_pefts_numbers() {
    with_tensors_on_cpu(|| VARIANTS.iter().for_each(|name| check(name, true)));
}

#[test]
fn variants_are_saved_loaded_and_merged() {
    for variant in VARIANTS {
        let golden = numbers(variant);
        let batch = Batch::of(&golden);
        let decoder = decoder(variant);
        let adapter = storage::load(&decoder, &folder(variant), false).unwrap();
        let ours = tempfile::tempdir().unwrap();
        storage::save(&adapter, ours.path(), "base").unwrap();
        let (saved, original) = ("adapter_model.safetensors", read(&folder(variant).join("adapter_model.safetensors")));
        let written = read(&ours.path().join(saved));
        // PEFT writes the embedding's and the head's own matrix beside an adapter on them.
        let unchanged = original.keys().filter(|name| name.ends_with(".base_layer.weight")).count();
        assert_eq!(written.len(), original.len() - unchanged, "{variant}");
        for (name, value) in written {
            assert_eq!(bits(&value), bits(&original[&name]), "{variant}: {name}");
        }
        let again = self::decoder(variant);
        storage::load(&again, ours.path(), false).unwrap();
        assert_eq!(bits(&batch.logits(&again)), bits(&batch.logits(&decoder)), "{variant}");
        adapter.merge(&decoder).unwrap();
        batch.check_logits(&decoder, golden.get("logits_merged").unwrap_or(&golden["logits"]), variant, 1e-4);
    }
}

#[test]
fn magnitudes_start_as_the_norms_of_the_rows() {
    for variant in ["dora", "dora_gpt2"] {
        let golden = numbers(variant);
        let decoder = decoder(variant);
        let config: LoraConfig = serde_json::from_value(facts(variant)["options"].clone()).unwrap();
        let before = Batch::of(&golden).logits(&decoder);
        let adapter = Adapter::attach(&decoder, LoraConfig { r: 2, ..config }, &mut Random::new(0)).unwrap();
        let starts = adapter.own_parameters().into_iter().filter(|(name, _)| name.contains("magnitude"));
        for (name, parameter) in starts {
            assert!(difference(&parameter.value(), &golden[&format!("start.{name}")]) < 1e-6, "{name}");
        }
        assert!(difference(&Batch::of(&golden).logits(&decoder), &before) < 1e-5);
    }
}

#[test]
fn dropout_before_a_magnitude_is_the_same_fused_and_composed() {
    let golden = numbers("dora");
    let batch = Batch::of(&golden);
    let run = |fused| {
        with_fused(fused, || {
            let decoder = decoder("dora");
            let config: LoraConfig = serde_json::from_value(facts("dora")["options"].clone()).unwrap();
            let config = LoraConfig { lora_dropout: 0.3, ..config };
            let adapter = Adapter::attach(&decoder, config, &mut Random::new(0)).unwrap();
            for (name, parameter) in adapter.own_parameters() {
                if name.contains("lora_B") {
                    let values = Random::new(name.len() as u64).randn(parameter.elem_count());
                    parameter.set(&Tensor::from_vec(values, parameter.dims(), &Device::Cpu).unwrap()).unwrap();
                }
            }
            let random = std::cell::RefCell::new(Random::new(5));
            let pass = Pass { dropout: Some(&random), ..Pass::default() };
            let loss = decoder.loss_backward(&batch.tokens, &batch.targets, 8.0, pass, false).unwrap().value().unwrap();
            let gradients: Vec<_> = adapter.own_parameters().iter().map(|(_, p)| p.grad().unwrap().unwrap()).collect();
            (loss, gradients)
        })
    };
    let ((fused, gradients), (composed, expected)) = (run(true), run(false));
    assert!((fused - composed).abs() < 1e-5 * composed, "{fused} {composed}");
    gradients.iter().zip(&expected).for_each(|(a, b)| assert!(difference(a, b) < 1e-4));
}

#[test]
fn parts_of_the_weight_start_train_and_convert_as_in_peft() {
    for (variant, fused) in DECOMPOSED.into_iter().flat_map(|variant| [(variant, true), (variant, false)]) {
        with_fused(fused, || {
            let golden = numbers(variant);
            let batch = Batch::of(&golden);
            let decoder = decoder(variant);
            let before = batch.logits(&decoder);
            let config = storage::read_config(&folder(variant)).unwrap().config;
            let adapter = Adapter::attach(&decoder, config, &mut Random::new(0)).unwrap();
            batch.check_logits(&decoder, &golden["logits_base"], variant, 1e-5);
            // Without the adapter's part, what is left is PEFT's residual.
            let own: Vec<Own> = adapter.own().into_iter().filter(|own| own.name.contains("lora_B")).collect();
            let kept: Vec<Tensor> = own.iter().map(|own| own.parameter.value().copy().unwrap()).collect();
            own.iter().for_each(|own| own.parameter.set(&own.parameter.value().zeros_like().unwrap()).unwrap());
            batch.check_logits(&decoder, &golden["logits_residual"], variant, 1e-4);
            own.iter().zip(kept).for_each(|(own, value)| own.parameter.set(&value).unwrap());

            train(variant, &decoder, &adapter, &golden, false);
            batch.check_logits(&decoder, &golden["logits_trained"], variant, 2e-4);
            let converted = tempfile::tempdir().unwrap();
            storage::save_converted(&adapter, converted.path(), "base", None).unwrap();
            let saved = tempfile::tempdir().unwrap();
            storage::save(&adapter, saved.path(), "base").unwrap();
            for files in
                [folder(variant).join("converted"), converted.path().into(), folder(variant).join("trained"), saved.path().into()]
            {
                let fresh = self::decoder(variant);
                storage::load(&fresh, &files, false).unwrap();
                batch.check_logits(&fresh, &golden["logits_converted"], &format!("{variant} {}", files.display()), 2e-4);
            }
            adapter.disable(&decoder);
            assert_eq!(bits(&batch.logits(&decoder)), bits(&before), "{variant}: switched off");
            adapter.merge(&decoder).unwrap();
            batch.check_logits(&decoder, &golden["logits_trained"], variant, 2e-4);
        });
    }
}

#[test]
fn loraplus_makes_pefts_groups() {
    let facts = facts("loraplus");
    let decoder = decoder("loraplus");
    let adapter = storage::load(&decoder, &folder("loraplus"), true).unwrap();
    let named = adapter.named_parameters(&decoder).into_iter().filter(|(_, p)| p.requires_grad()).collect::<Vec<_>>();
    let options = LoraPlusOptions { loraplus_weight_decay: 0.01, ..LoraPlusOptions::default() };
    assert_eq!(options.groups(&named).len(), facts["groups"].as_array().unwrap().len());
    for (group, expected) in options.groups(&named).iter().zip(facts["groups"].as_array().unwrap()) {
        let names: Vec<&str> =
            group.parameters.iter().map(|p| named.iter().find(|(_, other)| other.same(p)).unwrap().0.as_str()).collect();
        let wanted: Vec<&str> = expected["parameters"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names, wanted);
        assert!((group.lr_scale * options.lr - expected["lr"].as_f64().unwrap()).abs() < 1e-12);
        assert_eq!(group.weight_decay, expected["weight_decay"].as_f64());
    }
}

#[test]
fn quantised_and_half_bases_take_every_kind_of_adapter() {
    let golden = numbers("dora");
    let batch = Batch::of(&golden);
    let starts = [
        r#"{"use_dora": true}"#,
        r#"{"init_lora_weights": "pissa"}"#,
        r#"{"init_lora_weights": "pissa_niter_4"}"#,
        r#"{"init_lora_weights": "olora"}"#,
        r#"{"init_lora_weights": "orthogonal"}"#,
        r#"{"lora_bias": true}"#,
    ];
    for dtype in ["q4", "q8", "bf16"] {
        for start in starts {
            let precision = ftrepl::model::Precision::from_name(dtype).unwrap();
            let source = Source::open(&base_folder("dora")).unwrap();
            let run = |fused| {
                with_fused(fused, || {
                    let decoder = Decoder::load(&source, precision, &Device::Cpu).unwrap();
                    let before = batch.logits(&decoder);
                    let config: LoraConfig = serde_json::from_str(start).unwrap();
                    let config = LoraConfig {
                        r: 4,
                        target_modules: Some(ftrepl::adapter::TargetModules::Names(strings(&["q_proj", "v_proj"]))),
                        ..config
                    };
                    let autocast = dtype != "bf16";
                    let adapter = Adapter::new(&decoder, "default", config, autocast, &mut Random::new(0)).unwrap();
                    decoder.named_parameters().iter().for_each(|(_, parameter)| parameter.set_requires_grad(false));
                    adapter.enable(&decoder);
                    let dtypes: Vec<String> = adapter.own_parameters().iter().map(|(_, p)| p.dtype_name()).collect();
                    assert!(dtypes.iter().all(|name| name == if autocast { "f32" } else { "bf16" }), "{dtype} {dtypes:?}");
                    let starting = batch.logits(&decoder);
                    let tolerance = if dtype == "bf16" { 2e-2 } else { 1e-4 };
                    assert!(difference(&starting, &before) < tolerance, "{dtype} {start}");
                    let loss = batch.loss(&decoder, false);
                    let gradients: Vec<Tensor> =
                        adapter.own_parameters().iter().map(|(_, p)| p.grad().unwrap().unwrap()).collect();
                    adapter.merge(&decoder).unwrap();
                    assert!(difference(&batch.logits(&decoder), &starting) < 2e-2, "{dtype} {start}: merged");
                    (loss, gradients)
                })
            };
            let ((fused, gradients), (composed, expected)) = (run(true), run(false));
            // The fused products of bf16 weights round the activations to bf16 as well, where the processor multiplies these.
            let (of_loss, of_gradient) = if dtype == "bf16" { (5e-3, 5e-2) } else { (1e-4, 1e-3) };
            assert!((fused - composed).abs() < of_loss * composed, "{dtype} {start}: {fused} {composed}");
            for (a, b) in gradients.iter().zip(&expected) {
                assert!(difference(a, b) < of_gradient, "{dtype} {start}: {:?} differs by {}", a.dims(), difference(a, b));
            }
        }
    }
}
