//! The decoder: one implementation, driven by the configuration, for every model of the llama family.
//!
//! Tokens of all sequences of a batch stand in one matrix `[tokens, hidden]`. A block is
//! `x + attention(norm(x))`, then `x + mlp(norm(x))`, with `mlp(x) = down(silu(gate(x)) * up(x))`.

use super::config::ModelConfig;
use super::precision::Precision;
use super::projection::{Pass, Projection, Slot};
use super::source::Source;
use super::{TokenBatch, batch};
use crate::error::Result;
use crate::nn::Parameter;
use crate::ops::attention::{AttentionSpec, attention};
use crate::ops::block::{Block as FusedBlock, BlockLayers};
use crate::ops::cache::{KvCache, cached_attention};
use crate::ops::cross_entropy::{IGNORE_INDEX, cross_entropy, head_cross_entropy, head_loss_and_gradient};
use crate::ops::embedding::embedding;
use crate::ops::fused_for;
use crate::ops::gated::silu_mul;
use crate::ops::matrix::cheap_rows;
use crate::ops::norm::rms_norm;
use crate::ops::rope::{RopeTable, rope};
use crate::ops::stack::apply_blocks;
use crate::ops::team;
use candle_core::{DType, Device, Tensor, Var};
use std::sync::Arc;

/// One block of the decoder.
pub struct Block {
    input_norm: Slot,
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    post_norm: Slot,
    gate: Projection,
    up: Projection,
    down: Projection,
}

/// A decoder with its language-model head.
pub struct Decoder {
    config: ModelConfig,
    embedding: Slot,
    blocks: Vec<Block>,
    norm: Slot,
    head: Projection,
    inverse_frequencies: Vec<f32>,
}

/// What the blocks of one forward pass share.
struct Shared<'a> {
    rope: RopeTable,
    spec: Arc<AttentionSpec>,
    pass: Pass<'a>,
}

impl Decoder {
    /// Loads the weights. A dtype of `None` keeps the file's; see [`Precision`] for quantised ones.
    ///
    /// # Errors
    /// A weight is missing, has the wrong shape, or the file is damaged.
    pub fn load(source: &Source, precision: impl Into<Precision>, device: &Device) -> Result<Self> {
        let config = source.config().clone();
        let precision = precision.into();
        let get = |name: String, shape: &[usize]| source.parameter(&name, shape, precision, device);
        let c = &config;
        let (hidden, inner) = (c.hidden_size, c.intermediate_size);
        let (queries, keys) = (c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim);
        let projection = |name: String, inputs: usize, outputs: usize, bias: bool| -> Result<Projection> {
            let weight = get(format!("{name}.weight"), &[outputs, inputs])?;
            let bias = if bias { Some(get(format!("{name}.bias"), &[outputs])?) } else { None };
            Ok(Projection::new(weight, bias))
        };
        let block = |i: usize| -> Result<Block> {
            let at = format!("model.layers.{i}");
            let attention =
                |name: &str, inputs, outputs| projection(format!("{at}.self_attn.{name}"), inputs, outputs, c.attention_bias);
            let mlp = |name: &str, inputs, outputs| projection(format!("{at}.mlp.{name}"), inputs, outputs, c.mlp_bias);
            Ok(Block {
                q: attention("q_proj", hidden, queries)?,
                k: attention("k_proj", hidden, keys)?,
                v: attention("v_proj", hidden, keys)?,
                o: attention("o_proj", queries, hidden)?,
                gate: mlp("gate_proj", hidden, inner)?,
                up: mlp("up_proj", hidden, inner)?,
                down: mlp("down_proj", inner, hidden)?,
                input_norm: Slot::new(get(format!("{at}.input_layernorm.weight"), &[hidden])?),
                post_norm: Slot::new(get(format!("{at}.post_attention_layernorm.weight"), &[hidden])?),
            })
        };
        let words = get("model.embed_tokens.weight".into(), &[c.vocab_size, hidden])?;
        let blocks = (0..c.num_hidden_layers).map(block).collect::<Result<Vec<_>>>()?;
        let norm = Slot::new(get("model.norm.weight".into(), &[hidden])?);
        let head = if c.tie_word_embeddings {
            Projection::new(words.clone(), None)
        } else {
            projection("lm_head".into(), hidden, c.vocab_size, false)?
        };
        let inverse_frequencies = c.inv_freq();
        Ok(Self { embedding: Slot::new(words), blocks, norm, head, inverse_frequencies, config })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.norm.base().device()
    }

    /// Every parameter's slot under its Hugging Face name, in the order of PyTorch's `named_parameters`. A tied head is not
    /// listed again, as it is not there.
    pub fn slots(&self) -> Vec<(String, &Slot)> {
        let mut slots = vec![("model.embed_tokens.weight".to_string(), &self.embedding)];
        for (i, block) in self.blocks.iter().enumerate() {
            for (name, projection) in block.projections() {
                let at = format!("model.layers.{i}.{name}");
                slots.push((format!("{at}.weight"), &projection.weight));
                slots.extend(projection.bias.as_ref().map(|b| (format!("{at}.bias"), b)));
            }
            slots.push((format!("model.layers.{i}.input_layernorm.weight"), &block.input_norm));
            slots.push((format!("model.layers.{i}.post_attention_layernorm.weight"), &block.post_norm));
        }
        slots.push(("model.norm.weight".to_string(), &self.norm));
        if !self.tied() {
            slots.push(("lm_head.weight".to_string(), &self.head.weight));
        }
        slots
    }

    /// Every projection under its Hugging Face module name, the head last.
    pub fn projections(&self) -> Vec<(String, &Projection)> {
        let blocks = self.blocks.iter().enumerate();
        let inner =
            blocks.flat_map(|(i, b)| b.projections().into_iter().map(move |(name, p)| (format!("model.layers.{i}.{name}"), p)));
        inner.chain([("lm_head".to_string(), &self.head)]).collect()
    }

    /// Whether the head's weight is the embedding's.
    pub fn tied(&self) -> bool {
        self.head.weight.current().same(&self.embedding.current())
    }

    /// The base model's parameters under their Hugging Face names.
    pub fn named_parameters(&self) -> Vec<(String, Parameter)> {
        self.slots().into_iter().map(|(name, slot)| (name, slot.current())).collect()
    }

    /// Number of blocks.
    pub fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    /// How many tokens of one sequence a pass computes in little more time than one, with the same bits; at least 1.
    pub fn cheap_tokens(&self) -> usize {
        let device = self.head.weight.current().device();
        if crate::ops::fused() && device.is_cpu() {
            cheap_rows(self.blocks.iter().any(|block| block.down.weight.current().quantised().is_some()))
        } else {
            1
        }
    }

    fn shared<'a>(&self, batch: &TokenBatch, pass: Pass<'a>) -> Shared<'a> {
        let c = &self.config;
        let spec = AttentionSpec {
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            scale: 1.0 / (c.head_dim as f32).sqrt(),
            window: c.sliding_window,
            segments: batch.segments.clone(),
            positions: batch.positions.clone(),
        };
        Shared { rope: RopeTable::new(&batch.positions, &self.inverse_frequencies), spec: Arc::new(spec), pass }
    }

    /// Hidden states after the last norm, `[tokens, hidden]`.
    ///
    /// # Errors
    /// A token is outside the vocabulary, or a tensor operation failed.
    pub fn hidden(&self, batch: &TokenBatch, pass: Pass<'_>) -> Result<Tensor> {
        let shared = self.shared(batch, pass);
        let mut x = embedding(&batch.ids, &self.embedding.current())?;
        let eps = self.config.rms_norm_eps;
        if fused_for(&x) {
            x = apply_blocks(self.blocks.iter().map(|block| block.fused(batch.len(), &shared, eps)).collect(), &x)?;
        } else {
            for block in &self.blocks {
                x = block.forward(&x, &shared, eps, None)?;
            }
        }
        self.normalised(&x)
    }

    fn normalised(&self, x: &Tensor) -> Result<Tensor> {
        Ok(rms_norm(x, &self.norm.current(), self.config.rms_norm_eps)?)
    }

    /// Hidden states after the last norm of sequences that continue what the caches hold; the caches grow by the new tokens.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn hidden_cached(&self, batch: &TokenBatch, caches: &mut [&mut KvCache]) -> Result<Tensor> {
        let shared = self.shared(batch, Pass::default());
        let mut x = embedding(&batch.ids, &self.embedding.current())?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &shared, self.config.rms_norm_eps, Some((layer, &mut *caches)))?;
        }
        self.normalised(&x)
    }

    /// Logits `[rows, vocab]` of hidden states `[rows, hidden]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn logits(&self, hidden: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        self.head.forward(hidden, pass)
    }

    /// The loss of a batch: the sum of the targets' negative log-likelihoods, in nats, divided by `divisor`; a scalar.
    /// `targets` are already shifted ([`batch::shifted_targets`]).
    ///
    /// # Errors
    /// A target is outside the vocabulary, or a tensor operation failed.
    pub fn loss(&self, hidden: &Tensor, targets: &[i64], divisor: f64) -> Result<Tensor> {
        if self.head.has_delta() {
            // An adapter on the head changes the logits, so they have to exist.
            return Ok(cross_entropy(&self.head.forward(hidden, Pass::default())?, targets, divisor)?);
        }
        Ok(head_cross_entropy(hidden, &self.head.weight.current(), targets, divisor)?)
    }

    /// Forward and backward of a batch; gradients are added to the parameters. Returns the loss.
    ///
    /// With `checkpointing`, only the blocks' inputs are kept, and each block is computed again in the backward pass:
    /// the peak is then that of one block. Dropout repeats, because the random source is put back for the second pass.
    ///
    /// # Errors
    /// As [`Self::loss`]; a batch without any target.
    pub fn loss_backward(
        &self,
        batch: &TokenBatch,
        targets: &[i64],
        divisor: f64,
        pass: Pass<'_>,
        checkpointing: bool,
    ) -> Result<f64> {
        team::with(|| self.both_passes(batch, targets, divisor, pass, checkpointing))
    }

    fn both_passes(&self, batch: &TokenBatch, targets: &[i64], divisor: f64, pass: Pass<'_>, checkpointing: bool) -> Result<f64> {
        debug_assert_eq!(targets.len(), batch.len());
        if targets.iter().all(|t| *t == IGNORE_INDEX) {
            // Nothing is learned from it, and every trainable parameter still gets a gradient: zero.
            return self.zero_gradients().map(|()| 0.0);
        }
        if !checkpointing {
            let hidden = self.hidden(batch, pass)?;
            let (loss, gradient) = self.head_backward(&hidden, targets, divisor)?;
            if hidden.track_op() {
                crate::nn::backward(&(hidden * gradient)?.sum_all()?)?;
            }
            return Ok(loss);
        }
        let shared = self.shared(batch, pass);
        let eps = self.config.rms_norm_eps;
        let mut inputs = vec![crate::nn::no_grad(|| embedding(&batch.ids, &self.embedding.current()))?];
        let mut states = Vec::new();
        for block in &self.blocks {
            states.push(pass.dropout.map(|r| r.borrow().clone()));
            let last = &inputs[inputs.len() - 1];
            let next = crate::nn::no_grad(|| block.forward(last, &shared, eps, None))?;
            inputs.push(next);
        }
        let after = pass.dropout.map(|r| r.borrow().clone());
        let last = leaf(inputs.pop())?;
        let hidden = self.normalised(&last)?;
        let (loss, gradient) = self.head_backward(&hidden, targets, divisor)?;
        let mut gradient = backward_to(&(hidden * gradient)?.sum_all()?, &last)?;
        for (block, state) in self.blocks.iter().zip(states).rev() {
            let input = leaf(inputs.pop())?;
            if let (Some(random), Some(state)) = (pass.dropout, state) {
                *random.borrow_mut() = state;
            }
            let output = block.forward(&input, &shared, eps, None)?;
            gradient = backward_to(&(output * &gradient)?.sum_all()?, &input)?;
        }
        if let (Some(random), Some(after)) = (pass.dropout, after) {
            *random.borrow_mut() = after;
        }
        if self.embedding.current().tracked() {
            let words = embedding(&batch.ids, &self.embedding.current())?;
            crate::nn::backward(&(words * gradient)?.sum_all()?)?;
        }
        Ok(loss)
    }

    /// The loss and its gradient by the hidden states; adds to the head's gradients.
    fn head_backward(&self, hidden: &Tensor, targets: &[i64], divisor: f64) -> Result<(f64, Tensor)> {
        if !self.head.has_delta() {
            return Ok(head_loss_and_gradient(hidden, &self.head.weight.current(), targets, divisor)?);
        }
        let leaf = leaf(Some(hidden.detach()))?;
        let loss = self.loss(&leaf, targets, divisor)?;
        let gradient = backward_to(&loss, &leaf)?;
        Ok((f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?), gradient))
    }

    fn zero_gradients(&self) -> Result<()> {
        for (_, parameter) in self.named_parameters().into_iter().filter(|(_, p)| p.requires_grad() && !p.has_grad()) {
            parameter.accumulate(&parameter.value().zeros_like()?)?;
        }
        Ok(())
    }
}

/// A tracked leaf that holds a block's input.
fn leaf(input: Option<Tensor>) -> Result<Tensor> {
    let input = input.ok_or_else(|| crate::Error::Training("a block's input is missing".into()))?;
    Ok(Var::from_tensor(&input)?.into_inner())
}

/// Runs candle's backward from a scalar, and returns the gradient that reached `input`.
fn backward_to(scalar: &Tensor, input: &Tensor) -> Result<Tensor> {
    let mut store = crate::autograd::backward_store(scalar)?;
    let gradient = store.remove(input);
    gradient.map(|g| g.detach()).ok_or_else(|| crate::Error::Training("no gradient reached a block's input".into()))
}

impl Block {
    fn projections(&self) -> [(&'static str, &Projection); 7] {
        [
            ("self_attn.q_proj", &self.q),
            ("self_attn.k_proj", &self.k),
            ("self_attn.v_proj", &self.v),
            ("self_attn.o_proj", &self.o),
            ("mlp.gate_proj", &self.gate),
            ("mlp.up_proj", &self.up),
            ("mlp.down_proj", &self.down),
        ]
    }

    /// The block as one operation, for a device that has it.
    fn fused(&self, tokens: usize, shared: &Shared<'_>, eps: f64) -> FusedBlock {
        let layer = |projection: &Projection| projection.layer(tokens, shared.pass);
        let layers = BlockLayers {
            input_norm: self.input_norm.current(),
            q: layer(&self.q),
            k: layer(&self.k),
            v: layer(&self.v),
            o: layer(&self.o),
            post_norm: self.post_norm.current(),
            gate: layer(&self.gate),
            up: layer(&self.up),
            down: layer(&self.down),
        };
        FusedBlock { layers: Arc::new(layers), rope: shared.rope.clone(), spec: shared.spec.clone(), eps }
    }

    fn forward(&self, x: &Tensor, shared: &Shared<'_>, eps: f64, cache: Option<(usize, &mut [&mut KvCache])>) -> Result<Tensor> {
        if fused_for(x) {
            let fused = self.fused(x.dim(0)?, shared, eps);
            return Ok(match cache {
                None => apply_blocks(vec![fused], x)?,
                Some((layer, caches)) => fused.apply_cached(x, layer, caches)?,
            });
        }
        let pass = shared.pass;
        let normal = rms_norm(x, &self.input_norm.current(), eps)?;
        let q = rope(&self.q.forward(&normal, pass)?, &shared.rope)?;
        let k = rope(&self.k.forward(&normal, pass)?, &shared.rope)?;
        let v = self.v.forward(&normal, pass)?;
        let mixed = match cache {
            None => attention(&q, &k, &v, (*shared.spec).clone())?,
            Some((layer, caches)) => cached_attention(&q, &k, &v, &shared.spec, layer, caches)?,
        };
        let x = (x + self.o.forward(&mixed, pass)?)?;
        let normal = rms_norm(&x, &self.post_norm.current(), eps)?;
        let inner = silu_mul(&self.gate.forward(&normal, pass)?, &self.up.forward(&normal, pass)?)?;
        Ok((&x + self.down.forward(&inner, pass)?)?)
    }
}

/// Negative log-likelihood summed over the targets, in nats, and the number of targets, without gradient.
///
/// # Errors
/// As [`Decoder::hidden`].
pub fn negative_log_likelihood(decoder: &Decoder, sequences: &[&[u32]]) -> Result<(f64, usize)> {
    let tokens = TokenBatch::new(sequences.iter().copied());
    let labels: Vec<Vec<i64>> = sequences.iter().map(|s| s.iter().map(|id| i64::from(*id)).collect()).collect();
    let targets = batch::shifted_targets(labels.iter().map(Vec::as_slice));
    let count = targets.iter().filter(|t| **t != IGNORE_INDEX).count();
    if count == 0 {
        return Ok((0.0, 0));
    }
    let loss = || {
        let hidden = decoder.hidden(&tokens, Pass::default())?;
        let loss = decoder.loss(&hidden, &targets, 1.0)?;
        Ok((f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?), count))
    };
    crate::nn::no_grad(|| team::with(loss))
}
