//! The decoder against PyTorch: logits, loss, every gradient and greedy continuations of tiny random models of every family.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod apart;

use apart::difference;
use candle_core::{DType, Device, Tensor};
use ftrepl::control::Control;
use ftrepl::model::batch::shifted_targets;
use ftrepl::model::decoder::negative_log_likelihood;
use ftrepl::model::generate::{Generation, generate};
use ftrepl::model::projection::Pass;
use ftrepl::model::sampling::Sampling;
use ftrepl::model::{Decoder, Source, TokenBatch};
use ftrepl::ops::gpu::with_tensors_on_cpu;
use ftrepl::ops::with_fused;
use std::collections::HashMap;
use std::path::PathBuf;

const MODELS: [&str; 20] = [
    "tiny/llama",
    "tiny/llama_tied",
    "tiny/llama3",
    "tiny/llama_bias",
    "tiny/mistral",
    "families/smollm3",
    "families/qwen2",
    "families/qwen2_window",
    "families/qwen3",
    "families/gemma",
    "families/gemma2",
    "families/gemma3",
    "families/phi3",
    "families/phi3_longrope",
    "families/phi3_partial",
    "families/olmo2",
    "families/granite",
    "families/gpt2",
    "families/gpt2_scaled",
    "families/llama_yarn",
];

/// Every folder of golden numbers is in the list.
#[test]
fn no_model_is_left_out() {
    for kind in ["tiny", "families"] {
        for entry in std::fs::read_dir(folder(kind)).unwrap().map(|entry| entry.unwrap()).filter(|e| e.path().is_dir()) {
            let name = format!("{kind}/{}", entry.file_name().to_string_lossy());
            assert!(MODELS.contains(&name.as_str()), "{name}");
        }
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn golden(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder(name).join("golden.safetensors"), &Device::Cpu).unwrap()
}

fn decoder(name: &str, dtype: Option<DType>) -> Decoder {
    Decoder::load(&Source::open(&folder(name)).unwrap(), dtype, &Device::Cpu).unwrap()
}

/// A batch of the golden file, whose tensors' names begin with `prefix`: rows cut to their real tokens.
fn batch(golden: &HashMap<String, Tensor>, prefix: &str) -> (TokenBatch, Vec<i64>, Vec<usize>) {
    let named = |name: &str| &golden[&format!("{prefix}{name}")];
    let rows = named("input_ids").to_vec2::<i64>().unwrap();
    let labels = named("labels").to_vec2::<i64>().unwrap();
    let lengths: Vec<usize> =
        named("attention_mask").to_vec2::<i64>().unwrap().iter().map(|m| m.iter().sum::<i64>() as usize).collect();
    let cut: Vec<Vec<u32>> = rows.iter().zip(&lengths).map(|(r, n)| r[..*n].iter().map(|id| *id as u32).collect()).collect();
    let targets = shifted_targets(labels.iter().zip(&lengths).map(|(l, n)| &l[..*n]));
    (TokenBatch::new(cut.iter().map(Vec::as_slice)), targets, lengths)
}

fn check_logits(decoder: &Decoder, golden: &HashMap<String, Tensor>, prefix: &str, name: &str) {
    let (batch, targets, lengths) = batch(golden, prefix);
    let hidden = decoder.hidden(&batch, Pass::default()).unwrap();
    let logits = decoder.logits(&hidden, Pass::default()).unwrap().detach();
    let mut start = 0;
    for (row, length) in lengths.iter().enumerate() {
        let expected = golden[&format!("{prefix}logits")].get(row).unwrap().narrow(0, 0, *length).unwrap();
        let d = difference(&logits.narrow(0, start, *length).unwrap(), &expected);
        assert!(d < 1e-5, "{name} {prefix} row {row}: logits differ by {d}");
        start += length;
    }
    let count = targets.iter().filter(|t| **t >= 0).count() as f64;
    let loss = decoder.loss(&hidden, &targets, count, Pass::default()).unwrap().to_scalar::<f32>().unwrap();
    let expected = golden[&format!("{prefix}loss")].to_vec1::<f32>().unwrap()[0];
    assert!((loss - expected).abs() < 1e-5, "{name} {prefix}: loss {loss}, expected {expected}");
}

fn check(name: &str, fused: bool) {
    with_fused(fused, || {
        let golden = golden(name);
        let decoder = decoder(name, None);
        check_logits(&decoder, &golden, "", name);
        if golden.contains_key("short.logits") {
            check_logits(&decoder, &golden, "short.", name);
        }
        let (batch, targets, _) = batch(&golden, "");
        let count = targets.iter().filter(|t| **t >= 0).count() as f64;
        let expected = golden["loss"].to_vec1::<f32>().unwrap()[0];
        for checkpointing in [false, true] {
            let loss = decoder.loss_backward(&batch, &targets, count, Pass::default(), checkpointing).unwrap();
            let loss = loss.value().unwrap();
            assert!((loss - f64::from(expected)).abs() < 1e-5, "{name}: loss {loss}, expected {expected}");
            for (parameter_name, slot) in decoder.slots() {
                let parameter = slot.current();
                let gradient = parameter.grad().unwrap().unwrap_or_else(|| panic!("{name}: no gradient of {parameter_name}"));
                let gradient = if slot.transposed() { gradient.t().unwrap() } else { gradient };
                let d = difference(&gradient, &golden[&format!("grad.{parameter_name}")]);
                assert!(d < 1e-4, "{name} (checkpointing {checkpointing}): gradient of {parameter_name} differs by {d}");
                parameter.zero_grad();
            }
        }
        assert_eq!(golden.keys().filter(|k| k.starts_with("grad.")).count(), decoder.named_parameters().len());
    });
}

#[test]
fn logits_loss_and_gradients_equal_pytorch() {
    for name in MODELS {
        check(name, true);
    }
}

#[test]
fn the_plain_compositions_equal_pytorch_too() {
    for name in MODELS {
        check(name, false);
    }
}

/// What a GPU runs, but for its kernels.
#[test]
fn blocks_on_tensors_equal_pytorch_too() {
    for name in MODELS {
        with_tensors_on_cpu(|| check(name, true));
    }
}

#[test]
fn greedy_continuations_equal_transformers_whatever_the_batch() {
    for name in MODELS {
        let golden = golden(name);
        let decoder = decoder(name, None);
        let prompt = |i: usize| -> Vec<u32> {
            golden[&format!("prompt.{i}")].to_vec1::<i64>().unwrap().iter().map(|id| *id as u32).collect()
        };
        let expected = golden["greedy"].to_vec2::<i64>().unwrap();
        for batch_size in [1, 2, 8] {
            let generation = Generation {
                max_new_tokens: 12,
                sampling: Sampling::default(),
                stop_tokens: vec![],
                batch_size,
                seed: 0,
                prompt_lookup_num_tokens: None,
            };
            let prompts = [prompt(0), prompt(1), prompt(0)];
            let out = generate(&decoder, &prompts, &generation, &Control::default(), &|_| false).unwrap();
            for (i, row) in [0, 1, 0].iter().enumerate() {
                let ids: Vec<i64> = out[i].iter().map(|id| i64::from(*id)).collect();
                assert_eq!(ids, expected[*row], "{name}, batch size {batch_size}, prompt {i}");
            }
        }
    }
}

/// Guesses from what the text repeats are taken only where they are right: also while sampling, and with a stop in the middle.
#[test]
fn guessed_tokens_change_no_text() {
    let prompt: Vec<u32> = (0..24).map(|i| 5 + i % 4).collect();
    for name in MODELS {
        let decoder = decoder(name, None);
        for (sampling, stop_at) in [
            (Sampling::default(), 100),
            (Sampling { repetition_penalty: 1.3, ..Sampling::default() }, 100),
            (Sampling { do_sample: true, temperature: 0.05, ..Sampling::default() }, 7),
        ] {
            let run = |prompt_lookup_num_tokens| {
                let sampling = sampling.clone();
                let generation = Generation {
                    max_new_tokens: 30,
                    sampling,
                    stop_tokens: vec![],
                    batch_size: 8,
                    seed: 3,
                    prompt_lookup_num_tokens,
                };
                generate(&decoder, std::slice::from_ref(&prompt), &generation, &Control::default(), &|new| new.len() >= stop_at)
                    .unwrap()
            };
            let expected = run(Some(0));
            let room = decoder.config().max_position_embeddings - prompt.len();
            assert_eq!(expected[0].len(), stop_at.min(30).min(room));
            for guesses in [Some(1), Some(5), None] {
                assert_eq!(run(guesses), expected, "{name} {sampling:?} {guesses:?}");
            }
        }
    }
}

#[test]
fn a_shared_beginning_computed_once_changes_no_token() {
    for name in MODELS {
        let decoder = decoder(name, None);
        let start: Vec<u32> = (1..14).collect();
        let prompts: Vec<Vec<u32>> =
            [vec![20, 21], vec![30], vec![40, 41, 42]].iter().map(|end| [&start[..], end].concat()).collect();
        let generation = Generation {
            max_new_tokens: 10,
            sampling: Sampling::default(),
            stop_tokens: vec![],
            batch_size: 8,
            seed: 0,
            prompt_lookup_num_tokens: None,
        };
        let run = |prompts: &[Vec<u32>]| generate(&decoder, prompts, &generation, &Control::default(), &|_| false).unwrap();
        let together = run(&prompts);
        for (prompt, tokens) in prompts.iter().zip(together) {
            assert_eq!(run(std::slice::from_ref(prompt))[0], tokens, "{name}");
        }
    }
}

/// Where frequencies depend on a text's length, each text that is scored has those of its own.
#[test]
fn a_text_is_scored_alike_beside_a_longer_one() {
    let decoder = decoder("families/phi3_longrope", None);
    let (short, long): (Vec<u32>, Vec<u32>) = ((1..11).collect(), (1..41).collect());
    let score = |texts: &[&[u32]]| negative_log_likelihood(&decoder, texts).unwrap();
    let (first, second, together) = (score(&[&short[..]]), score(&[&long[..]]), score(&[&short[..], &long[..]]));
    assert_eq!(first.1 + second.1, together.1);
    assert!((first.0 + second.0 - together.0).abs() < 1e-5 * together.0, "{first:?} {second:?} {together:?}");
}

#[test]
fn bf16_weights_stay_narrow_and_give_nearly_the_same_loss() {
    let golden = golden("tiny/llama");
    let decoder = decoder("tiny/llama", Some(DType::BF16));
    assert!(decoder.named_parameters().iter().all(|(_, p)| p.dtype() == DType::BF16));
    let (batch, targets, _) = batch(&golden, "");
    let count = targets.iter().filter(|t| **t >= 0).count() as f64;
    let loss = decoder.loss_backward(&batch, &targets, count, Pass::default(), false).unwrap().value().unwrap();
    let expected = f64::from(golden["loss"].to_vec1::<f32>().unwrap()[0]);
    assert!((loss - expected).abs() < 0.02 * expected, "{loss} {expected}");
    assert!(decoder.named_parameters().iter().all(|(_, p)| p.has_grad()));
}
