//! Blocks of a decoder one after the other on tensors, as one operation of candle's graph; see [`crate::ops::stack`] for why.

use super::block::{self, Kept};
use super::parts::Seen;
use crate::ops::attention::AttentionSpec;
use crate::ops::block::Block;
use crate::ops::{self, Recording};
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Result, Shape, Storage, Tensor};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether tensors can compute all of the blocks.
pub(crate) fn serves(blocks: &[Block]) -> bool {
    blocks.iter().all(block::serves)
}

/// Applies blocks to `x` [tokens, hidden].
///
/// # Errors
/// Shapes that do not fit, or no memory.
pub fn apply_blocks(mut blocks: Vec<Block>, x: &Tensor) -> Result<Tensor> {
    // Nothing is kept for blocks before the first that trains.
    let untracked = if x.track_op() { 0 } else { blocks.iter().take_while(|block| !block.tracked()).count() };
    let rest = blocks.split_off(untracked);
    let mut known: Vec<(Arc<AttentionSpec>, Seen)> = Vec::new();
    [blocks, rest].into_iter().filter(|blocks| !blocks.is_empty()).try_fold(x.contiguous()?, |x, blocks| {
        let mut seen = Vec::new();
        for block in &blocks {
            let place = known.iter().position(|(spec, _)| Arc::ptr_eq(spec, &block.spec));
            let place = place.map_or_else(
                || {
                    known.push((block.spec.clone(), Seen::new(&block.spec, &x)?));
                    Ok::<_, candle_core::Error>(known.len() - 1)
                },
                Ok,
            )?;
            seen.push(known[place].1.clone());
        }
        apply_known(blocks, seen, &x)
    })
}

fn apply_known(blocks: Vec<Block>, seen: Vec<Seen>, x: &Tensor) -> Result<Tensor> {
    let tracked = blocks.iter().any(Block::tracked);
    let recorded = (tracked || x.track_op()) && crate::autograd::grad_enabled();
    let stack = Stack { blocks, seen };
    let (y, saved) = stack.run(&x.detach(), recorded)?;
    if !recorded {
        return Ok(y);
    }
    ops::apply(x, tracked, |recording| StackOp { stack, recording, output: Mutex::new(Some(y)), saved: Mutex::new(Some(saved)) })
}

/// What a block's backward pass needs.
struct SavedBlock {
    /// Nothing for the first block, whose input candle keeps.
    input: Option<Tensor>,
    kept: Kept,
}

struct Stack {
    blocks: Vec<Block>,
    seen: Vec<Seen>,
}

impl Stack {
    /// The output and, where that is wanted, what the backward pass needs.
    fn run(&self, x: &Tensor, keep: bool) -> Result<(Tensor, Vec<SavedBlock>)> {
        let (mut last, mut saved) = (None, Vec::new());
        for (block, seen) in self.blocks.iter().zip(&self.seen) {
            let (output, kept) = block::forward(block, last.as_ref().unwrap_or(x), seen)?;
            let input = last.replace(output);
            if keep {
                saved.push(SavedBlock { input, kept });
            }
        }
        Ok((last.unwrap_or_else(|| x.clone()), saved))
    }

    fn backward(&self, x: &Tensor, mut saved: Vec<SavedBlock>, g: &Tensor, wants_input: bool) -> Result<Option<Tensor>> {
        let mut gradient = g.clone();
        for (index, (block, seen)) in self.blocks.iter().zip(&self.seen).enumerate().rev() {
            // Taken one by one, so that memory is freed on the way back.
            let Some(SavedBlock { input, kept }) = saved.pop() else { candle_core::bail!("a block's activations are missing") };
            let input = input.as_ref().unwrap_or(x);
            match block::backward(block, input, kept, seen, &gradient, index > 0 || wants_input)? {
                Some(by_input) => gradient = by_input,
                None => return Ok(None),
            }
        }
        Ok(Some(gradient))
    }
}

struct StackOp {
    stack: Stack,
    recording: Recording,
    /// Computed before the operation was made: operations are given memory, not tensors.
    output: Mutex<Option<Tensor>>,
    saved: Mutex<Option<Vec<SavedBlock>>>,
}

/// What an operation gives that was computed before it was made.
pub(super) fn copied(output: Option<Tensor>) -> Result<(CudaStorage, Shape)> {
    let Some(output) = output else { candle_core::bail!("an operation's output was taken before") };
    let (storage, layout) = output.storage_and_layout();
    match &*storage {
        Storage::Cuda(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
        _ => candle_core::bail!("an operation's output is not on a CUDA device"),
    }
}

impl StackOp {
    fn output(&self) -> Result<Tensor> {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner).take();
        output.ok_or_else(|| candle_core::Error::Msg("the blocks' output was taken before".into()))
    }
}

impl CustomOp1 for StackOp {
    fn name(&self) -> &'static str {
        "decoder_blocks"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        let output = self.output()?;
        let (storage, layout) = output.storage_and_layout();
        match &*storage {
            Storage::Cpu(storage) => Ok((storage.try_clone(layout)?, layout.shape().clone())),
            _ => candle_core::bail!("the blocks' output is on another device than their input"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        copied(self.output.lock().unwrap_or_else(PoisonError::into_inner).take())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (x, g) = (x.detach(), g.detach().contiguous()?);
        // Taken, so that memory is freed on the way back; a second backward pass computes it again.
        let saved = match saved {
            Some(saved) => saved,
            None => self.stack.run(&x, true)?.1,
        };
        self.stack.backward(&x, saved, &g, !self.recording.no_input_gradient)
    }
}
