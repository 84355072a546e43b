//! What PEFT's LoRA can do besides, against its numbers: DoRA, biases, patterns, PiSSA, OLoRA, LoRA+, several adapters at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apart;

use apart::difference;
use candle_core::{Device, Tensor};
use ftrepl::adapter::peft::Own;
use ftrepl::adapter::{Adapter, AttachOptions, Combination, CombineOptions, LoraConfig, ModelHandle, SaveOptions, storage};
use ftrepl::model::batch::shifted_targets;
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::projection::Pass;
use ftrepl::model::{Decoder, Source, TokenBatch};
use ftrepl::ops::gpu::with_tensors_on_cpu;
use ftrepl::ops::with_fused;
use ftrepl::optim::{Adam, AdamWOptions, LoraPlusOptions, Optimizer, ParamGroup};
use ftrepl::random::Random;
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Variants without a start of their own.
const VARIANTS: [&str; 15] = [
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
];

/// Those that start as a part of the weight.
const DECOMPOSED: [&str; 3] = ["pissa", "pissa_gpt2", "olora"];

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

struct Batch {
    tokens: TokenBatch,
    targets: Vec<i64>,
    lengths: Vec<usize>,
}

impl Batch {
    fn of(golden: &HashMap<String, Tensor>) -> Self {
        let rows = |name: &str| golden[name].to_vec2::<i64>().unwrap();
        let lengths: Vec<usize> = rows("attention_mask").iter().map(|mask| mask.iter().sum::<i64>() as usize).collect();
        let ids: Vec<Vec<u32>> =
            rows("input_ids").iter().zip(&lengths).map(|(row, n)| row[..*n].iter().map(|id| *id as u32).collect()).collect();
        let labels = rows("labels");
        let targets = shifted_targets(labels.iter().zip(&lengths).map(|(row, n)| &row[..*n]));
        Self { tokens: TokenBatch::new(ids.iter().map(Vec::as_slice)), targets, lengths }
    }

    fn logits(&self, decoder: &Decoder) -> Tensor {
        let hidden = decoder.hidden(&self.tokens, Pass::default()).unwrap();
        decoder.logits(&hidden, Pass::default()).unwrap().detach()
    }

    fn check_logits(&self, decoder: &Decoder, expected: &Tensor, what: &str, tolerance: f32) {
        let logits = self.logits(decoder);
        let mut start = 0;
        for (row, length) in self.lengths.iter().enumerate() {
            let expected = expected.get(row).unwrap().narrow(0, 0, *length).unwrap();
            let d = difference(&logits.narrow(0, start, *length).unwrap(), &expected);
            assert!(d < tolerance, "{what}, row {row}: logits differ by {d}");
            start += length;
        }
    }

    /// The loss; its gradients are added to the parameters.
    fn loss(&self, decoder: &Decoder, checkpointing: bool) -> f64 {
        let count = self.targets.iter().filter(|t| **t >= 0).count() as f64;
        decoder.loss_backward(&self.tokens, &self.targets, count, Pass::default(), checkpointing).unwrap().value().unwrap()
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
    for (name, parameter) in adapter.own_parameters().iter().filter(|_| values) {
        let d = difference(&parameter.value(), &golden[&format!("after.{name}")]);
        assert!(d < 1e-3, "{variant}: {name} differs by {d} after ten steps");
    }
}

fn check(variant: &str, fused: bool) {
    with_fused(fused, || {
        let golden = read(&folder(variant).join("golden.safetensors"));
        let batch = Batch::of(&golden);
        let decoder = decoder(variant);
        let before = batch.logits(&decoder);
        let adapter = storage::load(&decoder, &folder(variant), true).unwrap();
        batch.check_logits(&decoder, &golden["logits"], variant, 1e-5);
        for checkpointing in [false, true] {
            let loss = batch.loss(&decoder, checkpointing);
            let expected = f64::from(golden["loss"].to_vec1::<f32>().unwrap()[0]);
            assert!((loss - expected).abs() < 1e-5, "{variant}: loss {loss} {expected}");
            let own = adapter.own_parameters();
            assert_eq!(golden.keys().filter(|key| key.starts_with("grad.")).count(), own.len(), "{variant}");
            for (name, parameter) in own {
                let gradient = parameter.grad().unwrap().unwrap_or_else(|| panic!("{variant}: no gradient of {name}"));
                let d = difference(&gradient, &golden[&format!("grad.{name}")]);
                assert!(d < 1e-4, "{variant}: gradient of {name} differs by {d}");
                parameter.zero_grad();
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
        let golden = read(&folder(variant).join("golden.safetensors"));
        let batch = Batch::of(&golden);
        let decoder = decoder(variant);
        let adapter = storage::load(&decoder, &folder(variant), false).unwrap();
        let ours = tempfile::tempdir().unwrap();
        storage::save(&adapter, ours.path(), "base").unwrap();
        let (saved, original) = ("adapter_model.safetensors", read(&folder(variant).join("adapter_model.safetensors")));
        let written = read(&ours.path().join(saved));
        // PEFT writes the embedding's own matrix beside an adapter on it.
        let unchanged = original.keys().filter(|name| name.ends_with("embed_tokens.base_layer.weight")).count();
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
        let golden = read(&folder(variant).join("golden.safetensors"));
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
    let golden = read(&folder("dora").join("golden.safetensors"));
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
            let pass = Pass { dropout: Some(&random) };
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
            let golden = read(&folder(variant).join("golden.safetensors"));
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
    for (group, expected) in options.groups(&named).iter().zip(facts["groups"].as_array().unwrap()) {
        let names: Vec<&str> =
            group.parameters.iter().map(|p| named.iter().find(|(_, other)| other.same(p)).unwrap().0.as_str()).collect();
        let wanted: Vec<&str> = expected["parameters"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        assert_eq!(names, wanted);
        assert!((group.lr_scale * options.lr - expected["lr"].as_f64().unwrap()).abs() < 1e-12);
        assert_eq!(group.weight_decay, expected["weight_decay"].as_f64());
    }
}

/// The handle with both of PEFT's adapters on it.
fn several() -> ModelHandle {
    let model = handle("several");
    for name in ["a", "b"] {
        let options = AttachOptions { name: name.into(), ..AttachOptions::default() };
        model.load_adapter_as(&folder("several").join(name), &options).unwrap();
    }
    model
}

fn strings(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

#[test]
fn several_adapters_act_alone_and_together_fused_and_composed() {
    for fused in [true, false] {
        with_fused(fused, || {
            let golden = read(&folder("several").join("golden.safetensors"));
            let (batch, model) = (Batch::of(&golden), several());
            let decoder = model.model().decoder();
            assert_eq!((model.adapter_names(), model.active_adapters()), (strings(&["a", "b"]), strings(&["a"])));
            for (active, expected) in [(vec!["a"], "a"), (vec!["b"], "b"), (vec!["a", "b"], "a_and_b")] {
                model.set_adapter(&strings(&active)).unwrap();
                batch.check_logits(decoder, &golden[&format!("logits.{expected}")], expected, 1e-5);
                let trainable = model.trainable_parameters();
                assert!(!trainable.is_empty());
                let is_active = |name: &str| active.iter().any(|adapter| name.contains(&format!(".{adapter}.")));
                assert!(trainable.iter().all(|(name, _)| is_active(name)), "{active:?}");
                batch.loss(decoder, false);
                for (name, parameter) in model.named_parameters() {
                    assert_eq!(parameter.has_grad(), is_active(&name), "{name}");
                    parameter.zero_grad();
                }
            }
            let base = model.without_adapter(|| Ok::<_, ftrepl::Error>(batch.logits(decoder))).unwrap();
            batch.check_logits(decoder, &golden["logits.a_and_b"], "again", 1e-5);
            model.merge_adapter().unwrap();
            batch.check_logits(decoder, &golden["logits.a_and_b"], "merged for a while", 1e-4);
            assert!(model.set_adapter(&strings(&["a"])).is_err() && model.some_trainable_parameters().is_err());
            model.unmerge_adapter().unwrap();
            batch.check_logits(decoder, &golden["logits.a_and_b"], "unmerged", 1e-5);
            model.unload().unwrap();
            assert_eq!(bits(&batch.logits(decoder)), bits(&base));
        });
    }
}

#[test]
fn adapters_are_combined_as_peft_combines_them() {
    let golden = read(&folder("several").join("golden.safetensors"));
    let (batch, model, facts) = (Batch::of(&golden), several(), facts("several"));
    let decoder = model.model().decoder();
    let kinds = [
        ("linear", Combination::Linear),
        ("cat", Combination::Cat),
        ("svd", Combination::Svd),
        ("ties", Combination::Ties),
        ("magnitude_prune", Combination::MagnitudePrune),
        ("negative.linear", Combination::Linear),
    ];
    for (expected, combination_type) in kinds {
        let pruned = matches!(combination_type, Combination::Ties | Combination::MagnitudePrune);
        let svd_rank = (combination_type == Combination::Svd).then_some(4);
        let options = CombineOptions { combination_type, svd_rank, density: pruned.then_some(0.5), ..CombineOptions::default() };
        let weights = if expected == "negative.linear" { [1.2, -0.5] } else { [0.7, 0.3] };
        let name = expected.replace('.', "_");
        model.add_weighted_adapter(&strings(&["a", "b"]), &weights, &name, &options, &mut Random::new(0)).unwrap();
        model.set_adapter(std::slice::from_ref(&name)).unwrap();
        batch.check_logits(decoder, &golden[&format!("logits.{expected}")], expected, 2e-5);
        for (parameter, value) in model.named_parameters().iter().filter(|(n, _)| n.contains(&format!(".{name}."))) {
            let key = format!("{expected}.{}", parameter.replace(&format!(".{name}."), "."));
            if let Some(wanted) = golden.get(&key) {
                assert!(difference(&value.value(), wanted) < 1e-5, "{key}");
            }
        }
        let config = model.with_adapter(|adapter| Ok(adapter.config().clone())).unwrap();
        let config = serde_json::to_value(config).unwrap();
        assert_eq!(config["r"], facts[expected]["r"], "{expected}");
        assert_eq!(config["lora_alpha"].as_f64(), facts[expected]["lora_alpha"].as_f64(), "{expected}");
        assert_eq!(config["target_modules"], facts[expected]["target_modules"], "{expected}");
    }
}

#[test]
fn several_adapters_are_saved_and_loaded_again() {
    let golden = read(&folder("several").join("golden.safetensors"));
    let (batch, model, out) = (Batch::of(&golden), several(), tempfile::tempdir().unwrap());
    model.save_pretrained(out.path()).unwrap();
    assert!(out.path().join("a/adapter_config.json").is_file() && out.path().join("b/adapter_model.safetensors").is_file());
    let only = SaveOptions { selected_adapters: Some(strings(&["b"])), ..SaveOptions::default() };
    let chosen = tempfile::tempdir().unwrap();
    model.save_adapters(chosen.path(), &only).unwrap();
    assert!(!chosen.path().join("a").exists() && chosen.path().join("b").exists());
    let fresh = handle("several");
    fresh.load_adapter(&out.path().join("b"), false).unwrap();
    batch.check_logits(fresh.model().decoder(), &golden["logits.b"], "b", 1e-5);
    // The remaining one acts when the other is deleted.
    model.delete_adapter("a").unwrap();
    assert_eq!(model.active_adapters(), ["b"]);
    batch.check_logits(model.model().decoder(), &golden["logits.b"], "b remains", 1e-5);
    model.merge_and_unload().unwrap();
    batch.check_logits(model.model().decoder(), &golden["logits.b"], "merged", 1e-4);
    assert!(!model.has_adapter());
}

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
    // An embedding that is not the base's would have to take its place.
    let other = tempfile::tempdir().unwrap();
    std::fs::copy(folder("loraplus_embedding").join("adapter_config.json"), other.path().join("adapter_config.json")).unwrap();
    let mut tensors = read(&folder("loraplus_embedding").join("adapter_model.safetensors"));
    let name = "base_model.model.model.embed_tokens.base_layer.weight";
    tensors.insert(name.into(), (&tensors[name] * 2.0).unwrap());
    candle_core::safetensors::save(&tensors, other.path().join("adapter_model.safetensors")).unwrap();
    assert!(refusal("dora", other.path()).contains("another embedding"));
}

#[test]
fn shards_are_read_and_pickles_are_refused_with_the_way_out() {
    let golden = read(&folder("dora").join("golden.safetensors"));
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
fn quantised_and_half_bases_take_every_kind_of_adapter() {
    let golden = read(&folder("dora").join("golden.safetensors"));
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
                    if !start.contains("orthogonal") {
                        let tolerance = if dtype == "bf16" { 2e-2 } else { 1e-4 };
                        assert!(difference(&starting, &before) < tolerance, "{dtype} {start}");
                    }
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
