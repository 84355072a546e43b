//! Between a script's numbers and arrays and a tensor's elements; names of dtypes and devices.

use super::tensor::TensorValue;
use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor};
use rhai::{Array, Dynamic};

/// More elements than this are refused: an allocation that cannot succeed would end the process instead of the line.
const MOST_ELEMENTS: usize = 1 << 32;

/// The number of elements of a shape.
///
/// # Errors
/// More than four thousand million.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    let count = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    count
        .filter(|count| *count <= MOST_ELEMENTS)
        .ok_or_else(|| Error::argument(format!("a tensor of shape {shape:?} is too large; at most {MOST_ELEMENTS} elements")))
}

/// Sizes from an array of integers or one integer.
///
/// # Errors
/// Anything else, or a negative size.
pub fn sizes_of(shape: &Dynamic) -> Result<Vec<i64>> {
    let size = |value: &Dynamic| {
        value.as_int().map_err(|kind| Error::argument(format!("a shape is an array of integers, found {kind}")))
    };
    match shape.read_lock::<Array>() {
        Some(sizes) => sizes.iter().map(size).collect(),
        None => Ok(vec![size(shape)?]),
    }
}

/// A shape from an array of sizes or one size.
///
/// # Errors
/// Anything else, or a negative size.
pub fn shape_of(shape: &Dynamic) -> Result<Vec<usize>> {
    let size = |size: i64| usize::try_from(size).map_err(|_| Error::argument(format!("a size cannot be negative, got {size}")));
    sizes_of(shape)?.into_iter().map(size).collect()
}

/// A number as f64.
///
/// # Errors
/// It is no number.
pub fn number(value: &Dynamic) -> Result<f64> {
    let float = value.as_float().or_else(|_| value.as_int().map(|v| v as f64));
    float.map_err(|_| Error::argument(format!("expected a number, found {}", kind(value))))
}

/// The elements of nested arrays, gathered flat.
#[derive(Default)]
struct Gathered {
    shape: Vec<usize>,
    values: Vec<f64>,
    integers: Vec<i64>,
    any_float: bool,
    any_number: bool,
}

impl Gathered {
    fn read(&mut self, value: &Dynamic, depth: usize) -> Result<()> {
        if let Some(items) = value.read_lock::<Array>() {
            match self.shape.get(depth) {
                None if self.values.is_empty() => self.shape.push(items.len()),
                Some(size) if *size == items.len() => {}
                Some(size) => {
                    return Err(Error::argument(format!("expected {size} elements at dimension {depth}, got {}", items.len())));
                }
                None => return Err(Error::argument(format!("expected a number at dimension {depth}, got an array"))),
            }
            return items.iter().try_for_each(|item| self.read(item, depth + 1));
        }
        if let Some(tensor) = value.read_lock::<TensorValue>() {
            if tensor.requires_grad() {
                return Err(Error::argument(
                    "a tensor in an array of numbers would lose its gradient; join with stack([..]), or take .detach()",
                ));
            }
            return self.read(&list(&tensor.value())?, depth);
        }
        if depth != self.shape.len() {
            return Err(Error::argument(format!("expected an array at dimension {depth}, got {}", kind(value))));
        }
        if let Ok(integer) = value.as_int() {
            self.any_number = true;
            self.integers.push(integer);
            self.values.push(integer as f64);
        } else if let Ok(truth) = value.as_bool() {
            self.integers.push(i64::from(truth));
            self.values.push(f64::from(truth));
        } else if let Ok(float) = value.as_float() {
            self.any_float = true;
            self.values.push(float);
        } else {
            return Err(Error::argument(format!("a tensor is made of numbers, found {}", kind(value))));
        }
        Ok(())
    }
}

/// A tensor on the CPU from a number, a bool or nested arrays of them or of tensors: f32 with a float in it (or empty), else i64, else u8.
///
/// # Errors
/// Arrays of unequal length, or something else than numbers.
pub fn read_data(data: &Dynamic) -> Result<Tensor> {
    read_data_as(data, DType::F32)
}

/// As [`read_data`], with floats in `floats`: f32, or f64 for who asks for f64, whose last digits f32 would lose.
///
/// # Errors
/// As [`read_data`].
pub fn read_data_as(data: &Dynamic, floats: DType) -> Result<Tensor> {
    let mut gathered = Gathered::default();
    gathered.read(data, 0)?;
    let Gathered { shape, values, integers, any_float, any_number } = gathered;
    let cpu = &Device::Cpu;
    Ok(if any_float || values.is_empty() {
        Tensor::from_vec(values, shape, cpu)?.to_dtype(floats)?
    } else if any_number {
        Tensor::from_vec(integers, shape, cpu)?
    } else {
        Tensor::from_vec(integers.into_iter().map(|v| v as u8).collect::<Vec<_>>(), shape, cpu)?
    })
}

/// The numbers from `start` to before `end`: i64 where all are integers, else `floats`.
///
/// # Errors
/// A step of 0 or in the wrong direction.
pub fn arange(start: &Dynamic, end: &Dynamic, step: &Dynamic, floats: DType) -> Result<Tensor> {
    let (from, to, by) = (number(start)?, number(end)?, number(step)?);
    let length = ((to - from) / by).ceil();
    if !length.is_finite() || length < 0.0 {
        return Err(Error::argument(format!(
            "arange from {from} to {to} in steps of {by} has no end; is the step's sign right?"
        )));
    }
    let count = element_count(&[length as usize])?;
    Ok(match (start.as_int(), end.as_int(), step.as_int()) {
        (Ok(start), Ok(_), Ok(step)) => {
            let values = (0..count as i64).map(|at| start.wrapping_add(at.wrapping_mul(step)));
            Tensor::from_vec(values.collect::<Vec<_>>(), count, &Device::Cpu)?
        }
        _ => {
            let values = (0..count).map(|at| from + by * at as f64);
            Tensor::from_vec(values.collect::<Vec<_>>(), count, &Device::Cpu)?.to_dtype(floats)?
        }
    })
}

/// The only element as an integer or float.
///
/// # Errors
/// There is more than one, or none.
pub fn item(tensor: &Tensor) -> Result<Dynamic> {
    if tensor.elem_count() != 1 {
        return Err(Error::argument(format!(
            "item() needs a tensor of one element, this one has {}; reduce it with .sum() or .mean(), or use .to_list()",
            tensor.elem_count()
        )));
    }
    let scalar = if tensor.rank() == 0 { tensor.clone() } else { tensor.reshape(())? };
    Ok(match scalar.dtype() {
        DType::F32 => Dynamic::from_float(f64::from(scalar.to_scalar::<f32>()?)),
        dtype if dtype.is_float() => Dynamic::from_float(scalar.to_dtype(DType::F64)?.to_scalar::<f64>()?),
        _ => Dynamic::from_int(scalar.to_dtype(DType::I64)?.to_scalar::<i64>()?),
    })
}

/// The elements as nested arrays.
///
/// # Errors
/// The device cannot be read.
pub fn list(tensor: &Tensor) -> Result<Dynamic> {
    let flat = tensor.flatten_all()?;
    let values: Array = if tensor.dtype().is_float() {
        flat.to_dtype(DType::F64)?.to_vec1::<f64>()?.into_iter().map(Dynamic::from_float).collect()
    } else {
        flat.to_dtype(DType::I64)?.to_vec1::<i64>()?.into_iter().map(Dynamic::from_int).collect()
    };
    Ok(nest(tensor.dims(), &mut values.into_iter()))
}

fn nest(dims: &[usize], values: &mut impl Iterator<Item = Dynamic>) -> Dynamic {
    match dims.split_first() {
        None => values.next().unwrap_or(Dynamic::UNIT),
        Some((size, rest)) => (0..*size).map(|_| nest(rest, values)).collect::<Array>().into(),
    }
}

/// What a value is, as users name it: "Tensor", "Module", "string", "i64".
pub fn kind(value: &Dynamic) -> String {
    let name = value.type_name();
    let last = name.rsplit("::").next().unwrap_or(name);
    last.strip_suffix("Value").unwrap_or(last).to_string()
}

/// A dtype by candle's or PyTorch's name.
///
/// # Errors
/// An unknown name; the known ones are listed.
pub fn parse_dtype(name: &str) -> Result<DType> {
    Ok(match name.strip_prefix("torch.").unwrap_or(name) {
        "f32" | "float32" | "float" => DType::F32,
        "bf16" | "bfloat16" => DType::BF16,
        "f16" | "float16" | "half" => DType::F16,
        "f64" | "float64" | "double" => DType::F64,
        "i64" | "int64" | "long" => DType::I64,
        "u32" | "uint32" => DType::U32,
        "u8" | "uint8" | "bool" => DType::U8,
        _ => return Err(Error::argument(format!("unknown dtype \"{name}\"; there are f32, bf16, f16, f64, i64, u32, u8"))),
    })
}
