//! What is said of a training's arguments where they do not suit the model, the data or each other.

use super::arguments::EvalStrategy;
use super::optimizer::OptimizerKind;
use super::trainer::Trainer;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::optim::Schedule;

impl Trainer<'_> {
    /// Refuses arguments that do not suit the model or the data.
    pub(super) fn check_settings(&self) -> Result<()> {
        if let Some(regularizer) = self.regularizer {
            regularizer.check_model(&self.model)?;
        }
        if self.args.eval_strategy != EvalStrategy::No && self.eval.known_len() == Some(0) {
            let by_loss = match self.args.lr_scheduler_type {
                Schedule::ReduceLrOnPlateau => ", whose loss lr_scheduler_type \"reduce_lr_on_plateau\" follows",
                _ => "; give one, or set eval_strategy: \"no\"",
            };
            return Err(Error::argument(format!("eval_strategy needs an eval_dataset{by_loss}")));
        }
        if self.args.loraplus_lr_ratio.is_some() && !self.model.has_adapter() {
            return Err(Error::argument(
                "loraplus_lr_ratio is for a LoRA adapter, and the model has none; put one on with get_peft_model, or leave it out",
            ));
        }
        Ok(())
    }

    /// Says which arguments will not do what they seem to, in a run of so many steps.
    pub(super) fn warn_of_settings(&self, total: u64, control: &Control) {
        let (schedule, warmup) = (self.args.lr_scheduler_type, self.args.warmup(total));
        let schedule_free = self.args.optim == OptimizerKind::ScheduleFreeAdamw;
        if schedule_free && schedule != Schedule::Constant {
            control.warn(format!(
                "schedule_free_adamw does without a schedule and has a warm-up of its own; lr_scheduler_type \"{}\" lowers its learning \
                 rate too. Set lr_scheduler_type: \"constant\"",
                schedule.name()
            ));
        }
        if self.args.early_stopping_patience.is_some() && !self.args.load_best_model_at_end {
            control.warn("early_stopping_patience without load_best_model_at_end: the model will be that of the last step");
        }
        if warmup > 0 && !schedule_free && matches!(schedule, Schedule::Constant | Schedule::ReduceLrOnPlateau) {
            control.warn(format!(
                "lr_scheduler_type \"{}\" has no warm-up, so that warmup_steps and warmup_ratio count for nothing",
                schedule.name()
            ));
        } else if warmup > total {
            control.warn(format!(
                "the warm-up of {warmup} steps is longer than the training of {total}: the learning rate stays below {}",
                self.args.learning_rate
            ));
        }
    }
}
