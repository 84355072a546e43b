//! Whether a training fits into memory, before its first step.

use super::Trainer;
use super::arguments::OptimizerKind;
use crate::error::Result;
use crate::model::memory::{Outline, Plan, Work, check_training};

/// Refuses a training whose largest batch does not fit; `rows` are what batches are made of.
pub(super) fn check(trainer: &Trainer<'_>, rows: &[Vec<usize>]) -> Result<()> {
    let decoder = trainer.model.model().decoder();
    if !decoder.device().is_cpu() {
        return Ok(());
    }
    let args = &trainer.args;
    // Batches are drawn: some day the longest rows meet.
    let length = |example: &usize| trainer.train[*example].input_ids.len();
    let mut longest: Vec<&Vec<usize>> = rows.iter().collect();
    longest.sort_by_key(|row| std::cmp::Reverse(row.iter().map(length).sum::<usize>()));
    longest.truncate(args.per_device_train_batch_size);
    let averages = match args.optim {
        OptimizerKind::AdamwTorch => 2,
        OptimizerKind::Sgd => 0,
    };
    let adapter_dropout = trainer.model.has_adapter() && trainer.model.with_adapter(|a| Ok(a.config().lora_dropout > 0.0))?;
    let work = Work::Training {
        averages,
        checkpointing: args.gradient_checkpointing,
        accumulates: args.gradient_accumulation_steps > 1,
        adapter_dropout,
    };
    check_training(&Outline::of_decoder(decoder), &Plan { lengths: longest.into_iter().flatten().map(length).collect(), work })
}
