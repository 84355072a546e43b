//! Muon (Jordan et al. 2024, <https://kellerjordan.github.io/posts/muon/>; Liu et al. 2025, arXiv:2502.16982) as `torch.optim.Muon` has it: the
//! momentum of a matrix is made near orthogonal before it is applied, so that all its directions are learnt at one speed.
//!
//! ```text
//! m += (1 - momentum)(g - m);   u = nesterov ? g + momentum (m - g) : m
//! X = u / max(|u|, eps);   ns_steps times:  A = X X^T;  X = a X + (b A + c A A) X       (Newton and Schulz)
//! p *= 1 - lr decay;   p -= lr adjust(rows, columns) X
//! ```
//! torch computes X in bf16 and so to two or three digits; here it is f32 throughout. Muon is for a network's hidden matrices:
//! vectors, and matrices in a group with `use_muon: false` (embeddings, the head), get AdamW with options of their own, so that one
//! optimiser serves a whole model.

use super::adam::{self, AdamWOptions, Update};
use super::host::{self, CHUNK, Kernel, Slot};
use super::{Optimizer, ParamGroup, check_at_least_zero, check_fraction, check_groups};
use crate::autograd::buffer::Buffer;
use crate::autograd::sum_of_squares;
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::ops::matrix::{self, Dims, Weight};
use crate::ops::parallel;
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the learning rate depends on a matrix's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdjustLr {
    /// Times sqrt(max(1, rows / columns)), as Jordan has it.
    #[default]
    Original,
    /// Times 0.2 sqrt(max(rows, columns)): updates as large as AdamW's, so that its learning rate and weight decay serve.
    MatchRmsAdamw,
    /// Times sqrt(rows / columns), as Bernstein derives it.
    SpectralUnclamped,
}

impl AdjustLr {
    fn factor(self, rows: usize, columns: usize) -> f64 {
        let ratio = rows as f64 / columns.max(1) as f64;
        match self {
            Self::Original => ratio.max(1.0).sqrt(),
            Self::MatchRmsAdamw => 0.2 * (rows.max(columns) as f64).sqrt(),
            Self::SpectralUnclamped => ratio.sqrt(),
        }
    }
}

/// The options of [`Muon`]: torch's names and defaults, and those of AdamW for what is no hidden matrix.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MuonOptions {
    /// The learning rate. Default 0.001.
    pub lr: f64,
    /// The share of a parameter, times the learning rate, by which a step shrinks it. Default 0.1.
    pub weight_decay: f64,
    /// How much of the momentum is kept. Default 0.95.
    pub momentum: f64,
    /// Nesterov's look-ahead. Default true.
    pub nesterov: bool,
    /// The coefficients of the iteration. Default [3.4445, -4.775, 2.0315].
    pub ns_coefficients: [f64; 3],
    /// The least that the momentum's norm counts. Default 1e-7.
    pub eps: f64,
    /// How often the iteration is run. Default 5.
    pub ns_steps: usize,
    /// "original" (default), "match_rms_adamw" or "spectral_unclamped".
    pub adjust_lr_fn: AdjustLr,
    /// The learning rate of what AdamW trains; default `lr`. A schedule changes both alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adamw_lr: Option<f64>,
    /// AdamW's betas. Default [0.9, 0.999].
    pub adamw_betas: [f64; 2],
    /// AdamW's eps. Default 1e-8.
    pub adamw_eps: f64,
    /// The weight decay of what AdamW trains; default `weight_decay`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adamw_weight_decay: Option<f64>,
}

impl Default for MuonOptions {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            weight_decay: 0.1,
            momentum: 0.95,
            nesterov: true,
            ns_coefficients: [3.4445, -4.775, 2.0315],
            eps: 1e-7,
            ns_steps: 5,
            adjust_lr_fn: AdjustLr::Original,
            adamw_lr: None,
            adamw_betas: [0.9, 0.999],
            adamw_eps: 1e-8,
            adamw_weight_decay: None,
        }
    }
}

impl MuonOptions {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        check_at_least_zero("learning rate", self.lr)?;
        check_at_least_zero("weight_decay", self.weight_decay)?;
        check_fraction("momentum", self.momentum)?;
        check_at_least_zero("eps", self.eps)?;
        if self.ns_steps >= 100 {
            return Err(Error::argument(format!("ns_steps must be below 100, got {}", self.ns_steps)));
        }
        if let Some(bad) = self.ns_coefficients.iter().find(|c| !c.is_finite()) {
            return Err(Error::argument(format!("ns_coefficients must be finite numbers, got {bad}")));
        }
        if self.adamw_lr.is_some_and(|lr| lr > 0.0) && self.lr == 0.0 {
            return Err(Error::argument("with lr 0 no adamw_lr can be given: a schedule changes both alike"));
        }
        check_at_least_zero("adamw_lr", self.adamw_lr.unwrap_or(0.0))?;
        check_fraction("adamw_betas[0]", self.adamw_betas[0])?;
        check_fraction("adamw_betas[1]", self.adamw_betas[1])?;
        check_at_least_zero("adamw_eps", self.adamw_eps)?;
        check_at_least_zero("adamw_weight_decay", self.adamw_weight_decay.unwrap_or(0.0))
    }

    fn adamw(&self) -> AdamWOptions {
        let weight_decay = self.adamw_weight_decay.unwrap_or(self.weight_decay);
        AdamWOptions { lr: self.lr, betas: self.adamw_betas, eps: self.adamw_eps, weight_decay, ..AdamWOptions::default() }
    }
}

/// `torch.optim.Muon` for hidden matrices, AdamW for the rest.
#[derive(Debug)]
pub struct Muon {
    options: MuonOptions,
    /// AdamW's learning rate as a multiple of Muon's.
    adamw_scale: f64,
    groups: Vec<ParamGroup>,
    slots: Vec<Slot>,
}

const NAMES: [&str; 2] = ["momentum_buffer", ""];

impl Muon {
    /// An optimiser of these groups.
    ///
    /// # Errors
    /// Options out of range, no parameters, one twice, or a group with `use_muon` that holds something else than matrices.
    pub fn new(groups: Vec<ParamGroup>, options: MuonOptions) -> Result<Self> {
        options.validate()?;
        check_groups(&groups)?;
        for group in groups.iter().filter(|group| group.use_muon == Some(true)) {
            if let Some(other) = group.parameters.iter().find(|p| p.dims().len() != 2) {
                return Err(Error::argument(format!(
                    "Muon trains matrices only, but a group with use_muon: true has a parameter of shape {:?}; leave use_muon out",
                    other.dims()
                )));
            }
        }
        let slots = groups.iter().flat_map(|group| &group.parameters).map(|_| Slot::default()).collect();
        let adamw_scale = options.adamw_lr.map_or(1.0, |lr| if options.lr > 0.0 { lr / options.lr } else { 0.0 });
        Ok(Self { options, adamw_scale, groups, slots })
    }

    /// Whether a parameter of this group is a hidden matrix.
    fn orthogonalises(group: &ParamGroup, parameter: &Parameter) -> bool {
        parameter.dims().len() == 2 && group.use_muon != Some(false)
    }

    /// The names of each parameter's state.
    fn names(&self) -> Vec<[&'static str; 2]> {
        let of = |group: &ParamGroup, p: &Parameter| if Self::orthogonalises(group, p) { NAMES } else { adam::NAMES };
        self.groups.iter().flat_map(|group| group.parameters.iter().map(move |p| of(group, p))).collect()
    }
}

impl Optimizer for Muon {
    fn step(&mut self) -> Result<()> {
        let adamw = self.options.adamw();
        let mut slots = self.slots.iter_mut();
        for group in &self.groups {
            let lr = self.options.lr * group.lr_scale;
            let decay = group.weight_decay.unwrap_or(self.options.weight_decay);
            let adamw_decay = group.weight_decay.unwrap_or(adamw.weight_decay);
            for (parameter, slot) in group.parameters.iter().zip(&mut slots) {
                if !parameter.has_grad() {
                    continue;
                }
                slot.step += 1;
                if Self::orthogonalises(group, parameter) {
                    slot.prepare(parameter, 1)?;
                    update(&self.options, lr, decay, parameter, slot)?;
                } else {
                    slot.prepare(parameter, 2)?;
                    let kernel = Update::new(&adamw, lr * self.adamw_scale, adamw_decay, true, slot.step);
                    slot.update(parameter, &kernel)?;
                }
            }
        }
        Ok(())
    }

    host::rate_in_options!();

    fn rate_scales(&self) -> Vec<f64> {
        let of = |group: &ParamGroup| group.lr_scale * if group.use_muon == Some(false) { self.adamw_scale } else { 1.0 };
        self.groups.iter().map(of).collect()
    }

    fn name(&self) -> &'static str {
        "Muon"
    }

    fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::from([("lr".to_string(), Tensor::new(self.options.lr, &candle_core::Device::Cpu)?)]);
        for (at, ((slot, parameter), names)) in self.slots.iter().zip(self.parameters()).zip(self.names()).enumerate() {
            slot.save(at, &parameter, names, &mut all)?;
        }
        Ok(all)
    }

    fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let (parameters, names) = (self.parameters(), self.names());
        let mut slots: Vec<Slot> = parameters.iter().map(|_| Slot::default()).collect();
        let mut lr = self.options.lr;
        let top = |name: &str, value: &Tensor| {
            if name == "lr" {
                lr = host::scalar(value)?;
            }
            Ok(name == "lr")
        };
        let own = |at: usize, key: &str, value: &Tensor| slots[at].load(key, &parameters[at], names[at], value);
        host::read_state(state, parameters.len(), top, own)?;
        for (at, ((slot, parameter), names)) in slots.iter().zip(&parameters).zip(names).enumerate() {
            let count = names.iter().filter(|name| !name.is_empty()).count();
            slot.check_complete(at, parameter, names, count)?;
        }
        self.set_lr(lr)?;
        self.slots = slots;
        Ok(())
    }
}

/// One step of a matrix that has a gradient.
fn update(options: &MuonOptions, lr: f64, decay: f64, parameter: &Parameter, slot: &mut Slot) -> Result<()> {
    let dims = parameter.dims();
    let (rows, columns) = (dims[0], dims[1]);
    let momentum =
        Momentum { kept: options.momentum as f32, entering: (1.0 - options.momentum) as f32, nesterov: options.nesterov };
    let size = lr * options.adjust_lr_fn.factor(rows, columns);
    if !parameter.device().is_cpu() {
        let Some(gradient) = parameter.grad()? else { return Ok(()) };
        let value = parameter.value().to_dtype(candle_core::DType::F32)?;
        let update = momentum.compose(&value, &gradient.to_device(value.device())?, &mut slot.device)?;
        let orthogonal = orthogonal_tensor(&update, options)?;
        return parameter.set(&((value * (1.0 - lr * decay))? - (orthogonal * size)?)?);
    }
    let mut x = Buffer::new(rows * columns);
    parameter.with_pieces(|gradient| host::split(&momentum, &mut x, gradient, 0, &mut slot.host[0], &mut []))?;
    let x = orthogonalise(x, rows, columns, options);
    let (shrink, size) = ((1.0 - lr * decay) as f32, size as f32);
    host::change(parameter, &mut slot.master, |value| {
        parallel::by_chunks(value, CHUNK, |start, value| {
            value.iter_mut().zip(&x[start..]).for_each(|(p, u)| *p = *p * shrink - size * u);
        });
    })
}

/// Averages the gradient; gives the update before it is made orthogonal.
struct Momentum {
    kept: f32,
    entering: f32,
    nesterov: bool,
}

impl Kernel for Momentum {
    /// Writes the update over `update`.
    fn apply(&self, update: &mut [f32], gradient: &[f32], scale: f32, average: &mut [f32], _: &mut [f32]) {
        for ((u, g), m) in update.iter_mut().zip(gradient).zip(average) {
            let g = scale * g;
            *m += self.entering * (g - *m);
            *u = if self.nesterov { g + self.kept * (*m - g) } else { *m };
        }
    }

    fn compose(&self, _: &Tensor, gradient: &Tensor, state: &mut [Option<Tensor>; 2]) -> candle_core::Result<Tensor> {
        let Some(m) = &state[0] else { candle_core::bail!("Muon's momentum is missing") };
        let m = (m + ((gradient - m)? * f64::from(self.entering))?)?;
        let update = if self.nesterov { (gradient + ((&m - gradient)? * f64::from(self.kept))?)? } else { m.clone() };
        state[0] = Some(m);
        Ok(update)
    }
}

/// Brings the singular values of `x` [rows, columns] near 1, by Newton and Schulz' iteration on the side that is shorter.
fn orthogonalise(mut x: Buffer, rows: usize, columns: usize, options: &MuonOptions) -> Buffer {
    let [a, b, c] = options.ns_coefficients.map(|c| c as f32);
    let norm = sum_of_squares(&x).sqrt().max(options.eps);
    scale(&mut x, (1.0 / norm) as f32);
    let side = rows.min(columns);
    let (mut gram, mut power, mut next) = (Buffer::new(side * side), Buffer::new(side * side), Buffer::new(x.len()));
    let square = Dims { rows: side, inputs: side, outputs: side };
    for _ in 0..options.ns_steps {
        if rows <= columns {
            let dims = Dims { rows, inputs: columns, outputs: rows };
            matrix::times_weight_transposed(&x, Weight::F32(&x), &mut gram, false, dims);
        } else {
            matrix::weight_gradient(&x, &x, &mut gram, false, Dims { rows, inputs: columns, outputs: columns });
        }
        matrix::times_weight(&gram, Weight::F32(&gram), &mut power, false, square);
        parallel::by_chunks(&mut power, CHUNK, |start, power| {
            power.iter_mut().zip(&gram[start..]).for_each(|(p, g)| *p = b * g + c * *p);
        });
        next.copy_from_slice(&x);
        scale(&mut next, a);
        if rows <= columns {
            matrix::times_weight(&power, Weight::F32(&x), &mut next, true, Dims { rows, inputs: columns, outputs: rows });
        } else {
            let dims = Dims { rows, inputs: columns, outputs: columns };
            matrix::times_weight(&x, Weight::F32(&power), &mut next, true, dims);
        }
        std::mem::swap(&mut x, &mut next);
    }
    x
}

fn scale(values: &mut [f32], factor: f32) {
    parallel::by_chunks(values, CHUNK, |_, values| values.iter_mut().for_each(|v| *v *= factor));
}

/// The same as a composition of tensor operations, for devices without access to memory.
fn orthogonal_tensor(update: &Tensor, options: &MuonOptions) -> candle_core::Result<Tensor> {
    let [a, b, c] = options.ns_coefficients;
    let tall = update.dim(0)? > update.dim(1)?;
    let x = if tall { update.t()?.contiguous()? } else { update.clone() };
    let norm = f64::from(x.sqr()?.sum_all()?.to_scalar::<f32>()?).sqrt().max(options.eps);
    let mut x = (x / norm)?;
    for _ in 0..options.ns_steps {
        let gram = x.matmul(&x.t()?)?;
        let power = ((&gram * b)? + (gram.matmul(&gram)? * c)?)?;
        x = ((&x * a)? + power.matmul(&x)?)?;
    }
    if tall { x.t()?.contiguous() } else { Ok(x) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::{difference, tensor, values};
    use candle_core::Device;

    #[test]
    fn the_composition_is_the_loop() {
        for nesterov in [false, true] {
            let (mut update, mut average, gradient) = (vec![0.0; 60], values(60, 1), values(60, 2));
            let momentum = Momentum { kept: 0.9, entering: 0.1, nesterov };
            let mut state = [Some(tensor(&[6, 10], 1)), None];
            let composed = momentum.compose(&tensor(&[6, 10], 3), &tensor(&[6, 10], 2), &mut state).unwrap();
            momentum.apply(&mut update, &gradient, 1.0, &mut average, &mut []);
            let tensor = |values: &Vec<f32>| Tensor::from_slice(values, (6, 10), &Device::Cpu).unwrap();
            assert!(difference(&composed, &tensor(&update)) < 1e-6);
            assert!(difference(state[0].as_ref().unwrap(), &tensor(&average)) < 1e-6);
        }
    }

    #[test]
    fn the_iteration_brings_singular_values_near_one_on_either_side() {
        for (rows, columns) in [(24, 40), (40, 24), (32, 32), (1, 7), (7, 1)] {
            let mut x = Buffer::new(rows * columns);
            x.copy_from_slice(&values(rows * columns, 5));
            let found = orthogonalise(x, rows, columns, &MuonOptions::default());
            let found = Tensor::from_slice(&found, (rows, columns), &Device::Cpu).unwrap();
            let composed = orthogonal_tensor(&tensor(&[rows, columns], 5), &MuonOptions::default()).unwrap();
            assert!(difference(&found, &composed) < 1e-5, "{rows} x {columns}");
            // The sum of the squared singular values: about as many ones as the shorter side is long.
            let sum = found.sqr().unwrap().sum_all().unwrap().to_scalar::<f32>().unwrap();
            let side = rows.min(columns) as f32;
            assert!((0.4..1.6).contains(&(sum / side)), "{rows} x {columns}: {sum}");
        }
    }
}
