//! The largest singular values of a matrix with their vectors, and orthonormal columns, in f64.
//!
//! Small matrices are turned by one-sided Jacobi rotations (Hestenes 1958), which are accurate to the last digits. Large ones are first
//! made small by Golub and Kahan's bidiagonalisation (1965) as a Lanczos process with full reorthogonalisation: it stops as soon as
//! the wanted triplets are exact, in the worst case at the matrix's own size.

use crate::ops::parallel;
use crate::random::Random;

/// A row-major matrix.
pub(super) struct Dense<'a> {
    pub values: &'a [f32],
    pub rows: usize,
    pub columns: usize,
}

/// Singular triplets, the largest first.
pub(super) struct Singular {
    pub left: Vec<Vec<f64>>,
    pub values: Vec<f64>,
    pub right: Vec<Vec<f64>>,
}

/// Up to this size a matrix is turned directly.
const SMALL: usize = 64;

/// A triplet counts as exact when it is this close, relative to the largest value.
const EXACT: f64 = 1e-9;

impl Dense<'_> {
    /// `W v`.
    pub fn times(&self, v: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.rows];
        parallel::by_chunks(&mut out, 64, |first, out| {
            for (row, out) in (first..).zip(out) {
                *out = dot_with(&self.values[row * self.columns..(row + 1) * self.columns], v);
            }
        });
        out
    }

    /// `W' u`.
    pub fn transposed_times(&self, u: &[f64]) -> Vec<f64> {
        let mut out = vec![0.0; self.columns];
        let size = self.columns.div_ceil(rayon::current_num_threads()).max(64);
        parallel::by_chunks(&mut out, size, |first, out| {
            for (row, factor) in u.iter().enumerate() {
                let start = row * self.columns + first;
                out.iter_mut().zip(&self.values[start..]).for_each(|(o, w)| *o += factor * f64::from(*w));
            }
        });
        out
    }

    fn column(&self, column: usize) -> Vec<f64> {
        (0..self.rows).map(|row| f64::from(self.values[row * self.columns + column])).collect()
    }

    fn row(&self, row: usize) -> Vec<f64> {
        self.values[row * self.columns..(row + 1) * self.columns].iter().map(|v| f64::from(*v)).collect()
    }
}

/// Sums in eight lanes, which the compiler keeps in registers.
fn dot_with(row: &[f32], v: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    for (w, v) in row.chunks(8).zip(v.chunks(8)) {
        lanes.iter_mut().zip(w.iter().zip(v)).for_each(|(lane, (w, v))| *lane += f64::from(*w) * v);
    }
    lanes.iter().sum()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        lanes.iter_mut().zip(a.iter().zip(b)).for_each(|(lane, (a, b))| *lane += a * b);
    }
    lanes.iter().sum()
}

fn norm(v: &[f64]) -> f64 {
    dot(v, v).sqrt()
}

fn subtract(v: &mut [f64], factor: f64, other: &[f64]) {
    v.iter_mut().zip(other).for_each(|(v, o)| *v -= factor * o);
}

/// Makes `v` orthogonal to all of `others`; twice, because once leaves what rounding makes of large parts.
fn clear(v: &mut [f64], others: &[Vec<f64>]) {
    for _ in 0..2 {
        for other in others {
            let part = dot(v, other);
            subtract(v, part, other);
        }
    }
}

/// The Q of these columns.
pub(super) fn orthonormal(columns: Vec<Vec<f64>>) -> Vec<Vec<f64>> {
    let mut done: Vec<Vec<f64>> = Vec::new();
    for mut column in columns {
        let before = norm(&column);
        clear(&mut column, &done);
        let after = norm(&column);
        // What depends on the columns before gives no direction of its own.
        let factor = if after > 1e-14 * before { 1.0 / after } else { 0.0 };
        column.iter_mut().for_each(|v| *v *= factor);
        done.push(column);
    }
    done
}

/// The `rank` largest singular triplets.
pub(super) fn singular(matrix: &Dense<'_>, rank: usize, random: &mut Random) -> Singular {
    if matrix.rows.min(matrix.columns) > SMALL {
        return by_lanczos(matrix, rank, random);
    }
    if matrix.rows >= matrix.columns {
        return by_rotations((0..matrix.columns).map(|column| matrix.column(column)).collect(), rank);
    }
    let Singular { left, values, right } = by_rotations((0..matrix.rows).map(|row| matrix.row(row)).collect(), rank);
    Singular { left: right, values, right: left }
}

/// The same approximately: the triplets within the space that a random start reaches in so many power iterations (Halko et al. 2011,
/// arXiv 0909.4061, algorithms 4.4 and 5.1), as PyTorch's `svd_lowrank`.
pub(super) fn singular_by_iterations(matrix: &Dense<'_>, rank: usize, iterations: usize, random: &mut Random) -> Singular {
    let start = (0..rank).map(|_| random_vector(matrix.columns, random));
    let mut q = orthonormal(start.map(|v| matrix.times(&v)).collect());
    for _ in 0..iterations {
        let back = orthonormal(q.iter().map(|u| matrix.transposed_times(u)).collect());
        q = orthonormal(back.iter().map(|v| matrix.times(v)).collect());
    }
    // W' Q is tall and narrow: W is Q (W' Q)'.
    let within = by_rotations(q.iter().map(|u| matrix.transposed_times(u)).collect(), rank);
    let left = within.right.iter().map(|turn| combined(&q, turn)).collect();
    Singular { left, values: within.values, right: within.left }
}

fn random_vector(length: usize, random: &mut Random) -> Vec<f64> {
    random.randn(length).into_iter().map(f64::from).collect()
}

/// A unit vector that is orthogonal to all of `others`, of which there are fewer than dimensions.
fn fresh(length: usize, others: &[Vec<f64>], random: &mut Random) -> Vec<f64> {
    loop {
        let mut v = random_vector(length, random);
        clear(&mut v, others);
        let size = norm(&v);
        if size > 1e-6 {
            v.iter_mut().for_each(|v| *v /= size);
            return v;
        }
    }
}

/// The sum of vectors times factors.
fn combined(vectors: &[Vec<f64>], factors: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; vectors.first().map_or(0, Vec::len)];
    vectors.iter().zip(factors).for_each(|(vector, factor)| subtract(&mut sum, -factor, vector));
    sum
}

/// Singular triplets of a matrix given by its columns, of which there are no more than rows: the columns are turned until they are
/// orthogonal to one another.
fn by_rotations(mut columns: Vec<Vec<f64>>, rank: usize) -> Singular {
    let count = columns.len();
    let mut turns: Vec<Vec<f64>> = (0..count).map(|i| (0..count).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    // Converges quadratically: ten sweeps are many.
    for _ in 0..40 {
        let mut turned = false;
        for i in 0..count {
            for j in i + 1..count {
                let (a, b, c) = (dot(&columns[i], &columns[i]), dot(&columns[j], &columns[j]), dot(&columns[i], &columns[j]));
                if c.abs() <= 1e-14 * (a * b).sqrt() {
                    continue;
                }
                turned = true;
                let zeta = (b - a) / (2.0 * c);
                let tangent = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let cosine = 1.0 / tangent.hypot(1.0);
                for of in [&mut columns, &mut turns] {
                    let (before, after) = of.split_at_mut(j);
                    for (x, y) in before[i].iter_mut().zip(&mut after[0]) {
                        (*x, *y) = (cosine * (*x - tangent * *y), cosine * (tangent * *x + *y));
                    }
                }
            }
        }
        if !turned {
            break;
        }
    }
    let sizes: Vec<f64> = columns.iter().map(|column| norm(column)).collect();
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|i, j| sizes[*j].total_cmp(&sizes[*i]));
    let scaled = |i: &usize| {
        let factor = if sizes[*i] > 0.0 { 1.0 / sizes[*i] } else { 0.0 };
        columns[*i].iter().map(|v| v * factor).collect()
    };
    let order = &order[..rank.min(count)];
    Singular {
        left: order.iter().map(scaled).collect(),
        values: order.iter().map(|i| sizes[*i]).collect(),
        right: order.iter().map(|i| turns[*i].clone()).collect(),
    }
}

/// `W V = U B` with an upper bidiagonal B, grown until B's largest triplets are W's.
fn by_lanczos(matrix: &Dense<'_>, rank: usize, random: &mut Random) -> Singular {
    let most = matrix.rows.min(matrix.columns);
    let (mut left, mut right) = (Vec::<Vec<f64>>::new(), vec![fresh(matrix.columns, &[], random)]);
    let (mut diagonal, mut above) = (Vec::<f64>::new(), Vec::<f64>::new());
    let mut next_check = (2 * rank + 24).min(most);
    loop {
        let step = left.len();
        let mut u = matrix.times(&right[step]);
        if step > 0 {
            subtract(&mut u, above[step - 1], &left[step - 1]);
        }
        clear(&mut u, &left);
        let scale = diagonal.iter().chain(&above).fold(0.0f64, |largest, v| largest.max(*v));
        // Where the process ends early, what it has found is a space of its own, and it goes on outside.
        let split = |v: Vec<f64>, others: &[Vec<f64>], random: &mut Random| {
            let size = norm(&v);
            match size > 1e-14 * scale && size > 0.0 {
                true => (size, v.into_iter().map(|v| v / size).collect()),
                false => (0.0, fresh(v.len(), others, random)),
            }
        };
        let (alpha, u) = split(u, &left, random);
        diagonal.push(alpha);
        let mut v = matrix.transposed_times(&u);
        left.push(u);
        if left.len() == most {
            // B has a last column only where W has more columns than rows; it is orthogonal to all others' part of the row space.
            subtract(&mut v, alpha, &right[step]);
            clear(&mut v, &right);
            let beta = norm(&v);
            if right.len() < matrix.columns && beta > 1e-14 * scale {
                above.push(beta);
                right.push(v.into_iter().map(|v| v / beta).collect());
            }
            return finished(&left, &right, &small(&diagonal, &above), rank);
        }
        subtract(&mut v, alpha, &right[step]);
        clear(&mut v, &right);
        let (beta, v) = split(v, &right, random);
        if left.len() >= next_check {
            let found = small(&diagonal, &above);
            let error = |i: usize| beta * found.left[i][step].abs();
            if (0..rank).all(|i| error(i) <= EXACT * found.values[0]) {
                return finished(&left, &right, &found, rank);
            }
            next_check = (left.len() + left.len() / 3).min(most);
        }
        above.push(beta);
        right.push(v);
    }
}

/// The triplets of the bidiagonal matrix.
fn small(diagonal: &[f64], above: &[f64]) -> Singular {
    let size = diagonal.len();
    // By rows, of which there is never one more than columns: B' = P S Q' has B's left vectors on the right.
    let width = size.max(above.len() + 1);
    let row = |i: usize| {
        let mut row = vec![0.0; width];
        row[i] = diagonal[i];
        if let Some(beta) = above.get(i) {
            row[i + 1] = *beta;
        }
        row
    };
    let Singular { left, values, right } = by_rotations((0..size).map(row).collect(), size);
    Singular { left: right, values, right: left }
}

fn finished(left: &[Vec<f64>], right: &[Vec<f64>], small: &Singular, rank: usize) -> Singular {
    let take = rank.min(small.values.len());
    Singular {
        left: small.left[..take].iter().map(|turn| combined(left, turn)).collect(),
        values: small.values[..take].to_vec(),
        right: small.right[..take].iter().map(|turn| combined(right, turn)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::values;

    /// The largest error of `W V - U S` and `W' U - V S` and of the vectors' products with one another.
    fn error(matrix: &Dense<'_>, found: &Singular) -> f64 {
        let mut largest = 0.0f64;
        let mut check = |a: &[f64], b: &[f64], factor: f64| {
            a.iter().zip(b).for_each(|(a, b)| largest = largest.max((a - factor * b).abs()));
        };
        for ((u, s), v) in found.left.iter().zip(&found.values).zip(&found.right) {
            check(&matrix.times(v), u, *s);
            check(&matrix.transposed_times(u), v, *s);
        }
        for vectors in [&found.left, &found.right] {
            for (i, a) in vectors.iter().enumerate() {
                vectors.iter().enumerate().for_each(|(j, b)| check(&[dot(a, b)], &[1.0], f64::from(u8::from(i == j))));
            }
        }
        largest
    }

    #[test]
    fn triplets_are_exact_small_and_large_tall_and_wide() {
        for (rows, columns) in [(7, 5), (5, 7), (64, 64), (70, 120), (130, 66), (300, 200)] {
            let values = values(rows * columns, 3);
            let matrix = Dense { values: &values, rows, columns };
            let found = singular(&matrix, 4, &mut Random::new(0));
            assert!(error(&matrix, &found) < 1e-8, "{rows} x {columns}: {}", error(&matrix, &found));
            assert!(found.values.windows(2).all(|pair| pair[0] >= pair[1]));
            // No larger one was missed: what all values leave of the sum of squares is smaller than the last for each.
            let rest = found.values.iter().map(|s| s * s).sum::<f64>();
            let all = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
            let left = (rows.min(columns) - 4) as f64 * found.values[3].powi(2);
            assert!(all - rest <= left * (1.0 + 1e-9), "{rows} x {columns}");
            let near = singular_by_iterations(&matrix, 4, 30, &mut Random::new(1));
            near.values.iter().zip(&found.values).for_each(|(a, b)| assert!((a - b).abs() < 0.02 * b, "{a} {b}"));
        }
    }

    #[test]
    fn matrices_of_low_rank_and_with_equal_values_are_no_trouble() {
        let (rows, columns) = (90, 80);
        let identity: Vec<f32> = (0..rows * columns).map(|i| if i / columns == i % columns { 2.0 } else { 0.0 }).collect();
        let (a, b) = (values(rows * 3, 1), values(3 * columns, 2));
        let low = |i: usize| (0..3).map(|k| a[i / columns * 3 + k] * b[k * columns + i % columns]).sum::<f32>();
        for (values, expected) in
            [(identity, 2.0), ((0..rows * columns).map(low).collect(), 0.0), (vec![0.0; rows * columns], 0.0)]
        {
            let matrix = Dense { values: &values, rows, columns };
            let found = singular(&matrix, 5, &mut Random::new(0));
            assert!((found.values[4] - expected).abs() < 1e-5, "{:?}", found.values);
            assert!(found.left.iter().chain(&found.right).flatten().all(|v| v.is_finite()));
        }
    }
}
