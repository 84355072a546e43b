//! Model files: configuration, weights, GGUF, and what is said of damaged ones.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use candle_core::{DType, Device, Tensor};
use ftrepl::model::{ModelConfig, Source, config::read_json, weights::Weights, weights::save_safetensors};
use std::path::{Path, PathBuf};

fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

const TINY: [&str; 5] = ["llama", "llama3", "mistral", "llama_tied", "llama_bias"];

#[test]
fn inverse_frequencies_equal_transformers() {
    for name in TINY {
        let golden_file = Weights::open_file(&golden(&format!("tiny/{name}/golden.safetensors"))).unwrap();
        let expected = golden_file.load("inv_freq", None, &Device::Cpu).unwrap().to_vec1::<f32>().unwrap();
        let found = ModelConfig::from_folder(&golden(&format!("tiny/{name}"))).unwrap().inv_freq();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (a, b) in found.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-7 * b.abs(), "{name}: {a} {b}");
        }
    }
}

#[test]
fn old_and_new_config_give_the_same_model() {
    for name in TINY {
        let old = ModelConfig::from_folder(&golden(&format!("tiny/{name}"))).unwrap();
        let path = golden(&format!("tiny/{name}/config_v5.json"));
        let new = ModelConfig::from_json(read_json(&path).unwrap(), &path).unwrap();
        assert_eq!(ModelConfig { raw: old.raw.clone(), ..new }, old, "{name}");
    }
    let mistral = ModelConfig::from_folder(&golden("tiny/mistral")).unwrap();
    assert_eq!((mistral.sliding_window, mistral.dtype), (Some(8), Some(DType::F32)));
    let tied = ModelConfig::from_folder(&golden("tiny/llama_tied")).unwrap();
    assert_eq!((tied.head_dim, tied.num_key_value_heads, tied.tie_word_embeddings), (8, 1, true));
}

#[test]
#[ignore = "needs the files of the comparison model: FTREPL_TEST_GGUF and FTREPL_TEST_HF"]
fn gguf_equals_transformers() {
    let gguf = Source::open(Path::new(&std::env::var("FTREPL_TEST_GGUF").unwrap())).unwrap();
    let hf = Source::open(Path::new(&std::env::var("FTREPL_TEST_HF").unwrap())).unwrap();
    assert_eq!(gguf.names(), hf.names());
    let t = std::time::Instant::now();
    for name in hf.names() {
        gguf.load(name, Some(DType::F32), &Device::Cpu).unwrap();
    }
    eprintln!("gguf {:?}", t.elapsed());
    for dtype in [DType::F32, DType::BF16] {
        let t = std::time::Instant::now();
        for name in hf.names() {
            hf.load(name, Some(dtype), &Device::Cpu).unwrap();
        }
        eprintln!("safetensors {dtype:?} {:?}", t.elapsed());
    }
    for name in hf.names() {
        let a = gguf.load(name, None, &Device::Cpu).unwrap();
        let b = hf.load(name, None, &Device::Cpu).unwrap();
        assert_eq!(a.dims(), b.dims(), "{name}");
        let diff = (a.as_tensor() - b.as_tensor()).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        assert!(diff.to_scalar::<f32>().unwrap() <= 1e-6, "{name}");
    }
    eprintln!("{:?}\n{:?}", gguf.config(), hf.config());
}
