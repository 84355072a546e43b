//! Kernels: compiled for the card at first use, launched on the device's stream.

use crate::device::ALLOCATION;
use crate::files;
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, LaunchConfig, PushKernelArg, sys};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::{CudaDevice, DType, Device, Error, Result, Storage, Tensor, bail};
use ring::digest::{SHA256, digest};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// A file of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Module {
    /// Norms of rows.
    Norm,
    /// Rotary embedding.
    Rope,
    /// Activations.
    Gated,
    /// Attention for all dtypes and widths of heads.
    Attention,
    /// Attention by tensor cores.
    AttentionMma,
    /// Attention of new tokens to cached ones.
    AttentionCached,
    /// Cross-entropy of rows.
    CrossEntropy,
    /// Norms of gradients, and AdamW.
    AdamW,
    /// Sums and rows.
    Elementwise,
}

const COMMON: &str = include_str!("../kernels/common.cuh");

impl Module {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Norm,
        Self::Rope,
        Self::Gated,
        Self::Attention,
        Self::AttentionMma,
        Self::AttentionCached,
        Self::CrossEntropy,
        Self::AdamW,
        Self::Elementwise,
    ];

    fn source(self) -> (&'static str, &'static str) {
        match self {
            Self::Norm => ("norm", include_str!("../kernels/norm.cu")),
            Self::Rope => ("rope", include_str!("../kernels/rope.cu")),
            Self::Gated => ("gated", include_str!("../kernels/gated.cu")),
            Self::Attention => ("attention", include_str!("../kernels/attention.cu")),
            Self::AttentionMma => ("attention_mma", include_str!("../kernels/attention_mma.cu")),
            Self::AttentionCached => ("attention_cached", include_str!("../kernels/attention_cached.cu")),
            Self::CrossEntropy => ("cross_entropy", include_str!("../kernels/cross_entropy.cu")),
            Self::AdamW => ("adamw", include_str!("../kernels/adamw.cu")),
            Self::Elementwise => ("elementwise", include_str!("../kernels/elementwise.cu")),
        }
    }

    /// The kernels for a compute capability (90 is Hopper): those of a dtype where the file has them apart, else all. Compiled once, and
    /// kept in the cache folder for the next time.
    ///
    /// # Errors
    /// The compiler's library is missing, or refuses the source.
    pub fn compiled(self, capability: u32, dtype: Option<DType>) -> Result<Arc<Compiled>> {
        type Known = HashMap<(Module, u32, Option<DType>), Arc<Compiled>>;
        static COMPILED: OnceLock<Mutex<Known>> = OnceLock::new();
        // All of attention takes the compiler many seconds.
        let dtype = dtype.filter(|_| self == Self::Attention);
        let key = (self, capability, dtype);
        let mut compiled = COMPILED.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernels) = compiled.get(&key) {
            return Ok(kernels.clone());
        }
        let (name, source) = self.source();
        let mut options = vec![format!("--gpu-architecture=compute_{capability}"), "--std=c++17".into()];
        let others = [(DType::F32, "F32"), (DType::BF16, "BF16"), (DType::F16, "F16")].into_iter();
        options.extend(
            others.filter(|(other, _)| dtype.is_some_and(|dtype| dtype != *other)).map(|(_, other)| format!("-DWITHOUT_{other}")),
        );
        let ptx = cached(name, &format!("{COMMON}\n{source}"), options)?;
        let kernels = Arc::new(Compiled { parameters: parameters(&ptx), ptx });
        compiled.insert(key, kernels.clone());
        Ok(kernels)
    }
}

/// The PTX of a source, from the cache folder where it was compiled before.
fn cached(name: &str, source: &str, options: Vec<String>) -> Result<String> {
    let digest = digest(&SHA256, format!("{source}\n{options:?}").as_bytes());
    let digest: String = digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let place = files::cache_folder().ok().map(|folder| folder.join("kernels").join(format!("{name}-{digest}.ptx")));
    if let Some(ptx) = place.as_ref().and_then(|place| std::fs::read_to_string(place).ok()) {
        return Ok(ptx);
    }
    let what = options.join(" ");
    let options = CompileOptions { options, name: Some(format!("{name}.cu")), ..CompileOptions::default() };
    let ptx = compile_ptx_with_opts(source, options)
        .map_err(|e| Error::Msg(format!("the CUDA kernels of {name}.cu do not compile ({what}): {e:?}")))?
        .to_src();
    // A cache that cannot be written costs a compilation the next time.
    if let Some(place) = place {
        let _ = files::write_text(&place, &ptx);
    }
    Ok(ptx)
}

/// A file's kernels, compiled.
#[derive(Debug)]
pub struct Compiled {
    /// The kernels as PTX.
    pub ptx: String,
    /// Of every kernel the kinds of its parameters: "u64" for addresses too, "u32", "f32".
    pub parameters: HashMap<String, Vec<String>>,
}

/// The kernels of a PTX text and the kinds of their parameters.
fn parameters(ptx: &str) -> HashMap<String, Vec<String>> {
    let entries = ptx.split(".visible .entry ").skip(1);
    let of_entry = |entry: &str| {
        let (name, rest) = entry.split_once('(')?;
        let (list, _) = rest.split_once(')')?;
        let kind = |line: &str| line.trim().strip_prefix(".param .")?.split_whitespace().next().map(str::to_string);
        Some((name.trim().to_string(), list.lines().filter_map(kind).collect()))
    };
    entries.filter_map(of_entry).collect()
}

/// What a kernel is given.
#[derive(Clone, Copy)]
pub(in crate::ops::gpu) enum Argument {
    /// An address in the device's memory; 0 for none.
    Pointer(u64),
    Int(i32),
    Long(i64),
    Float(f32),
}

impl Argument {
    /// How PTX calls its kind.
    fn kind(self) -> &'static str {
        match self {
            Self::Pointer(_) | Self::Long(_) => "u64",
            Self::Int(_) => "u32",
            Self::Float(_) => "f32",
        }
    }
}

/// How many blocks of how many threads, with how many bytes of shared memory.
#[derive(Clone, Copy)]
pub(in crate::ops::gpu) struct Shape {
    pub blocks: (u32, u32),
    pub threads: (u32, u32),
    pub shared: u32,
}

impl Shape {
    /// A block for each of so many pieces.
    pub fn each(blocks: usize, threads: u32) -> Self {
        Self { blocks: (blocks.max(1) as u32, 1), threads: (threads, 1), shared: 0 }
    }

    /// Threads that stride over so many elements.
    pub fn strided(elements: usize) -> Self {
        const THREADS: usize = 256;
        const MOST: usize = 1 << 16;
        Self::each(elements.div_ceil(THREADS).min(MOST), THREADS as u32)
    }
}

/// The CUDA device of a tensor.
pub(in crate::ops::gpu) fn device(tensor: &Tensor) -> Result<&CudaDevice> {
    tensor.device().as_cuda_device()
}

/// The compute capability of a tensor's card: 90 is Hopper.
pub(in crate::ops::gpu) fn capability(tensor: &Tensor) -> Result<u32> {
    capability_of(device(tensor)?)
}

fn capability_of(device: &CudaDevice) -> Result<u32> {
    let (major, minor) = device.cuda_stream().context().compute_capability().map_err(Error::wrap)?;
    Ok((10 * major + minor) as u32)
}

/// Launches a kernel. The arguments' memory must be alive until the call returns; what is freed later is freed in the stream's order.
pub(in crate::ops::gpu) fn launch(
    device: &CudaDevice,
    module: Module,
    kernel: &str,
    shape: Shape,
    arguments: &[Argument],
) -> Result<()> {
    let dtype = [(DType::F32, "_f32"), (DType::BF16, "_bf16"), (DType::F16, "_f16")].into_iter();
    let dtype = dtype.filter(|(_, end)| kernel.ends_with(end)).map(|(dtype, _)| dtype).next();
    let compiled = module.compiled(capability_of(device)?, dtype)?;
    // A kernel believes what it is given: a wrong list would read and write anywhere.
    let given = arguments.iter().map(|argument| argument.kind());
    match compiled.parameters.get(kernel) {
        Some(wanted) if given.clone().eq(wanted.iter().map(String::as_str)) => {}
        Some(wanted) => bail!("kernel {kernel} takes {wanted:?} and was given {:?}", given.collect::<Vec<_>>()),
        None => bail!("there is no kernel {kernel}"),
    }
    let name = match dtype.filter(|_| module == Module::Attention) {
        Some(dtype) => format!("{}_{}", module.source().0, dtype.as_str()),
        None => module.source().0.to_string(),
    };
    let function = device.get_or_load_custom_func(kernel, &name, &compiled.ptx)?;
    // What a block may have without asking, together with what the kernel itself declares.
    const ALLOWED: u32 = 40 << 10;
    if shape.shared > ALLOWED {
        let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(attribute, shape.shared as i32).map_err(Error::wrap)?;
    }
    let mut launch = function.builder();
    for argument in arguments {
        match argument {
            Argument::Pointer(value) => launch.arg(value),
            Argument::Int(value) => launch.arg(value),
            Argument::Long(value) => launch.arg(value),
            Argument::Float(value) => launch.arg(value),
        };
    }
    let config = LaunchConfig {
        grid_dim: (shape.blocks.0, shape.blocks.1, 1),
        block_dim: (shape.threads.0, shape.threads.1, 1),
        shared_mem_bytes: shape.shared,
    };
    // SAFETY: kernel and arguments belong together, as the functions of the parent module pass them; memory is as long as they say.
    unsafe { launch.launch(config) }.map_err(|e| Error::Msg(format!("kernel {kernel}: {e:?}")))?;
    Ok(())
}

/// The address of a tensor's first element; the tensor must be contiguous.
pub(in crate::ops::gpu) fn pointer(tensor: &Tensor) -> Result<Argument> {
    address(tensor).map(Argument::Pointer)
}

/// The address of a tensor, or 0.
pub(in crate::ops::gpu) fn optional(tensor: Option<&Tensor>) -> Result<Argument> {
    tensor.map_or(Ok(Argument::Pointer(0)), pointer)
}

/// As [`pointer`], as a number.
pub(in crate::ops::gpu) fn address(tensor: &Tensor) -> Result<u64> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else { bail!("a kernel got a tensor that is not on a CUDA device") };
    if !layout.is_contiguous() {
        bail!("a kernel got a tensor that is not contiguous");
    }
    let stream = device(tensor)?.cuda_stream();
    let start = match tensor.dtype() {
        DType::F32 => storage.as_cuda_slice::<f32>()?.device_ptr(&stream).0,
        DType::BF16 => storage.as_cuda_slice::<half::bf16>()?.device_ptr(&stream).0,
        DType::F16 => storage.as_cuda_slice::<half::f16>()?.device_ptr(&stream).0,
        DType::U32 => storage.as_cuda_slice::<u32>()?.device_ptr(&stream).0,
        DType::U8 => storage.as_cuda_slice::<u8>()?.device_ptr(&stream).0,
        DType::I64 => storage.as_cuda_slice::<i64>()?.device_ptr(&stream).0,
        dtype => bail!("kernels do not read {dtype:?}"),
    };
    Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

/// A tensor whose elements a kernel will write, all of them.
pub(in crate::ops::gpu) fn unwritten(shape: impl Into<candle_core::Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    let bytes = shape.elem_count() * dtype.size_in_bytes();
    // SAFETY: callers write all elements before anybody reads one.
    unsafe { Tensor::empty(shape, dtype, device) }.map_err(|e| Error::Msg(format!("{ALLOCATION}{bytes} failed: {e}")))
}

/// The end of a kernel's name for a dtype.
pub(in crate::ops::gpu) fn suffix(dtype: DType) -> Result<&'static str> {
    match dtype {
        DType::F32 => Ok("f32"),
        DType::BF16 => Ok("bf16"),
        DType::F16 => Ok("f16"),
        dtype => bail!("kernels compute in f32, bf16 and f16, not {dtype:?}"),
    }
}
