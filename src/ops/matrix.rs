//! Matrix products on slices: f32 through the `gemm` crate; other right operands are widened a panel at a time.

use super::exp::vectorised;
use super::few_rows;
use super::panels::{self, Right, Shape};
use super::parallel;
use super::precision;
use super::quantised::{FEW_ROWS, Quantised};
use candle_core::{CpuStorage, Result};
use half::f16;

/// Rows of a weight that a thread widens at once: enough to feed the product, few enough for its cache.
const SLAB: usize = 256;

/// What products keep of a weight from one to the next.
#[derive(Default)]
pub struct Steady(panels::Kept);

/// A row-major weight in the dtype in which it is stored.
#[derive(Clone, Copy)]
pub enum Weight<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// 32-bit floats that stay as they are, so that what is made of them for a product may be kept.
    Steady(&'a [f32], &'a Steady),
    /// Brain floats.
    Bf16(&'a [half::bf16]),
    /// IEEE half floats.
    F16(&'a [f16]),
    /// Quantised blocks.
    Quantised(&'a Quantised),
}

impl<'a> Weight<'a> {
    /// The weight's elements between two offsets of a storage.
    ///
    /// # Errors
    /// The dtype is not a float of 16 or 32 bits.
    pub fn from_storage(storage: &'a CpuStorage, start: usize, end: usize) -> Result<Self> {
        match storage {
            CpuStorage::F32(v) => Ok(Self::F32(&v[start..end])),
            CpuStorage::BF16(v) => Ok(Self::Bf16(&v[start..end])),
            CpuStorage::F16(v) => Ok(Self::F16(&v[start..end])),
            other => candle_core::bail!("a weight of dtype {:?} cannot be multiplied", dtype(other)),
        }
    }

    /// Rows `from..to` of a matrix with `columns` columns, widened to f32 into `scratch` where needed.
    fn rows<'s>(&'s self, from: usize, to: usize, columns: usize, scratch: &'s mut Vec<f32>) -> &'s [f32] {
        let range = from * columns..to * columns;
        match self {
            Self::F32(v) | Self::Steady(v, _) => &v[range],
            Self::Bf16(v) => widen(&v[range], scratch, widen_bf16),
            Self::F16(v) => widen(&v[range], scratch, widen_f16),
            Self::Quantised(q) => q.rows(from, to, scratch),
        }
    }

    /// Calls `work` with the range and the f32 values of some rows at a time: all of them where they are stored so.
    fn for_each_slab(&self, rows: usize, columns: usize, mut work: impl FnMut(usize, usize, &[f32])) {
        let at_once = match self {
            Self::F32(_) | Self::Steady(..) => rows.max(1),
            _ if parallel::inside() => SLAB,
            // More for each thread to share.
            _ => 4 * SLAB,
        };
        let mut scratch = Vec::new();
        for from in (0..rows).step_by(at_once) {
            let to = (from + at_once).min(rows);
            work(from, to, self.rows(from, to, columns, &mut scratch));
        }
    }

    /// Copies a row, widened.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        let range = row * out.len()..(row + 1) * out.len();
        match self {
            Self::F32(v) | Self::Steady(v, _) => out.copy_from_slice(&v[range]),
            Self::Bf16(v) => widen_bf16(&v[range], out),
            Self::F16(v) => widen_f16(&v[range], out),
            Self::Quantised(q) => q.copy_row(row, out),
        }
    }
}

fn dtype(storage: &CpuStorage) -> candle_core::DType {
    use candle_core::backend::BackendStorage;
    storage.dtype()
}

vectorised! {
    fn widen_bf16(from: &[half::bf16], out: &mut [f32]) {
        out.iter_mut().zip(from).for_each(|(o, v)| *o = f32::from_bits(u32::from(v.to_bits()) << 16));
    }
}

fn widen_f16(from: &[f16], out: &mut [f32]) {
    half::slice::HalfFloatSliceExt::convert_to_f32_slice(from, out);
}

fn widen<'s, T: Copy + Sync>(from: &[T], scratch: &'s mut Vec<f32>, to_f32: impl Fn(&[T], &mut [f32]) + Sync) -> &'s [f32] {
    const CHUNK: usize = 1 << 15;
    scratch.resize(from.len(), 0.0);
    parallel::by_chunks(scratch, CHUNK, |first, out| to_f32(&from[first..first + out.len()], out));
    scratch
}

/// The sizes of a linear layer's products: `x` `[rows, inputs]`, the weight `[outputs, inputs]`, the result `[rows, outputs]`.
#[derive(Debug, Clone, Copy)]
pub struct Dims {
    /// Rows of `x`: tokens.
    pub rows: usize,
    /// Columns of `x`.
    pub inputs: usize,
    /// Rows of the weight.
    pub outputs: usize,
}

/// How a matrix lies in its slice: element (row, column) is at `row * row_stride + column * column_stride`.
#[derive(Clone, Copy)]
struct Strides {
    row: isize,
    column: isize,
}

/// Row-major with this many columns.
fn by_row(columns: usize) -> Strides {
    Strides { row: columns as isize, column: 1 }
}

/// The transpose of a row-major matrix with this many columns.
fn transposed(columns: usize) -> Strides {
    Strides { row: 1, column: columns as isize }
}

/// `out = (add ? out : 0) + lhs * rhs` with `lhs` [m, k] and `rhs` [k, n].
#[allow(clippy::too_many_arguments, reason = "the shape of a matrix product")]
fn product(
    (m, n, k): (usize, usize, usize),
    out: &mut [f32],
    out_strides: Strides,
    add: bool,
    lhs: &[f32],
    lhs_strides: Strides,
    rhs: &[f32],
    rhs_strides: Strides,
    shared: bool,
) {
    if m == 0 || n == 0 {
        return;
    }
    let last = |s: Strides, rows: usize, columns: usize| (rows - 1) as isize * s.row + (columns - 1) as isize * s.column;
    assert!(last(out_strides, m, n) < out.len() as isize);
    if k > 0 {
        assert!(last(lhs_strides, m, k) < lhs.len() as isize && last(rhs_strides, k, n) < rhs.len() as isize);
    }
    let parallelism =
        if shared && !parallel::inside() && m * n * k > 1 << 16 { gemm::Parallelism::Rayon(0) } else { gemm::Parallelism::None };
    // SAFETY: the furthest element of each operand was just checked to lie within its slice; `out` is borrowed mutably.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            out_strides.column,
            out_strides.row,
            add,
            lhs.as_ptr(),
            lhs_strides.column,
            lhs_strides.row,
            rhs.as_ptr(),
            rhs_strides.column,
            rhs_strides.row,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// How many rows a product with a weight, quantised or not, takes in little more time than one, and by the same kernel.
pub fn cheap_rows(quantised: bool) -> usize {
    if quantised { FEW_ROWS } else { few_rows::cheap_rows() }
}

/// `out [rows, outputs] = (add ? out : 0) + x [rows, inputs] * weight [outputs, inputs]^T`.
pub fn times_weight_transposed(x: &[f32], weight: Weight<'_>, out: &mut [f32], add: bool, dims: Dims) {
    let Dims { rows, inputs, outputs } = dims;
    if let Weight::Quantised(q) = weight
        && rows <= FEW_ROWS
        && !add
    {
        return q.times_transposed(x, out, rows);
    }
    let whole = Shape { m: rows, n: outputs, k: inputs, left_stride: inputs, out_stride: outputs };
    // Panels in bf16 are half as much to read as the weight, and a row among few gets the bits of a row among many.
    let rounded = matches!(weight, Weight::Steady(..)) && panels::rounds_few_rows(inputs);
    if !rounded && few_rows::times_weight_transposed(x, weight, out, add, dims) {
        return;
    }
    if let Weight::Bf16(w) = weight
        && (panels::product_bf16(x, Right::ByColumn(w), out, add, whole)
            || panels::product_widened(x, Right::ByColumn(w), out, add, whole))
    {
        return;
    }
    if let Weight::Steady(w, Steady(kept)) = weight
        && panels::product_kept(x, Right::ByColumn(w), kept, out, add, whole)
    {
        return;
    }
    weight.for_each_slab(outputs, inputs, |from, to, w| {
        let (n, out) = (to - from, &mut out[from..]);
        if !panels::product(x, Right::ByColumn(w), out, add, Shape { n, ..whole }) {
            product((rows, n, inputs), out, by_row(outputs), add, x, by_row(inputs), w, transposed(inputs), true);
        }
    });
}

/// `out [rows, inputs] = (add ? out : 0) + g [rows, outputs] * weight [outputs, inputs]`: the gradient of a linear layer's input.
pub fn times_weight(g: &[f32], weight: Weight<'_>, out: &mut [f32], add: bool, dims: Dims) {
    let Dims { rows, inputs, outputs } = dims;
    if few_rows::times_weight(g, weight, out, add, dims) {
        return;
    }
    let whole = Shape { m: rows, n: inputs, k: outputs, left_stride: outputs, out_stride: inputs };
    if let Weight::Bf16(w) = weight
        && (panels::product_bf16(g, Right::ByStep(w), out, add, whole)
            || panels::product_widened(g, Right::ByStep(w), out, add, whole))
    {
        return;
    }
    if let Weight::Steady(w, Steady(kept)) = weight
        && panels::product_kept(g, Right::ByStep(w), kept, out, add, whole)
    {
        return;
    }
    weight.for_each_slab(outputs, inputs, |from, to, w| {
        let (k, g, add) = (to - from, &g[from..], add || from > 0);
        if !panels::product(g, Right::ByStep(w), out, add, Shape { k, ..whole }) {
            product((rows, inputs, k), out, by_row(inputs), add, g, by_row(outputs), w, by_row(inputs), true);
        }
    });
}

/// `out [outputs, inputs] = (add ? out : 0) + g [rows, outputs]^T * x [rows, inputs]`: the gradient of a linear layer's weight.
pub fn weight_gradient(g: &[f32], x: &[f32], out: &mut [f32], add: bool, Dims { rows, inputs, outputs }: Dims) {
    // By the shape alone, so that sums are the same for any number of threads.
    let some = outputs.div_ceil(2).next_multiple_of(8).min(192);
    let out = &mut out[..outputs * inputs];
    if rows * inputs * outputs < 1 << 16 {
        return weight_gradient_rows(g, outputs, 0, Factor::new(x), inputs, out, add, rows);
    }
    if panels::transposed_product(g, x, out, add, (outputs, inputs, rows)) {
        return;
    }
    let packed = PackedFactor::new(x, inputs, rows);
    parallel::by_chunks(out, some * inputs, |first, out| {
        weight_gradient_rows(g, outputs, first / inputs, packed.factor(x), inputs, out, add, rows);
    });
}

/// A right factor of weight gradients, made ready once for all of their rows.
pub struct PackedFactor(Option<panels::Panels>);

/// A right factor `[rows, inputs]`, with what was made ready of it.
#[derive(Clone, Copy)]
pub struct Factor<'a> {
    values: &'a [f32],
    panels: Option<&'a panels::Panels>,
}

impl PackedFactor {
    /// Of `x` [rows, inputs]; nothing where factors may not be rounded.
    pub fn new(x: &[f32], inputs: usize, rows: usize) -> Self {
        Self(if precision::may_round() { panels::pack_for_transposed(x, inputs, rows) } else { None })
    }

    /// With the values that it was made of.
    pub fn factor<'a>(&'a self, values: &'a [f32]) -> Factor<'a> {
        Factor { values, panels: self.0.as_ref() }
    }
}

impl<'a> Factor<'a> {
    fn new(values: &'a [f32]) -> Self {
        Self { values, panels: None }
    }
}

/// Rows of the same, from `first` on and as many as `out` [.., inputs] has; within one thread.
#[allow(clippy::too_many_arguments, reason = "the shape of a matrix product")]
pub fn weight_gradient_rows(
    g: &[f32],
    outputs: usize,
    first: usize,
    x: Factor<'_>,
    inputs: usize,
    out: &mut [f32],
    add: bool,
    rows: usize,
) {
    let count = out.len() / inputs.max(1);
    if let Some(panels) = x.panels {
        let shape = Shape { m: count, n: inputs, k: rows, left_stride: outputs, out_stride: inputs };
        return panels::transposed_product_bf16(&g[first.min(g.len())..], panels, out, add, shape);
    }
    product((count, inputs, rows), out, by_row(inputs), add, &g[first..], transposed(outputs), x.values, by_row(inputs), false);
}

/// All inner products of the rows of `a` [m, width] and `b` [n, width], as [m, n]; within one thread.
pub fn inner_products(a: &[f32], b: &[f32], width: usize) -> Vec<f32> {
    let (m, n) = (a.len() / width.max(1), b.len() / width.max(1));
    let mut out = vec![0f32; m * n];
    product((m, n, width), &mut out, by_row(n), false, a, by_row(width), b, transposed(width), false);
    out
}

/// Where a head's rows lie inside a `[tokens, heads * head_dim]` matrix.
#[derive(Clone, Copy)]
pub struct Head {
    /// Elements from one token to the next.
    pub stride: usize,
    /// The head's width.
    pub width: usize,
}

/// `scores [m, n] = q [m, width] * k [n, width]^T` within one thread.
pub fn head_scores(q: &[f32], q_head: Head, k: &[f32], k_head: Head, scores: &mut [f32], m: usize, n: usize) {
    let shape = (m, n, q_head.width);
    product(shape, scores, by_row(n), false, q, by_row(q_head.stride), k, transposed(k_head.stride), false);
}

/// `out [m, width] = (add ? out : 0) + p [m, n] * v [n, width]` within one thread.
#[allow(clippy::too_many_arguments, reason = "the shape of a matrix product")]
pub fn head_mix(p: &[f32], v: &[f32], v_head: Head, out: &mut [f32], out_head: Head, add: bool, m: usize, n: usize) {
    let shape = (m, v_head.width, n);
    product(shape, out, by_row(out_head.stride), add, p, by_row(n), v, by_row(v_head.stride), false);
}

/// `out [n, width] = (add ? out : 0) + p [m, n]^T * g [m, width]` within one thread.
#[allow(clippy::too_many_arguments, reason = "the shape of a matrix product")]
pub fn head_mix_transposed(p: &[f32], g: &[f32], g_head: Head, out: &mut [f32], out_head: Head, add: bool, m: usize, n: usize) {
    let shape = (n, g_head.width, m);
    product(shape, out, by_row(out_head.stride), add, p, transposed(n), g, by_row(g_head.stride), false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::values;

    /// The definition, in f64.
    fn naive(x: &[f32], w: &[f32], rows: usize, inputs: usize, outputs: usize) -> Vec<f32> {
        let at =
            |r: usize, o: usize| (0..inputs).map(|i| f64::from(x[r * inputs + i]) * f64::from(w[o * inputs + i])).sum::<f64>();
        (0..rows * outputs).map(|i| at(i / outputs, i % outputs) as f32).collect()
    }

    fn close(a: &[f32], b: &[f32], tolerance: f32) {
        assert_eq!(a.len(), b.len());
        a.iter().zip(b).for_each(|(x, y)| assert!((x - y).abs() <= tolerance * (1.0 + y.abs()), "{x} {y}"));
    }

    #[test]
    fn products_of_odd_sizes_equal_the_definition() {
        for (rows, inputs, outputs) in [(1, 1, 1), (2, 7, 3), (3, 33, 17), (5, 64, 300), (40, 31, 513)] {
            let dims = Dims { rows, inputs, outputs };
            let (x, w) = (values(rows * inputs, 1), values(outputs * inputs, 2));
            let expected = naive(&x, &w, rows, inputs, outputs);
            let mut out = vec![f32::NAN; rows * outputs];
            times_weight_transposed(&x, Weight::F32(&w), &mut out, false, dims);
            close(&out, &expected, 1e-5);
            // Half floats: exact against the widened weight.
            let narrow: Vec<half::bf16> = w.iter().map(|v| half::bf16::from_f32(*v)).collect();
            let widened: Vec<f32> = narrow.iter().map(|v| v.to_f32()).collect();
            times_weight_transposed(&x, Weight::Bf16(&narrow), &mut out, false, dims);
            close(&out, &naive(&x, &widened, rows, inputs, outputs), 1e-5);
            // The two backward products, against the same definition with roles changed.
            let g = values(rows * outputs, 3);
            let transpose = |m: &[f32], r: usize, c: usize| -> Vec<f32> { (0..r * c).map(|i| m[(i % r) * c + i / r]).collect() };
            let mut dx = vec![f32::NAN; rows * inputs];
            times_weight(&g, Weight::Bf16(&narrow), &mut dx, false, dims);
            close(&dx, &naive(&g, &transpose(&widened, outputs, inputs), rows, outputs, inputs), 1e-5);
            let mut dw = vec![1.0; outputs * inputs];
            weight_gradient(&g, &x, &mut dw, true, dims);
            let expected = naive(&transpose(&g, rows, outputs), &transpose(&x, rows, inputs), outputs, rows, inputs);
            close(&dw, &expected.iter().map(|v| v + 1.0).collect::<Vec<_>>(), 1e-5);
        }
    }
}
