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
pub fn apply_blocks(mut blocks: Vec<Block>, x: &Tensor) -> Result<Tensor> {
    // Nothing is kept for blocks before the first that trains.
    let untracked = if x.track_op() { 0 } else { blocks.iter().take_while(|block| !block.tracked()).count() };
    let rest = blocks.split_off(untracked);
    [blocks, rest].into_iter().filter(|blocks| !blocks.is_empty()).try_fold(x.contiguous()?, |x, blocks| {
        let tracked = blocks.iter().any(Block::tracked);
        super::apply(&x, tracked, |recording| StackOp { blocks, recording, saved: Mutex::default() })
    })
}

/// What a block's backward pass needs.
struct SavedBlock {
    /// Nothing for the first block, whose input candle keeps.
    input: Option<Vec<f32>>,
    kept: Kept,
}

struct StackOp {
    blocks: Vec<Block>,
    recording: Recording,
    saved: Mutex<Option<Vec<SavedBlock>>>,
}

impl StackOp {
    /// The output and, where that is wanted, what the backward pass needs.
    fn run(&self, x: &[f32], keep: bool) -> Result<(Vec<f32>, Vec<SavedBlock>)> {
        let (mut last, mut saved) = (None, Vec::new());
        for block in &self.blocks {
            let (output, kept) = block.run_whole(last.as_deref().unwrap_or(x))?;
            let input = last.replace(output);
            if keep {
                saved.push(SavedBlock { input, kept });
            }
        }
        Ok((last.unwrap_or_else(|| x.to_vec()), saved))
    }

    fn backward(&self, x: &[f32], saved: Vec<SavedBlock>, g: &[f32]) -> Result<Option<Vec<f32>>> {
        let mut gradient = Cow::Borrowed(g);
        for (index, (block, SavedBlock { input, kept })) in self.blocks.iter().zip(saved).enumerate().rev() {
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
        let (y, saved) = self.run(super::elements(storage, layout)?, self.recording.recorded)?;
        if self.recording.recorded {
            *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(saved);
        }
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner).take();
        let gradient = super::with_elements(g, |g| {
            super::with_elements(x, |x| {
                // Taken, so that memory is freed on the way back; a second backward pass computes it again.
                let saved = match saved {
                    Some(saved) => saved,
                    None => self.run(x, true)?.1,
                };
                self.backward(x, saved, g)
            })
        })?;
        gradient.map(|dx| Tensor::from_vec(dx, x.shape(), x.device())).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autograd::{Parameter, backward};
    use crate::ops::attention::AttentionSpec;
    use crate::ops::block::{BlockLayers, Inner, Mixer};
    use crate::ops::check::{difference, tensor};
    use crate::ops::gated::Activation;
    use crate::ops::layer::Layer;
    use crate::ops::norm::{Norm, NormKind};
    use crate::ops::rope::RopeTable;
    use std::sync::Arc;

    const TOKENS: u32 = 5;

    /// Three blocks of two heads of four; those that train require gradients.
    fn blocks(train: [bool; 3]) -> Vec<Block> {
        let block = |(index, train): (u64, bool)| {
            let parameter = |shape: &[usize], seed: u64| {
                let parameter = Parameter::new(&tensor(shape, 10 * index + seed)).unwrap();
                parameter.set_requires_grad(train);
                parameter
            };
            let layer = |outputs, inputs, seed| Layer::plain(parameter(&[outputs, inputs], seed), None);
            let norm = |width, seed| Norm { kind: NormKind::Rms, weight: parameter(&[width], seed), bias: None, eps: 1e-5 };
            let layers = BlockLayers {
                input_norm: Some(norm(8, 1)),
                mixer: Mixer::Apart([layer(8, 8, 2), layer(8, 8, 3), layer(8, 8, 4)]),
                q_norm: None,
                k_norm: None,
                o: layer(8, 8, 5),
                attention_norm: None,
                inner_norm: Some(norm(8, 6)),
                inner: Inner::Apart([layer(12, 8, 7), layer(12, 8, 8)]),
                activation: Activation::Silu,
                down: layer(8, 12, 9),
                output_norm: None,
                residual_scale: 1.0,
            };
            let positions: Vec<u32> = (0..TOKENS).collect();
            let spec = AttentionSpec {
                heads: 2,
                kv_heads: 2,
                head_dim: 4,
                scale: 0.5,
                softcap: None,
                window: None,
                segments: vec![TOKENS as usize],
                positions: positions.clone(),
            };
            Block { layers: Arc::new(layers), rope: Some(RopeTable::new(&positions, &[1.0, 0.1])), spec: Arc::new(spec) }
        };
        (0..).zip(train).map(block).collect()
    }

    fn together(blocks: Vec<Block>, x: &Tensor) -> Tensor {
        apply_blocks(blocks, x).unwrap()
    }

    fn one_by_one(blocks: Vec<Block>, x: &Tensor) -> Tensor {
        blocks.into_iter().fold(x.clone(), |x, block| together(vec![block], &x))
    }

    /// The gradients by what trains, in order, after so many backward passes.
    fn gradients(train: [bool; 3], input: &Tensor, passes: usize, apply: fn(Vec<Block>, &Tensor) -> Tensor) -> Vec<Tensor> {
        let blocks = blocks(train);
        let y = apply(blocks.clone(), input);
        let loss = (&y * &tensor(y.dims(), 99)).unwrap().sum_all().unwrap();
        for _ in 0..passes {
            backward(&loss).unwrap();
        }
        let of_block = |block: &Block| {
            let layers = &block.layers;
            let (Some(norm), Mixer::Apart([q, _, v])) = (&layers.input_norm, &layers.mixer) else { panic!("as made above") };
            [&norm.weight, &q.weight, &v.weight, &layers.down.weight].map(|p| p.grad().unwrap())
        };
        let found: Vec<Option<Tensor>> = blocks.iter().flat_map(of_block).collect();
        assert!(
            found.iter().zip(train.iter().flat_map(|train| [train; 4])).all(|(gradient, train)| gradient.is_some() == *train)
        );
        found.into_iter().flatten().chain([y.detach()]).collect()
    }

    #[test]
    fn together_the_blocks_give_what_they_give_one_by_one() {
        let x = tensor(&[TOKENS as usize, 8], 50);
        for train in [[true; 3], [false, true, true], [false, true, false]] {
            let expected = gradients(train, &x, 1, one_by_one);
            for (found, expected) in gradients(train, &x, 1, together).iter().zip(&expected) {
                assert!(difference(found, expected) < 1e-6, "{train:?} {:?}", expected.dims());
            }
            // What was kept is gone at the second pass, and computed again.
            let (twice, last) = (gradients(train, &x, 2, together), expected.len() - 1);
            for (found, expected) in twice[..last].iter().zip(&expected) {
                assert!(difference(found, &(expected * 2.0).unwrap()) < 1e-6, "{train:?} {:?}", expected.dims());
            }
        }
    }

    #[test]
    fn the_inputs_gradient_goes_through_frozen_blocks() {
        let of_input = |apply: fn(Vec<Block>, &Tensor) -> Tensor| {
            let x = Parameter::new(&tensor(&[TOKENS as usize, 8], 50)).unwrap();
            gradients([false; 3], &x.tensor(), 1, apply);
            x.grad().unwrap().unwrap()
        };
        assert!(difference(&of_input(together), &of_input(one_by_one)) < 1e-6);
    }
}
