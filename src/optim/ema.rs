//! An exponential moving average of the weights, with the numbers of `torch.optim.swa_utils.AveragedModel` and `get_ema_multi_avg_fn`
//! (Polyak and Juditsky 1992; for networks Izmailov et al. 2018, arXiv:1803.05407) and the methods of `torch_ema`.
//!
//! ```text
//! first update: average = p;   then: average += (1 - decay) (p - average)
//! ```
//! The average is f32 whatever the parameter's dtype: with a decay of 0.999 bf16 would round every update away.

use super::host::{CHUNK, read_state, shaped, steps};
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::ops::{parallel, with_elements};
use candle_core::{DType, Device, Tensor};
use std::collections::BTreeMap;

/// An average of parameters over time.
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    updates: u64,
    parameters: Vec<Parameter>,
    averages: Vec<Parameter>,
    stored: Option<Vec<Tensor>>,
}

impl Ema {
    /// An average of those of the parameters that require a gradient; it begins as they are.
    ///
    /// # Errors
    /// `decay` is outside of 0 to 1, or no parameter requires a gradient.
    pub fn new(parameters: Vec<Parameter>, decay: f64) -> Result<Self> {
        if !(0.0..=1.0).contains(&decay) {
            return Err(Error::argument(format!("decay must be between 0 and 1, got {decay}")));
        }
        let parameters: Vec<Parameter> = parameters.into_iter().filter(Parameter::requires_grad).collect();
        if parameters.is_empty() {
            return Err(Error::argument("there is no parameter to average; are all of them frozen?"));
        }
        let copy = |p: &Parameter| -> Result<Parameter> {
            let average = Parameter::new(&p.value().to_dtype(DType::F32)?.copy()?)?;
            average.set_requires_grad(false);
            Ok(average)
        };
        let averages = parameters.iter().map(copy).collect::<Result<_>>()?;
        Ok(Self { decay, updates: 0, parameters, averages, stored: None })
    }

    /// How much of the average an update keeps.
    pub fn decay(&self) -> f64 {
        self.decay
    }

    /// The updates so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// The averages, in the order of the parameters.
    pub fn averages(&self) -> &[Parameter] {
        &self.averages
    }

    /// Lets the parameters as they are enter the average: to be called after each optimiser step.
    ///
    /// # Errors
    /// A parameter's shape changed, or the averaged weights are in the parameters.
    pub fn update(&mut self) -> Result<()> {
        if self.stored.is_some() {
            return Err(Error::argument("the parameters were stored away: call restore before the next update"));
        }
        // The first update takes the parameters as they are.
        let entering = if self.updates == 0 { 1.0 } else { 1.0 - self.decay };
        for (parameter, average) in self.parameters.iter().zip(&self.averages) {
            let value = parameter.value().to_dtype(DType::F32)?;
            if entering == 1.0 {
                average.set(&value)?;
            } else if value.device().is_cpu() {
                with_elements(&value, |value| {
                    let update = average.update_f32(|average| enter(average, value, entering as f32));
                    update.map_err(candle_core::Error::wrap)
                })?;
            } else {
                let old = average.value();
                average.set(&(&old + ((value - &old)? * entering)?)?)?;
            }
        }
        self.updates += 1;
        Ok(())
    }

    /// Keeps a copy of the parameters for [`Self::restore`].
    ///
    /// # Errors
    /// There is one already, which would be lost; or out of memory.
    pub fn store(&mut self) -> Result<()> {
        if self.stored.is_some() {
            return Err(Error::argument("the parameters are stored already: call restore before they are stored again"));
        }
        let copies: candle_core::Result<Vec<Tensor>> = self.parameters.iter().map(|p| p.value().copy()).collect();
        self.stored = Some(copies?);
        Ok(())
    }

    /// Writes the averages into the parameters.
    ///
    /// # Errors
    /// A parameter's shape changed.
    pub fn copy_to(&self) -> Result<()> {
        self.parameters.iter().zip(&self.averages).try_for_each(|(parameter, average)| parameter.set(&average.value()))
    }

    /// Writes what was stored back into the parameters, bit for bit.
    ///
    /// # Errors
    /// Nothing was stored.
    pub fn restore(&mut self) -> Result<()> {
        let Some(stored) = self.stored.take() else {
            return Err(Error::argument("there is nothing to restore: call store first"));
        };
        self.parameters.iter().zip(&stored).try_for_each(|(parameter, value)| parameter.set(value))
    }

    /// Runs `work` with the averages in the parameters, which then get their own values back whatever came of it.
    ///
    /// # Errors
    /// That of `work`, or out of memory.
    pub fn apply<T>(&mut self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.store()?;
        let result = self.copy_to().and_then(|()| work());
        self.restore()?;
        result
    }

    /// The average and what it needs to go on: "decay", "num_updates", and "state.N.average" for each parameter.
    ///
    /// # Errors
    /// Out of memory.
    pub fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let number = |value: f64| Tensor::new(value, &Device::Cpu);
        let mut state = BTreeMap::from([
            ("decay".to_string(), number(self.decay)?),
            ("num_updates".to_string(), number(self.updates as f64)?),
        ]);
        for (at, average) in self.averages.iter().enumerate() {
            state.insert(format!("state.{at}.average"), average.value().copy()?);
        }
        Ok(state)
    }

    /// Restores what [`Self::state_dict`] gave, except for the decay, which stays as it was set.
    ///
    /// # Errors
    /// Unknown or missing names, or other shapes; nothing has changed then.
    pub fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut updates = None;
        let top = |name: &str, value: &Tensor| {
            if name == "num_updates" {
                updates = Some(steps(value)?);
            }
            Ok(matches!(name, "num_updates" | "decay"))
        };
        let averages = &self.averages;
        let mut read = Vec::new();
        read_state(state, averages.len(), top, |at, key, value| {
            if key != "average" {
                return Err(Error::argument(format!("unknown state \"{key}\"; an average of weights keeps average")));
            }
            read.push((at, shaped(key, value, &averages[at].dims())?));
            Ok(())
        })?;
        if read.len() < averages.len() {
            return Err(Error::argument(format!(
                "the state dict has the averages of {} parameters, but there are {}",
                read.len(),
                averages.len()
            )));
        }
        // Without it the next update would put the parameters in the average's place.
        let Some(updates) = updates else {
            return Err(Error::argument("the state dict lacks \"num_updates\", the number of updates that are in the average"));
        };
        read.iter().try_for_each(|(at, value)| averages[*at].set(value))?;
        self.updates = updates;
        Ok(())
    }
}

fn enter(average: &mut [f32], value: &[f32], entering: f32) {
    parallel::by_chunks(average, CHUNK, |start, average| {
        average.iter_mut().zip(&value[start..]).for_each(|(a, v)| *a += entering * (v - *a));
    });
}
