//! Checkpoints: model or adapter, optimiser state and the run's progress in one folder that is complete or absent.

use super::arguments::TrainingArguments;
use super::trainer::LogEntry;
use super::updater::Updater;
use crate::adapter::ModelHandle;
use crate::error::{Error, Result};
use crate::files;
use crate::model::Source;
use crate::optim::Schedule;
use candle_core::Device;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How far a run has come.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps done.
    #[serde(rename = "global_step")]
    pub step: u64,
    /// Sum of the steps' losses.
    pub loss_sum: f64,
    /// Losses since the last entry of the log.
    pub window: Vec<f64>,
    /// The log.
    pub log_history: Vec<LogEntry>,
    /// The best evaluation's loss, where evaluations are compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_metric: Option<f64>,
    /// The step after which it was evaluated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_global_step: Option<u64>,
    /// The folder of the best checkpoint: that of this step, or where it has none that of the best one before it that has.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub best_model_checkpoint: Option<String>,
    /// Evaluations in a row that were not better, where they are counted.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub early_stopping_patience_counter: u64,
    /// Passes over the data done, known when the training has ended; a checkpoint's are those of its steps.
    #[serde(skip)]
    pub epoch: f64,
}

/// Files of runs that count nothing do not have the field.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

const STATE: &str = "trainer_state.json";
/// What the folder of a checkpoint that is being written is called, with letters behind it.
const UNFINISHED: &str = ".checkpoint-";
/// Nobody writes a checkpoint without a file changing for so long.
const ABANDONED: Duration = Duration::from_secs(3600);

/// What the checkpoint of a step is called.
pub(super) fn name(step: u64) -> String {
    format!("checkpoint-{step}")
}

/// Writes `output_dir/checkpoint-STEP`, and removes the oldest where there are more than `save_total_limit`; the one that was just
/// written and the best always stay.
///
/// # Errors
/// The folder cannot be written; no half-written checkpoint is left.
pub fn save(args: &TrainingArguments, progress: &mut Progress, model: &ModelHandle, updater: &mut Updater) -> Result<()> {
    let root = &args.output_dir;
    files::create_folder(root)?;
    remove_abandoned(root);
    let folder = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(root).map_err(|e| Error::io("write into", root, e))?;
    updater.save(folder.path(), || model.save_pretrained(folder.path()))?;
    let target = root.join(name(progress.step));
    let is_best = progress.best_global_step == Some(progress.step);
    let best = if is_best { Some(target.display().to_string()) } else { progress.best_model_checkpoint.clone() };
    let state = Progress { best_model_checkpoint: best, ..progress.clone() };
    let text = serde_json::to_string_pretty(&state).map_err(|e| Error::argument(e.to_string()))?;
    files::write_text(&folder.path().join(STATE), &text)?;
    let text = serde_json::to_string_pretty(args).map_err(|e| Error::argument(e.to_string()))?;
    files::write_text(&folder.path().join("training_args.json"), &text)?;
    if target.exists() {
        std::fs::remove_dir_all(&target).map_err(|e| Error::io("replace", &target, e))?;
    }
    std::fs::rename(folder.path(), &target).map_err(|e| Error::io("write", &target, e))?;
    // Under its new name it is no temporary folder any more.
    let _ = folder.keep();
    progress.best_model_checkpoint = state.best_model_checkpoint;
    if let Some(limit) = args.save_total_limit {
        // Checkpoints of an earlier, longer run may have higher numbers: the one just written stays.
        let mut others = list(root)?;
        others.retain(|(_, path)| *path != target);
        let surplus = (others.len() + 1).saturating_sub(limit);
        if let Some(best) = &progress.best_model_checkpoint {
            others.retain(|(_, path)| !same(path, Path::new(best)));
        }
        for (_, oldest) in others.into_iter().take(surplus) {
            std::fs::remove_dir_all(&oldest).map_err(|e| Error::io("remove", &oldest, e))?;
        }
    }
    Ok(())
}

/// Whether two paths lead to one folder that is there.
fn same(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Removes all checkpoints of a folder but one.
///
/// # Errors
/// One cannot be removed.
pub(super) fn remove_others(root: &Path, kept: &Path) -> Result<()> {
    for (_, path) in list(root)?.into_iter().filter(|(_, path)| !same(path, kept)) {
        std::fs::remove_dir_all(&path).map_err(|e| Error::io("remove", &path, e))?;
    }
    Ok(())
}

/// Removes the unfinished checkpoints of runs that were killed, each as large as the model and its optimiser's state. Another run may be
/// writing one just now, so that only old ones go.
fn remove_abandoned(root: &Path) {
    let old = |path: &Path| {
        let changed = std::fs::metadata(path).and_then(|found| found.modified());
        changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|age| age > ABANDONED))
    };
    let entries = |folder: &Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries(root) {
        let path = entry.path();
        let unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED) && path.is_dir();
        if unfinished && old(&path) && entries(&path).all(|part| old(&part.path())) {
            // What cannot be removed is in nobody's way.
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// The checkpoints of a folder, oldest first; files with such names are none.
fn list(root: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let entries = std::fs::read_dir(root).map_err(|e| Error::io("read", root, e))?;
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok();
    let folders = entries.filter_map(|e| Some(e.ok()?.path())).filter(|path| path.is_dir());
    let mut found: Vec<(u64, PathBuf)> = folders.filter_map(|p| Some((step(&p)?, p))).collect();
    found.sort();
    Ok(found)
}

/// The newest checkpoint of a folder.
///
/// # Errors
/// There is none.
pub fn latest(root: &Path) -> Result<PathBuf> {
    let newest = if root.is_dir() { list(root)?.pop() } else { None };
    newest.map(|(_, path)| path).ok_or_else(|| {
        let advice = "set save_steps, or save_strategy: \"epoch\", when training";
        Error::Missing(format!("there is no checkpoint to resume from in {}; {advice}", root.display()))
    })
}

/// Restores model, optimiser, schedule, average and progress from a checkpoint; the model last, so that it stays as it is where the rest
/// does not fit.
///
/// # Errors
/// A file is missing or damaged, or belongs to another model or to a run with other arguments.
pub fn resume(folder: &Path, model: &ModelHandle, updater: &mut Updater, args: &TrainingArguments) -> Result<Progress> {
    if !folder.join(STATE).is_file() {
        let within = if folder.is_dir() { list(folder)?.pop() } else { None };
        let advice = within.map_or(String::new(), |(_, path)| format!("; the newest one in it is {}", path.display()));
        return Err(Error::Missing(format!("{} is no checkpoint: it has no {STATE}{advice}", folder.display())));
    }
    let text = files::read_text(&folder.join(STATE))?;
    let progress: Progress = serde_json::from_str(&text).map_err(|e| Error::format(folder.join(STATE), e.to_string()))?;
    let text = files::read_text(&folder.join("training_args.json"))?;
    let saved: TrainingArguments =
        serde_json::from_str(&text).map_err(|e| Error::format(folder.join("training_args.json"), e.to_string()))?;
    check_same_run(folder, &saved, args)?;
    updater.load(folder)?;
    restore_weights(folder, model)?;
    Ok(progress)
}

/// Puts a checkpoint's weights into the model, or into its adapters; all of them fit before the first is changed.
///
/// # Errors
/// A file is missing or damaged, or belongs to another model.
pub(super) fn restore_weights(folder: &Path, model: &ModelHandle) -> Result<()> {
    if model.has_adapter() {
        model.restore_adapters(folder)?;
    } else {
        let source = Source::open(folder)?;
        // Quantised weights never change.
        let slots = model.model().decoder().slots();
        let trained: Vec<_> = slots.iter().filter(|(_, slot)| slot.current().quantised().is_none()).collect();
        // All of them before the first is changed.
        for (name, slot) in &trained {
            source.check_shape(name, &slot.current().dims(), slot.transposed())?;
        }
        for (name, slot) in trained {
            let parameter = slot.current();
            let (shape, dtype) = (parameter.dims(), Some(parameter.dtype()));
            let value = source.load_shaped(name, &shape, slot.transposed(), dtype, &Device::Cpu)?;
            parameter.set(value.as_tensor())?;
        }
    }
    Ok(())
}

/// Refuses to resume with arguments under which what was saved would be taken for something else, or other rows would come next.
fn check_same_run(folder: &Path, saved: &TrainingArguments, args: &TrainingArguments) -> Result<()> {
    let refuse = |made: String| Err(Error::argument(format!("{} was made with {made}", folder.display())));
    let order = |a: &TrainingArguments| {
        let packed = a.packing.then_some(a.max_length);
        let batches = (a.per_device_train_batch_size, a.gradient_accumulation_steps, a.dataloader_drop_last);
        (a.seed, a.data_seed.unwrap_or(a.seed), batches, packed)
    };
    if order(saved) != order(args) {
        let given = "another seed, batch size, gradient_accumulation_steps, packing or dataloader_drop_last";
        return refuse(format!("{given}; resume with the same ones"));
    }
    if saved.optim != args.optim {
        return refuse(format!("optim \"{}\", not \"{}\"; resume with the same", saved.optim.name(), args.optim.name()));
    }
    if saved.loraplus_lr_ratio.is_some() != args.loraplus_lr_ratio.is_some() {
        let with = if saved.loraplus_lr_ratio.is_some() { "with" } else { "without" };
        return refuse(format!("optim \"{}\" {with} loraplus_lr_ratio; resume {with} it", saved.optim.name()));
    }
    // This schedule counts evaluations, the others steps.
    let plateau = |a: &TrainingArguments| a.lr_scheduler_type == Schedule::ReduceLrOnPlateau;
    if plateau(saved) != plateau(args) {
        let (before, now) = (saved.lr_scheduler_type.name(), args.lr_scheduler_type.name());
        return refuse(format!("lr_scheduler_type \"{before}\", after which \"{now}\" cannot go on; resume with the same"));
    }
    Ok(())
}
