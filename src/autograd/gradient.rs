//! A parameter's gradient: dense, or as factors of a product that was not multiplied out.
//!
//! The gradient of a linear layer's weight is `g^T x`, with `g` [tokens, rows] and `x` [tokens, columns]. For few tokens the
//! factors are far smaller than the product, and a step of full fine-tuning is bound by memory. So the factors are kept: the norm
//! needs only inner products of tokens, `|g^T x|^2 = sum over s, t of (g_s . g_t)(x_s . x_t)`, and an optimiser multiplies out a
//! piece at a time, in the cache. Whoever wants the whole gets it multiplied out.

use super::buffer::Buffer;
use crate::ops::matrix;
use candle_core::{CpuStorage, DType, Device, Layout, Result, Storage, Tensor, bail};
use rayon::prelude::*;
use std::cell::RefCell;
use std::sync::OnceLock;

/// More tokens than this are multiplied out at once: the inner products grow with their square.
pub const MOST_TOKENS: usize = 128;

/// Up to this many elements are summed by one thread: starting others takes longer.
const CHUNK: usize = 1 << 14;

/// The left factor of `left^T right`.
enum Left {
    /// `[tokens, rows]`.
    Dense(Vec<f32>),
    /// One row a token: the factor has a one there, as the gradient of an embedding.
    OneHot(Vec<u32>),
}

struct Product {
    left: Left,
    /// `[tokens, columns]`.
    right: Vec<f32>,
    tokens: usize,
    /// What the first piece that is multiplied out makes ready for all.
    packed: OnceLock<matrix::PackedFactor>,
}

impl Product {
    fn new(left: Left, right: &[f32], tokens: usize) -> Self {
        Self { left, right: right.to_vec(), tokens, packed: OnceLock::new() }
    }
}

/// A gradient's elements.
enum Elements {
    /// On the CPU, in f32.
    Host(Buffer),
    /// On another device, in the dtype in which they came.
    Device(Tensor),
}

/// What has been added up since it was last cleared.
#[derive(Default)]
pub(super) struct Gradient {
    /// Whether `buffer` holds a gradient or only memory to reuse.
    filled: bool,
    buffer: Option<Elements>,
    /// To be added to the buffer, if that is filled, and multiplied out.
    products: Vec<Product>,
    /// Factor on everything; 1 unless the gradient was clipped.
    scale: Option<f32>,
}

impl Gradient {
    pub fn exists(&self) -> bool {
        self.filled || !self.products.is_empty()
    }

    /// Forgets it. Large memory goes where the next forward pass finds it for its activations: the two are never needed at once.
    pub fn clear(&mut self) {
        self.filled = false;
        // What a device's gradient took its allocator hands on.
        let small = |values: &Buffer| values.len() <= CHUNK;
        if !matches!(&self.buffer, Some(Elements::Host(values)) if small(values)) {
            self.buffer = None;
        }
        self.products.clear();
        self.scale = None;
    }

    /// Keeps the factors of a product, where that is cheaper than the product; returns whether it did.
    fn keep(&mut self, dims: &[usize], tokens: usize, product: impl FnOnce() -> Product) -> bool {
        let &[rows, columns] = dims else { return false };
        let kept: usize = self.products.iter().map(|p| p.tokens).sum();
        let all = kept + tokens;
        if self.filled || self.scale.is_some() || all > MOST_TOKENS || rows * columns < 2 * all * (rows + columns) {
            return false;
        }
        self.products.push(product());
        true
    }

    /// Keeps `g^T x`.
    pub fn keep_product(&mut self, dims: &[usize], g: &[f32], x: &[f32]) -> bool {
        let tokens = dims.first().map_or(0, |rows| g.len() / rows.max(&1));
        self.keep(dims, tokens, || Product::new(Left::Dense(g.to_vec()), x, tokens))
    }

    /// Keeps the addition of `g`'s rows to the rows `ids`.
    pub fn keep_rows(&mut self, dims: &[usize], ids: &[u32], g: &[f32]) -> bool {
        self.keep(dims, ids.len(), || Product::new(Left::OneHot(ids.to_vec()), g, ids.len()))
    }

    /// Multiplies out and scales: afterwards the buffer is all there is, if there is anything.
    pub fn settle(&mut self, dims: &[usize]) -> Result<()> {
        if self.products.is_empty() && self.scale.is_none() {
            return Ok(());
        }
        if self.products.is_empty() {
            // Only a filled buffer can have been scaled.
            let factor = self.scale.take().unwrap_or(1.0);
            if let Some(Elements::Device(gradient)) = &mut self.buffer {
                *gradient = (&*gradient * f64::from(factor))?;
                return Ok(());
            }
            return self.change(dims, |values, _| {
                values.par_chunks_mut(CHUNK).for_each(|part| part.iter_mut().for_each(|v| *v *= factor));
            });
        }
        let products = std::mem::take(&mut self.products);
        let factor = self.scale.take().unwrap_or(1.0);
        self.change(dims, |values, filled| {
            let columns = dims.last().copied().unwrap_or(1);
            let rows_at_once = (CHUNK / columns).max(1);
            values.par_chunks_mut(rows_at_once * columns).enumerate().for_each(|(i, part)| {
                multiply_out(&products, dims, i * rows_at_once, filled, part);
                if factor != 1.0 {
                    part.iter_mut().for_each(|v| *v *= factor);
                }
            });
        })
    }

    /// Changes the dense gradient; `change` gets the buffer and whether it holds a gradient or only stale memory. Products must
    /// have been multiplied out.
    pub fn change(&mut self, dims: &[usize], mut change: impl FnMut(&mut [f32], bool)) -> Result<()> {
        let filled = self.filled;
        let mut values = match self.buffer.take() {
            Some(Elements::Host(values)) => values,
            Some(Elements::Device(_)) if filled => bail!("a gradient on another device cannot be changed in place"),
            _ => Buffer::new(dims.iter().product()),
        };
        change(&mut values, filled);
        self.buffer = Some(Elements::Host(values));
        self.filled = true;
        Ok(())
    }

    /// Adds a tensor of the parameter's shape; on the CPU converted to f32. Products must have been multiplied out.
    pub fn add(&mut self, dims: &[usize], addend: &Tensor) -> Result<()> {
        let addend = addend.detach().contiguous()?;
        if addend.device().is_cpu() {
            let addend = addend.to_dtype(DType::F32)?;
            return with_host(&addend, |addend| {
                self.change(dims, |values, filled| {
                    if filled {
                        values.iter_mut().zip(addend).for_each(|(v, a)| *v += a);
                    } else {
                        values.copy_from_slice(addend);
                    }
                })
            })?;
        }
        let sum = match &self.buffer {
            Some(Elements::Device(gradient)) if self.filled => {
                let dtype = if gradient.dtype() == addend.dtype() { addend.dtype() } else { DType::F32 };
                (gradient.to_dtype(dtype)? + addend.to_dtype(dtype)?)?
            }
            Some(Elements::Host(_)) if self.filled => bail!("the gradient so far is on the CPU, what is added is not"),
            // A copy: the tensor may share memory with an activation or with another parameter's gradient.
            _ => addend.copy()?,
        };
        self.buffer = Some(Elements::Device(sum));
        self.filled = true;
        Ok(())
    }

    /// Replaces the dense gradient by what `add` makes of it: a new tensor, or the one that it is given, changed. On the CPU it is given
    /// none, and what it makes is added. Products must have been multiplied out.
    pub fn replace(&mut self, dims: &[usize], add: impl FnOnce(Option<Tensor>) -> Result<Tensor>) -> Result<()> {
        let before = match self.buffer.take() {
            Some(Elements::Device(gradient)) if self.filled => Some(gradient),
            other => {
                self.buffer = other;
                None
            }
        };
        // What fails has taken the gradient with it.
        self.filled &= before.is_none();
        let sum = add(before)?;
        if sum.dims() != dims {
            bail!("a gradient of shape {:?} reached a parameter of shape {dims:?}", sum.dims());
        }
        if sum.device().is_cpu() || self.filled {
            return self.add(dims, &sum);
        }
        self.buffer = Some(Elements::Device(sum.detach()));
        self.filled = true;
        Ok(())
    }

    /// The gradient on a device other than the CPU, itself, not a copy; it must have been settled.
    pub fn on_device(&self) -> Option<&Tensor> {
        match self.elements() {
            Some(Elements::Device(gradient)) => Some(gradient),
            _ => None,
        }
    }

    /// A copy of the dense gradient in f32, which must have been settled.
    pub fn to_tensor(&self, dims: &[usize]) -> Result<Option<Tensor>> {
        match self.elements() {
            Some(Elements::Host(values)) => Tensor::from_slice(values, dims, &Device::Cpu).map(Some),
            Some(Elements::Device(gradient)) => gradient.copy()?.to_dtype(DType::F32).map(Some),
            None => Ok(None),
        }
    }

    fn elements(&self) -> Option<&Elements> {
        self.buffer.as_ref().filter(|_| self.filled)
    }

    /// Runs `read` on the elements of the dense gradient, which must have been settled.
    pub fn with_elements<T>(&self, read: impl FnOnce(&[f32]) -> T) -> Result<Option<T>> {
        match self.elements() {
            Some(Elements::Host(values)) => Ok(Some(read(values))),
            Some(Elements::Device(gradient)) => with_host(gradient, read).map(Some),
            None => Ok(None),
        }
    }

    /// Multiplies by a factor, later.
    pub fn scale(&mut self, factor: f32) {
        self.scale = Some(self.scale.unwrap_or(1.0) * factor);
    }

    /// Runs `read` on the gradient in a form that gives pieces of it.
    pub fn with_pieces<T>(&self, dims: &[usize], read: impl FnOnce(&Pieces<'_>) -> T) -> Result<T> {
        let scale = self.scale.unwrap_or(1.0);
        match self.elements() {
            None => Ok(read(&Pieces { source: From::Products(&self.products, dims), scale })),
            Some(_) if !self.products.is_empty() => bail!("a gradient is dense and factored at once"),
            Some(Elements::Host(values)) => Ok(read(&Pieces { source: From::Dense(values), scale })),
            Some(Elements::Device(gradient)) => {
                with_host(gradient, |values| read(&Pieces { source: From::Dense(values), scale }))
            }
        }
    }

    /// The sum of the elements' squares; in f64, but on another device than the CPU in f32.
    pub fn square_sum(&self, dims: &[usize]) -> Result<f64> {
        if let Some(gradient) = self.on_device() {
            let sum = gradient.to_dtype(DType::F32)?.sqr()?.sum_all()?.to_scalar::<f32>()?;
            return Ok(f64::from(sum) * f64::from(self.scale.unwrap_or(1.0)).powi(2));
        }
        self.with_pieces(dims, |pieces| {
            let squares = match pieces.source {
                From::Dense(values) => sum_of_squares(values),
                From::Products(products, dims) => inner_products(products, dims),
            };
            squares * f64::from(pieces.scale) * f64::from(pieces.scale)
        })
    }
}

/// Runs `read` on a tensor's elements in f32, without a copy on the CPU.
fn with_host<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    if !tensor.device().is_cpu() {
        return Ok(read(&tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?));
    }
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(CpuStorage::F32(values)) => {
            let start = Layout::start_offset(layout);
            Ok(read(&values[start..start + tensor.elem_count()]))
        }
        _ => bail!("a gradient is not f32"),
    }
}

enum From<'a> {
    Dense(&'a [f32]),
    Products(&'a [Product], &'a [usize]),
}

/// A gradient that is read piece by piece.
pub struct Pieces<'a> {
    source: From<'a>,
    /// Factor on what [`Self::read`] gives.
    pub scale: f32,
}

impl Pieces<'_> {
    /// Where pieces may begin: at multiples of this many elements.
    pub fn unit(&self) -> usize {
        match self.source {
            From::Dense(_) => 1,
            From::Products(_, dims) => dims[1].max(1),
        }
    }

    /// Runs `read` on the elements from `start` on, unscaled.
    pub fn read(&self, start: usize, length: usize, read: impl FnOnce(&[f32])) {
        thread_local! {
            static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        match self.source {
            From::Dense(values) => read(&values[start..start + length]),
            From::Products(products, dims) => SCRATCH.with(|scratch| {
                let mut scratch = scratch.borrow_mut();
                scratch.resize(length, 0.0);
                multiply_out(products, dims, start / self.unit(), false, &mut scratch);
                read(&scratch);
            }),
        }
    }
}

/// `out = (add ? out : 0) +` the rows from `first` on of the products' sum; within one thread.
fn multiply_out(products: &[Product], dims: &[usize], first: usize, add: bool, out: &mut [f32]) {
    let (rows, columns) = (dims[0], dims[1]);
    let count = out.len() / columns;
    let mut add = add;
    // Matrices first: a product overwrites, single rows only add.
    for product in products {
        if let Left::Dense(left) = &product.left {
            let packed = product.packed.get_or_init(|| matrix::PackedFactor::new(&product.right, columns, product.tokens));
            let right = packed.factor(&product.right);
            matrix::weight_gradient_rows(left, rows, first, right, columns, out, add, product.tokens);
            add = true;
        }
    }
    if !add {
        out.fill(0.0);
    }
    for product in products {
        if let Left::OneHot(ids) = &product.left {
            for (id, right) in ids.iter().zip(product.right.chunks_exact(columns)) {
                let id = *id as usize;
                if (first..first + count).contains(&id) {
                    let at = (id - first) * columns;
                    out[at..at + columns].iter_mut().zip(right).for_each(|(o, v)| *o += v);
                }
            }
        }
    }
}

/// The squared norm of a sum of products, by inner products of tokens.
fn inner_products(products: &[Product], dims: &[usize]) -> f64 {
    let (rows, columns) = (dims[0], dims[1]);
    let mut total = 0.0;
    for (i, one) in products.iter().enumerate() {
        for (j, other) in products.iter().enumerate().take(i + 1) {
            let right = matrix::inner_products(&one.right, &other.right, columns);
            let at = |s: usize, t: usize| f64::from(right[s * other.tokens + t]);
            let sum: f64 = match (&one.left, &other.left) {
                (Left::Dense(a), Left::Dense(b)) => {
                    let left = matrix::inner_products(a, b, rows);
                    left.iter().zip(&right).map(|(l, r)| f64::from(*l) * f64::from(*r)).sum()
                }
                (Left::OneHot(a), Left::OneHot(b)) => {
                    let same = a
                        .iter()
                        .enumerate()
                        .flat_map(|(s, x)| b.iter().enumerate().filter(move |(_, y)| x == *y).map(move |(t, _)| (s, t)));
                    same.map(|(s, t)| at(s, t)).sum()
                }
                (Left::OneHot(ids), Left::Dense(left)) => {
                    let pairs = ids.iter().enumerate().flat_map(|(s, id)| (0..other.tokens).map(move |t| (s, t, *id as usize)));
                    pairs.map(|(s, t, id)| f64::from(left[t * rows + id]) * at(s, t)).sum()
                }
                (Left::Dense(left), Left::OneHot(ids)) => {
                    let pairs = ids.iter().enumerate().flat_map(|(t, id)| (0..one.tokens).map(move |s| (s, t, *id as usize)));
                    pairs.map(|(s, t, id)| f64::from(left[s * rows + id]) * at(s, t)).sum()
                }
            };
            // Each pair of different products counts in both orders.
            total += if i == j { sum } else { 2.0 * sum };
        }
    }
    total.max(0.0)
}

/// The sum of squares in f64; chunks are added in order, so that it is the same for any number of threads.
pub(crate) fn sum_of_squares(values: &[f32]) -> f64 {
    let squares = |part: &[f32]| {
        let (eights, rest) = part.as_chunks::<8>();
        let mut sums = [0f64; 8];
        for eight in eights {
            for k in 0..8 {
                sums[k] += f64::from(eight[k]) * f64::from(eight[k]);
            }
        }
        sums.iter().sum::<f64>() + rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()
    };
    if values.len() <= CHUNK {
        return squares(values);
    }
    values.par_chunks(CHUNK).map(squares).collect::<Vec<f64>>().into_iter().sum()
}

#[cfg(test)]
mod tests {
    use crate::autograd::Parameter;
    use crate::ops::check::{difference, tensor, values};

    /// A parameter with the gradient of two products and single rows, and the same added up densely.
    fn pair() -> (Parameter, Parameter) {
        let (rows, columns) = (300, 200);
        let (lazy, dense) =
            (Parameter::new(&tensor(&[rows, columns], 1)).unwrap(), Parameter::new(&tensor(&[rows, columns], 1)).unwrap());
        let mut sum = vec![0f32; rows * columns];
        for (tokens, seed) in [(3, 2), (5, 4)] {
            let (g, x) = (values(tokens * rows, seed), values(tokens * columns, seed + 1));
            assert!(lazy.accumulate_product(&g, &x));
            for t in 0..tokens {
                for i in 0..rows {
                    for j in 0..columns {
                        sum[i * columns + j] += g[t * rows + i] * x[t * columns + j];
                    }
                }
            }
        }
        let (ids, g) = ([7u32, 299, 7], values(3 * columns, 8));
        assert!(lazy.accumulate_rows(&ids, &g));
        for (id, g) in ids.iter().zip(g.chunks(columns)) {
            sum[*id as usize * columns..][..columns].iter_mut().zip(g).for_each(|(s, v)| *s += v);
        }
        dense.accumulate_with(|values, _| values.copy_from_slice(&sum)).unwrap();
        (lazy, dense)
    }

    #[test]
    fn factors_have_the_norm_and_the_elements_of_their_product() {
        let (lazy, dense) = pair();
        let (a, b) = (lazy.grad_square_sum().unwrap(), dense.grad_square_sum().unwrap());
        assert!((a - b).abs() < 1e-5 * b, "{a} {b}");
        for parameter in [&lazy, &dense] {
            parameter.scale_grad(0.25);
        }
        assert!((lazy.grad_square_sum().unwrap() - b / 16.0).abs() < 1e-5 * b);
        lazy.with_pieces(|pieces| {
            dense
                .with_grad(|dense| {
                    let (start, length) = (17 * pieces.unit(), 5 * pieces.unit());
                    pieces.read(start, length, |piece| {
                        for (p, d) in piece.iter().zip(&dense[start..]) {
                            assert!((p * pieces.scale - d).abs() < 1e-5);
                        }
                    });
                })
                .unwrap();
        })
        .unwrap();
        assert!(difference(&lazy.grad().unwrap().unwrap(), &dense.grad().unwrap().unwrap()) < 1e-5);
    }

    #[test]
    fn what_comes_after_a_product_is_added_to_it() {
        let (lazy, dense) = pair();
        for parameter in [&lazy, &dense] {
            parameter.scale_grad(0.5);
            parameter.accumulate(&tensor(&[300, 200], 9)).unwrap();
            parameter
                .accumulate_with(|values, filled| values.iter_mut().for_each(|v| *v += f32::from(u8::from(filled))))
                .unwrap();
        }
        assert!(difference(&lazy.grad().unwrap().unwrap(), &dense.grad().unwrap().unwrap()) < 1e-5);
        lazy.zero_grad();
        assert!(!lazy.has_grad() && lazy.grad().unwrap().is_none());
    }

    #[test]
    fn many_tokens_and_small_matrices_are_refused() {
        let parameter = Parameter::new(&tensor(&[300, 200], 1)).unwrap();
        let tokens = super::MOST_TOKENS + 1;
        assert!(!parameter.accumulate_product(&values(tokens * 300, 1), &values(tokens * 200, 2)));
        let small = Parameter::new(&tensor(&[4, 4], 1)).unwrap();
        assert!(!small.accumulate_product(&values(8, 1), &values(8, 2)) && !small.has_grad());
    }
}
