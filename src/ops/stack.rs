//! Blocks of a decoder one after the other, as one operation.
//!
//! One operation for all of them spares candle's zeroed gradient, copy and addition at every edge between them, and the threads that
//! candle wakes for these.

use super::Recording;
use super::block::{Block, Kept};
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

/// Applies blocks to `x` [tokens, hidden], which must be f32 on the CPU.
///
/// # Errors
/// Shapes that do not fit.
pub fn apply_blocks(blocks: Vec<Block>, x: &Tensor) -> Result<Tensor> {
    let mut blocks = blocks;
    // Nothing is kept for blocks before the first that trains.
    let untracked = if x.track_op() { 0 } else { blocks.iter().take_while(|block| !block.tracked()).count() };
    let rest = blocks.split_off(untracked);
    [blocks, rest].into_iter().filter(|blocks| !blocks.is_empty()).try_fold(x.contiguous()?, |x, blocks| {
        let tracked = blocks.iter().any(Block::tracked);
        super::apply(&x, tracked, |recording| StackOp { blocks, recording, passed: Mutex::default() })
    })
}

/// What a block's backward pass needs.
struct Passed {
    /// Nothing for the first block, whose input candle keeps.
    input: Option<Vec<f32>>,
    kept: Kept,
}

struct StackOp {
    blocks: Vec<Block>,
    recording: Recording,
    passed: Mutex<Option<Vec<Passed>>>,
}

impl StackOp {
    /// The output and, where that is wanted, what the backward pass needs.
    fn run(&self, x: &[f32], keep: bool) -> Result<(Vec<f32>, Vec<Passed>)> {
        let (mut last, mut passed) = (None, Vec::new());
        for block in &self.blocks {
            let (output, kept) = block.run_whole(last.as_deref().unwrap_or(x))?;
            let input = last.replace(output);
            if keep {
                passed.push(Passed { input, kept });
            }
        }
        Ok((last.unwrap_or_else(|| x.to_vec()), passed))
    }

    fn backward(&self, x: &[f32], passed: Vec<Passed>, g: &[f32]) -> Result<Option<Vec<f32>>> {
        let mut gradient = Cow::Borrowed(g);
        for (index, (block, Passed { input, kept })) in self.blocks.iter().zip(passed).enumerate().rev() {
            let wants_input = index > 0 || !self.recording.no_input_gradient;
            match block.backward(input.as_deref().unwrap_or(x), kept, &gradient, wants_input)? {
                Some(by_input) => gradient = Cow::Owned(by_input),
                None => return Ok(None),
            }
        }
        Ok(Some(gradient.into_owned()))
    }
}

impl CustomOp1 for StackOp {
    fn name(&self) -> &'static str {
        "decoder_blocks"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, passed) = self.run(super::elements(storage, layout)?, self.recording.recorded)?;
        if self.recording.recorded {
            *self.passed.lock().unwrap_or_else(PoisonError::into_inner) = Some(passed);
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gradient = super::with_elements(g, |g| {
            super::with_elements(x, |x| {
                // Taken, so that memory is freed on the way back; a second backward pass computes it again.
                let passed = match passed {
                    Some(passed) => passed,
                    None => self.run(x, true)?.1,
                };
                self.backward(x, passed, g)
            })
        })?;
        gradient.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()
    }
}
