//! Whole models on a device against PEFT's numbers and against the CPU: adapters, heads of every width, caches, scores.

use super::{decoder, device, difference, folder, on_cpu, rms_difference};
use crate::common::{Tolerances, check_lora};
use candle_core::{DType, Device, Tensor};
use ftrepl::adapter::{LoraConfig, ModelHandle};
use ftrepl::model::batch::shifted_targets;
use ftrepl::model::decoder::negative_log_likelihood;
use ftrepl::model::generate::{Generation, generate};
use ftrepl::model::lm::LanguageModel;
use ftrepl::model::projection::Pass;
use ftrepl::model::sampling::Sampling;
use ftrepl::model::{Decoder, Source, TokenBatch};
use ftrepl::ops::cache::KvCache;
use ftrepl::ops::with_fused;
use ftrepl::optim::Optimizer;
use ftrepl::random::Random;
use std::cell::RefCell;
use std::collections::HashMap;

#[test]
fn lora_on_every_family_gives_pefts_numbers() {
    let Some(device) = device() else { return };
    for name in super::models().into_iter().filter(|name| folder(name).join("lora_golden.safetensors").exists()) {
        let tolerances = Tolerances { logits: 1e-4, gradients: 1e-3, losses: 1e-3, parameters: 1e-2 };
        check_lora(&decoder(&name, None, &device), &folder(&name), &tolerances, |optimizer| {
            optimizer.step_on_device(0.0).unwrap().expect("an adapter in f32 is trained on the device");
        });
    }
}

/// Tokens that look random, below 90.
fn tokens(length: usize, seed: usize) -> Vec<u32> {
    (0..length).map(|at| ((at * 31 + seed * 17 + at * at * 7) % 87) as u32 + 3).collect()
}

fn batch_of(lengths: &[usize]) -> (TokenBatch, Vec<i64>) {
    let rows: Vec<Vec<u32>> = lengths.iter().enumerate().map(|(seed, length)| tokens(*length, seed)).collect();
    let labels: Vec<Vec<i64>> = rows.iter().map(|row| row.iter().map(|id| i64::from(*id)).collect()).collect();
    (TokenBatch::new(rows.iter().map(Vec::as_slice)), shifted_targets(labels.iter().map(Vec::as_slice)))
}

fn count(targets: &[i64]) -> f64 {
    targets.iter().filter(|target| **target >= 0).count() as f64
}

/// The loss and all gradients, on the CPU in f32.
fn gradients(decoder: &Decoder, (batch, targets): &(TokenBatch, Vec<i64>), checkpointing: bool) -> (f64, Vec<(String, Tensor)>) {
    let loss = decoder.loss_backward(batch, targets, count(targets), Pass::default(), checkpointing).unwrap().value().unwrap();
    let gradient = |(name, parameter): (String, ftrepl::nn::Parameter)| {
        let gradient = parameter.grad().unwrap().unwrap_or_else(|| panic!("no gradient of {name}"));
        parameter.zero_grad();
        (name, on_cpu(&gradient))
    };
    (loss, decoder.named_parameters().into_iter().map(gradient).collect())
}

/// A copy of a golden model whose heads have another width, with random weights.
fn with_heads(name: &str, head_dim: usize) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let mut config = ftrepl::model::config::read_json(&folder(name).join("config.json")).unwrap();
    let number = |field: &str| config[field].as_u64().map(|n| n as usize);
    let before = number("head_dim").unwrap_or_else(|| number("hidden_size").unwrap() / number("num_attention_heads").unwrap());
    config["head_dim"] = head_dim.into();
    // Scores of the same size: a softmax that is nearly one key's has gradients that rounding leaves nothing of.
    if config.get("query_pre_attn_scalar").is_some() {
        config["query_pre_attn_scalar"] = head_dim.into();
    }
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    let wide = |n: usize| n / before * head_dim;
    let resized = |(seed, (name, tensor)): (usize, (String, Tensor))| {
        let mut dims = tensor.dims().to_vec();
        let part = name.rsplit('.').nth(1).unwrap_or_default();
        match part {
            "q_proj" | "k_proj" | "v_proj" | "q_norm" | "k_norm" => dims[0] = wide(dims[0]),
            "o_proj" => dims[1] = wide(dims[1]),
            _ => {}
        }
        // Norms' weights around 1, where 0 does not mean that already; and nothing so large that rounding to 16 bits grows on the way.
        let middle = if part.contains("norm") && !config["model_type"].to_string().contains("gemma") { 1.0 } else { 0.0 };
        (name, super::operations::values(&dims, seed).affine(0.15, middle).unwrap())
    };
    let stored = candle_core::safetensors::load(folder(name).join("model.safetensors"), &Device::Cpu).unwrap();
    let mut stored: Vec<(String, Tensor)> = stored.into_iter().collect();
    stored.sort_by(|a, b| a.0.cmp(&b.0));
    let tensors: HashMap<String, Tensor> = stored.into_iter().enumerate().map(resized).collect();
    candle_core::safetensors::save(&tensors, copy.path().join("model.safetensors")).unwrap();
    copy
}

/// Every kernel of attention, in training and in generation, with windows, soft caps and shared keys.
#[test]
fn heads_of_every_width() {
    let Some(device) = device() else { return };
    let names = ["tiny/llama", "tiny/mistral", "families/gemma2", "families/gemma3", "families/qwen3"];
    for (head_dim, dtype, tolerance) in [
        (64, DType::BF16, 0.1f32),
        (128, DType::BF16, 0.1),
        (64, DType::F32, 1e-4),
        (80, DType::F32, 1e-4),
        (80, DType::BF16, 0.1),
        (256, DType::F32, 1e-4),
        (128, DType::F16, 0.05),
    ] {
        for (at, name) in names.iter().enumerate() {
            // One of each width for those that cost much.
            if head_dim > 128 && at != 2 {
                continue;
            }
            let copy = with_heads(name, head_dim);
            let load = |device: &Device| Decoder::load(&Source::open(copy.path()).unwrap(), Some(dtype), device).unwrap();
            let (here, there) = (load(&Device::Cpu), load(&device));
            let what = format!("{name} with heads of {head_dim} in {dtype:?}");
            let batch = batch_of(if at == 0 { &[70, 1, 66] } else { &[19, 1, 9] });
            let ((loss, expected), (found_loss, found)) =
                (gradients(&here, &batch, false), gradients(&there, &batch, at % 2 == 1));
            assert!((loss - found_loss).abs() < f64::from(tolerance) * 0.2 * loss, "{what}: loss {found_loss} instead of {loss}");
            // What rounding alone does to these random models: candle's own operations round as often.
            let plain = with_fused(dtype == DType::F32, || gradients(&there, &batch, false)).1;
            for (((parameter, expected), (_, found)), (_, plain)) in expected.iter().zip(&found).zip(&plain) {
                let (apart, rounding) = (rms_difference(found, expected), rms_difference(plain, expected));
                let most = if dtype == DType::F32 { tolerance } else { tolerance.max(3.0 * rounding) };
                assert!(apart < most, "{what}: gradient of {parameter} differs by {apart}, by candle's operations by {rounding}");
            }
            cached_equals_whole(&there, &what, if dtype == DType::F32 { 1e-4 } else { 0.1 });
        }
    }
}

/// Hidden states of sequences that come piece by piece, beside each other, are those of the whole.
fn cached_equals_whole(decoder: &Decoder, what: &str, tolerance: f32) {
    ftrepl::nn::no_grad(|| {
        let rows: Vec<Vec<u32>> = [23, 9, 90].iter().enumerate().map(|(seed, length)| tokens(*length, seed)).collect();
        let whole: Vec<Tensor> = rows
            .iter()
            .map(|row| on_cpu(&decoder.hidden(&TokenBatch::new([row.as_slice()]), Pass::default()).unwrap()))
            .collect();
        let mut caches: Vec<KvCache> = rows.iter().map(|_| KvCache::new(decoder.num_blocks())).collect();
        let mut done = [0usize; 3];
        // All new; one by one; some more of one alone; the rest.
        for pieces in [[5, 3, 70], [1, 1, 1], [0, 2, 0], [17, 3, 19]] {
            let chosen: Vec<usize> = (0..3).filter(|row| pieces[*row] > 0).collect();
            let mut batch = TokenBatch::default();
            chosen.iter().for_each(|row| batch.push_from(&rows[*row][..done[*row] + pieces[*row]], done[*row]));
            // What a copy is given later the other does not see, nor what a copy forgets.
            let mut copies = caches.clone();
            copies.iter_mut().for_each(|copy| copy.truncate(1));
            let mut given: Vec<&mut KvCache> =
                caches.iter_mut().enumerate().filter(|(row, _)| pieces[*row] > 0).map(|(_, c)| c).collect();
            let hidden = on_cpu(&decoder.hidden_cached(&batch, &mut given).unwrap());
            let mut at = 0;
            for row in chosen {
                let found = hidden.narrow(0, at, pieces[row]).unwrap();
                let expected = whole[row].narrow(0, done[row], pieces[row]).unwrap();
                let apart = rms_difference(&found, &expected);
                assert!(apart < tolerance, "{what}: cached row {row} from {} differs by {apart}", done[row]);
                at += pieces[row];
                done[row] += pieces[row];
            }
            let mut other = TokenBatch::default();
            other.push_from(&[rows[2][0], 50], copies[2].len());
            decoder.hidden_cached(&other, &mut [&mut copies[2]]).unwrap();
        }
        // Back to a shorter beginning, and on again.
        caches[2].truncate(40);
        let mut batch = TokenBatch::default();
        batch.push_from(&rows[2][..60], 40);
        let hidden = on_cpu(&decoder.hidden_cached(&batch, &mut [&mut caches[2]]).unwrap());
        let apart = rms_difference(&hidden, &whole[2].narrow(0, 40, 20).unwrap());
        assert!(apart < tolerance, "{what}: after forgetting, cached rows differ by {apart}");
    });
}

#[test]
fn cached_tokens_give_what_the_whole_gives_in_every_family() {
    let Some(device) = device() else { return };
    for name in super::models() {
        // GPT-2's learned positions end, and frequencies that depend on the length make another text of a longer one.
        if name.contains("gpt2") || name.contains("phi3_") || name.contains("yarn") {
            continue;
        }
        cached_equals_whole(&decoder(&name, None, &device), &name, 1e-4);
        cached_equals_whole(&decoder(&name, Some(DType::BF16), &device), &name, 0.1);
    }
}

#[test]
fn generation_does_not_depend_on_the_batch_nor_on_guesses() {
    let Some(device) = device() else { return };
    for name in ["tiny/mistral", "families/gemma3"] {
        let (here, there) = (decoder(name, None, &Device::Cpu), decoder(name, None, &device));
        let prompts: Vec<Vec<u32>> = [3, 12, 1, 7].iter().enumerate().map(|(seed, length)| tokens(*length, seed)).collect();
        let run = |decoder: &Decoder, batch_size, guesses, temperature| {
            let sampling =
                Sampling { do_sample: temperature > 0.0, temperature: f64::max(temperature, 1.0), ..Sampling::default() };
            let generation = Generation {
                max_new_tokens: 10,
                sampling,
                stop_tokens: vec![],
                batch_size,
                seed: 3,
                prompt_lookup_num_tokens: guesses,
            };
            generate(decoder, &prompts, &generation, &ftrepl::control::Control::default(), &|_| false).unwrap()
        };
        for temperature in [0.0, 1.0] {
            let expected = run(&here, 1, Some(0), temperature);
            for (batch_size, guesses) in [(1, Some(0)), (1, Some(4)), (3, None), (4, None)] {
                assert_eq!(
                    run(&there, batch_size, guesses, temperature),
                    expected,
                    "{name} {batch_size} {guesses:?} {temperature}"
                );
            }
        }
    }
}

#[test]
fn gradients_of_batches_add_up_also_in_a_tied_head() {
    let Some(device) = device() else { return };
    for (name, dtype, tolerance) in
        [("tiny/llama_tied", DType::F32, 1e-4), ("tiny/llama_tied", DType::BF16, 2e-2), ("families/gpt2", DType::F32, 1e-4)]
    {
        let decoder = decoder(name, Some(dtype), &device);
        let batches = [batch_of(&[9, 4]), batch_of(&[1, 12])];
        let apart: Vec<_> = batches.iter().map(|batch| gradients(&decoder, batch, false).1).collect();
        for checkpointing in [false, true] {
            let (first, second) = (&batches[0], &batches[1]);
            decoder.loss_backward(&first.0, &first.1, count(&first.1), Pass::default(), checkpointing).unwrap();
            let (_, sums) = gradients(&decoder, second, checkpointing);
            for (at, (parameter, sum)) in sums.iter().enumerate() {
                let expected = (&apart[0][at].1 + &apart[1][at].1).unwrap();
                let apart = difference(sum, &expected);
                assert!(apart < tolerance, "{name} {dtype:?}: gradient of {parameter} differs by {apart}");
            }
        }
    }
}

/// With dropout the loss is another function, but one whose gradient is the one that is given: the mask is drawn again alike.
#[test]
fn lora_with_dropout_has_the_gradient_of_its_loss() {
    let Some(device) = device() else { return };
    let model = ModelHandle::new(LanguageModel::load("llama", &folder("tiny/llama"), None, &device).unwrap());
    let config = LoraConfig { r: 4, lora_alpha: 16.0, lora_dropout: 0.4, ..LoraConfig::default() };
    model.attach(config, &mut Random::new(1)).unwrap();
    let trainable = model.trainable_parameters();
    for (seed, (_, parameter)) in trainable.iter().enumerate() {
        let values = (super::operations::values(&parameter.dims(), seed).to_device(&device).unwrap() * 0.3).unwrap();
        parameter.set(&values).unwrap();
    }
    let (batch, targets) = batch_of(&[13, 6]);
    let loss = |seed: u64, checkpointing: bool| {
        let random = RefCell::new(Random::new(seed));
        let pass = Pass { dropout: Some(&random), ..Pass::default() };
        let decoder = model.model().decoder();
        decoder.loss_backward(&batch, &targets, count(&targets), pass, checkpointing).unwrap().value().unwrap()
    };
    let without = model.model().decoder().loss_backward(&batch, &targets, count(&targets), Pass::default(), false).unwrap();
    trainable.iter().for_each(|(_, parameter)| parameter.zero_grad());
    for checkpointing in [false, true] {
        let at = loss(5, checkpointing);
        assert!(
            (at - without.value().unwrap()).abs() > 1e-4 && (at - loss(6, checkpointing)).abs() > 1e-4,
            "nothing was dropped"
        );
        trainable.iter().for_each(|(_, parameter)| parameter.zero_grad());
        assert!((loss(5, checkpointing) - at).abs() < 1e-6);
        for (seed, (name, parameter)) in trainable.iter().enumerate() {
            let gradient = parameter.grad().unwrap().unwrap();
            let direction = super::operations::values(&parameter.dims(), 50 + seed).to_device(&device).unwrap();
            let slope = f64::from((gradient * &direction).unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap());
            let value = parameter.value().copy().unwrap();
            let moved = |step: f64| {
                parameter.set(&(&value + (&direction * step).unwrap()).unwrap()).unwrap();
                let kept: Vec<Option<Tensor>> = trainable.iter().map(|(_, p)| p.grad().unwrap()).collect();
                let loss = loss(5, checkpointing);
                // What this pass added goes.
                trainable.iter().zip(kept).for_each(|((_, p), kept)| {
                    p.zero_grad();
                    kept.into_iter().for_each(|kept| p.accumulate(&kept).unwrap());
                });
                loss
            };
            let measured = (moved(4e-3) - moved(-4e-3)) / 8e-3;
            parameter.set(&value).unwrap();
            assert!((measured - slope).abs() < 0.03 * slope.abs().max(0.02), "{name}: slope {measured}, gradient gives {slope}");
        }
        trainable.iter().for_each(|(_, parameter)| parameter.zero_grad());
    }
}

#[test]
fn texts_are_scored_as_on_the_cpu() {
    let Some(device) = device() else { return };
    for name in super::models() {
        let (here, there) = (decoder(&name, None, &Device::Cpu), decoder(&name, None, &device));
        let rows: Vec<Vec<u32>> = [30, 2, 1, 11].iter().enumerate().map(|(seed, length)| tokens(*length, seed)).collect();
        let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
        let (expected, found) = (negative_log_likelihood(&here, &rows).unwrap(), negative_log_likelihood(&there, &rows).unwrap());
        assert_eq!(expected.1, found.1, "{name}");
        assert!((expected.0 - found.0).abs() < 1e-5 * expected.0, "{name}: {found:?} instead of {expected:?}");
    }
}

/// Nothing in, nothing out, or words: as on the CPU.
#[test]
fn empty_inputs() {
    let Some(device) = device() else { return };
    let (here, there) = (decoder("tiny/llama", None, &Device::Cpu), decoder("tiny/llama", None, &device));
    let generation = Generation {
        max_new_tokens: 2,
        sampling: Sampling::default(),
        stop_tokens: vec![],
        batch_size: 2,
        seed: 0,
        prompt_lookup_num_tokens: None,
    };
    for decoder in [&here, &there] {
        let control = ftrepl::control::Control::default();
        assert!(generate(decoder, &[], &generation, &control, &|_| false).unwrap().is_empty());
        assert!(generate(decoder, &[vec![]], &generation, &control, &|_| false).unwrap_err().to_string().contains("no tokens"));
        let batch = batch_of(&[1]);
        assert_eq!(decoder.loss_backward(&batch.0, &batch.1, 1.0, Pass::default(), false).unwrap().value().unwrap(), 0.0);
        // A sequence without tokens beside one that has some.
        let (batch, targets) = batch_of(&[0, 5, 0]);
        let loss = decoder.loss_backward(&batch, &targets, 4.0, Pass::default(), false).unwrap().value().unwrap();
        let (alone, of_alone) = batch_of(&[0, 5]);
        let expected = decoder.loss_backward(&alone, &of_alone, 4.0, Pass::default(), true).unwrap().value().unwrap();
        assert!((loss - expected).abs() < 1e-6);
    }
    let nothing =
        |decoder: &Decoder| decoder.hidden(&TokenBatch::default(), Pass::default()).map(|hidden| hidden.dims().to_vec());
    match (nothing(&here), nothing(&there)) {
        (Ok(expected), found) => assert_eq!(found.unwrap(), expected),
        (Err(_), found) => assert!(found.is_err()),
    }
}
