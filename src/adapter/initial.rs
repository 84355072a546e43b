//! How a LoRA layer's matrices start: as PyTorch's layers, or as a part of the weight that they change.

use super::config::Start;
use super::decompose::{Dense, orthonormal, singular, singular_by_iterations};
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::random::Random;
use candle_core::DType;

/// The sizes of a layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub inputs: usize,
    pub outputs: usize,
    pub rank: usize,
    pub scaling: f64,
    /// Whether there is a bias.
    pub bias: bool,
}

/// The first values of a layer.
pub(super) struct Initial {
    /// `[rank, inputs]`.
    pub a: Vec<f32>,
    /// `[outputs, rank]`.
    pub b: Vec<f32>,
    pub bias: Option<Vec<f32>>,
}

/// Random numbers for what approximates: the same whenever an adapter is loaded again, so that it takes the same part of the weight.
const SEED: u64 = 0;

/// The first values of a layer on this weight.
pub(super) fn initial(start: Start, weight: &Parameter, shape: Shape, random: &mut Random) -> Result<Initial> {
    let Shape { inputs, outputs, rank, bias, .. } = shape;
    // Both matrices are PyTorch linear layers first; most starts then draw or zero them again.
    let a = random.linear_weight(inputs, rank);
    let b = random.linear_weight(rank, outputs);
    let random_bias = bias.then(|| random.linear_bias(rank, outputs));
    let bias = bias.then(|| vec![0.0; outputs]);
    let zero = vec![0.0; b.len()];
    if start.takes_weight_apart() && rank > inputs.min(outputs) {
        return Err(Error::argument(format!(
            "a weight [{outputs}, {inputs}] has no part of rank {rank}; choose r at most {}",
            inputs.min(outputs)
        )));
    }
    Ok(match start {
        Start::Random => Initial { a, b, bias: random_bias },
        Start::Zero => Initial { a: random.linear_weight(inputs, rank), b: zero, bias },
        Start::Gaussian => Initial { a: random.randn(a.len()).into_iter().map(|v| v / rank as f32).collect(), b: zero, bias },
        Start::Orthogonal => orthogonal(shape, random),
        Start::Pissa(iterations) => principal(weight, iterations, shape)?,
        Start::Olora => first_directions(weight, shape)?,
    })
}

fn values(weight: &Parameter) -> Result<Vec<f32>> {
    Ok(weight.value().to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

/// Columns as a row-major matrix that has them as columns.
fn by_columns(columns: &[Vec<f64>]) -> Vec<f32> {
    let rows = columns.first().map_or(0, Vec::len);
    (0..rows).flat_map(|row| columns.iter().map(move |column| column[row] as f32)).collect()
}

/// Columns as a row-major matrix that has them as rows.
fn by_rows(columns: &[Vec<f64>]) -> Vec<f32> {
    columns.iter().flatten().map(|v| *v as f32).collect()
}

/// The part with the largest singular values: `B = U sqrt(S / s)`, `A = sqrt(S / s) V'`.
fn principal(weight: &Parameter, iterations: Option<usize>, shape: Shape) -> Result<Initial> {
    let values = values(weight)?;
    let matrix = Dense { values: &values, rows: shape.outputs, columns: shape.inputs };
    let mut random = Random::new(SEED);
    let mut found = match iterations {
        None => singular(&matrix, shape.rank, &mut random),
        Some(iterations) => singular_by_iterations(&matrix, shape.rank, iterations, &mut random),
    };
    for (place, value) in found.values.iter().enumerate() {
        let factor = (value / shape.scaling).sqrt();
        found.left[place].iter_mut().chain(&mut found.right[place]).for_each(|v| *v *= factor);
    }
    Ok(Initial { a: by_rows(&found.right), b: by_columns(&found.left), bias: None })
}

/// The first columns of Q and rows of R.
fn first_directions(weight: &Parameter, shape: Shape) -> Result<Initial> {
    let values = values(weight)?;
    let matrix = Dense { values: &values, rows: shape.outputs, columns: shape.inputs };
    let columns =
        (0..shape.rank).map(|column| (0..shape.outputs).map(|row| f64::from(values[row * shape.inputs + column])).collect());
    let q = orthonormal(columns.collect());
    let r: Vec<Vec<f64>> = q.iter().map(|direction| matrix.transposed_times(direction)).collect();
    Ok(Initial { a: by_rows(&r), b: by_columns(&q), bias: None })
}

/// Columns of A from the odd, rows of B from the even rows of one orthogonal matrix, so that `B A = 0` and the model starts unchanged;
/// <https://datta0.github.io/posts/rethink-lora-init/#orthogonal-initialisation>, as PEFT has it.
fn orthogonal(shape: Shape, random: &mut Random) -> Initial {
    let Shape { inputs, outputs, rank, .. } = shape;
    let square = random.randn(rank * rank);
    let columns = (0..rank).map(|column| (0..rank).map(|row| f64::from(square[row * rank + column])).collect());
    let q = orthonormal(columns.collect());
    let half = rank / 2;
    let (by_a, by_b) = (random.randn(inputs * half), random.randn(half * outputs));
    let mixed = |factors: &dyn Fn(usize) -> f64, row: usize, column: usize| -> f32 {
        ((0..half).map(|k| factors(k) * q[column][2 * k + row]).sum::<f64>() / 10.0) as f32
    };
    let a = (0..rank * inputs).map(|i| mixed(&|k| f64::from(by_a[i % inputs * half + k]), 0, i / inputs));
    let b = (0..outputs * rank).map(|i| mixed(&|k| f64::from(by_b[k * outputs + i / rank]), 1, i % rank));
    Initial { a: a.collect(), b: b.collect(), bias: None }
}
