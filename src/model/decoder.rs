//! The decoder: one implementation, driven by the configuration, for every family of models.
//!
//! Tokens of all sequences of a batch stand in one matrix `[tokens, hidden]`: embedded, taken through the blocks, normed, and
//! multiplied by the head.

use super::block::{Block, Module, NormSlots, Shared, dropped};
use super::config::{LayerConfig, ModelConfig, Rope};
use super::family::Part;
use super::precision::Precision;
use super::projection::{Pass, Projection, RowDelta, Slot};
use super::source::Source;
use super::{TokenBatch, batch};
use crate::error::{Error, Result};
use crate::nn::Parameter;
use crate::ops::attention::AttentionSpec;
use crate::ops::cache::KvCache;
use crate::ops::cross_entropy::{
    Head, IGNORE_INDEX, Loss, capped, head_cross_entropy, head_loss_and_gradient, smoothed_cross_entropy,
};
use crate::ops::embedding::embedding;
use crate::ops::matrix::cheap_rows;
use crate::ops::rope::RopeTable;
use crate::ops::stack::apply_blocks;
use crate::ops::team;
use crate::ops::{fused_for, gpu};
use candle_core::{DType, Device, Tensor, Var};
use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

/// A decoder with its language-model head.
pub struct Decoder {
    config: ModelConfig,
    embedding: Slot,
    /// The token whose row of the embedding is not trained.
    padding: Option<u32>,
    /// What adapters change of the embedding's rows.
    row_deltas: RwLock<Vec<Arc<dyn RowDelta>>>,
    /// The embedding of positions, where there is one.
    positions: Option<Slot>,
    blocks: Vec<Block>,
    norm: NormSlots,
    head: Projection,
    /// The kinds of layers that there are.
    kinds: Vec<LayerConfig>,
}

impl Decoder {
    /// Loads the weights. A dtype of `None` keeps the file's; see [`Precision`] for quantised ones.
    ///
    /// # Errors
    /// A weight is missing, has the wrong shape, or the file is damaged; the file has a bias that the configuration has not.
    pub fn load(source: &Source, precision: impl Into<Precision>, device: &Device) -> Result<Self> {
        let config = source.config().clone();
        refuse_other_biases(source, &config)?;
        let precision = precision.into();
        let names = config.family.traits().names;
        let get = |name: &str, shape: &[usize], transposed: bool| {
            source.parameter(&stored_name(source, names.base, name), shape, transposed, precision, device)
        };
        let matrix = |name: &str, rows: usize| get(&format!("{name}.weight"), &[rows, config.hidden_size], false);
        let mut kinds: Vec<LayerConfig> = Vec::new();
        let block = |(i, layer): (usize, &LayerConfig)| -> Result<Block> {
            let kind = kinds.iter().position(|kind| kind == layer).unwrap_or_else(|| {
                kinds.push(*layer);
                kinds.len() - 1
            });
            Block::load(&config, kind, &|name, shape, transposed| get(&format!("{}.{i}.{name}", names.blocks), shape, transposed))
        };
        let words = matrix(names.embedding, config.vocab_size)?;
        let positions = names.positions.map(|name| matrix(name, config.max_position_embeddings)).transpose()?;
        let blocks = config.layers.iter().enumerate().map(block).collect::<Result<Vec<_>>>()?;
        let norm = NormSlots::new(&config, config.hidden_size, |end, shape| get(&format!("{}.{end}", names.norm), shape, false))?;
        let head = if config.tie_word_embeddings {
            Projection::new(words.clone(), None)
        } else {
            Projection::new(matrix("lm_head", config.vocab_size)?, None)
        };
        let (embedding, positions, padding) = (Slot::new(words), positions.map(Slot::new), config.embedding_padding());
        Ok(Self { embedding, padding, row_deltas: RwLock::default(), positions, blocks, norm, head, kinds, config })
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.norm.weight.base().device()
    }

    /// Every parameter's slot under its Hugging Face name, in the order of PyTorch's `named_parameters`. A tied head is not
    /// listed again, as it is not there.
    pub fn slots(&self) -> Vec<(String, &Slot)> {
        let names = self.config.family.traits().names;
        let mut slots = vec![(format!("{}.weight", names.embedding), &self.embedding)];
        slots.extend(names.positions.zip(self.positions.as_ref()).map(|(name, slot)| (format!("{name}.weight"), slot)));
        for (i, block) in self.blocks.iter().enumerate() {
            for (name, module) in block.parts() {
                add_slots(&mut slots, &format!("{}.{i}.{name}", names.blocks), module.slots());
            }
        }
        add_slots(&mut slots, names.norm, self.norm.slots());
        if !self.tied() {
            slots.push(("lm_head.weight".to_string(), &self.head.weight));
        }
        slots
    }

    /// Every projection under its Hugging Face module name, the head last.
    pub fn projections(&self) -> Vec<(String, &Projection)> {
        let blocks = self.config.family.traits().names.blocks;
        let mut projections = Vec::new();
        for (i, block) in self.blocks.iter().enumerate() {
            for (name, module) in block.parts() {
                if let Module::Projection(projection) = module {
                    projections.push((format!("{blocks}.{i}.{name}"), projection));
                }
            }
        }
        projections.push(("lm_head".to_string(), &self.head));
        projections
    }

    /// The embedding of tokens.
    pub fn embedding(&self) -> &Slot {
        &self.embedding
    }

    /// The head.
    pub fn head(&self) -> &Projection {
        &self.head
    }

    /// Sets what changes the embedding's rows, in the place of what did before.
    pub fn set_row_deltas(&self, deltas: Vec<Arc<dyn RowDelta>>) {
        *self.row_deltas.write().unwrap_or_else(|e| e.into_inner()) = deltas;
    }

    fn row_deltas(&self) -> Vec<Arc<dyn RowDelta>> {
        self.row_deltas.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Whether the embeddings are trained.
    fn embeds_tracked(&self) -> bool {
        let positions = self.positions.as_ref().is_some_and(|slot| slot.current().tracked());
        positions || self.embedding.current().tracked() || self.row_deltas().iter().any(|delta| delta.tracked())
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
            let down = |block: &Block| block.projection(Part::Down).is_some_and(|p| p.weight.current().quantised().is_some());
            cheap_rows(self.blocks.iter().any(down))
        } else {
            1
        }
    }

    /// What the blocks need to know of a batch. Frequencies that depend on a text's length are taken for the longest of the batch, as
    /// transformers takes them; with `apart`, for each sequence's own length, so that a text does not depend on its neighbours.
    fn shared<'a>(&self, batch: &TokenBatch, pass: Pass<'a>, apart: bool) -> Shared<'a> {
        let c = &self.config;
        let table = |rope: &Rope, positions: &[u32]| {
            let longest = positions.iter().max().map_or(0, |position| *position as usize + 1);
            RopeTable::scaled(positions, &rope.inverse_frequencies(longest), rope.attention_factor(), c.head_dim)
        };
        let of_rope = |rope: &Rope| {
            if !apart || rope.changes_beyond().is_none() {
                return table(rope, &batch.positions);
            }
            let mut rest = batch.positions.as_slice();
            let of_segment = |length: &usize| {
                let (positions, after) = rest.split_at(*length);
                rest = after;
                table(rope, positions)
            };
            RopeTable::joined(&batch.segments.iter().map(of_segment).collect::<Vec<_>>())
        };
        let tables: Vec<RopeTable> = c.ropes.iter().map(of_rope).collect();
        let spec = |kind: &LayerConfig| AttentionSpec {
            heads: c.num_attention_heads,
            kv_heads: c.num_key_value_heads,
            head_dim: c.head_dim,
            scale: kind.attention_scale as f32,
            softcap: c.attention_softcap.map(|cap| cap as f32),
            window: kind.window,
            segments: batch.segments.clone(),
            positions: batch.positions.clone(),
        };
        let kinds = self.kinds.iter().map(|kind| (kind.rope.and_then(|rope| tables.get(rope).cloned()), Arc::new(spec(kind))));
        Shared { kinds: kinds.collect(), pass }
    }

    /// What the first block is given, `[tokens, hidden]`.
    fn embedded(&self, batch: &TokenBatch, pass: Pass<'_>) -> Result<Tensor> {
        let words = self.embedding.current();
        let mut x = embedding(&batch.ids, &words, self.padding)?;
        for delta in self.row_deltas() {
            x = delta.rows(&batch.ids, self.padding, x)?;
        }
        let scales = self.config.scales;
        if scales.embedding != 1.0 {
            let factor = if scales.rounded { rounded(scales.embedding, words.dtype()) } else { scales.embedding };
            x = (x * factor)?;
        }
        if let Some(positions) = &self.positions {
            let most = self.config.max_position_embeddings;
            if let Some(position) = batch.positions.iter().find(|position| **position as usize >= most) {
                return Err(Error::argument(format!(
                    "position {position} is beyond the {most} that this model has; use shorter texts, or max_length"
                )));
            }
            x = (x + embedding(&batch.positions, &positions.current(), None)?)?;
        }
        dropped(x, self.config.dropout.embedding, pass)
    }

    /// Hidden states after the last norm, times the logits' factor, `[tokens, hidden]`.
    ///
    /// # Errors
    /// A token is outside the vocabulary, or a tensor operation failed.
    pub fn hidden(&self, batch: &TokenBatch, pass: Pass<'_>) -> Result<Tensor> {
        self.hidden_of(batch, self.shared(batch, pass, false))
    }

    /// As [`Self::hidden`] without dropout, where no sequence may depend on its neighbours: rotary frequencies that depend on a text's
    /// length are taken for each by itself.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn hidden_apart(&self, batch: &TokenBatch) -> Result<Tensor> {
        self.hidden_of(batch, self.shared(batch, Pass::default(), true))
    }

    /// The hidden states of no tokens, on devices whose kernels cannot be launched for nothing.
    fn nothing(&self, batch: &TokenBatch) -> Result<Option<Tensor>> {
        if !batch.is_empty() || self.device().is_cpu() {
            return Ok(None);
        }
        let words = self.embedding.current();
        let width = words.dims().last().copied().unwrap_or(0);
        Ok(Some(Tensor::zeros((0, width), words.dtype(), &words.device())?))
    }

    fn hidden_of(&self, batch: &TokenBatch, shared: Shared<'_>) -> Result<Tensor> {
        if let Some(nothing) = self.nothing(batch)? {
            return Ok(nothing);
        }
        let mut x = self.embedded(batch, shared.pass)?;
        let (on_tensors, fused) = (gpu::serves(&x), fused_for(&x));
        match if on_tensors || fused { self.fused(batch.len(), &shared)? } else { None } {
            Some(blocks) if on_tensors && gpu::serve_blocks(&blocks) => x = gpu::apply_blocks(blocks, &x)?,
            Some(blocks) if fused => x = apply_blocks(blocks, &x)?,
            _ => {
                for block in &self.blocks {
                    x = block.forward(&x, &shared, None)?;
                }
            }
        }
        self.normalised(&x)
    }

    /// All blocks as operations; none where the pass drops something that these do not.
    fn fused(&self, tokens: usize, shared: &Shared<'_>) -> Result<Option<Vec<crate::ops::block::Block>>> {
        self.blocks.iter().map(|block| block.fused(tokens, shared)).collect()
    }

    fn normalised(&self, x: &Tensor) -> Result<Tensor> {
        let normal = self.norm.current().apply(x)?;
        let factor = self.config.scales.logits;
        Ok(if factor == 1.0 { normal } else { (normal * factor)? })
    }

    /// Hidden states, as [`Self::hidden`] gives them, of sequences that continue what the caches hold; the caches grow by the new
    /// tokens.
    ///
    /// # Errors
    /// As [`Self::hidden`].
    pub fn hidden_cached(&self, batch: &TokenBatch, caches: &mut [&mut KvCache]) -> Result<Tensor> {
        if let Some(nothing) = self.nothing(batch)? {
            return Ok(nothing);
        }
        let shared = self.shared(batch, Pass::default(), true);
        let mut x = self.embedded(batch, Pass::default())?;
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(&x, &shared, Some((layer, &mut *caches)))?;
        }
        self.normalised(&x)
    }

    fn logit_softcap(&self) -> Option<f32> {
        self.config.logit_softcap.map(|cap| cap as f32)
    }

    /// The head as it is now, without what adapters add to its output.
    pub fn head_weight(&self) -> Head {
        Head { weight: self.head.weight.current(), softcap: self.logit_softcap(), smoothing: 0.0 }
    }

    /// The head with the loss that a pass asks for.
    fn head_for(&self, pass: Pass<'_>) -> Head {
        Head { smoothing: pass.label_smoothing, ..self.head_weight() }
    }

    /// Logits `[rows, vocab]` of hidden states `[rows, hidden]`.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn logits(&self, hidden: &Tensor, pass: Pass<'_>) -> Result<Tensor> {
        Ok(capped(self.head.forward(hidden, pass)?, self.logit_softcap())?)
    }

    /// The loss of a batch: the sum of the targets' negative log-likelihoods, in nats, divided by `divisor`; a scalar, smoothed where
    /// `pass` asks for it. `targets` are already shifted ([`batch::shifted_targets`]); `pass` is that of the hidden states, for an
    /// adapter on the head.
    ///
    /// # Errors
    /// A target is outside the vocabulary, or a tensor operation failed.
    pub fn loss(&self, hidden: &Tensor, targets: &[i64], divisor: f64, pass: Pass<'_>) -> Result<Tensor> {
        if self.head.has_delta() {
            // An adapter on the head changes the logits, so they have to exist.
            return Ok(smoothed_cross_entropy(&self.logits(hidden, pass)?, targets, divisor, pass.label_smoothing)?);
        }
        Ok(head_cross_entropy(hidden, &self.head_for(pass), targets, divisor)?)
    }

    /// Forward and backward of a batch; gradients are added to the parameters. Returns the loss, which a device may still be computing. A
    /// batch without any target has the loss 0 and adds nothing.
    ///
    /// With `checkpointing`, only the blocks' inputs are kept, and each block is computed again in the backward pass:
    /// the peak is then that of one block. Dropout repeats, because the random source is put back for the second pass.
    ///
    /// # Errors
    /// As [`Self::loss`].
    pub fn loss_backward(
        &self,
        batch: &TokenBatch,
        targets: &[i64],
        divisor: f64,
        pass: Pass<'_>,
        checkpointing: bool,
    ) -> Result<Loss> {
        team::with(|| self.both_passes(batch, targets, divisor, pass, checkpointing))
    }

    fn both_passes(
        &self,
        batch: &TokenBatch,
        targets: &[i64],
        divisor: f64,
        pass: Pass<'_>,
        checkpointing: bool,
    ) -> Result<Loss> {
        debug_assert_eq!(targets.len(), batch.len());
        if targets.iter().all(|t| *t == IGNORE_INDEX) {
            return Ok(Loss::Known(0.0));
        }
        if !checkpointing {
            let hidden = self.hidden(batch, pass)?;
            let (loss, gradient) = self.head_backward(&hidden, targets, divisor, pass)?;
            if hidden.track_op() {
                crate::nn::backward(&(hidden * gradient)?.sum_all()?)?;
            }
            return Ok(loss);
        }
        let shared = self.shared(batch, pass, false);
        let before = pass.dropout.map(|r| r.borrow().clone());
        let mut inputs = vec![crate::nn::no_grad(|| self.embedded(batch, pass))?];
        let mut states = Vec::new();
        for block in &self.blocks {
            states.push(pass.dropout.map(|r| r.borrow().clone()));
            let last = &inputs[inputs.len() - 1];
            let next = crate::nn::no_grad(|| block.forward(last, &shared, None))?;
            inputs.push(next);
        }
        let last = leaf(inputs.pop())?;
        let hidden = self.normalised(&last)?;
        let (loss, gradient) = self.head_backward(&hidden, targets, divisor, pass)?;
        let after = pass.dropout.map(|r| r.borrow().clone());
        let mut gradient = backward_to(&(hidden * gradient)?.sum_all()?, &last)?;
        for (block, state) in self.blocks.iter().zip(states).rev() {
            let input = leaf(inputs.pop())?;
            if let (Some(random), Some(state)) = (pass.dropout, state) {
                *random.borrow_mut() = state;
            }
            let output = block.forward(&input, &shared, None)?;
            gradient = backward_to(&(output * &gradient)?.sum_all()?, &input)?;
        }
        if let (Some(random), Some(before)) = (pass.dropout, before) {
            *random.borrow_mut() = before;
        }
        if self.embeds_tracked() {
            let embedded = self.embedded(batch, pass)?;
            crate::nn::backward(&(embedded * gradient)?.sum_all()?)?;
        }
        if let (Some(random), Some(after)) = (pass.dropout, after) {
            *random.borrow_mut() = after;
        }
        Ok(loss)
    }

    /// The loss and its gradient by the hidden states; adds to the head's gradients.
    fn head_backward(&self, hidden: &Tensor, targets: &[i64], divisor: f64, pass: Pass<'_>) -> Result<(Loss, Tensor)> {
        if !self.head.has_delta() {
            return Ok(head_loss_and_gradient(hidden, &self.head_for(pass), targets, divisor)?);
        }
        let leaf = leaf(Some(hidden.detach()))?;
        let loss = self.loss(&leaf, targets, divisor, pass)?;
        let gradient = backward_to(&loss, &leaf)?;
        Ok((Loss::OnDevice(loss.detach()), gradient))
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

/// The name under which a source has a parameter: its own, or one that checkpoints of a part of the model, or of a model for text and
/// images, have for it.
pub(super) fn stored_name(source: &Source, base: &str, name: &str) -> String {
    let within = name.strip_prefix(base).and_then(|rest| rest.strip_prefix('.'));
    let mut others = vec![format!("language_model.{name}")];
    if let Some(within) = within {
        others.push(within.to_string());
        others.push(format!("{base}.language_model.{within}"));
    }
    match others.into_iter().find(|other| source.contains(other)) {
        Some(other) if !source.contains(name) => other,
        _ => name.to_string(),
    }
}

/// Refuses a file with biases that the configuration says are not there: left out, they would change the numbers.
fn refuse_other_biases(source: &Source, config: &ModelConfig) -> Result<()> {
    let known: BTreeSet<String> = config.parameter_shapes().into_iter().map(|shape| shape.name).collect();
    for module in known.iter().filter_map(|name| name.strip_suffix(".weight")) {
        let bias = format!("{module}.bias");
        let stored = stored_name(source, config.family.traits().names.base, &bias);
        if !known.contains(&bias) && source.contains(&stored) {
            return Err(Error::format(
                source.file_of(&stored),
                format!(
                    "tensor {stored}: by config.json the model has no such bias; set attention_bias or mlp_bias to true there if \
                     it has, or remove the tensor"
                ),
            ));
        }
    }
    Ok(())
}

fn add_slots<'a>(slots: &mut Vec<(String, &'a Slot)>, name: &str, (weight, bias): (&'a Slot, Option<&'a Slot>)) {
    slots.push((format!("{name}.weight"), weight));
    slots.extend(bias.map(|bias| (format!("{name}.bias"), bias)));
}

/// A number as a dtype holds it.
fn rounded(value: f64, dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => half::bf16::from_f64(value).to_f64(),
        DType::F16 => half::f16::from_f64(value).to_f64(),
        _ => f64::from(value as f32),
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
        let loss = decoder.loss(&decoder.hidden_apart(&tokens)?, &targets, 1.0, Pass::default())?;
        Ok((f64::from(loss.to_dtype(DType::F32)?.to_scalar::<f32>()?), count))
    };
    crate::nn::no_grad(|| team::with(loss))
}
