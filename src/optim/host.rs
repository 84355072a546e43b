//! The one pass over a parameter that every optimiser makes: value, gradient and up to two state vectors, without temporaries.

use crate::autograd::Pieces;
use crate::error::{Error, Result};
use crate::nn::Parameter;
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::collections::BTreeMap;

/// Up to this many elements are updated by one thread: starting others takes longer.
pub(super) const CHUNK: usize = 1 << 14;

/// Updates `value` by `gradient` with up to two state vectors (empty where not needed).
pub(super) trait Kernel: Sync {
    /// On slices of equal length (or empty state); the gradient is `scale` times what is given.
    fn apply(&self, value: &mut [f32], gradient: &[f32], scale: f32, first: &mut [f32], second: &mut [f32]);

    /// The same as a composition of tensor operations, for devices without access to memory: the new value.
    fn compose(&self, value: &Tensor, gradient: &Tensor, state: &mut [Option<Tensor>; 2]) -> candle_core::Result<Tensor>;
}

/// The state of one parameter.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// The updates made so far.
    pub step: u64,
    /// The state vectors on the CPU; empty before the first update where unused.
    pub host: [Vec<f32>; 2],
    /// The state vectors on other devices.
    pub device: [Option<Tensor>; 2],
    /// The exact value of a bf16 or f16 parameter on the CPU.
    pub master: Vec<f32>,
    /// The same on another device, where the optimiser keeps one there.
    pub device_master: Option<Tensor>,
    /// The parameter's revision when its value was last what `device_master` rounds to.
    #[cfg(feature = "cuda")]
    pub followed: Option<u64>,
}

impl Slot {
    /// Makes sure that the first `count` state vectors exist.
    pub fn prepare(&mut self, parameter: &Parameter, count: usize) -> Result<()> {
        let on_cpu = parameter.device().is_cpu();
        for at in 0..count {
            if on_cpu && self.host[at].is_empty() {
                self.host[at] = crate::autograd::buffer::zeroed(parameter.elem_count());
            } else if !on_cpu && self.device[at].is_none() {
                self.device[at] = Some(Tensor::zeros(parameter.dims(), DType::F32, &parameter.device())?);
            }
        }
        make_master(parameter, &mut self.master)
    }

    /// The exact value of a parameter on a device, nothing of one in f32. Where the value was changed by someone else meanwhile, it follows.
    #[cfg(feature = "cuda")]
    pub fn exact_on_device(&mut self, parameter: &Parameter) -> Result<Option<Tensor>> {
        let value = parameter.value();
        if value.dtype() == DType::F32 {
            return Ok(None);
        }
        let exact = match self.device_master.take() {
            Some(master) if self.followed == Some(parameter.revision()) => master,
            Some(master) => master.to_dtype(value.dtype())?.eq(&value)?.where_cond(&master, &value.to_dtype(DType::F32)?)?,
            None => value.to_dtype(DType::F32)?,
        };
        self.device_master = Some(exact.clone());
        self.followed = Some(parameter.revision());
        Ok(Some(exact))
    }

    /// Runs the kernel over the parameter, which has a gradient.
    pub fn update(&mut self, parameter: &Parameter, kernel: &impl Kernel) -> Result<()> {
        if !parameter.device().is_cpu() {
            let Some(gradient) = parameter.grad()? else { return Ok(()) };
            let value = parameter.value().to_dtype(DType::F32)?;
            let gradient = gradient.to_device(value.device())?;
            return parameter.set(&kernel.compose(&value, &gradient, &mut self.device)?);
        }
        let [first, second] = &mut self.host;
        let master = &mut self.master;
        let updated = parameter
            .with_pieces(|gradient| change(parameter, master, |value| split(kernel, value, gradient, 0, first, second)))?;
        updated.unwrap_or(Ok(()))
    }

    /// Adds the state to a state dict.
    pub fn save(&self, at: usize, parameter: &Parameter, names: [&str; 2], state: &mut BTreeMap<String, Tensor>) -> Result<()> {
        if self.step == 0 {
            return Ok(());
        }
        state.insert(format!("state.{at}.step"), Tensor::new(self.step as f64, &Device::Cpu)?);
        let dims = parameter.dims();
        for (which, name) in names.iter().enumerate() {
            if let Some(tensor) = &self.device[which] {
                state.insert(format!("state.{at}.{name}"), tensor.copy()?);
            } else if !self.host[which].is_empty() {
                state.insert(format!("state.{at}.{name}"), Tensor::from_slice(&self.host[which], dims.as_slice(), &Device::Cpu)?);
            }
        }
        if let Some(master) = &self.device_master {
            state.insert(format!("state.{at}.master"), master.copy()?);
        } else if !self.master.is_empty() {
            state.insert(format!("state.{at}.master"), Tensor::from_slice(&self.master, dims.as_slice(), &Device::Cpu)?);
        }
        Ok(())
    }

    /// Fails where a parameter with a past lacks one of its first `count` state vectors, as in the state of another optimiser, or the number
    /// of its steps: it would begin at 0 in the middle of the training.
    pub fn check_complete(&self, at: usize, parameter: &Parameter, names: [&str; 2], count: usize) -> Result<()> {
        let lacks = |which: &usize| self.host[*which].is_empty() && self.device[*which].is_none();
        if self.step == 0 {
            return if (0..2).all(|which| lacks(&which)) { Ok(()) } else { Err(lacking(at, "step")) };
        }
        match (0..count).find(lacks) {
            Some(which) if parameter.elem_count() > 0 => Err(lacking(at, names[which])),
            _ => Ok(()),
        }
    }

    /// Sets one entry from a state dict.
    pub fn load(&mut self, key: &str, parameter: &Parameter, names: [&str; 2], value: &Tensor) -> Result<()> {
        if key == "step" {
            self.step = steps(value)?;
            return Ok(());
        }
        let which = names.iter().position(|name| *name == key);
        if which.is_none() && key != "master" {
            let known: Vec<&str> = names.into_iter().filter(|name| !name.is_empty()).collect();
            return Err(Error::argument(format!("unknown state \"{key}\"; this optimizer keeps step, {}", known.join(", "))));
        }
        let wide = shaped(key, value, &parameter.dims())?;
        // A copy: a step changes it in place.
        let on_device = || wide.to_device(&parameter.device())?.copy();
        match which {
            Some(which) if !parameter.device().is_cpu() => self.device[which] = Some(on_device()?),
            Some(which) => self.host[which] = wide.flatten_all()?.to_vec1()?,
            None if !parameter.device().is_cpu() => self.device_master = Some(on_device()?),
            None => self.master = wide.flatten_all()?.to_vec1()?,
        }
        Ok(())
    }
}

/// The learning rate and the groups of an optimiser that has them in `options` and `groups`.
macro_rules! rate_in_options {
    () => {
        fn lr(&self) -> f64 {
            self.options.lr
        }

        fn set_lr(&mut self, lr: f64) -> Result<()> {
            super::check_at_least_zero("learning rate", lr)?;
            self.options.lr = lr;
            Ok(())
        }

        fn groups(&self) -> &[ParamGroup] {
            &self.groups
        }
    };
}
pub(super) use rate_in_options;

/// The state of an optimiser that keeps nothing but a slot a parameter, whose state vectors have these names; the first `needed` of them
/// are there whatever the options.
macro_rules! state_in_slots {
    ($names:expr, $needed:expr) => {
        fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
            host::save_all(self.options.lr, &self.slots, &self.parameters(), $names)
        }

        fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
            let (lr, slots) = host::load_all(state, &self.parameters(), $names, $needed)?;
            self.set_lr(lr.unwrap_or(self.options.lr))?;
            self.slots = slots;
            Ok(())
        }
    };
}
pub(super) use state_in_slots;

/// All slots' state and the learning rate.
pub(super) fn save_all(lr: f64, slots: &[Slot], parameters: &[Parameter], names: [&str; 2]) -> Result<BTreeMap<String, Tensor>> {
    let mut state = BTreeMap::from([("lr".to_string(), Tensor::new(lr, &Device::Cpu)?)]);
    for (at, (slot, parameter)) in slots.iter().zip(parameters).enumerate() {
        slot.save(at, parameter, names, &mut state)?;
    }
    Ok(state)
}

/// The slots and the learning rate (if there) of a state dict. Each slot must have its first `needed` state vectors.
pub(super) fn load_all(
    state: &BTreeMap<String, Tensor>,
    parameters: &[Parameter],
    names: [&str; 2],
    needed: usize,
) -> Result<(Option<f64>, Vec<Slot>)> {
    let mut slots: Vec<Slot> = parameters.iter().map(|_| Slot::default()).collect();
    let mut lr = None;
    let top = |name: &str, value: &Tensor| {
        if name == "lr" {
            lr = Some(scalar(value)?);
        }
        Ok(name == "lr")
    };
    read_state(state, parameters.len(), top, |at, key, value| slots[at].load(key, &parameters[at], names, value))?;
    for (at, (slot, parameter)) in slots.iter().zip(parameters).enumerate() {
        slot.check_complete(at, parameter, names, needed)?;
    }
    Ok((lr, slots))
}

/// Hands every entry of a state dict to whom it belongs: to `top` what is the optimiser's own, if it knows the name, and to `own`
/// what is a parameter's, with the parameter's number and the entry's name behind it.
pub(super) fn read_state(
    state: &BTreeMap<String, Tensor>,
    parameters: usize,
    mut top: impl FnMut(&str, &Tensor) -> Result<bool>,
    mut own: impl FnMut(usize, &str, &Tensor) -> Result<()>,
) -> Result<()> {
    for (name, value) in state {
        if top(name, value)? {
            continue;
        }
        let parts: Vec<&str> = name.split('.').collect();
        let at = parts.get(1).and_then(|at| at.parse::<usize>().ok()).filter(|at| *at < parameters);
        match (parts.as_slice(), at) {
            (["state", _, key], Some(at)) => own(at, key, value)?,
            _ => {
                return Err(Error::argument(format!(
                    "the optimizer's state dict has an entry \"{name}\", which does not belong to any of the {parameters} parameters"
                )));
            }
        }
    }
    Ok(())
}

/// A state dict without an entry that it must have.
pub(super) fn lacking(at: usize, name: &str) -> Error {
    Error::argument(format!("the optimizer's state dict lacks \"state.{at}.{name}\"; is it that of another optimizer?"))
}

/// The one value of an entry.
pub(super) fn scalar(value: &Tensor) -> Result<f64> {
    Ok(value.to_dtype(DType::F64)?.flatten_all()?.get(0)?.to_scalar::<f64>()?)
}

/// The number of steps in an entry.
pub(super) fn steps(value: &Tensor) -> Result<u64> {
    let number = scalar(value)?;
    if number >= 0.0 && number.fract() == 0.0 {
        return Ok(number as u64);
    }
    Err(Error::argument(format!("a number of steps must be a whole number >= 0, got {number}")))
}

/// An entry in f32, which must have this shape.
pub(super) fn shaped(key: &str, value: &Tensor, dims: &[usize]) -> Result<Tensor> {
    if value.dims() != dims {
        return Err(Error::argument(format!("state \"{key}\" has shape {:?}, but must have {dims:?}", value.dims())));
    }
    Ok(value.to_dtype(DType::F32)?)
}

/// Gives a bf16 or f16 parameter on the CPU its exact value to work on, if it has none yet.
pub(super) fn make_master(parameter: &Parameter, master: &mut Vec<f32>) -> Result<()> {
    if parameter.device().is_cpu() && parameter.dtype() != DType::F32 && master.is_empty() {
        *master = parameter.value().to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    }
    Ok(())
}

/// Changes a parameter's elements in f32: in place on the CPU, where bf16 and f16 parameters go through `master`, which they must have; on
/// another device on a copy that is written back.
pub(super) fn change(parameter: &Parameter, master: &mut [f32], mut update: impl FnMut(&mut [f32])) -> Result<()> {
    if !parameter.device().is_cpu() {
        let mut values = parameter.value().to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        update(&mut values);
        return parameter.set(&Tensor::from_vec(values, parameter.dims(), &Device::Cpu)?);
    }
    // A parameter in f32 has a master too where its state was that of one in bf16.
    if parameter.dtype() == DType::F32 { parameter.update_f32(update) } else { parameter.update_half(master, update) }
}

/// Halves until the pieces are small; elementwise work, so that the split does not change a bit of the result. `value` begins
/// at element `start` of the parameter.
pub(super) fn split(
    kernel: &impl Kernel,
    value: &mut [f32],
    gradient: &Pieces<'_>,
    start: usize,
    first: &mut [f32],
    second: &mut [f32],
) {
    let unit = gradient.unit();
    if value.len() <= CHUNK.max(unit) {
        return gradient.read(start, value.len(), |piece| kernel.apply(value, piece, gradient.scale, first, second));
    }
    let middle = value.len() / unit / 2 * unit;
    let (value, value_right) = value.split_at_mut(middle);
    let (first, first_right) = first.split_at_mut(middle.min(first.len()));
    let (second, second_right) = second.split_at_mut(middle.min(second.len()));
    rayon::join(
        || split(kernel, value, gradient, start, first, second),
        || split(kernel, value_right, gradient, start + middle, first_right, second_right),
    );
}

/// Whether no element is NaN or infinite.
pub(super) fn all_finite(values: &[f32]) -> bool {
    // A sum of zeros times each element is NaN as soon as one is not finite, and has no branch.
    let finite = |part: &[f32]| part.iter().map(|v| v * 0.0).sum::<f32>() == 0.0;
    if values.len() <= CHUNK { finite(values) } else { values.par_chunks(CHUNK).all(finite) }
}

#[cfg(test)]
pub(super) mod check {
    use super::*;
    use crate::ops::check::{difference, tensor, values};

    /// Two steps by the composition give what two by the loop give, with `count` state vectors, the second of them of squares.
    pub fn composed_as_applied(kernel: &impl Kernel, count: usize) {
        let state = |at: usize, squares: bool| -> Vec<f32> {
            if at >= count {
                return Vec::new();
            }
            values(60, 7 + at as u64).into_iter().map(|v| if squares { v * v } else { v }).collect()
        };
        let (mut value, mut first, mut second) = (values(60, 1), state(0, false), state(1, true));
        let as_tensor =
            |values: &Vec<f32>| (!values.is_empty()).then(|| Tensor::from_slice(values, (6, 10), &Device::Cpu).unwrap());
        let (mut composed, mut kept) = (tensor(&[6, 10], 1), [as_tensor(&first), as_tensor(&second)]);
        for step in 0..2 {
            let gradient = tensor(&[6, 10], 20 + step);
            kernel.apply(&mut value, &values(60, 20 + step), 1.0, &mut first, &mut second);
            composed = kernel.compose(&composed, &gradient, &mut kept).unwrap();
        }
        assert!(difference(&composed, &as_tensor(&value).unwrap()) < 1e-5);
        for (kept, values) in kept.iter().zip([&first, &second]) {
            assert_eq!(kept.is_some(), !values.is_empty());
            if let (Some(kept), Some(expected)) = (kept, as_tensor(values)) {
                assert!(difference(kept, &expected) < 1e-5);
            }
        }
    }
}
