//! The best model of a training: by which evaluation it is chosen, when a training without progress ends, and how the weights come
//! back.

use super::arguments::{EvalStrategy, Interval, TrainingArguments};
use super::checkpoint::{self, Progress};
use super::updater::Updater;
use crate::adapter::ModelHandle;
use crate::control::Control;
use crate::error::{Error, Result};
use std::path::Path;

/// Refuses arguments about the best model that do not go together, as transformers does.
///
/// # Errors
/// Names them, and says which would.
pub(super) fn check(args: &TrainingArguments) -> Result<()> {
    let refuse = |message: String| Err(Error::Argument(format!("TrainingArguments: {message}")));
    if let Some(metric) = &args.metric_for_best_model
        && !["loss", "eval_loss"].contains(&metric.as_str())
    {
        return refuse(format!(
            "metric_for_best_model must be \"loss\" or \"eval_loss\", which are the same: an evaluation measures nothing else; got \
             \"{metric}\""
        ));
    }
    let evaluates = args.eval_strategy != EvalStrategy::No;
    if args.early_stopping_patience.is_none() && args.early_stopping_threshold > 0.0 {
        return refuse("early_stopping_threshold needs early_stopping_patience, the evaluations to wait for a better one".into());
    }
    if args.early_stopping_patience.is_some() && !evaluates {
        return refuse("early_stopping_patience counts evaluations: set eval_strategy to \"steps\" or \"epoch\"".into());
    }
    if !args.load_best_model_at_end {
        return Ok(());
    }
    if !evaluates {
        let advice = "set eval_strategy and save_strategy to \"steps\" or both to \"epoch\"";
        return refuse(format!("load_best_model_at_end needs evaluations to choose by: {advice}"));
    }
    let (evaluation, save) = (name_of_evaluation(args.eval_strategy), name_of_interval(args.save_strategy));
    if evaluation != save {
        return refuse(format!(
            "load_best_model_at_end loads a checkpoint, so that save_strategy must be that of the evaluations; eval_strategy is \
             \"{evaluation}\" and save_strategy \"{save}\". Set save_strategy: \"{evaluation}\""
        ));
    }
    if args.eval_strategy == EvalStrategy::Epoch {
        return Ok(());
    }
    let (evaluation, save) = (args.eval_steps, args.save_steps);
    let given = format!("eval_steps is {evaluation} and save_steps {save}");
    if save == 0.0 {
        let advice = format!("set save_steps to {evaluation} or a multiple of it");
        return refuse(format!("load_best_model_at_end needs checkpoints, and with save_steps 0 there are none; {advice}"));
    }
    if (evaluation < 1.0) != (save < 1.0) {
        return refuse(format!("load_best_model_at_end needs both as numbers of steps, or both as shares below 1; {given}"));
    }
    // Decimals such as 0.3 are not exact in binary; transformers compares millionths too.
    let scale = if save < 1.0 { 1e6 } else { 1.0 };
    if (save * scale) % (evaluation * scale) != 0.0 {
        return refuse(format!(
            "load_best_model_at_end needs save_steps to be a multiple of eval_steps, so that every checkpoint is evaluated; {given}"
        ));
    }
    Ok(())
}

fn name_of_evaluation(strategy: EvalStrategy) -> &'static str {
    match strategy {
        EvalStrategy::No => "no",
        EvalStrategy::Steps => "steps",
        EvalStrategy::Epoch => "epoch",
    }
}

fn name_of_interval(interval: Interval) -> &'static str {
    match interval {
        Interval::No => "no",
        Interval::Steps => "steps",
        Interval::Epoch => "epoch",
    }
}

/// Compares the loss of an evaluation, which is not in the log yet, with the best before it; whether the training is to end.
pub(super) fn compare(args: &TrainingArguments, progress: &mut Progress, loss: f64) -> bool {
    let wanted = args.load_best_model_at_end || args.metric_for_best_model.is_some() || args.early_stopping_patience.is_some();
    if !wanted {
        return false;
    }
    let better = |best: f64| if args.greater_is_better == Some(true) { loss > best } else { loss < best };
    // The patience is asked before the best is replaced, as EarlyStoppingCallback does: an evaluation that is better, but by less than
    // the threshold, is the best from now on all the same.
    let patient = match progress.best_metric {
        Some(best) => better(best) && (loss - best).abs() > args.early_stopping_threshold,
        None => loss.is_finite() || progress.log_history.iter().all(|entry| entry.eval_loss.is_none()),
    };
    if loss.is_finite() && progress.best_metric.is_none_or(better) {
        (progress.best_metric, progress.best_global_step) = (Some(loss), Some(progress.step));
    }
    let Some(patience) = args.early_stopping_patience else { return false };
    progress.early_stopping_patience_counter = if patient { 0 } else { progress.early_stopping_patience_counter + 1 };
    progress.early_stopping_patience_counter >= patience
}

/// Puts the best model's weights into the parameters at the end of a training that asks for it; with a `save_total_limit` of 1 its
/// checkpoint alone is left.
///
/// # Errors
/// The checkpoint cannot be read, or one that is too many not be removed.
pub(super) fn restore(
    args: &TrainingArguments,
    progress: &Progress,
    model: &ModelHandle,
    updater: &mut Updater,
    control: &Control,
) -> Result<()> {
    if !args.load_best_model_at_end {
        return Ok(());
    }
    let Some(folder) = progress.best_model_checkpoint.as_deref().map(Path::new) else {
        control.warn("load_best_model_at_end: no step that was evaluated has a checkpoint; the model is that of the last step");
        return Ok(());
    };
    checkpoint::restore_weights(folder, model)?;
    updater.restore_average(folder)?;
    if let Some(step) = progress.best_global_step
        && folder.file_name().is_none_or(|name| name.to_str() != Some(checkpoint::name(step).as_str()))
    {
        control.warn(format!(
            "load_best_model_at_end: the best evaluation was after step {step}, of which there is no checkpoint; the model is that of \
             {}. Save as often as you evaluate",
            folder.display()
        ));
    }
    if args.save_total_limit == Some(1) { checkpoint::remove_others(&args.output_dir, folder) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::trainer::LogEntry;

    /// The evaluations after which a training ends, and the best of them.
    fn ends(args: &TrainingArguments, losses: &[f64]) -> (Option<usize>, Option<f64>) {
        let mut progress = Progress::default();
        for (at, loss) in losses.iter().enumerate() {
            progress.step = at as u64 + 1;
            let ends = compare(args, &mut progress, *loss);
            let entry = serde_json::json!({ "step": progress.step, "epoch": 0.0 });
            let entry: LogEntry = serde_json::from_value(entry).unwrap();
            progress.log_history.push(LogEntry { eval_loss: Some(*loss), ..entry });
            if ends {
                return (Some(at + 1), progress.best_metric);
            }
        }
        (None, progress.best_metric)
    }

    /// The numbers are those of transformers' EarlyStoppingCallback and `_determine_best_metric`.
    #[test]
    fn patience_ends_where_transformers_ends() {
        let patient = |patience, threshold, greater| TrainingArguments {
            early_stopping_patience: Some(patience),
            early_stopping_threshold: threshold,
            greater_is_better: Some(greater),
            ..TrainingArguments::default()
        };
        assert_eq!(ends(&patient(2, 0.0, false), &[3.0, 2.0, 2.5, 1.5, 1.5, 1.6]), (Some(6), Some(1.5)));
        assert_eq!(ends(&patient(1, 0.0, true), &[3.0, 3.5, 3.0]), (Some(3), Some(3.5)));
        // Each is better than the one before by less than the threshold.
        assert_eq!(ends(&patient(2, 0.5, false), &[3.0, 2.75, 2.5, 1.0]), (Some(3), Some(2.5)));
        // A loss that is no number is never the best, and no progress where it is not the first.
        assert_eq!(ends(&patient(2, 0.0, false), &[f64::NAN, 2.0, f64::NAN, f64::NAN]), (Some(4), Some(2.0)));
        assert_eq!(ends(&patient(2, 0.0, false), &[f64::NAN; 4]), (Some(3), None));
        assert_eq!(ends(&TrainingArguments::default(), &[1.0, 2.0, 3.0]), (None, None));
    }
}
