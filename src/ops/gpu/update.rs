//! What changes parameters on a CUDA device, many tensors in a launch: the norm of the gradients with the factor that clips them, and
//! AdamW. Nothing waits for the device.

use super::cuda::{Argument, Module, Shape, address, launch, pointer, suffix, unwritten};
use super::upload;
use candle_core::{DType, Device, Result, Tensor, bail};
use std::collections::HashMap;

/// Elements of a block's piece of a tensor.
const CHUNK: usize = 4096;

const THREADS: u32 = 256;

/// A parameter, its gradient and its state, all on one device.
#[derive(Clone)]
pub(crate) struct Entry {
    pub parameter: Tensor,
    pub gradient: Tensor,
    pub first: Tensor,
    pub second: Tensor,
    /// The exact value of a parameter that is not f32.
    pub master: Option<Tensor>,
}

/// The numbers of a step of AdamW that are the same for many parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Numbers {
    pub lr: f32,
    /// `1 - beta1` and `1 - beta2`, of which f32 keeps the digits: those of a beta beside 1 it loses.
    pub shares: [f32; 2],
    pub eps: f32,
    pub weight_decay: f32,
    /// `1 - beta1^step`.
    pub correction1: f32,
    /// `sqrt(1 - beta2^step)`.
    pub correction2: f32,
}

/// Tables that stay the same from step to step.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    /// By the tensors' sizes: of every block the tensor and the piece of it.
    chunks: HashMap<Vec<usize>, (Tensor, usize)>,
    /// 1 where a norm was not finite: then nothing is changed any more.
    broken: Option<Tensor>,
}

impl Tables {
    fn chunks(&mut self, sizes: Vec<usize>, device: &Device) -> Result<(Tensor, usize)> {
        if let Some((table, blocks)) = self.chunks.get(&sizes) {
            return Ok((table.clone(), *blocks));
        }
        let of_tensor = |(tensor, size): (u32, &usize)| (0..size.div_ceil(CHUNK) as u32).flat_map(move |piece| [tensor, piece]);
        let table: Vec<u32> = (0..).zip(&sizes).flat_map(of_tensor).collect();
        let blocks = table.len() / 2;
        let table = upload(&table, 2 * blocks, device)?;
        self.chunks.insert(sizes, (table.clone(), blocks));
        Ok((table, blocks))
    }

    /// The norm of all gradients together and the factor that clips them to `max_norm` (0: as they are): `[norm, factor]`.
    pub fn norm(&mut self, entries: &[Entry], max_norm: f64) -> Result<Tensor> {
        let Some(device) = entries.first().map(|entry| entry.gradient.device().clone()) else { bail!("there are no gradients") };
        let mut launches = Vec::new();
        for dtype in [DType::F32, DType::BF16] {
            let same: Vec<&Entry> = entries.iter().filter(|entry| entry.gradient.dtype() == dtype).collect();
            if !same.is_empty() {
                let (chunks, blocks) = self.chunks(same.iter().map(|e| e.gradient.elem_count()).collect(), &device)?;
                launches.push((table(&same, &device)?, chunks, blocks, dtype));
            }
        }
        let total: usize = launches.iter().map(|(_, _, blocks, _)| blocks).sum();
        let partial = unwritten(total, DType::F32, &device)?;
        let mut at = 0;
        let cuda = device.as_cuda_device()?;
        for (tensors, chunks, blocks, dtype) in &launches {
            let arguments = [pointer(tensors)?, pointer(chunks)?, pointer(&partial.narrow(0, at, *blocks)?)?];
            launch(cuda, Module::AdamW, &format!("squared_norm_{}", suffix(*dtype)?), Shape::each(*blocks, THREADS), &arguments)?;
            at += blocks;
        }
        let broken = match self.broken.take().filter(|broken| broken.device().same_device(&device)) {
            Some(broken) => broken,
            None => Tensor::zeros(1, DType::F32, &device)?,
        };
        // A tensor of its own for every step, so that it can be read later.
        let result = unwritten(2, DType::F32, &device)?;
        let arguments = [
            pointer(&partial)?,
            Argument::Int(total as i32),
            Argument::Float(max_norm as f32),
            Argument::Float(1.0),
            pointer(&result)?,
            pointer(&broken)?,
        ];
        launch(cuda, Module::AdamW, "norm_finish", Shape::each(1, 1024), &arguments)?;
        self.broken = Some(broken);
        Ok(result)
    }

    /// One step of AdamW on these parameters, by their gradients times the factor that [`Self::norm`] gave.
    pub fn adamw(&mut self, entries: &[Entry], numbers: Numbers, norm: &Tensor) -> Result<()> {
        let device = norm.device();
        for (parameter, gradient) in [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::BF16, DType::BF16)] {
            let of_both = |entry: &&Entry| (entry.parameter.dtype(), entry.gradient.dtype()) == (parameter, gradient);
            let same: Vec<&Entry> = entries.iter().filter(of_both).collect();
            if same.is_empty() {
                continue;
            }
            let (chunks, blocks) = self.chunks(same.iter().map(|e| e.gradient.elem_count()).collect(), device)?;
            let Numbers { lr, shares: [share1, share2], eps, weight_decay, correction1, correction2 } = numbers;
            // Named, so that its memory is there until the launch.
            let tensors = table(&same, device)?;
            let mut arguments = vec![pointer(&tensors)?, pointer(&chunks)?, pointer(norm)?];
            arguments.extend([lr, share1, share2, eps, weight_decay, correction1, correction2].map(Argument::Float));
            let kernel = format!("adamw_{}_{}", suffix(parameter)?, suffix(gradient)?);
            launch(device.as_cuda_device()?, Module::AdamW, &kernel, Shape::each(blocks, THREADS), &arguments)?;
        }
        Ok(())
    }
}

/// Whether [`Tables`] can change a parameter with such a gradient.
pub(crate) fn serves(parameter: &Tensor, gradient: &Tensor) -> bool {
    let dtypes = (parameter.dtype(), gradient.dtype());
    let known = [(DType::F32, DType::F32), (DType::BF16, DType::F32), (DType::BF16, DType::BF16)];
    parameter.device().is_cuda() && parameter.is_contiguous() && gradient.is_contiguous() && known.contains(&dtypes)
}

/// Addresses and sizes of tensors, as the kernels' `Tensor_`.
fn table(entries: &[&Entry], device: &Device) -> Result<Tensor> {
    let mut numbers = Vec::with_capacity(entries.len() * 6);
    for entry in entries {
        let Entry { parameter, gradient, first, second, master } = entry;
        for tensor in [parameter, gradient, first, second] {
            numbers.push(address(tensor)? as i64);
        }
        numbers.push(master.as_ref().map(address).transpose()?.unwrap_or(0) as i64);
        numbers.push(parameter.elem_count() as i64);
    }
    upload(&numbers, numbers.len(), device)
}
