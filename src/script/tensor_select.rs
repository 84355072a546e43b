//! `where`, and the triangles of matrices.

use super::error::ScriptResult;
use super::options::{Validate, options};
use super::tensor::{Tensor, TensorValue, wrap};
use super::tensor_data::kind;
use crate::error::{Error, Result};
use crate::nn::algebra::Scalar;
use crate::nn::select::{self, Choice};
use crate::script::registry::Registry;
use candle_core::{DType, Device, Tensor as CandleTensor};
use rhai::plugin::*;
use rhai::{Dynamic, Map};
use serde::{Deserialize, Serialize};

/// Options of `tril` and `triu`.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
struct DiagonalOption {
    /// How far to the right of the main diagonal; negative to the left. Default 0.
    diagonal: i64,
}

impl Validate for DiagonalOption {}

fn choice(value: &Dynamic) -> Result<Choice> {
    if let Some(tensor) = value.read_lock::<TensorValue>() {
        return Ok(Choice::Tensor(tensor.input()));
    }
    let number = value.as_int().map(Scalar::Int).or_else(|_| value.as_float().map(Scalar::Float));
    number
        .map(Choice::Number)
        .map_err(|_| Error::argument(format!("where chooses from tensors and numbers, got {}", kind(value))))
}

/// A condition as a mask; `None` where it is none.
fn mask(value: &Dynamic, device: &Device) -> Result<Option<CandleTensor>> {
    if let Ok(value) = value.as_bool() {
        return Ok(Some(CandleTensor::new(u8::from(value), device)?));
    }
    let tensor = value.read_lock::<TensorValue>();
    Ok(tensor.map(|tensor| tensor.value()).filter(|mask| mask.dtype() == DType::U8))
}

fn chosen(condition: &Dynamic, a: &Dynamic, b: &Dynamic) -> Result<CandleTensor> {
    let found =
        [a, b, condition].into_iter().find_map(|value| value.read_lock::<TensorValue>().map(|t| t.value().device().clone()));
    let device = found.unwrap_or(Device::Cpu);
    if let Some(condition) = mask(condition, &device)? {
        return select::select(&condition, &choice(a)?, &choice(b)?);
    }
    // PyTorch's method: x.where(condition, other).
    if let Some(method) = mask(a, &device)? {
        return select::select(&method, &choice(condition)?, &choice(b)?);
    }
    let given = match condition.read_lock::<TensorValue>() {
        Some(tensor) => format!("a tensor of {}", tensor.tensor.dtype().as_str()),
        None => kind(condition),
    };
    Err(Error::argument(format!("where: the condition must be a mask such as x > 0, or true or false, got {given}")))
}

#[export_module]
mod functions {
    /// The elements of `a` where a condition holds and those of `b` elsewhere, as `torch.where`: of tensors and numbers, which broadcast.
    /// `a.where(condition, b)` is the same.
    /// ```rhai
    /// let x = tensor([-1.0, 2.0]); where(x > 0, x, 0.0)      // => tensor([0., 2.])
    /// ```
    #[rhai_fn(name = "where", return_raw)]
    pub fn select_where(condition: Dynamic, a: Dynamic, b: Dynamic) -> ScriptResult<Tensor> {
        wrap(chosen(&condition, &a, &b))
    }

    /// The lower triangle of a matrix, or of each of a batch: zeros above the diagonal.
    /// ```rhai
    /// ones([2, 2]).tril().to_list()      // => [[1.0, 0.0], [1.0, 1.0]]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn tril(x: Tensor) -> ScriptResult<Tensor> {
        tril_at(x, 0)
    }

    /// The same up to another diagonal: 1 is that to the right of the main one, -1 that to the left.
    /// ```rhai
    /// ones([2, 2]).tril(-1).to_list()      // => [[0.0, 0.0], [1.0, 0.0]]
    /// ```
    #[rhai_fn(name = "tril", return_raw)]
    pub fn tril_at(x: Tensor, diagonal: i64) -> ScriptResult<Tensor> {
        wrap(select::triangle(&x.input(), diagonal, true))
    }

    /// The same. Options: diagonal.
    #[rhai_fn(name = "tril", return_raw)]
    pub fn tril_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        let given: DiagonalOption = options("tril", given)?;
        tril_at(x, given.diagonal)
    }

    /// The upper triangle of a matrix, or of each of a batch: zeros below the diagonal.
    /// ```rhai
    /// ones([2, 2]).triu().to_list()      // => [[1.0, 1.0], [0.0, 1.0]]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn triu(x: Tensor) -> ScriptResult<Tensor> {
        triu_at(x, 0)
    }

    /// The same from another diagonal: 1 is that to the right of the main one, -1 that to the left.
    /// ```rhai
    /// ones([2, 2]).triu(1).to_list()      // => [[0.0, 1.0], [0.0, 0.0]]
    /// ```
    #[rhai_fn(name = "triu", return_raw)]
    pub fn triu_at(x: Tensor, diagonal: i64) -> ScriptResult<Tensor> {
        wrap(select::triangle(&x.input(), diagonal, false))
    }

    /// The same. Options: diagonal.
    #[rhai_fn(name = "triu", return_raw)]
    pub fn triu_with(x: Tensor, given: Map) -> ScriptResult<Tensor> {
        let given: DiagonalOption = options("triu", given)?;
        triu_at(x, given.diagonal)
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.options::<DiagonalOption>(&["tril", "triu"], &[]);
    let _ = engine.register_global_module(exported_module!(functions).into());
}
