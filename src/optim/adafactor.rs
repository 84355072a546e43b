//! Adafactor (Shazeer and Stern 2018, arXiv:1804.04235): of a matrix's squared gradients only the averages of its rows and of its
//! columns are kept, so that the state of `n x m` elements is `n + m` numbers; the update is clipped by its root mean square.
//! As `transformers.optimization.Adafactor` computes it.
//!
//! ```text
//! b = 1 - step^decay_rate;   r = b r + (1 - b) mean_j(g^2 + eps0);   c = b c + (1 - b) mean_i(g^2 + eps0)
//! u = g / sqrt(r c^T / mean(r));   u /= max(1, rms(u) / clip_threshold);   u *= rate
//! rate = lr or min(0.01, 1 / sqrt(step)), times max(eps1, rms(p)) with scale_parameter
//! p -= weight_decay rate p;   p -= u
//! ```
//! Vectors keep the average of every element's square; `beta1` adds a momentum of `u`.

use super::host::{self, CHUNK};
use super::{Optimizer, ParamGroup, check_at_least_zero, check_fraction, check_groups};
use crate::autograd::{buffer, sum_of_squares};
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::ops::{parallel, vectorised};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The options of [`Adafactor`], with transformers' names and defaults.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdafactorOptions {
    /// The learning rate; to be given exactly where `relative_step` is false.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Added to the squared gradient, and the least that a parameter's root mean square counts. Default [1e-30, 1e-3].
    pub eps: [f64; 2],
    /// The root mean square that an update may have. Default 1.
    pub clip_threshold: f64,
    /// How the averages lengthen: step t forgets t^decay_rate of them. Default -0.8.
    pub decay_rate: f64,
    /// How fast a momentum of the update forgets; default none, which needs no memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f64>,
    /// The share of a parameter, times the step's rate, by which a step shrinks it. Default 0.
    pub weight_decay: f64,
    /// Whether the rate is multiplied by the parameter's root mean square. Default true.
    pub scale_parameter: bool,
    /// Whether the rate follows from the number of the step, instead of `lr`. Default true.
    pub relative_step: bool,
    /// With `relative_step`: whether the rate begins at 1e-6 a step. Default false.
    pub warmup_init: bool,
}

impl Default for AdafactorOptions {
    fn default() -> Self {
        Self {
            lr: None,
            eps: [1e-30, 1e-3],
            clip_threshold: 1.0,
            decay_rate: -0.8,
            beta1: None,
            weight_decay: 0.0,
            scale_parameter: true,
            relative_step: true,
            warmup_init: false,
        }
    }
}

impl AdafactorOptions {
    /// Checks every field's range, and that the options go together.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    pub fn validate(&self) -> Result<()> {
        match (self.lr, self.relative_step) {
            (Some(lr), true) => {
                return Err(Error::argument(format!(
                    "lr {lr} cannot be combined with relative_step: true, which sets the rate itself; give relative_step: false too"
                )));
            }
            (None, false) => return Err(Error::argument("with relative_step: false a learning rate must be given as lr")),
            (Some(lr), false) => check_at_least_zero("learning rate", lr)?,
            (None, true) => {}
        }
        if self.warmup_init && !self.relative_step {
            return Err(Error::argument("warmup_init: true needs relative_step: true"));
        }
        check_at_least_zero("eps[0]", self.eps[0])?;
        check_at_least_zero("eps[1]", self.eps[1])?;
        if !self.clip_threshold.is_finite() || self.clip_threshold <= 0.0 {
            return Err(Error::argument(format!("clip_threshold must be a finite number > 0, got {}", self.clip_threshold)));
        }
        if !self.decay_rate.is_finite() || self.decay_rate > 0.0 {
            return Err(Error::argument(format!("decay_rate must be a finite number <= 0, got {}", self.decay_rate)));
        }
        check_fraction("beta1", self.beta1.unwrap_or(0.0))?;
        check_at_least_zero("weight_decay", self.weight_decay)
    }

    /// The rate of step `step`, counted from 1, before the parameter's scale.
    fn rate(&self, step: u64) -> f64 {
        let step = step.max(1) as f64;
        let least = if self.warmup_init { 1e-6 * step } else { 1e-2 };
        self.lr.unwrap_or_else(|| least.min(1.0 / step.sqrt()))
    }
}

/// `transformers.optimization.Adafactor`.
#[derive(Debug)]
pub struct Adafactor {
    options: AdafactorOptions,
    groups: Vec<ParamGroup>,
    states: Vec<State>,
}

/// Of one parameter. The averages stay in main memory whatever the parameter's device.
#[derive(Debug, Default)]
struct State {
    step: u64,
    /// Averages of the rows' squares, `[.., rows]`, and of the columns', `[.., columns]`; or, of a vector, of each element's.
    rows: Vec<f32>,
    columns: Vec<f32>,
    elements: Vec<f32>,
    momentum: Vec<f32>,
    master: Vec<f32>,
}

/// A parameter as `count` matrices.
#[derive(Clone, Copy)]
struct Shape {
    count: usize,
    rows: usize,
    columns: usize,
}

impl Shape {
    /// None of a vector or scalar.
    fn of(dims: &[usize]) -> Option<Self> {
        let [leading @ .., rows, columns] = dims else { return None };
        Some(Self { count: leading.iter().product(), rows: *rows, columns: *columns })
    }
}

impl Adafactor {
    /// An optimiser of these groups.
    ///
    /// # Errors
    /// Options out of range or at odds, no parameters, or one twice.
    pub fn new(groups: Vec<ParamGroup>, options: AdafactorOptions) -> Result<Self> {
        options.validate()?;
        check_groups(&groups)?;
        let states = groups.iter().flat_map(|group| &group.parameters).map(|_| State::default()).collect();
        Ok(Self { options, groups, states })
    }
}

impl Optimizer for Adafactor {
    fn step(&mut self) -> Result<()> {
        let mut states = self.states.iter_mut();
        for group in &self.groups {
            let decay = group.weight_decay.unwrap_or(self.options.weight_decay);
            for (parameter, state) in group.parameters.iter().zip(&mut states) {
                if parameter.has_grad() {
                    state.update(parameter, &self.options, group.lr_scale, decay)?;
                }
            }
        }
        Ok(())
    }

    fn lr(&self) -> f64 {
        self.options.rate(self.states.iter().map(|state| state.step).max().unwrap_or(0))
    }

    fn set_lr(&mut self, lr: f64) -> Result<()> {
        check_at_least_zero("learning rate", lr)?;
        if self.options.relative_step {
            return Err(Error::argument("with relative_step: true Adafactor sets its learning rate itself"));
        }
        self.options.lr = Some(lr);
        Ok(())
    }

    fn groups(&self) -> &[ParamGroup] {
        &self.groups
    }

    fn name(&self) -> &'static str {
        "Adafactor"
    }

    fn state_dict(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut all = BTreeMap::new();
        if let Some(lr) = self.options.lr {
            all.insert("lr".to_string(), Tensor::new(lr, &Device::Cpu)?);
        }
        for (at, (state, parameter)) in self.states.iter().zip(self.parameters()).enumerate() {
            if state.step > 0 {
                all.insert(format!("state.{at}.step"), Tensor::new(state.step as f64, &Device::Cpu)?);
                for (name, values, dims) in state.named(&parameter.dims()) {
                    if !values.is_empty() {
                        all.insert(format!("state.{at}.{name}"), Tensor::from_slice(values, dims, &Device::Cpu)?);
                    }
                }
            }
        }
        Ok(all)
    }

    fn load_state_dict(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let parameters = self.parameters();
        let mut states: Vec<State> = parameters.iter().map(|_| State::default()).collect();
        let mut lr = None;
        let top = |name: &str, value: &Tensor| {
            if name == "lr" {
                lr = Some(host::scalar(value)?);
            }
            Ok(name == "lr")
        };
        host::read_state(state, parameters.len(), top, |at, key, value| states[at].load(key, &parameters[at], value))?;
        if let Some(lr) = lr {
            self.set_lr(lr)?;
        }
        self.states = states;
        Ok(())
    }
}

impl State {
    /// The state's parts by name, with their shapes for a parameter of this shape.
    fn named(&self, dims: &[usize]) -> [(&'static str, &Vec<f32>, Vec<usize>); 5] {
        let (rows, columns) = factor_dims(dims);
        [
            ("exp_avg_sq_row", &self.rows, rows),
            ("exp_avg_sq_col", &self.columns, columns),
            ("exp_avg_sq", &self.elements, dims.to_vec()),
            ("exp_avg", &self.momentum, dims.to_vec()),
            ("master", &self.master, dims.to_vec()),
        ]
    }

    fn load(&mut self, key: &str, parameter: &Parameter, value: &Tensor) -> Result<()> {
        let dims = parameter.dims();
        let (rows, columns) = factor_dims(&dims);
        let (place, dims) = match key {
            "step" => {
                self.step = host::scalar(value)? as u64;
                return Ok(());
            }
            "exp_avg_sq_row" if dims.len() > 1 => (&mut self.rows, rows),
            "exp_avg_sq_col" if dims.len() > 1 => (&mut self.columns, columns),
            "exp_avg_sq" if dims.len() < 2 => (&mut self.elements, dims),
            "exp_avg" => (&mut self.momentum, dims),
            "master" => (&mut self.master, dims),
            _ => {
                return Err(Error::argument(format!(
                    "unknown state \"{key}\" of a parameter of shape {dims:?}; Adafactor keeps step, exp_avg_sq_row and \
                     exp_avg_sq_col of matrices, exp_avg_sq of vectors, exp_avg"
                )));
            }
        };
        *place = host::shaped(key, value, &dims)?.flatten_all()?.to_vec1()?;
        Ok(())
    }

    fn update(&mut self, parameter: &Parameter, options: &AdafactorOptions, lr_scale: f64, decay: f64) -> Result<()> {
        let shape = Shape::of(&parameter.dims());
        let elements = parameter.elem_count();
        match shape {
            Some(shape) if self.rows.is_empty() => {
                self.rows = vec![0.0; shape.count * shape.rows];
                self.columns = vec![0.0; shape.count * shape.columns];
            }
            None if self.elements.is_empty() => self.elements = vec![0.0; elements],
            _ => {}
        }
        if options.beta1.is_some() && self.momentum.is_empty() {
            self.momentum = buffer::zeroed(elements);
        }
        host::make_master(parameter, &mut self.master)?;
        self.step += 1;
        let entering = (self.step as f64).powf(options.decay_rate);
        let mut master = std::mem::take(&mut self.master);
        let done = parameter.with_grad(|gradient| {
            host::change(parameter, &mut master, |value| {
                let mut rate = options.rate(self.step) * lr_scale;
                if options.scale_parameter {
                    rate *= root_mean_square(sum_of_squares(value), elements).max(options.eps[1]);
                }
                let eps = options.eps[0] as f32;
                match shape {
                    Some(shape) => self.average_sides(gradient, shape, eps, entering),
                    None => average_squares(&mut self.elements, gradient, eps, (1.0 - entering) as f32, entering as f32),
                }
                let step = Step::new(self, shape);
                let rms = root_mean_square(step.sum_of_squares(gradient), elements);
                let size = rate / (rms / options.clip_threshold).max(1.0);
                let momentum = options.beta1.map(|beta1| (&mut self.momentum, beta1 as f32, (1.0 - beta1) as f32));
                step.apply(value, gradient, size as f32, (decay * rate) as f32, momentum);
            })
        })?;
        self.master = master;
        done.unwrap_or(Ok(()))
    }

    /// Lets the means of the squares, over columns and over rows, enter the averages.
    fn average_sides(&mut self, gradient: &[f32], shape: Shape, eps: f32, entering: f64) {
        let Shape { rows, columns, .. } = shape;
        // By the shape alone, so that sums are the same for any number of threads; and few enough that the parts' sums are small.
        let rows_at_once = (CHUNK / columns.max(1)).max(64).min(rows.max(1));
        let matrices = gradient.chunks_exact((rows * columns).max(1));
        let averages = self.rows.chunks_exact_mut(rows.max(1)).zip(self.columns.chunks_exact_mut(columns.max(1)));
        for (matrix, (row_averages, column_averages)) in matrices.zip(averages) {
            let mut parts: Vec<(Vec<f32>, Vec<f32>)> = vec![Default::default(); rows.div_ceil(rows_at_once)];
            parallel::by_chunks(&mut parts, 1, |first, parts| {
                for (part, (row_sums, column_sums)) in (first..).zip(parts) {
                    let from = part * rows_at_once * columns;
                    let some = &matrix[from..(from + rows_at_once * columns).min(matrix.len())];
                    (*row_sums, *column_sums) = (vec![0.0; some.len() / columns.max(1)], vec![0.0; columns]);
                    sums_of_squares(some, eps, row_sums, column_sums);
                }
            });
            let row_sums = parts.iter().flat_map(|(sums, _)| sums).map(|sum| f64::from(*sum));
            let mut column_sums = vec![0f64; columns];
            for (_, sums) in &parts {
                column_sums.iter_mut().zip(sums).for_each(|(all, sum)| *all += f64::from(*sum));
            }
            enter(row_averages, row_sums, columns, entering);
            enter(column_averages, column_sums.into_iter(), rows, entering);
        }
    }
}

/// The shapes of the two averages of a parameter of this shape.
fn factor_dims(dims: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let [leading @ .., rows, columns] = dims else { return Default::default() };
    ([leading, &[*rows]].concat(), [leading, &[*columns]].concat())
}

fn root_mean_square(sum: f64, count: usize) -> f64 {
    (sum / count.max(1) as f64).sqrt()
}

/// `average = (1 - entering) average + entering sum / count`.
fn enter(averages: &mut [f32], sums: impl Iterator<Item = f64>, count: usize, entering: f64) {
    for (average, sum) in averages.iter_mut().zip(sums) {
        *average = ((1.0 - entering) * f64::from(*average) + entering * sum / count.max(1) as f64) as f32;
    }
}

/// What the gradient is multiplied with, element by element, before the step's size: `r_i c_j`, or one number an element.
struct Step {
    shape: Shape,
    /// `[count, rows]`, `[count, columns]`; of a vector `[1, 1]` and one number an element.
    rows: Vec<f32>,
    columns: Vec<f32>,
}

impl Step {
    fn new(state: &State, shape: Option<Shape>) -> Self {
        let inverse_root = |averages: &[f32]| averages.iter().map(|v| 1.0 / v.sqrt()).collect();
        let Some(shape) = shape else {
            let columns = state.elements.len();
            return Self { shape: Shape { count: 1, rows: 1, columns }, rows: vec![1.0], columns: inverse_root(&state.elements) };
        };
        let mut rows = Vec::with_capacity(state.rows.len());
        for averages in state.rows.chunks_exact(shape.rows.max(1)) {
            let mean = averages.iter().map(|v| f64::from(*v)).sum::<f64>() / shape.rows as f64;
            rows.extend(averages.iter().map(|v| 1.0 / (v / mean as f32).sqrt()));
        }
        Self { shape, rows, columns: inverse_root(&state.columns) }
    }

    /// Runs `work` on pieces of rows, given the place of the piece's first element, its row's factor and its columns' factors.
    fn pieces(&self, start: usize, length: usize, mut work: impl FnMut(usize, f32, &[f32], usize)) {
        let Shape { rows, columns, .. } = self.shape;
        let mut at = start;
        while at < start + length {
            let (row, column) = (at / columns, at % columns);
            let some = (columns - column).min(start + length - at);
            let first = row / rows * columns + column;
            work(at - start, self.rows[row], &self.columns[first..first + some], some);
            at += some;
        }
    }

    /// The sum of the squares of the scaled gradient.
    fn sum_of_squares(&self, gradient: &[f32]) -> f64 {
        let mut sums = vec![0f64; gradient.len().div_ceil(CHUNK)];
        parallel::by_chunks(&mut sums, 1, |first, sums| {
            for (part, sum) in (first..).zip(sums) {
                let some = &gradient[part * CHUNK..((part + 1) * CHUNK).min(gradient.len())];
                self.pieces(part * CHUNK, some.len(), |at, row, columns, length| {
                    *sum += f64::from(row) * f64::from(row) * sum_of_products(&some[at..at + length], columns);
                });
            }
        });
        sums.into_iter().sum()
    }

    /// `p -= shrink p; p -= size u`, or with a momentum (its vector, beta1 and 1 - beta1) of that.
    fn apply(&self, value: &mut [f32], gradient: &[f32], size: f32, shrink: f32, momentum: Option<(&mut Vec<f32>, f32, f32)>) {
        let Some((momentum, keep, entering)) = momentum else {
            return parallel::by_chunks(value, CHUNK, |start, value| {
                self.pieces(start, value.len(), |at, row, columns, length| {
                    let gradient = &gradient[start + at..start + at + length];
                    descend(&mut value[at..at + length], gradient, row * size, columns, shrink);
                });
            });
        };
        parallel::by_chunks(momentum, CHUNK, |start, momentum| {
            self.pieces(start, momentum.len(), |at, row, columns, length| {
                let gradient = &gradient[start + at..start + at + length];
                average_steps(&mut momentum[at..at + length], gradient, row * size * entering, columns, keep);
            });
        });
        let momentum = &*momentum;
        parallel::by_chunks(value, CHUNK, |start, value| {
            let momentum = &momentum[start..start + value.len()];
            value.iter_mut().zip(momentum).for_each(|(p, m)| *p = (*p - shrink * *p) - m);
        });
    }
}

fn average_squares(averages: &mut [f32], gradient: &[f32], eps: f32, keep: f32, entering: f32) {
    parallel::by_chunks(averages, CHUNK, |start, averages| {
        let gradient = &gradient[start..start + averages.len()];
        averages.iter_mut().zip(gradient).for_each(|(v, g)| *v = keep * *v + entering * (g * g + eps));
    });
}

vectorised! {
    fn sums_of_squares(matrix: &[f32], eps: f32, rows: &mut [f32], columns: &mut [f32]) {
        for (row, sum) in matrix.chunks_exact(columns.len().max(1)).zip(rows) {
            let (eights, rest) = row.as_chunks::<8>();
            let mut lanes = [0f32; 8];
            for eight in eights {
                for k in 0..8 {
                    lanes[k] += eight[k] * eight[k] + eps;
                }
            }
            *sum = lanes.iter().sum::<f32>() + rest.iter().map(|g| g * g + eps).sum::<f32>();
            columns.iter_mut().zip(row).for_each(|(all, g)| *all += g * g + eps);
        }
    }
}

vectorised! {
    fn sum_of_products(gradient: &[f32], factors: &[f32]) -> f64 {
        let (eights, rest) = gradient.as_chunks::<8>();
        let (by, by_rest) = factors.as_chunks::<8>();
        let mut lanes = [0f64; 8];
        for (eight, by) in eights.iter().zip(by) {
            for k in 0..8 {
                let product = f64::from(eight[k] * by[k]);
                lanes[k] += product * product;
            }
        }
        let last = rest.iter().zip(by_rest).map(|(g, f)| f64::from(g * f) * f64::from(g * f));
        lanes.iter().sum::<f64>() + last.sum::<f64>()
    }
}

vectorised! {
    fn descend(value: &mut [f32], gradient: &[f32], row: f32, columns: &[f32], shrink: f32) {
        for ((p, g), column) in value.iter_mut().zip(gradient).zip(columns) {
            *p = (*p - shrink * *p) - row * column * g;
        }
    }
}

vectorised! {
    fn average_steps(momentum: &mut [f32], gradient: &[f32], row: f32, columns: &[f32], keep: f32) {
        for ((m, g), column) in momentum.iter_mut().zip(gradient).zip(columns) {
            *m = keep * *m + row * column * g;
        }
    }
}
