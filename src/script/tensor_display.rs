//! A tensor as PyTorch prints it: aligned columns, four digits, scientific notation where the sizes differ much, edges alone of large ones.

use super::tensor::TensorValue;

use crate::nn::Parameter;
use candle_core::{DType, Tensor};
use std::fmt;

/// Above this many elements only the edges of each dimension are shown.
const SUMMARISE_ABOVE: usize = 1000;
/// How many entries an edge has.
const EDGE: usize = 3;
/// Columns of a line.
const LINE: usize = 80;
/// Where the elements start, below "tensor(".
const INDENT: usize = 7;

impl fmt::Display for TensorValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value();
        let body = body(&value).map_err(|_| fmt::Error)?;
        let mut suffixes = Vec::new();
        if value.elem_count() == 0 && value.rank() != 1 {
            suffixes.push(format!("size={:?}", value.dims()).replace('[', "(").replace(']', ")"));
        }
        if !value.device().is_cpu() {
            suffixes.push(format!("device='{}'", crate::device::name(value.device())));
        }
        if let Some(blocks) = self.leaf.as_ref().and_then(Parameter::quantised) {
            suffixes.push(format!("dtype={}", blocks.dtype_name()));
        } else if !matches!(value.dtype(), DType::F32 | DType::I64) {
            suffixes.push(format!("dtype={}", value.dtype().as_str()));
        }
        if self.leaf.is_some() && self.requires_grad() {
            suffixes.push("requires_grad=True".into());
        }
        let mut width = INDENT + body.rsplit('\n').next().map_or(0, str::len);
        write!(f, "tensor({body}")?;
        for suffix in suffixes {
            if width + suffix.len() + 2 > LINE {
                write!(f, ",\n{:INDENT$}{suffix}", "")?;
                width = INDENT + suffix.len();
            } else {
                write!(f, ", {suffix}")?;
                width += suffix.len() + 2;
            }
        }
        f.write_str(")")
    }
}

fn body(value: &Tensor) -> candle_core::Result<String> {
    if value.elem_count() == 0 {
        return Ok("[]".into());
    }
    let summarise = value.elem_count() > SUMMARISE_ABOVE;
    let mut shown = value.clone();
    if summarise {
        for dim in 0..value.rank() {
            let size = shown.dim(dim)?;
            if size > 2 * EDGE {
                let (head, tail) = (shown.narrow(dim, 0, EDGE)?, shown.narrow(dim, size - EDGE, EDGE)?);
                shown = Tensor::cat(&[head, tail], dim)?;
            }
        }
    }
    let flat = shown.flatten_all()?;
    let cells = if value.dtype().is_float() {
        floats(&flat.to_dtype(DType::F64)?.to_vec1::<f64>()?)
    } else {
        let cells: Vec<String> = flat.to_dtype(DType::I64)?.to_vec1::<i64>()?.iter().map(i64::to_string).collect();
        align(&cells, cells.iter().map(String::len).max().unwrap_or(0))
    };
    if value.rank() == 0 {
        return Ok(cells.first().map(|cell| cell.trim_start().to_string()).unwrap_or_default());
    }
    let gap = |dim: usize| summarise && value.dims()[dim] > 2 * EDGE;
    let gaps: Vec<bool> = (0..value.rank()).map(gap).collect();
    Ok(nested(shown.dims(), &gaps, &cells, INDENT))
}

fn align(cells: &[String], width: usize) -> Vec<String> {
    cells.iter().map(|cell| format!("{cell:>width$}")).collect()
}

/// PyTorch's choice of notation, made on the finite values that are not 0.
fn floats(values: &[f64]) -> Vec<String> {
    let sized: Vec<f64> = values.iter().copied().filter(|v| v.is_finite() && *v != 0.0).collect();
    let (smallest, largest) = sized.iter().fold((f64::INFINITY, 0f64), |(low, high), v| (low.min(v.abs()), high.max(v.abs())));
    let whole = sized.iter().all(|v| v.fract() == 0.0);
    let wide = !sized.is_empty() && (largest / smallest > 1000.0 || largest > 1e8);
    let scientific = wide || (!whole && smallest < 1e-4);
    let cell = |value: f64| match value {
        _ if value.is_nan() => "nan".to_string(),
        _ if value.is_infinite() => if value > 0.0 { "inf" } else { "-inf" }.to_string(),
        _ if scientific => exponent(value),
        _ if whole => format!("{value:.0}."),
        _ => format!("{value:.4}"),
    };
    let width = sized.iter().map(|value| cell(*value).len()).max().unwrap_or(0);
    align(&values.iter().map(|value| cell(*value)).collect::<Vec<_>>(), width)
}

/// Rust writes 1.0000e0 where C and Python write 1.0000e+00.
fn exponent(value: f64) -> String {
    let text = format!("{value:.4e}");
    match text.split_once('e') {
        Some((digits, power)) => match power.strip_prefix('-') {
            Some(power) => format!("{digits}e-{power:0>2}"),
            None => format!("{digits}e+{power:0>2}"),
        },
        None => text,
    }
}

fn nested(dims: &[usize], gaps: &[bool], cells: &[String], indent: usize) -> String {
    let (Some((size, inner)), Some((gap, inner_gaps))) = (dims.split_first(), gaps.split_first()) else {
        return String::new();
    };
    let pad = " ".repeat(indent + 1);
    if inner.is_empty() {
        let mut words: Vec<&str> = cells.iter().map(String::as_str).collect();
        if *gap {
            words.insert(EDGE, " ...");
        }
        let per_line = ((LINE - indent.min(LINE)) / (cells.first().map_or(1, String::len) + 2)).max(1);
        let lines: Vec<String> = words.chunks(per_line).map(|line| line.join(", ")).collect();
        return format!("[{}]", lines.join(&format!(",\n{pad}")));
    }
    let each = inner.iter().product::<usize>().max(1);
    let mut parts: Vec<String> =
        cells.chunks(each).take(*size).map(|cells| nested(inner, inner_gaps, cells, indent + 1)).collect();
    if *gap {
        parts.insert(EDGE, "...".into());
    }
    format!("[{}]", parts.join(&format!(",{}{pad}", "\n".repeat(inner.len()))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn print(tensor: Tensor) -> String {
        TensorValue::new(tensor).to_string()
    }

    #[test]
    fn prints_as_pytorch_does() {
        let cpu = &Device::Cpu;
        assert_eq!(print(Tensor::new(1f32, cpu).unwrap()), "tensor(1.)");
        assert_eq!(print(Tensor::new(&[1.5f32, -2.0], cpu).unwrap()), "tensor([ 1.5000, -2.0000])");
        assert_eq!(
            print(Tensor::new(&[[1f32, 2.0], [3.0, 4.5]], cpu).unwrap()),
            "tensor([[1.0000, 2.0000],\n        [3.0000, 4.5000]])"
        );
        assert_eq!(print(Tensor::new(&[1f32, 20000.0], cpu).unwrap()), "tensor([1.0000e+00, 2.0000e+04])");
        assert_eq!(print(Tensor::new(&[1f32, f32::NAN, f32::INFINITY], cpu).unwrap()), "tensor([1., nan, inf])");
        assert_eq!(print(Tensor::new(&[1i64, -20], cpu).unwrap()), "tensor([  1, -20])");
        assert_eq!(print(Tensor::zeros((0, 3), DType::F32, cpu).unwrap()), "tensor([], size=(0, 3))");
        assert_eq!(print(Tensor::zeros(2, DType::BF16, cpu).unwrap()), "tensor([0., 0.], dtype=bf16)");
        let long = Tensor::arange(0i64, 1001, cpu).unwrap();
        assert_eq!(print(long), "tensor([   0,    1,    2,  ...,  998,  999, 1000])");
        let cube = Tensor::zeros((2, 1, 2), DType::F32, cpu).unwrap();
        assert_eq!(print(cube), "tensor([[[0., 0.]],\n\n        [[0., 0.]]])");
    }
}
