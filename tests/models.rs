//! Model files: configuration, weights, names and the cache, and what is said of damaged ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::{DType, Device, Tensor};
use ftrepl::control::Control;
use ftrepl::model::config::{Dropout, read_json};
use ftrepl::model::hub::Cache;
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::weights::{Weights, save_safetensors};
use ftrepl::model::{Decoder, ModelConfig, Source, Tokenizer, rope::RopeScaling};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

fn message<T>(result: ftrepl::Result<T>) -> String {
    result.err().expect("an error").to_string()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Every tiny model whose positions turn queries and keys, with the names that its frequencies have in the golden file.
fn tiny_models() -> Vec<(String, &'static str)> {
    let old = ["llama", "llama3", "mistral", "llama_tied", "llama_bias"].map(|name| (format!("tiny/{name}"), "inv_freq"));
    let other = ["gemma", "gemma2", "granite", "llama_yarn", "olmo2", "phi3", "qwen2", "qwen2_window", "qwen3", "smollm3"]
        .map(|name| (format!("families/{name}"), "inv_freq"));
    let short = ["phi3_longrope", "phi3_partial"].map(|name| (format!("families/{name}"), "inv_freq.short"));
    let global = [("families/gemma3".to_string(), "inv_freq.full_attention")];
    old.into_iter().chain(other).chain(short).chain(global).collect()
}

#[test]
fn inverse_frequencies_equal_transformers() {
    let equal = |name: &str, file: &Weights, key: &str, found: &[f32]| {
        let expected = values(file.load(key, None, &Device::Cpu).unwrap().as_tensor());
        assert_eq!(found.len(), expected.len(), "{name}");
        for (a, b) in found.iter().zip(&expected) {
            // YaRN mixes two frequencies.
            let tolerance = if name.contains("yarn") { 3e-7 } else { 1e-7 };
            assert!((a - b).abs() <= tolerance * b.abs(), "{name} {key}: {a} {b}");
        }
    };
    for (name, key) in tiny_models() {
        let file = Weights::open_file(&golden(&format!("{name}/golden.safetensors"))).unwrap();
        let config = ModelConfig::from_folder(&golden(&name)).unwrap();
        equal(&name, &file, key, &config.inv_freq());
        if key == "inv_freq.short" {
            equal(&name, &file, "inv_freq.long", &config.ropes[0].inverse_frequencies(1 << 20));
        }
        if name == "families/gemma3" {
            equal(&name, &file, "inv_freq.sliding_attention", &config.ropes[1].inverse_frequencies(1));
        }
        if file.contains("attention_factor") {
            equal(&name, &file, "attention_factor", &[config.ropes[0].attention_factor()]);
        }
    }
}

#[test]
fn old_and_new_config_give_the_same_model() {
    let positions = ["gpt2", "gpt2_scaled"].map(|name| (format!("families/{name}"), ""));
    for (name, _) in tiny_models().into_iter().chain(positions) {
        let old = ModelConfig::from_folder(&golden(&name)).unwrap();
        let path = golden(&format!("{name}/config_v5.json"));
        let new = ModelConfig::from_json(read_json(&path).unwrap(), &path).unwrap();
        assert_eq!(ModelConfig { raw: old.raw.clone(), ..new }, old, "{name}");
    }
    let mistral = ModelConfig::from_folder(&golden("tiny/mistral")).unwrap();
    assert_eq!((mistral.sliding_window(), mistral.dtype), (Some(8), Some(DType::F32)));
    let tied = ModelConfig::from_folder(&golden("tiny/llama_tied")).unwrap();
    assert_eq!((tied.head_dim, tied.num_key_value_heads, tied.tie_word_embeddings), (8, 1, true));
}

/// The configuration of a golden model, changed.
fn changed(name: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> ftrepl::Result<ModelConfig> {
    let path = golden(name).join("config.json");
    let mut json = read_json(&path).unwrap();
    change(json.as_object_mut().unwrap());
    ModelConfig::from_json(json, &path)
}

/// The configuration of a golden model with other fields.
fn with(name: &str, fields: Value) -> ftrepl::Result<ModelConfig> {
    changed(name, |map| map.extend(fields.as_object().unwrap().clone()))
}

fn refused(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> String {
    message(changed("tiny/llama3", change))
}

#[test]
fn configs_that_would_change_the_numbers_are_refused_by_name() {
    let all = |text: String, parts: &[&str]| parts.iter().for_each(|part| assert!(text.contains(part), "{text}: {part}"));
    let set = |key: &str, value: Value| refused(|map| _ = map.insert(key.into(), value));
    all(set("model_type", json!("mamba")), &["config.json", "model_type", "\"mamba\" is not supported", "mistral"]);
    all(set("hidden_act", json!("quick_gelu")), &["hidden_act", "quick_gelu", "silu"]);
    all(
        set("rope_scaling", json!({ "rope_type": "mrope", "factor": 4.0 })),
        &["in rope_scaling", "rope_type", "mrope", "llama3"],
    );
    all(set("rope_scaling", json!({ "type": "dynamic" })), &["factor: is missing"]);
    all(set("num_experts", json!(8)), &["config.json: field num_experts: 8 is not supported for a llama model", "remove it"]);
    all(set("sliding_window", json!(64)), &["sliding_window", "64 is not supported"]);
    all(set("layer_types", json!(["full_attention"])), &["layer_types", "has 1 entries for 3 layers"]);
    all(set("rope_scaling", json!({ "rope_type": "llama3", "factor": 4.0 })), &["low_freq_factor: is missing"]);
    all(
        set("rope_parameters", json!({ "rope_type": "default", "partial_rotary_factor": 0.5 })),
        &["partial_rotary_factor", "0.5"],
    );
    all(set("quantization_config", json!({ "quant_method": "gptq" })), &["quantization_config", "GGUF"]);
    all(set("hidden_size", json!("32")), &["hidden_size: expected a whole number above 0, found \"32\""]);
    all(set("num_attention_heads", json!(0)), &["num_attention_heads", "found 0"]);
    all(set("num_hidden_layers", json!(1u64 << 31)), &["num_hidden_layers: expected at most 10000, found 2147483648"]);
    all(set("num_key_value_heads", json!(3)), &["num_key_value_heads", "does not divide"]);
    all(set("eos_token_id", json!("x")), &["eos_token_id", "array of token ids"]);
    all(refused(|map| _ = map.remove("vocab_size")), &["vocab_size: is missing"]);
}

#[test]
fn contradictions_and_other_models_are_refused_by_name() {
    let rope = json!({ "rope_type": "default", "rope_theta": 5e6 });
    let cases: [(&str, Value, &[&str]); 11] = [
        ("families/gemma2", json!({ "sliding_window_size": 9 }), &["sliding_window_size: 9 is not supported"]),
        ("families/gemma2", json!({ "sliding_window_pattern": 4 }), &["sliding_window_pattern: 4 is not supported for a gemma2"]),
        ("families/gemma2", json!({ "sliding_window": null }), &["sliding_window: is null"]),
        ("families/gemma3", json!({ "attn_logit_softcapping": 50.0 }), &["attn_logit_softcapping: 50.0 is not supported"]),
        ("families/phi3_partial", json!({ "full_attn_mod": 2 }), &["full_attn_mod: 2 is not supported"]),
        (
            "families/phi3",
            json!({ "rope_scaling": { "type": "linear", "factor": 2.0 } }),
            &["in rope_scaling", "\"linear\" is not supported for this family", "longrope"],
        ),
        (
            "families/qwen3",
            json!({ "rope_parameters": { "full_attention": rope } }),
            &["in rope_parameters: field full_attention"],
        ),
        (
            "families/qwen2",
            json!({ "rope_scaling": { "rope_type": "default", "type": "mrope", "mrope_section": [16, 24, 24] } }),
            &["in rope_scaling: field mrope_section: [16,24,24] is not supported"],
        ),
        ("tiny/llama3", json!({ "rope_parameters": rope }), &["rope_scaling", "is not what rope_parameters says"]),
        (
            "tiny/mistral",
            json!({ "layer_types": ["sliding_attention", "full_attention", "sliding_attention"] }),
            &["layer_types: layer 1 is \"full_attention\"", "window of 8"],
        ),
        ("tiny/llama3", json!({ "num_hidden_layers": 2_000_000_000_u64 }), &["num_hidden_layers: expected at most"]),
    ];
    for (name, fields, parts) in cases {
        let text = message(with(name, fields));
        parts.iter().for_each(|part| assert!(text.contains(part), "{text}: {part}"));
    }
    let path = golden("families/gemma3/config.json");
    let quantised = json!({
        "model_type": "gemma3", "text_config": read_json(&path).unwrap(), "quantization_config": { "quant_method": "bitsandbytes" },
    });
    assert!(message(ModelConfig::from_json(quantised, &path)).contains("field quantization_config"));
}

/// Fields of Phi-4 mini, Gemma 2 9B, GPT-2 medium and XL, Qwen2.5-1M, the first YaRN models, and of files written for old and new
/// readers at once.
#[test]
fn fields_of_published_files_that_change_nothing_are_accepted() {
    let llama3 = |key: &str| read_json(&golden("tiny/llama3/config.json")).unwrap()[key].clone();
    for (name, fields) in [
        (
            "families/phi3_partial",
            json!({ "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": false, "mlp_bias": false }),
        ),
        ("families/gemma2", json!({ "sliding_window_size": 8 })),
        ("families/gpt2", json!({ "n_special": 0, "predict_special_tokens": true, "output_past": true })),
        ("families/qwen2", json!({ "max_window_layers": 0, "dual_chunk_attention_config": { "chunk_size": 262144 } })),
        (
            "families/llama_yarn",
            json!({ "rope_scaling": { "factor": 4.0, "original_max_position_embeddings": 32, "type": "yarn", "finetuned": true } }),
        ),
        ("tiny/llama3", json!({ "rope_parameters": llama3("rope_scaling"), "rope_theta": llama3("rope_theta") })),
        // Nothing is dropped by it in any Phi-3.
        ("families/phi3", json!({ "embd_pdrop": 0.5 })),
    ] {
        let plain = with(name, json!({})).unwrap();
        let config = with(name, fields).unwrap();
        assert_eq!(ModelConfig { raw: plain.raw.clone(), ..config }, plain, "{name}");
    }
}

#[test]
fn null_is_not_the_same_as_nothing() {
    let config = with("tiny/mistral", json!({ "num_key_value_heads": null, "sliding_window": null })).unwrap();
    assert_eq!((config.num_key_value_heads, config.sliding_window()), (config.num_attention_heads, None));
    let window = |fields: Value| with("families/qwen2_window", fields).unwrap().sliding_window();
    assert_eq!(window(json!({ "sliding_window": null })), None);
    let unsaid = changed("families/qwen2_window", |map| _ = map.remove("sliding_window")).unwrap();
    assert_eq!(unsaid.sliding_window(), Some(4096));
    let every_layer = with("families/qwen2_window", json!({ "max_window_layers": 0 })).unwrap();
    assert!(every_layer.layers.iter().all(|layer| layer.window == Some(8)));
}

#[test]
fn what_only_one_family_does() {
    // Heads of an odd width are none to rotary embeddings, and GPT-2 has none.
    assert_eq!(with("families/gpt2", json!({ "n_head": 32 })).unwrap().head_dim, 1);
    assert!(message(with("tiny/llama3", json!({ "head_dim": 7 }))).contains("head_dim: 7 is odd"));
    let dropout = with("families/phi3", json!({ "resid_pdrop": 0.2, "attention_dropout": 0.3 })).unwrap().dropout;
    assert_eq!(dropout, Dropout { embedding: 0.0, residual: 0.2, attention: 0.3 });
}

#[test]
fn config_fields_in_their_other_forms() {
    let path = golden("tiny/llama3/config.json");
    let mut json = read_json(&path).unwrap();
    json["eos_token_id"] = json!([7, 8]);
    json["rope_scaling"] = json!({ "type": "linear", "factor": 2 });
    json["head_dim"] = Value::Null;
    json["torch_dtype"] = json!("bfloat16");
    let mut config = ModelConfig::from_json(json, &path).unwrap();
    assert_eq!((config.eos_token_ids.as_slice(), config.head_dim, config.dtype), ([7, 8].as_slice(), 8, Some(DType::BF16)));
    assert_eq!(config.ropes[0].scaling, RopeScaling::Linear { factor: 2.0 });
    assert_eq!(config.inv_freq()[0], 0.5);
    config.set_generation(json!({ "eos_token_id": [9], "temperature": 0.6 }), &path).unwrap();
    assert_eq!((config.eos_token_ids, config.bos_token_id), (vec![9], Some(1)));
}

#[test]
fn malformed_json_gives_line_and_column() {
    let folder = tempfile::tempdir().unwrap();
    assert!(message(Source::open(folder.path())).contains("has no config.json"));
    std::fs::write(folder.path().join("config.json"), "{\n  \"model_type\": \"llama\",\n  oops\n}").unwrap();
    let text = message(Source::open(folder.path()));
    assert!(text.contains("config.json: not valid JSON") && text.contains("line 3 column 3"), "{text}");
}

#[test]
fn weights_in_all_dtypes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    // More elements than one task converts.
    let numbers: Vec<f32> = (0..100_000).map(|i| (i as f32 - 50_000.0) / 777.0).collect();
    let tensor = Tensor::from_vec(numbers, (100, 1000), &Device::Cpu).unwrap();
    for stored in [DType::F32, DType::BF16, DType::F16] {
        let stored_tensor = tensor.to_dtype(stored).unwrap();
        save_safetensors(&path, &[("x".into(), stored_tensor.clone())], &[]).unwrap();
        let weights = Weights::open(folder.path()).unwrap();
        assert_eq!(weights.shape_dtype("x").unwrap(), (vec![100, 1000], stored));
        for wanted in [None, Some(DType::F32), Some(DType::BF16), Some(DType::F16)] {
            let var = weights.load("x", wanted, &Device::Cpu).unwrap();
            assert_eq!(var.dtype(), wanted.unwrap_or(stored));
            let expected = stored_tensor.to_dtype(wanted.unwrap_or(stored)).unwrap();
            assert_eq!(values(var.as_tensor()), values(&expected), "{stored:?} {wanted:?}");
        }
    }
}

/// What is written equals, byte for byte, what the safetensors library writes.
#[test]
fn saving_equals_the_library() {
    let folder = tempfile::tempdir().unwrap();
    let ours = folder.path().join("ours.safetensors");
    let x = Tensor::arange(0f32, 6.0, &Device::Cpu).unwrap().reshape((2, 3)).unwrap();
    let half = x.to_dtype(DType::BF16).unwrap();
    let tensors = [("half".to_string(), half.clone()), ("b".to_string(), x.t().unwrap()), ("a".to_string(), x.clone())];
    save_safetensors(&ours, &tensors, &[]).unwrap();
    let metadata = Some([("format".to_string(), "pt".to_string())].into());
    let transposed = x.t().unwrap().contiguous().unwrap();
    let library = safetensors::serialize([("half", &half), ("b", &transposed), ("a", &x)], metadata).unwrap();
    assert_eq!(std::fs::read(&ours).unwrap(), library);
    let twice = [("a".to_string(), x.clone()), ("a".to_string(), x)];
    assert!(message(save_safetensors(&ours, &twice, &[])).contains("two tensors are named a"));
    assert_eq!(std::fs::read(&ours).unwrap(), library, "the old file stays");
}

fn copy_tiny(name: &str, to: &Path) -> Vec<u8> {
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(golden(&format!("tiny/{name}/{file}")), to.join(file)).unwrap();
    }
    std::fs::read(to.join("model.safetensors")).unwrap()
}

#[test]
fn damaged_safetensors() {
    let folder = tempfile::tempdir().unwrap();
    let bytes = copy_tiny("llama", folder.path());
    let path = folder.path().join("model.safetensors");
    for len in [0, 5, 200, bytes.len() / 2, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let text = message(Source::open(folder.path()));
        assert!(text.contains("model.safetensors") && (text.contains("cut short") || len == 0), "{len}: {text}");
    }
    let mut header = bytes.clone();
    header[20] = b'}';
    std::fs::write(&path, header).unwrap();
    assert!(message(Source::open(folder.path())).contains("header is damaged"));
    std::fs::write(&path, &bytes).unwrap();
    let source = Source::open(folder.path()).unwrap();
    let text = message(source.load("model.layers.0.self_attn.q_pro.weight", None, &Device::Cpu));
    assert!(
        text.contains("q_pro.weight is not in") && text.contains("closest name there is model.layers.0.self_attn.q_proj"),
        "{text}"
    );
    let text = message(source.load_shaped("model.norm.weight", &[64], false, None, &Device::Cpu));
    assert!(
        text.contains("model.safetensors: tensor model.norm.weight: expected shape [64]") && text.contains("found [32]"),
        "{text}"
    );
    std::fs::remove_file(&path).unwrap();
    std::fs::write(folder.path().join("pytorch_model.bin"), "x").unwrap();
    assert!(message(Source::open(folder.path())).contains("pytorch_model.bin is PyTorch's own format"));
}

/// As in transformers 5, a head in the file that is not the embedding is used, whatever the configuration says.
#[test]
fn a_trained_head_is_used_although_the_configuration_still_ties_it() {
    let folder = tempfile::tempdir().unwrap();
    copy_tiny("llama_tied", folder.path());
    let source = Source::open(folder.path()).unwrap();
    let load = |name: &str| source.load(name, None, &Device::Cpu).unwrap().as_detached_tensor();
    let tensors: Vec<(String, Tensor)> = source.names().into_iter().map(|name| (name.to_string(), load(name))).collect();
    let words = load("model.embed_tokens.weight");
    for (head, own) in [(words.clone(), false), ((&words * 2.0).unwrap(), true)] {
        let all = [&tensors[..], &[("lm_head.weight".to_string(), head.clone())]].concat();
        save_safetensors(&folder.path().join("model.safetensors"), &all, &[]).unwrap();
        let source = Source::open(folder.path()).unwrap();
        assert_eq!(source.config().tie_word_embeddings, !own);
        let decoder = Decoder::load(&source, None, &Device::Cpu).unwrap();
        assert_eq!(decoder.tied(), !own);
        assert_eq!(values(&decoder.head().weight.current().value()), values(&head));
    }
}

#[test]
fn a_damaged_tokenizer_is_not_left_out_of_a_saved_model_without_a_word() {
    let (folder, saved) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    copy_tiny("llama", folder.path());
    let model = LanguageModel::load("llama", folder.path(), None, &Device::Cpu).unwrap();
    model.save_pretrained(saved.path()).unwrap();
    std::fs::write(folder.path().join("tokenizer.json"), "{\"version\":").unwrap();
    let text = message(model.save_pretrained(saved.path()));
    assert!(text.contains("tokenizer.json: not a tokenizer that can be read"), "{text}");
}

#[test]
fn biases_that_the_configuration_does_not_have_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    copy_tiny("llama_bias", folder.path());
    let path = folder.path().join("config.json");
    let mut json = read_json(&path).unwrap();
    json["attention_bias"] = false.into();
    std::fs::write(&path, json.to_string()).unwrap();
    let text = message(Decoder::load(&Source::open(folder.path()).unwrap(), None, &Device::Cpu));
    assert!(
        text.contains("model.safetensors: tensor model.layers.0.self_attn.k_proj.bias") && text.contains("attention_bias"),
        "{text}"
    );
}

#[test]
fn shards() {
    let folder = tempfile::tempdir().unwrap();
    copy_tiny("llama", folder.path());
    let whole = Source::open(folder.path()).unwrap();
    let mut map = serde_json::Map::new();
    for (i, half) in whole.names().chunks(whole.names().len().div_ceil(2)).enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", i + 1);
        let tensors: Vec<_> = half
            .iter()
            .map(|name| (name.to_string(), whole.load(name, None, &Device::Cpu).unwrap().as_detached_tensor()))
            .collect();
        save_safetensors(&folder.path().join(&file), &tensors, &[]).unwrap();
        map.extend(half.iter().map(|name| (name.to_string(), Value::from(file.clone()))));
    }
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let index = folder.path().join("model.safetensors.index.json");
    let write = |map: &serde_json::Map<String, Value>| std::fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    write(&map);
    let sharded = Source::open(folder.path()).unwrap();
    assert_eq!((sharded.names(), sharded.num_parameters().unwrap()), (whole.names(), whole.num_parameters().unwrap()));
    for name in whole.names() {
        let load = |source: &Source| values(source.load(name, None, &Device::Cpu).unwrap().as_tensor());
        assert_eq!(load(&sharded), load(&whole), "{name}");
    }
    let mut broken = map.clone();
    broken.insert("extra".into(), "model-00002-of-00002.safetensors".into());
    write(&broken);
    assert!(message(Source::open(folder.path())).contains("tensor extra is missing"));
    broken.insert("extra".into(), "../model.safetensors".into());
    write(&broken);
    assert!(message(Source::open(folder.path())).contains("is not a file name"));
    std::fs::remove_file(folder.path().join("model-00002-of-00002.safetensors")).unwrap();
    write(&map);
    assert!(message(Source::open(folder.path())).contains("names the shard model-00002-of-00002.safetensors"));
}

#[test]
fn names_that_are_no_models() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache::at(folder.path());
    let resolve = |name: &str| message(cache.resolve(name, &Control::default()));
    let text = resolve("smollm2-135m-instrukt");
    assert!(text.contains("no such model") && text.contains("Did you mean \"smollm2-135m-instruct\"?"), "{text}");
    assert!(resolve("nowhere/model.gguf").contains("there is no file nowhere/model.gguf"));
    assert!(message(cache.remove("tiny-random")).contains("has no files"));
    assert!(message(cache.remove("org/name")).contains("not in the catalogue"));
}

#[test]
fn tiny_random_is_made_once_and_is_always_the_same() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let make = |folder: &Path| Cache::at(folder).resolve("tiny-random", &Control::default()).unwrap().path;
    let (first, second) = (make(a.path()), make(b.path()));
    for file in ["model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"] {
        assert_eq!(std::fs::read(first.join(file)).unwrap(), std::fs::read(second.join(file)).unwrap(), "{file}");
    }
    let written = std::fs::metadata(first.join("config.json")).unwrap().modified().unwrap();
    assert_eq!(make(a.path()), first);
    assert_eq!(std::fs::metadata(first.join("config.json")).unwrap().modified().unwrap(), written);
    let cache = Cache::at(a.path());
    let info = cache.info("tiny-random").unwrap();
    assert_eq!(
        (info.architecture.as_deref(), info.parameters, info.stored_as.as_deref()),
        (Some("llama"), Some(28_192), Some("F32"))
    );
    assert_eq!(Tokenizer::open(&first).unwrap().vocab_size(), 300);
    // One that is damaged or of another version is made again.
    std::fs::write(first.join("config.json"), "{}").unwrap();
    assert_eq!(Source::open(&make(a.path())).unwrap().config().vocab_size, 300);
    cache.remove("tiny-random").unwrap();
    assert!(!first.exists());
}

/// Many that want the same model at once all get it whole.
#[test]
fn at_once() {
    let folder = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let files = Cache::at(folder.path()).resolve("tiny-random", &Control::default()).unwrap();
                Source::open(&files.path).unwrap();
                Tokenizer::open(&files.path).unwrap();
            });
        }
    });
    let names: Vec<_> =
        std::fs::read_dir(folder.path().join("models")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the model and its lock, nothing else: {names:?}");
}
