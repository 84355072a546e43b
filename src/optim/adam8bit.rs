//! AdamW with its two moments in 8 bits each (Dettmers et al. 2021, arXiv:2110.02861), as `bitsandbytes.optim.AdamW8bit` computes it:
//! every block of 256 elements is widened, updated as AdamW does, and quantised again. The state takes a quarter of AdamW's memory.
//!
//! Parameters with fewer than `min_8bit_size` elements keep 32-bit moments: there is nothing to save, and norms and biases are sensitive.
//! So do groups with `wide_moments`, for embeddings.

use super::adam::{AdamWOptions, Update};
use super::dynamic_map::{BLOCK, SIGNED, UNSIGNED};
use super::host::{self, CHUNK, Kernel, Slot};
use super::{Optimizer, ParamGroup, check_groups};
use crate::autograd::Pieces;
use crate::error::{Error, Result};
use crate::nn::Parameter;
use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The options of [`AdamW8bit`], with bitsandbytes' names and defaults.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamW8bitOptions {
    /// The learning rate. Default 0.001.
    pub lr: f64,
    /// How fast the averages of the gradient and of its square forget. Default [0.9, 0.999].
    pub betas: [f64; 2],
    /// Added to the denominator. Default 1e-8.
    pub eps: f64,
    /// The share of a parameter, times the learning rate, by which a step shrinks it. Default 0.01.
    pub weight_decay: f64,
    /// Parameters with fewer elements keep 32-bit moments. Default 4096.
    pub min_8bit_size: usize,
}

impl Default for AdamW8bitOptions {
    fn default() -> Self {
        Self { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, min_8bit_size: 4096 }
    }
}

impl AdamW8bitOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        self.adamw().validate()
    }

    /// The bytes of both moments of a parameter with so many elements, in a group with these `wide_moments`.
    pub fn moments_size(&self, elements: usize, wide_moments: bool) -> u64 {
        let of_one = match self.keeps_wide(elements, wide_moments) {
            true => elements * size_of::<f32>(),
            false => elements + elements.div_ceil(BLOCK) * size_of::<f32>(),
        };
        2 * of_one as u64
    }

    fn keeps_wide(&self, elements: usize, wide_moments: bool) -> bool {
        wide_moments || elements < self.min_8bit_size
    }

    fn adamw(&self) -> AdamWOptions {
        let Self { lr, betas, eps, weight_decay, .. } = *self;
        AdamWOptions { lr, betas, eps, weight_decay, ..AdamWOptions::default() }
    }
}

/// `bitsandbytes.optim.AdamW8bit`.
#[derive(Debug)]
pub struct AdamW8bit {
    options: AdamW8bitOptions,
    groups: Vec<ParamGroup>,
    states: Vec<State>,
}

const NAMES: [&str; 2] = ["state1", "state2"];

/// Of one parameter.
#[derive(Debug)]
enum State {
    Wide(Slot),
    Narrow(Narrow),
}

/// Two quantised moments, in main memory whatever the parameter's device.
#[derive(Debug, Default)]
struct Narrow {
    step: u64,
    first: Moment,
    second: Moment,
    master: Vec<f32>,
}

/// A quantised moment: a code an element, a scale a block.
#[derive(Debug, Default)]
struct Moment {
    codes: Vec<u8>,
    largest: Vec<f32>,
}

impl State {
    fn new(parameter: &Parameter, wide_moments: bool, options: &AdamW8bitOptions) -> Self {
        let wide = options.keeps_wide(parameter.elem_count(), wide_moments);
        if wide { Self::Wide(Slot::default()) } else { Self::Narrow(Narrow::default()) }
    }

    /// New ones for all parameters.
    fn all(groups: &[ParamGroup], options: &AdamW8bitOptions) -> Vec<Self> {
        let of = |group: &ParamGroup| -> Vec<Self> {
            group.parameters.iter().map(|parameter| Self::new(parameter, group.wide_moments, options)).collect()
        };
        groups.iter().flat_map(of).collect()
    }
}

impl AdamW8bit {
    /// An optimiser of these groups.
    ///
    /// # Errors
    /// Options out of range, no parameters, or one twice.
    pub fn new(groups: Vec<ParamGroup>, options: AdamW8bitOptions) -> Result<Self> {
        options.validate()?;
        check_groups(&groups)?;
        let states = State::all(&groups, &options);
        Ok(Self { options, groups, states })
    }
}

impl Optimizer for AdamW8bit {
    fn step(&mut self) -> Result<()> {
        let options = self.options.adamw();
        let mut states = self.states.iter_mut();
        for group in &self.groups {
            let (lr, decay) = (options.lr * group.lr_scale, group.weight_decay.unwrap_or(options.weight_decay));
            for (parameter, state) in group.parameters.iter().zip(&mut states) {
                if !parameter.has_grad() {
                    continue;
                }
                match state {
                    State::Wide(slot) => {
                        slot.prepare(parameter, 2)?;
                        slot.step += 1;
                        slot.update(parameter, &Update::new(&options, lr, decay, true, slot.step))?;
                    }
                    State::Narrow(state) => {
                        state.step += 1;
                        state.update(parameter, &Update::new(&options, lr, decay, true, state.step))?;
                    }
                }
            }
        }
        Ok(())
    }

    host::rate_in_options!();

    fn name(&self) -> &'static str {
        "AdamW8bit"
    }

    fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::from([("lr".to_string(), Tensor::new(self.options.lr, &Device::Cpu)?)]);
        for (at, (state, parameter)) in self.states.iter().zip(self.parameters()).enumerate() {
            match state {
                State::Wide(slot) => slot.save(at, &parameter, NAMES, &mut all)?,
                State::Narrow(state) => state.save(at, &parameter.dims(), &mut all)?,
            }
        }
        Ok(all)
    }

    fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let parameters = self.parameters();
        let mut states = State::all(&self.groups, &self.options);
        let mut lr = self.options.lr;
        let top = |name: &str, value: &Tensor| {
            if name == "lr" {
                lr = host::scalar(value)?;
            }
            Ok(name == "lr")
        };
        let own = |at: usize, key: &str, value: &Tensor| match &mut states[at] {
            State::Wide(slot) => slot.load(key, &parameters[at], NAMES, value),
            State::Narrow(state) => state.load(key, &parameters[at].dims(), value),
        };
        host::read_state(state, parameters.len(), top, own)?;
        for (at, (state, parameter)) in states.iter().zip(&parameters).enumerate() {
            match state {
                State::Wide(slot) => slot.check_complete(at, parameter, NAMES, 2)?,
                State::Narrow(state) => state.check_complete(at)?,
            }
        }
        self.set_lr(lr)?;
        self.states = states;
        Ok(())
    }
}

impl Narrow {
    fn update(&mut self, parameter: &Parameter, kernel: &Update) -> Result<()> {
        let elements = parameter.elem_count();
        for moment in [&mut self.first, &mut self.second] {
            if moment.codes.is_empty() {
                *moment = Moment { codes: vec![0; elements], largest: vec![0.0; elements.div_ceil(BLOCK)] };
            }
        }
        host::make_master(parameter, &mut self.master)?;
        let Self { first, second, master, .. } = self;
        let done = parameter.with_pieces(|gradient| {
            host::change(parameter, master, |value| {
                let moments = [first.part(), second.part()];
                split(kernel, value, gradient, 0, moments);
            })
        })?;
        done.unwrap_or(Ok(()))
    }

    fn save(&self, at: usize, dims: &[usize], state: &mut BTreeMap<String, Tensor>) -> Result<()> {
        if self.step == 0 {
            return Ok(());
        }
        let mut add = |name: &str, tensor: candle_core::Result<Tensor>| -> Result<()> {
            state.insert(format!("state.{at}.{name}"), tensor?);
            Ok(())
        };
        add("step", Tensor::new(self.step as f64, &Device::Cpu))?;
        for (number, moment) in [(1, &self.first), (2, &self.second)] {
            add(&format!("state{number}"), Tensor::from_slice(&moment.codes, dims, &Device::Cpu))?;
            add(&format!("absmax{number}"), Tensor::from_slice(&moment.largest, moment.largest.len(), &Device::Cpu))?;
        }
        if !self.master.is_empty() {
            add("master", Tensor::from_slice(&self.master, dims, &Device::Cpu))?;
        }
        Ok(())
    }

    /// Fails where a parameter with a past lacks a part of a moment, or the number of its steps.
    fn check_complete(&self, at: usize) -> Result<()> {
        let parts = [
            ("state1", self.first.codes.is_empty()),
            ("absmax1", self.first.largest.is_empty()),
            ("state2", self.second.codes.is_empty()),
            ("absmax2", self.second.largest.is_empty()),
        ];
        if self.step == 0 {
            return if parts.iter().all(|(_, empty)| *empty) { Ok(()) } else { Err(host::lacking(at, "step")) };
        }
        match parts.iter().find(|(_, empty)| *empty) {
            Some((name, _)) => Err(host::lacking(at, name)),
            None => Ok(()),
        }
    }

    fn load(&mut self, key: &str, dims: &[usize], value: &Tensor) -> Result<()> {
        let blocks = dims.iter().product::<usize>().div_ceil(BLOCK);
        let floats = |dims: &[usize]| -> Result<Vec<f32>> { Ok(host::shaped(key, value, dims)?.flatten_all()?.to_vec1()?) };
        match key {
            "step" => self.step = host::steps(value)?,
            "state1" | "state2" => {
                if value.dtype() != DType::U8 {
                    return Err(Error::argument(format!("state \"{key}\" is {:?}, but must be 8-bit codes (u8)", value.dtype())));
                }
                host::shaped(key, value, dims)?;
                let moment = if key == "state1" { &mut self.first } else { &mut self.second };
                moment.codes = value.flatten_all()?.to_vec1()?;
            }
            "absmax1" => self.first.largest = floats(&[blocks])?,
            "absmax2" => self.second.largest = floats(&[blocks])?,
            "master" => self.master = floats(dims)?,
            _ => {
                return Err(Error::argument(format!(
                    "unknown state \"{key}\"; AdamW8bit keeps step, state1, state2, absmax1, absmax2"
                )));
            }
        }
        Ok(())
    }
}

/// A run of whole blocks of a moment.
struct Part<'a> {
    codes: &'a mut [u8],
    largest: &'a mut [f32],
}

impl Moment {
    fn part(&mut self) -> Part<'_> {
        Part { codes: &mut self.codes, largest: &mut self.largest }
    }
}

impl<'a> Part<'a> {
    fn split_at(self, middle: usize) -> (Part<'a>, Part<'a>) {
        let (codes, codes_right) = self.codes.split_at_mut(middle);
        let (largest, largest_right) = self.largest.split_at_mut(middle / BLOCK);
        (Part { codes, largest }, Part { codes: codes_right, largest: largest_right })
    }
}

/// Halves at whole blocks, and rows of a gradient in factors, until the pieces are small.
fn split(kernel: &Update, value: &mut [f32], gradient: &Pieces<'_>, start: usize, [first, second]: [Part<'_>; 2]) {
    let unit = least_common_multiple(gradient.unit(), BLOCK);
    if value.len() <= CHUNK.max(unit) {
        return gradient.read(start, value.len(), |piece| blocks(kernel, value, piece, gradient.scale, [first, second]));
    }
    let middle = value.len() / unit / 2 * unit;
    // Longer than one unit, but shorter than two.
    let middle = if middle == 0 { unit } else { middle };
    let (value, value_right) = value.split_at_mut(middle);
    let (first, first_right) = first.split_at(middle);
    let (second, second_right) = second.split_at(middle);
    rayon::join(
        || split(kernel, value, gradient, start, [first, second]),
        || split(kernel, value_right, gradient, start + middle, [first_right, second_right]),
    );
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

fn blocks(kernel: &Update, value: &mut [f32], gradient: &[f32], scale: f32, [first, second]: [Part<'_>; 2]) {
    let (mut m, mut v) = ([0f32; BLOCK], [0f32; BLOCK]);
    let scales = first.largest.iter_mut().zip(second.largest);
    let codes = first.codes.chunks_mut(BLOCK).zip(second.codes.chunks_mut(BLOCK));
    let elements = value.chunks_mut(BLOCK).zip(gradient.chunks(BLOCK));
    for (((value, gradient), (first, second)), (first_largest, second_largest)) in elements.zip(codes).zip(scales) {
        let (m, v) = (&mut m[..value.len()], &mut v[..value.len()]);
        SIGNED.dequantise(first, *first_largest, m);
        UNSIGNED.dequantise(second, *second_largest, v);
        kernel.apply(value, gradient, scale, m, v);
        *first_largest = SIGNED.quantise(m, first);
        *second_largest = UNSIGNED.quantise(v, second);
    }
}
