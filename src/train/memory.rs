//! Whether a training fits into memory, before its first step.

use super::Trainer;
use super::feed::Feed;
use super::optimizer::{OptimizerKind, kept_floats};
use crate::error::Result;
use crate::model::memory::{Outline, Plan, TrainingWork, Work, check_training};
use crate::nn::Parameter;

/// Refuses a training whose largest batch does not fit. Where rows are tokenised as they are needed nobody knows it, and nothing is
/// refused.
pub(super) fn check(trainer: &Trainer<'_>, feed: &Feed<'_>, trainable: &[(String, Parameter)]) -> Result<()> {
    let decoder = trainer.model.model().decoder();
    if !decoder.device().is_cpu() {
        return Ok(());
    }
    let args = &trainer.args;
    // Batches are drawn: some day the longest rows meet.
    let Some(lengths) = feed.largest_batch() else { return Ok(()) };
    let averages = kept_floats(args, trainable)? + if args.ema_decay > 0.0 { 1.0 } else { 0.0 };
    let adapter_dropout = trainer.model.has_adapter() && trainer.model.with_adapter(|a| Ok(a.config().lora_dropout > 0.0))?;
    let work = Work::Training(TrainingWork {
        averages,
        checkpointing: args.gradient_checkpointing,
        accumulates: args.gradient_accumulation_steps > 1,
        adapter_dropout,
        orthogonalises: args.optim == OptimizerKind::Muon,
    });
    check_training(&Outline::of_decoder(decoder), &Plan { lengths, work })
}
