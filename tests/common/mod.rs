//! What the tests against PEFT's golden files share.

#[path = "../apart/mod.rs"]
mod apart;

pub use apart::difference;
use candle_core::{DType, Device, Tensor};
use ftrepl::model::batch::shifted_targets;
use ftrepl::model::projection::Pass;
use ftrepl::model::{Decoder, TokenBatch};
use std::collections::HashMap;

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
