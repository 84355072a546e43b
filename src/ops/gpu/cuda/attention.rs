//! Attention by kernels: by tensor cores where dtype and width of the heads allow it.

use super::{Argument, Module, Shape, capability, launch, pointer, suffix, unwritten};
use crate::ops::attention::AttentionSpec;
use candle_core::{DType, Result, Tensor, bail};

/// The widest head that the general kernels take.
const MOST_WIDTH: usize = 256;

/// The passes, in the order of [`Kernels`]' arrays.
const PASSES: [&str; 3] = ["forward", "backward_queries", "backward_keys"];

/// Which kernels serve a call, as their sources say.
struct Kernels {
    module: Module,
    names: [String; 3],
    /// Queries, or keys, of a block.
    rows: [usize; 3],
    /// Bytes of shared memory.
    shared: [u32; 3],
    threads: u32,
}

impl Kernels {
    fn new(q: &Tensor, spec: &AttentionSpec) -> Result<Self> {
        let width = spec.head_dim;
        // Tensor cores for bf16 came with this capability; their kernels want a scale above 0.
        if q.dtype() == DType::BF16 && matches!(width, 64 | 128) && spec.scale > 0.0 && capability(q)? >= 80 {
            let names = PASSES.map(|pass| format!("attention_mma_{pass}_{width}"));
            const KIB: u32 = 1 << 10;
            let (rows, shared) = match width {
                64 => ([128, 128, 128], [32 * KIB, 48 * KIB, 48 * KIB]),
                _ => ([128, 128, 64], [64 * KIB, 96 * KIB, 64 * KIB]),
            };
            return Ok(Self { module: Module::AttentionMma, names, rows, shared, threads: 128 });
        }
        if width > MOST_WIDTH {
            bail!("attention on a GPU is for heads of at most {MOST_WIDTH} elements, not {width}");
        }
        let end = suffix(q.dtype())?;
        let names = PASSES.map(|pass| format!("attention_{pass}_{end}"));
        // Two tiles of 32 rows of f32, for each of the widths that the kernels know.
        let shared = 256 * width.next_power_of_two().max(32) as u32;
        Ok(Self { module: Module::Attention, names, rows: [64; 3], shared: [shared; 3], threads: 256 })
    }

    /// Launches a pass for so many heads.
    fn launch(&self, pass: usize, q: &Tensor, spec: &AttentionSpec, heads: usize, arguments: &[Argument]) -> Result<()> {
        let blocks = (spec.positions.len().div_ceil(self.rows[pass]) as u32, heads as u32);
        let shape = Shape { blocks, threads: (self.threads, 1), shared: self.shared[pass] };
        launch(q.device().as_cuda_device()?, self.module, &self.names[pass], shape, arguments)
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
    kernels.launch(0, q, spec, spec.heads, &arguments)?;
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
    kernels.launch(1, q, spec, spec.heads, &arguments)?;

    let mut arguments = given.to_vec();
    arguments.extend([pointer(&seen.1)?, pointer(&dk)?, pointer(&dv)?]);
    arguments.extend(sizes(spec));
    arguments.extend([kv_stride, kv_stride]);
    arguments.extend(scales(spec));
    kernels.launch(2, q, spec, spec.kv_heads, &arguments)?;
    Ok([dq, dk, dv])
}
