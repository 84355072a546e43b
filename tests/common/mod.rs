//! What the tests against PEFT's golden files share.
#![allow(dead_code)]

#[path = "../apart/mod.rs"]
mod apart;

pub use apart::difference;
use candle_core::{DType, Device, Tensor};
use ftrepl::adapter::storage;
use ftrepl::control::Control;
use ftrepl::model::batch::shifted_targets;
use ftrepl::model::generate::{Generation, generate};
use ftrepl::model::projection::Pass;
use ftrepl::model::sampling::Sampling;
use ftrepl::model::{Decoder, TokenBatch};
use ftrepl::optim::{Adam, AdamWOptions, Optimizer, ParamGroup};
use std::collections::HashMap;
use std::path::Path;

/// The input of a golden file, without its padding.
pub struct Batch {
    /// The rows, one behind the other.
    pub tokens: TokenBatch,
    /// The token that each one is to be followed by, or -100.
    pub targets: Vec<i64>,
    lengths: Vec<usize>,
}

impl Batch {
    /// The input of this file.
    pub fn of(golden: &HashMap<String, Tensor>) -> Self {
        let rows = |name: &str| golden[name].to_vec2::<i64>().unwrap();
        let lengths: Vec<usize> = rows("attention_mask").iter().map(|mask| mask.iter().sum::<i64>() as usize).collect();
        let ids: Vec<Vec<u32>> =
            rows("input_ids").iter().zip(&lengths).map(|(row, n)| row[..*n].iter().map(|id| *id as u32).collect()).collect();
        let labels = rows("labels");
        let targets = shifted_targets(labels.iter().zip(&lengths).map(|(row, n)| &row[..*n]));
        Self { tokens: TokenBatch::new(ids.iter().map(Vec::as_slice)), targets, lengths }
    }

    /// The logits, `[tokens, vocabulary]`, in f32 on the CPU.
    pub fn logits(&self, decoder: &Decoder) -> Tensor {
        let hidden = decoder.hidden(&self.tokens, Pass::default()).unwrap();
        let logits = decoder.logits(&hidden, Pass::default()).unwrap().detach();
        logits.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap()
    }

    /// Fails where the logits are not those of the file, `[rows, positions, vocabulary]`; padding is not compared.
    pub fn check_logits(&self, decoder: &Decoder, expected: &Tensor, what: &str, tolerance: f32) {
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
    pub fn loss(&self, decoder: &Decoder, checkpointing: bool) -> f64 {
        let count = self.targets.iter().filter(|t| **t >= 0).count() as f64;
        decoder.loss_backward(&self.tokens, &self.targets, count, Pass::default(), checkpointing).unwrap().value().unwrap()
    }
}

/// How far numbers may be from PEFT's.
pub struct Tolerances {
    /// Logits.
    pub logits: f32,
    /// Gradients.
    pub gradients: f32,
    /// The losses of ten steps.
    pub losses: f64,
    /// The parameters after them.
    pub parameters: f32,
}

/// Puts the adapter in `lora` of a golden folder on the folder's model. Fails where its logits, loss and gradients are not PEFT's, or the losses
/// and parameters of ten steps, each of which `step` makes.
pub fn check_lora(decoder: &Decoder, folder: &Path, tolerances: &Tolerances, step: impl Fn(&mut Adam)) {
    let name = folder.display().to_string();
    let read = |file: &str| candle_core::safetensors::load(folder.join(file), &Device::Cpu).unwrap();
    let golden = read("lora_golden.safetensors");
    let batch = Batch::of(&read("golden.safetensors"));
    let adapter = storage::load(decoder, &folder.join("lora"), true).unwrap();
    let apart = |found: &Tensor, key: String| {
        difference(&found.to_device(&Device::Cpu).unwrap().to_dtype(DType::F32).unwrap(), &golden[&key])
    };
    batch.check_logits(decoder, &golden["logits"], &name, tolerances.logits);
    for checkpointing in [false, true] {
        let loss = batch.loss(decoder, checkpointing);
        assert!((loss - f64::from(golden["loss"].to_vec1::<f32>().unwrap()[0])).abs() < 1e-5, "{name}: loss {loss}");
        let own = adapter.own_parameters();
        assert_eq!(golden.keys().filter(|key| key.starts_with("grad.")).count(), own.len(), "{name}");
        for (parameter_name, parameter) in own {
            let gradient = parameter.grad().unwrap().unwrap_or_else(|| panic!("{name}: no gradient of {parameter_name}"));
            let d = apart(&gradient, format!("grad.{parameter_name}"));
            assert!(d < tolerances.gradients, "{name}: gradient of {parameter_name} differs by {d}");
            parameter.zero_grad();
        }
    }
    let parameters = adapter.own_parameters().into_iter().map(|(_, parameter)| parameter).collect();
    let options = AdamWOptions { lr: 1e-2, weight_decay: 0.0, ..AdamWOptions::default() };
    let mut optimizer = Adam::adamw(vec![ParamGroup::new(parameters)], options).unwrap();
    for (number, expected) in golden["losses"].to_vec1::<f32>().unwrap().into_iter().map(f64::from).enumerate() {
        let loss = batch.loss(decoder, number % 2 == 1);
        assert!((loss - expected).abs() < tolerances.losses * expected, "{name} step {number}: {loss} {expected}");
        step(&mut optimizer);
        optimizer.zero_grad();
    }
    for (parameter_name, parameter) in adapter.own_parameters() {
        let d = apart(&parameter.value(), format!("after.{parameter_name}"));
        assert!(d < tolerances.parameters, "{name}: {parameter_name} differs by {d} after ten steps");
    }
}

/// Twelve tokens by a decoder for each of the two prompts of a golden file.
pub fn greedy(decoder: &Decoder, golden: &HashMap<String, Tensor>) -> Vec<Vec<i64>> {
    let prompts = [0, 1].map(|i| golden[&format!("prompt.{i}")].to_vec1::<i64>().unwrap().iter().map(|id| *id as u32).collect());
    let generation = Generation {
        max_new_tokens: 12,
        sampling: Sampling::default(),
        stop_tokens: vec![],
        batch_size: 2,
        seed: 0,
        prompt_lookup_num_tokens: None,
    };
    let tokens = generate(decoder, &prompts, &generation, &Control::default(), &|_| false).unwrap();
    tokens.iter().map(|row| row.iter().map(|id| i64::from(*id)).collect()).collect()
}
