//! What changes the parameters in a step, and all that it remembers between steps: the optimiser, the schedule and the average.

use super::arguments::TrainingArguments;
use super::optimizer;
use crate::error::{Error, Result};
use crate::model::weights::save_safetensors;
use crate::nn::Parameter;
use crate::optim::{DeviceNorm, Ema, Optimizer, Scheduler};
use candle_core::{Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// The optimiser of a run, with what belongs to it.
pub struct Updater {
    optimizer: Box<dyn Optimizer>,
    scheduler: Scheduler,
    ema: Option<Ema>,
}

const OPTIMIZER: &str = "optimizer.safetensors";
const SCHEDULER: &str = "scheduler.safetensors";
const EMA: &str = "ema.safetensors";

impl Updater {
    /// That of a run of `total` steps over these parameters.
    ///
    /// # Errors
    /// Arguments out of range or at odds.
    pub fn new(args: &TrainingArguments, trainable: &[(String, Parameter)], total: u64) -> Result<Self> {
        let warmup = args.warmup(total);
        let mut optimizer = optimizer::build(args, trainable, warmup)?;
        let options = args.lr_scheduler_kwargs.clone();
        let scheduler = Scheduler::new(args.lr_scheduler_type, options, optimizer.as_mut(), warmup, Some(total))?;
        let parameters = || trainable.iter().map(|(_, p)| p.clone()).collect();
        let ema = if args.ema_decay > 0.0 { Some(Ema::new(parameters(), args.ema_decay)?) } else { None };
        Ok(Self { optimizer, scheduler, ema })
    }

    /// The learning rate of the next step.
    pub fn lr(&self) -> f64 {
        self.optimizer.lr()
    }

    /// Puts the weights to train into the parameters.
    ///
    /// # Errors
    /// A parameter's memory cannot be updated.
    pub fn begin(&mut self) -> Result<()> {
        self.optimizer.train_mode()
    }

    /// One step by the parameters' gradients, which are then forgotten.
    ///
    /// # Errors
    /// A parameter's memory cannot be updated.
    pub fn step(&mut self) -> Result<()> {
        self.optimizer.step()?;
        self.after_update()
    }

    /// One step with clipping on the parameters' device, which nobody waits for; see [`Optimizer::step_on_device`].
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn step_on_device(&mut self, max_norm: f64) -> Result<Option<DeviceNorm>> {
        let norm = self.optimizer.step_on_device(max_norm)?;
        if norm.is_some() {
            self.after_update()?;
        }
        Ok(norm)
    }

    fn after_update(&mut self) -> Result<()> {
        self.optimizer.zero_grad();
        if let Some(ema) = &mut self.ema {
            ema.update()?;
        }
        if self.scheduler.follows_metric() { Ok(()) } else { self.scheduler.step(self.optimizer.as_mut()) }
    }

    /// Runs an evaluation with the weights that are meant for it in the parameters; its loss may change the learning rate.
    ///
    /// # Errors
    /// That of `work`, or a parameter's memory cannot be updated.
    pub fn evaluate(&mut self, work: impl FnOnce() -> Result<f64>) -> Result<f64> {
        self.optimizer.eval_mode()?;
        let loss = match &mut self.ema {
            Some(ema) => ema.apply(work),
            None => work(),
        };
        self.optimizer.train_mode()?;
        let loss = loss?;
        if self.scheduler.follows_metric() {
            self.scheduler.step_with(loss, self.optimizer.as_mut())?;
        }
        Ok(loss)
    }

    /// Leaves the weights to evaluate and to save in the parameters, at the end of the run.
    ///
    /// # Errors
    /// A parameter's memory cannot be updated.
    pub fn finish(&mut self) -> Result<()> {
        self.optimizer.eval_mode()?;
        self.ema.as_ref().map_or(Ok(()), Ema::copy_to)
    }

    /// Leaves the average of a checkpoint in the parameters, into which the checkpoint's weights have been put, where there is one: it is
    /// what was evaluated.
    ///
    /// # Errors
    /// A file is missing or damaged, or belongs to another run.
    pub fn restore_average(&mut self, folder: &Path) -> Result<()> {
        let Some(ema) = &mut self.ema else { return Ok(()) };
        let state = read(folder, EMA)?;
        ema.load_state_dict(&state).map_err(|error| Error::format(folder.join(EMA), error.to_string()))?;
        ema.copy_to()
    }

    /// Writes its state into a checkpoint's folder. `save_model` writes the model meanwhile: the weights that an average is taken
    /// of, but those that a schedule-free optimiser means to be saved.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&mut self, folder: &Path, save_model: impl FnOnce() -> Result<()>) -> Result<()> {
        self.optimizer.eval_mode()?;
        let write = |name: &str, state: BTreeMap<String, Tensor>| {
            save_safetensors(&folder.join(name), &state.into_iter().collect::<Vec<_>>(), &[])
        };
        save_model()?;
        write(OPTIMIZER, self.optimizer.state_dict()?)?;
        write(SCHEDULER, self.scheduler.state_dict()?)?;
        if let Some(ema) = &self.ema {
            write(EMA, ema.state_dict()?)?;
        }
        self.optimizer.train_mode()
    }

    /// Restores what [`Self::save`] wrote. The parameters are not touched: they are to get what `save_model` saved, and then to be put into
    /// training by [`Self::begin`].
    ///
    /// # Errors
    /// A file is missing or damaged, or belongs to another run.
    pub fn load(&mut self, folder: &Path) -> Result<()> {
        match (&self.ema, folder.join(EMA).is_file()) {
            (Some(_), false) => {
                return Err(Error::Missing(format!("{} was made without ema_decay; resume without it", folder.display())));
            }
            (None, true) => {
                return Err(Error::Missing(format!("{} was made with ema_decay; resume with it", folder.display())));
            }
            _ => {}
        }
        let state = read(folder, OPTIMIZER)?;
        // In the step of a checkpoint every parameter had a gradient.
        let count = self.optimizer.parameters().len();
        if let Some(at) = (0..count).find(|at| !state.contains_key(&format!("state.{at}.step"))) {
            let message = format!("it has no state of parameter {at} of {count}; resume with the same parameters trainable");
            return Err(Error::format(folder.join(OPTIMIZER), message));
        }
        let of_file = |name: &str, error: Error| Error::format(folder.join(name), error.to_string());
        self.optimizer.load_state_dict(&state).map_err(|error| of_file(OPTIMIZER, error))?;
        let state = read(folder, SCHEDULER)?;
        self.scheduler.load_state_dict(&state, self.optimizer.as_mut()).map_err(|error| of_file(SCHEDULER, error))?;
        match &mut self.ema {
            Some(ema) => ema.load_state_dict(&read(folder, EMA)?).map_err(|error| of_file(EMA, error)),
            None => Ok(()),
        }
    }
}

/// The state in a checkpoint's file.
fn read(folder: &Path, name: &str) -> Result<BTreeMap<String, Tensor>> {
    let path = folder.join(name);
    if !path.is_file() {
        return Err(Error::Missing(format!(
            "{} has no {name}: it is incomplete or of an older version, and cannot be resumed from; take another checkpoint or train anew",
            folder.display()
        )));
    }
    let state = candle_core::safetensors::load(&path, &Device::Cpu).map_err(|error| {
        Error::format(&path, format!("it is damaged ({}); resume from another checkpoint", Error::from(error)))
    })?;
    Ok(state.into_iter().collect())
}
