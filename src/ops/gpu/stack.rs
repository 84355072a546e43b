//! Blocks of a decoder one after the other on tensors, as one operation of candle's graph; see [`crate::ops::stack`] for why.

use super::block::{self, Kept};
use super::given;
use super::parts::Seen;
use crate::ops::attention::AttentionSpec;
use crate::ops::block::Block;
use candle_core::{Result, Tensor};
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
    let saved = Mutex::new(Some(saved));
    let backward = move |x: &Tensor, g: &Tensor, wants_input: bool| {
        // Taken, so that memory is freed on the way back; a second backward pass computes it again.
        let kept = saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let kept = match kept {
            Some(kept) => kept,
            None => stack.run(x, true)?.1,
        };
        stack.backward(x, kept, g, wants_input)
    };
    given::recorded(x, tracked, "decoder_blocks", y, Box::new(backward))
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
