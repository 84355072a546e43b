//! Attention by kernels: by tensor cores where dtype and width of the heads allow it.

use super::{Argument, Module, Shape, launch, pointer, suffix, unwritten};
use crate::ops::attention::AttentionSpec;
use candle_core::{DType, Result, Tensor, bail};

/// Queries, or keys, of a block.
const TILE: usize = 64;

/// The widest head that the general kernels take.
const MOST_WIDTH: usize = 256;

/// Which kernels serve a call.
struct Kernels {
    module: Module,
    /// Bytes of shared memory of the three kernels.
    shared: [u32; 3],
    threads: u32,
    names: [String; 3],
}

impl Kernels {
    fn new(q: &Tensor, spec: &AttentionSpec) -> Result<Self> {
        const PASSES: [&str; 3] = ["forward", "backward_queries", "backward_keys"];
        let width = spec.head_dim;
        if q.dtype() == DType::BF16 && matches!(width, 64 | 128) {
            let names = PASSES.map(|pass| format!("attention_mma_{pass}_{width}"));
            return Ok(Self { module: Module::AttentionMma, shared: mma_shared(width), threads: 128, names });
        }
        if width > MOST_WIDTH {
            bail!("attention on a GPU is for heads of at most {MOST_WIDTH} elements, not {width}");
        }
        let end = suffix(q.dtype())?;
        let names = PASSES.map(|pass| format!("attention_{pass}_{end}"));
        Ok(Self { module: Module::Attention, shared: general_shared(width), threads: 256, names })
    }
}

/// The sizes and strides that every kernel is given first.
fn sizes(spec: &AttentionSpec) -> Vec<Argument> {
    let [tokens, heads, kv_heads, width] = [spec.positions.len(), spec.heads, spec.kv_heads, spec.head_dim].map(|n| n as i32);
    let (q, kv) = (heads * width, kv_heads * width);
    [tokens, heads, kv_heads, width, q, kv, kv, q].map(Argument::Int).to_vec()
}

fn scales(spec: &AttentionSpec) -> [Argument; 2] {
    [Argument::Float(spec.scale), Argument::Float(spec.softcap.unwrap_or(0.0))]
}

fn blocks(spec: &AttentionSpec, heads: usize) -> (u32, u32) {
    (spec.positions.len().div_ceil(TILE) as u32, heads as u32)
}

pub(in crate::ops::gpu) fn attention_forward(
    [q, k, v]: [&Tensor; 3],
    spec: &AttentionSpec,
    seen: &(Tensor, Tensor),
) -> Result<(Tensor, Tensor)> {
    let kernels = Kernels::new(q, spec)?;
    let out = unwritten(q.shape(), q.dtype(), q.device())?;
    let sums = unwritten((spec.heads, spec.positions.len()), DType::F32, q.device())?;
    let mut arguments = vec![pointer(q)?, pointer(k)?, pointer(v)?, pointer(&out)?, pointer(&sums)?, pointer(&seen.0)?];
    arguments.extend(sizes(spec));
    arguments.extend(scales(spec));
    let shape = Shape { blocks: blocks(spec, spec.heads), threads: (kernels.threads, 1), shared: kernels.shared[0] };
    launch(q.device().as_cuda_device()?, kernels.module, &kernels.names[0], shape, &arguments)?;
    Ok((out, sums))
}

pub(in crate::ops::gpu) fn attention_backward(
    [q, k, v, out, g]: [&Tensor; 5],
    sums: &Tensor,
    spec: &AttentionSpec,
    seen: &(Tensor, Tensor),
) -> Result<[Tensor; 3]> {
    let kernels = Kernels::new(q, spec)?;
    let device = q.device().as_cuda_device()?;
    let [dq, dk, dv] = [q, k, v].map(|like| unwritten(like.shape(), like.dtype(), like.device()));
    let (dq, dk, dv, g) = (dq?, dk?, dv?, g.contiguous()?);
    let delta = unwritten((spec.heads, spec.positions.len()), DType::F32, q.device())?;
    let [tokens, heads, width] = [spec.positions.len(), spec.heads, spec.head_dim].map(|n| Argument::Int(n as i32));
    let stride = Argument::Int((spec.heads * spec.head_dim) as i32);
    let kv_stride = Argument::Int((spec.kv_heads * spec.head_dim) as i32);
    let arguments = [pointer(out)?, pointer(&g)?, pointer(&delta)?, tokens, heads, width, stride];
    let name = format!("attention_delta_{}", suffix(q.dtype())?);
    launch(device, Module::Attention, &name, Shape::strided(spec.positions.len() * spec.heads * 32), &arguments)?;

    let given = [pointer(q)?, pointer(k)?, pointer(v)?, pointer(&g)?, pointer(sums)?, pointer(&delta)?, pointer(&seen.0)?];
    let mut arguments = given.to_vec();
    arguments.push(pointer(&dq)?);
    arguments.extend(sizes(spec));
    arguments.push(stride);
    arguments.extend(scales(spec));
    let shape = Shape { blocks: blocks(spec, spec.heads), threads: (kernels.threads, 1), shared: kernels.shared[1] };
    launch(device, kernels.module, &kernels.names[1], shape, &arguments)?;

    let mut arguments = given.to_vec();
    arguments.extend([pointer(&seen.1)?, pointer(&dk)?, pointer(&dv)?]);
    arguments.extend(sizes(spec));
    arguments.extend([kv_stride, kv_stride]);
    arguments.extend(scales(spec));
    let shape = Shape { blocks: blocks(spec, spec.kv_heads), threads: (kernels.threads, 1), shared: kernels.shared[2] };
    launch(device, kernels.module, &kernels.names[2], shape, &arguments)?;
    Ok([dq, dk, dv])
}

/// As the kernels' sources say.
fn mma_shared(_: usize) -> [u32; 3] {
    [0; 3]
}

/// Two tiles of 32 rows of f32, for each of the widths that the kernels know.
fn general_shared(width: usize) -> [u32; 3] {
    [256 * width.next_power_of_two().max(32) as u32; 3]
}
