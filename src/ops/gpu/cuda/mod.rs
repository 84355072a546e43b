//! The parts of a block by kernels, and products by cuBLAS.

mod attention;
mod launch;

pub(super) use attention::{attention_backward, attention_forward};
pub use launch::Module;
pub(super) use launch::{Argument, Shape, address, capability, launch, optional, pointer, suffix, unwritten};

use super::product::Factor;
use crate::ops::gated::Activation;
use crate::ops::layer::DrawnMask;
use crate::ops::norm::{Norm, NormKind};
use crate::ops::precision::{MatmulPrecision, float32_matmul_precision};
use crate::ops::rope::RopeTable;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::{DType, Error, Result, Tensor, bail};
use launch::device;
use std::ffi::c_void;

/// Launches a kernel of the dtype of `x` on its device; nothing for nothing.
fn run(x: &Tensor, module: Module, kernel: &str, shape: Shape, arguments: &[Argument]) -> Result<()> {
    if x.elem_count() == 0 {
        return Ok(());
    }
    launch(device(x)?, module, &format!("{kernel}_{}", suffix(x.dtype())?), shape, arguments)
}

/// Threads a row.
const ROW: u32 = 256;

fn kind(norm: &Norm) -> Argument {
    Argument::Int(match norm.kind {
        NormKind::Rms => 0,
        NormKind::RmsPlusOne => 1,
        NormKind::Layer => 2,
    })
}

/// Rows and columns of `x` for a norm.
fn rows(norm: &Norm, x: &Tensor) -> (usize, usize) {
    let width = norm.weight.elem_count().max(1);
    (x.elem_count() / width, width)
}

pub(super) fn norm_forward(norm: &Norm, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, width) = rows(norm, x);
    let (y, moments) = (unwritten(x.shape(), x.dtype(), x.device())?, unwritten((rows, 2), DType::F32, x.device())?);
    let weight = norm.weight.value().to_dtype(DType::F32)?;
    let bias = norm.bias.as_ref().map(|bias| bias.value().to_dtype(DType::F32)).transpose()?;
    let arguments = [
        pointer(x)?,
        pointer(&weight)?,
        optional(bias.as_ref())?,
        pointer(&y)?,
        pointer(&moments)?,
        Argument::Int(rows as i32),
        Argument::Int(width as i32),
        Argument::Float(norm.eps as f32),
        kind(norm),
    ];
    run(x, Module::Norm, "norm_forward", Shape::each(rows, ROW), &arguments)?;
    Ok((y, moments))
}

pub(super) fn norm_backward(norm: &Norm, x: &Tensor, g: &Tensor, moments: &Tensor, residual: Option<&Tensor>) -> Result<Tensor> {
    let (rows, width) = rows(norm, x);
    let dx = unwritten(x.shape(), x.dtype(), x.device())?;
    let (weight, g) = (norm.weight.value().to_dtype(DType::F32)?, g.contiguous()?);
    let arguments = [
        pointer(x)?,
        pointer(&weight)?,
        pointer(&g)?,
        pointer(moments)?,
        optional(residual)?,
        pointer(&dx)?,
        Argument::Int(rows as i32),
        Argument::Int(width as i32),
        kind(norm),
    ];
    run(x, Module::Norm, "norm_backward", Shape::each(rows, ROW), &arguments)?;
    Ok(dx)
}

pub(super) fn norm_gradients(norm: &Norm, x: &Tensor, g: &Tensor, moments: &Tensor, factor: f32) -> Result<()> {
    let (rows, width) = rows(norm, x);
    // For no rows no kernel writes the sums.
    let sums = || match rows {
        0 => Tensor::zeros(width, DType::F32, x.device()),
        _ => unwritten(width, DType::F32, x.device()),
    };
    let (scale, shift) = (sums()?, norm.bias.as_ref().map(|_| sums()).transpose()?);
    let g = g.contiguous()?;
    let arguments = [
        pointer(x)?,
        pointer(&g)?,
        pointer(moments)?,
        pointer(&scale)?,
        optional(shift.as_ref())?,
        Argument::Int(rows as i32),
        Argument::Int(width as i32),
        kind(norm),
    ];
    // 32 columns a block.
    let shape = Shape { blocks: (width.div_ceil(32) as u32, 1), threads: (32, 8), shared: 0 };
    run(x, Module::Norm, "norm_scale_gradient", shape, &arguments)?;
    for (parameter, sums) in std::iter::once((&norm.weight, scale)).chain(norm.bias.as_ref().zip(shift)) {
        if parameter.requires_grad() {
            let sums = if factor == 1.0 { sums } else { (sums * f64::from(factor))? };
            parameter.accumulate(&sums).map_err(Error::wrap)?;
        }
    }
    Ok(())
}

pub(super) fn rotated(x: &Tensor, table: &RopeTable, inverse: bool) -> Result<Tensor> {
    let (tokens, width) = x.dims2()?;
    let (half, head_dim) = table.widths();
    let (cos, sin) = table.on_device(x.device())?;
    if cos.dims() != [tokens, half] || head_dim == 0 || width % head_dim != 0 {
        bail!("rope: a table of shape {:?} does not fit a tensor of shape {:?}", cos.dims(), x.dims());
    }
    let (x, y) = (x.contiguous()?, unwritten(x.shape(), x.dtype(), x.device())?);
    let heads = width / head_dim;
    let arguments = [
        pointer(&x)?,
        pointer(&cos)?,
        pointer(&sin)?,
        pointer(&y)?,
        Argument::Int(tokens as i32),
        Argument::Int(heads as i32),
        Argument::Int(head_dim as i32),
        Argument::Int(half as i32),
        Argument::Float(if inverse { -1.0 } else { 1.0 }),
    ];
    run(&x, Module::Rope, "rope", Shape::strided(tokens * heads * (head_dim - half)), &arguments)?;
    Ok(y)
}

fn activation(activation: Activation) -> Argument {
    Argument::Int(match activation {
        Activation::Silu => 0,
        Activation::GeluTanh => 1,
        Activation::Gelu => 2,
        Activation::Relu => 3,
    })
}

pub(super) fn gated(function: Activation, gate: &Tensor, up: Option<&Tensor>) -> Result<Tensor> {
    if let Some(up) = up.filter(|up| up.dtype() != gate.dtype()) {
        bail!("the two halves are {:?} and {:?}", gate.dtype(), up.dtype());
    }
    let (gate, up) = (gate.contiguous()?, up.map(Tensor::contiguous).transpose()?);
    let y = unwritten(gate.shape(), gate.dtype(), gate.device())?;
    let n = gate.elem_count();
    let arguments = [pointer(&gate)?, optional(up.as_ref())?, pointer(&y)?, Argument::Long(n as i64), activation(function)];
    run(&gate, Module::Gated, "gated_forward", Shape::strided(n), &arguments)?;
    Ok(y)
}

pub(super) fn gated_backward(
    function: Activation,
    gate: &Tensor,
    up: Option<&Tensor>,
    g: &Tensor,
) -> Result<(Tensor, Option<Tensor>)> {
    let like = || unwritten(gate.shape(), gate.dtype(), gate.device());
    let (dgate, dup) = (like()?, up.map(|_| like()).transpose()?);
    let (n, g) = (gate.elem_count(), g.contiguous()?);
    let arguments = [
        pointer(gate)?,
        optional(up)?,
        pointer(&g)?,
        pointer(&dgate)?,
        optional(dup.as_ref())?,
        Argument::Pointer(0),
        Argument::Long(n as i64),
        activation(function),
    ];
    run(gate, Module::Gated, "gated_backward", Shape::strided(n), &arguments)?;
    Ok((dgate, dup))
}

/// `to += factor * other`.
pub(super) fn add_to(to: &Tensor, other: &Tensor, factor: f32) -> Result<()> {
    let (n, other) = (to.elem_count(), other.contiguous()?);
    if other.elem_count() != n {
        bail!("cannot add a tensor of shape {:?} to one of shape {:?}", other.dims(), to.dims());
    }
    let arguments = [pointer(to)?, pointer(&other)?, Argument::Long(n as i64), Argument::Float(factor)];
    run(to, Module::Elementwise, "add_to", Shape::strided(n), &arguments)
}

/// `x` times a mask that is drawn again from the same numbers.
pub(super) fn dropped(x: &Tensor, mask: DrawnMask) -> Result<Tensor> {
    let (x, y) = (x.contiguous()?, unwritten(x.shape(), x.dtype(), x.device())?);
    let n = x.elem_count();
    let arguments = [
        pointer(&x)?,
        pointer(&y)?,
        Argument::Long(n as i64),
        Argument::Long(mask.seed as i64),
        Argument::Long(0),
        Argument::Float(mask.probability as f32),
    ];
    run(&x, Module::Elementwise, "dropout", Shape::strided(n.div_ceil(4)), &arguments)?;
    Ok(y)
}

fn blas_type(dtype: DType) -> Result<sys::cudaDataType> {
    match dtype {
        DType::F32 => Ok(sys::cudaDataType::CUDA_R_32F),
        DType::BF16 => Ok(sys::cudaDataType::CUDA_R_16BF),
        DType::F16 => Ok(sys::cudaDataType::CUDA_R_16F),
        dtype => bail!("products are computed in f32, bf16 and f16, not {dtype:?}"),
    }
}

/// `sum + a b`, summed in f32; see [`super::product::product`].
pub(super) fn product(a: Factor<'_>, b: Factor<'_>, sum: Option<Tensor>, dtype: DType) -> Result<Tensor> {
    // Rows and columns as multiplied, the width of a row as stored, and whether cuBLAS, which has columns first, is to transpose.
    let sides = |Factor(matrix, transposed): Factor<'_>| -> Result<(usize, usize, usize)> {
        let (rows, columns) = matrix.dims2()?;
        Ok(if transposed { (columns, rows, columns) } else { (rows, columns, columns) })
    };
    let (a_matrix, b_matrix) = (a.0.contiguous()?, b.0.contiguous()?);
    let ((m, k, a_width), (b_rows, n, b_width)) = (sides(a)?, sides(b)?);
    if k != b_rows || a.0.dtype() != b.0.dtype() {
        bail!("a product of {:?} {:?} and {:?} {:?} does not fit", a.0.dtype(), (m, k), b.0.dtype(), (b_rows, n));
    }
    let beta: f32 = if sum.is_some() { 1.0 } else { 0.0 };
    let out = match sum {
        Some(sum) if sum.dims() == [m, n] => sum,
        Some(sum) => bail!("a product of shape {:?} cannot be added to {:?}", (m, n), sum.dims()),
        None => unwritten((m, n), dtype, a.0.device())?,
    };
    if m == 0 || n == 0 || k == 0 {
        return if beta == 0.0 { out.zeros_like() } else { Ok(out) };
    }
    let operation =
        |transposed| if transposed { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N };
    let compute = match (a.0.dtype(), float32_matmul_precision()) {
        (DType::F32, MatmulPrecision::High) => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
        (DType::F32, MatmulPrecision::Medium) => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_16BF,
        _ => sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
    };
    let (blas, stream) = (device(a.0)?.cublas_handle(), device(a.0)?.cuda_stream());
    // cuBLAS works in the thread's context, which may be another card's.
    stream.context().bind_to_thread().map_err(Error::wrap)?;
    let (alpha, address_of) = (1f32, |tensor: &Tensor| address(tensor).map(|a| a as *mut c_void));
    // SAFETY: three matrices of these sizes on one device, whose memory lives until the call returns; the stream orders the rest. What
    // cuBLAS takes for columns are our rows, so that the factors change places.
    unsafe {
        result::gemm_ex(
            *blas.handle(),
            operation(b.1),
            operation(a.1),
            n as i32,
            m as i32,
            k as i32,
            (&raw const alpha).cast(),
            address_of(&b_matrix)?,
            blas_type(b.0.dtype())?,
            b_width as i32,
            address_of(&a_matrix)?,
            blas_type(a.0.dtype())?,
            a_width as i32,
            (&raw const beta).cast(),
            address_of(&out)?,
            blas_type(out.dtype())?,
            n as i32,
            compute,
            // Tensor cores multiply 16 bits with it too. CUBLAS_GEMM_DEFAULT_TENSOR_OP would let cuBLAS round factors of f32 to f16.
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(|e| Error::Msg(format!("a product of {m} x {k} and {k} x {n} failed in cuBLAS: {e:?}")))?;
    Ok(out)
}

/// The rows' losses; overwrites the logits with `factor` times their gradients where that is wanted.
pub(super) fn cross_entropy(
    logits: &Tensor,
    targets: &Tensor,
    factor: f32,
    softcap: Option<f32>,
    wants_gradient: bool,
) -> Result<Tensor> {
    let (rows, width) = logits.dims2()?;
    let losses = unwritten(rows, DType::F32, logits.device())?;
    let arguments = [
        pointer(logits)?,
        pointer(targets)?,
        pointer(&losses)?,
        Argument::Int(rows as i32),
        Argument::Int(width as i32),
        Argument::Float(factor),
        Argument::Float(softcap.unwrap_or(0.0)),
        Argument::Int(i32::from(wants_gradient)),
    ];
    run(logits, Module::CrossEntropy, "cross_entropy", Shape::each(rows, 512), &arguments)?;
    Ok(losses)
}
