//! Adafactor's loops: the averages of a matrix's squares by row and by column, and the steps that follow from them.

use super::host::CHUNK;
use crate::ops::{parallel, vectorised};

/// A parameter as `count` matrices.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub count: usize,
    pub rows: usize,
    pub columns: usize,
}

impl Shape {
    /// None of a vector or scalar.
    pub fn of(dims: &[usize]) -> Option<Self> {
        let [leading @ .., rows, columns] = dims else { return None };
        Some(Self { count: leading.iter().product(), rows: *rows, columns: *columns })
    }
}

/// Averages of the rows' squares, `[.., rows]`, and of the columns', `[.., columns]`; or, of a vector, of each element's.
#[derive(Debug, Default)]
pub(super) struct Averages {
    pub rows: Vec<f32>,
    pub columns: Vec<f32>,
    pub elements: Vec<f32>,
}

impl Averages {
    /// Begins at 0, if it has not begun yet.
    pub fn prepare(&mut self, shape: Option<Shape>, elements: usize) {
        match shape {
            Some(shape) if self.rows.is_empty() => {
                self.rows = vec![0.0; shape.count * shape.rows];
                self.columns = vec![0.0; shape.count * shape.columns];
            }
            None if self.elements.is_empty() => self.elements = vec![0.0; elements],
            _ => {}
        }
    }

    /// Lets the squares of a gradient enter.
    pub fn enter(&mut self, gradient: &[f32], shape: Option<Shape>, eps: f32, entering: f64) {
        match shape {
            Some(shape) => self.enter_sides(gradient, shape, eps, entering),
            None => average_squares(&mut self.elements, gradient, eps, (1.0 - entering) as f32, entering as f32),
        }
    }

    /// Lets the means of the squares, over columns and over rows, enter the averages.
    fn enter_sides(&mut self, gradient: &[f32], shape: Shape, eps: f32, entering: f64) {
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

/// `average = (1 - entering) average + entering sum / count`.
fn enter(averages: &mut [f32], sums: impl Iterator<Item = f64>, count: usize, entering: f64) {
    for (average, sum) in averages.iter_mut().zip(sums) {
        *average = ((1.0 - entering) * f64::from(*average) + entering * sum / count.max(1) as f64) as f32;
    }
}

/// What the gradient is multiplied with, element by element, before the step's size: `r_i c_j`, or one number an element.
pub(super) struct Step {
    shape: Shape,
    /// `[count, rows]`, `[count, columns]`; of a vector `[1, 1]` and one number an element.
    rows: Vec<f32>,
    columns: Vec<f32>,
}

impl Step {
    pub fn new(state: &Averages, shape: Option<Shape>) -> Self {
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
    pub fn sum_of_squares(&self, gradient: &[f32]) -> f64 {
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
    pub fn apply(
        &self,
        value: &mut [f32],
        gradient: &[f32],
        size: f32,
        shrink: f32,
        momentum: Option<(&mut Vec<f32>, f32, f32)>,
    ) {
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
