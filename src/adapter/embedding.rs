//! What adapters change of the embedding, and of the head beside it: a low-rank change of all rows, or new rows for some tokens.

use super::config::{LoraConfig, TokenIndices};
use super::target::{is_named, is_saved};
use crate::error::{Error, Result};
use crate::model::Decoder;
use crate::model::projection::{Delta, Pass, Projection, RowDelta};
use crate::nn::Parameter;
use crate::ops::embedding::without_gradient_of_padding;
use crate::ops::layer::Changes;
use crate::ops::linear::linear;
use crate::random::Random;
use candle_core::{DType, Tensor};
use std::collections::HashMap;

/// A low-rank change of the embedding: `row(id) + scaling * B A[:, id]`, with A [r, vocabulary] and B [hidden, r].
#[derive(Debug, Clone)]
pub struct EmbeddingLayer {
    /// `[r, vocabulary]`.
    pub a: Parameter,
    /// `[hidden, r]`.
    pub b: Parameter,
    /// Factor on the change.
    pub scaling: f64,
}

impl EmbeddingLayer {
    /// A layer on an embedding `[vocabulary, hidden]` that starts as PEFT starts it: A zero and B normal, or both normal without `zero`.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new(weight: &Parameter, rank: usize, scaling: f64, zero: bool, random: &mut Random) -> Result<Self> {
        let (vocabulary, hidden) = (weight.dims()[0], weight.dims()[1]);
        let (a, b) = (random.randn(rank * vocabulary), random.randn(hidden * rank));
        let (a, b) = if zero { (vec![0.0; a.len()], random.randn(b.len())) } else { (a, b) };
        let device = weight.device();
        Ok(Self {
            a: Parameter::from_vec(a, &[rank, vocabulary], &device)?,
            b: Parameter::from_vec(b, &[hidden, rank], &device)?,
            scaling,
        })
    }

    /// The change of the matrix, `[vocabulary, hidden]`, in f32.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn weight_change(&self) -> Result<Tensor> {
        Ok((self.a.value().t()?.matmul(&self.b.value().t()?)? * self.scaling)?)
    }
}

impl RowDelta for EmbeddingLayer {
    fn rows(&self, ids: &[u32], padding: Option<u32>, rows: Tensor) -> Result<Tensor> {
        let inner = self.a.tensor().index_select(&Tensor::new(ids, &self.a.device())?, 1)?.t()?.contiguous()?;
        // As in PEFT: A's column of padding is not trained, and B learns from padding too.
        let inner = without_gradient_of_padding(ids, padding, inner)?;
        let change = (linear(&inner, &self.b, None)? * self.scaling)?;
        Ok((&rows + change.to_dtype(rows.dtype())?)?)
    }

    fn tracked(&self) -> bool {
        self.a.tracked() || self.b.tracked()
    }
}

/// Rows of the embedding, or of the head, that are trained in the place of the base's (PEFT's `trainable_token_indices`).
#[derive(Debug, Clone)]
pub struct TokenRows {
    /// The tokens.
    pub ids: Vec<u32>,
    /// Their rows, `[tokens, hidden]`.
    pub rows: Parameter,
    /// The base's rows.
    before: Parameter,
    vocabulary: usize,
}

impl TokenRows {
    /// The rows of some tokens as they are in `weight` [vocabulary, hidden].
    ///
    /// # Errors
    /// A token is outside the vocabulary, or given twice.
    pub fn new(weight: &Parameter, ids: &[u32]) -> Result<Self> {
        let vocabulary = weight.dims()[0];
        let refuse = |id: u32, why: &str| Err(Error::Argument(format!("trainable_token_indices: token {id} {why}")));
        for (place, id) in ids.iter().enumerate() {
            if *id as usize >= vocabulary {
                return refuse(*id, &format!("is outside the vocabulary of {vocabulary}"));
            }
            if ids[..place].contains(id) {
                return refuse(*id, "is there twice");
            }
        }
        let at = Tensor::new(ids, &weight.device())?;
        let rows = weight.value().index_select(&at, 0)?.to_dtype(DType::F32)?;
        let before = Parameter::new(&rows)?;
        before.set_requires_grad(false);
        Ok(Self { ids: ids.to_vec(), rows: Parameter::new(&rows.copy()?)?, before, vocabulary })
    }

    /// A matrix with these rows in it.
    ///
    /// # Errors
    /// A tensor operation failed.
    pub fn merged(&self, weight: &Tensor) -> Result<Tensor> {
        let table = Tensor::cat(&[weight, &self.rows.value().to_dtype(weight.dtype())?], 0)?;
        let all: Vec<u32> = (0..self.vocabulary as u32).collect();
        Ok(table.index_select(&Tensor::new(self.places(&all, self.vocabulary), weight.device())?, 0)?)
    }

    /// Where each id's row is in a table of `length` rows with the trained ones below: at the id's own place otherwise.
    fn places(&self, ids: &[u32], length: usize) -> Vec<u32> {
        let trained: HashMap<u32, u32> = self.ids.iter().copied().zip(length as u32..).collect();
        (0..).zip(ids).map(|(place, id)| trained.get(id).copied().unwrap_or(place)).collect()
    }
}

impl RowDelta for TokenRows {
    fn rows(&self, ids: &[u32], padding: Option<u32>, rows: Tensor) -> Result<Tensor> {
        let table = Tensor::cat(&[&rows, &self.rows.tensor().to_dtype(rows.dtype())?], 0)?;
        let changed = table.index_select(&Tensor::new(self.places(ids, ids.len()), rows.device())?, 0)?;
        Ok(without_gradient_of_padding(ids, padding, changed)?)
    }

    fn tracked(&self) -> bool {
        self.rows.tracked()
    }
}

impl Delta for TokenRows {
    fn change(&self, _: &Projection, input: &Tensor, output: &Tensor, _: Pass<'_>) -> Result<Tensor> {
        let change = (linear(input, &self.rows, None)? - linear(input, &self.before, None)?)?;
        let at = Tensor::new(self.ids.as_slice(), output.device())?;
        Ok(output.zeros_like()?.detach().index_add(&at, &change.to_dtype(output.dtype())?, 1)?)
    }

    fn matrices(&self, _: &Parameter, _: usize, _: Pass<'_>) -> Result<Changes> {
        Err(Error::argument("trained rows of tokens are a part of the embedding and the head, not of a block"))
    }
}

/// The modules whose rows a configuration wants trained, with the rows; the embedding's also serve a head that shares its matrix.
/// `adapted` are the modules that get a low-rank change.
///
/// # Errors
/// A module that is neither the embedding nor the head or is changed otherwise as well, or tokens that there are not.
pub(super) fn token_rows(decoder: &Decoder, config: &LoraConfig, adapted: &[&str]) -> Result<Vec<(String, TokenRows)>> {
    let embedding = config_embedding(decoder);
    let by_module: Vec<(&str, &[u32])> = match &config.trainable_token_indices {
        None => return Ok(Vec::new()),
        Some(TokenIndices::OfEmbedding(ids)) => vec![(embedding, ids)],
        Some(TokenIndices::ByModule(modules)) => modules.iter().map(|(name, ids)| (name.as_str(), ids.as_slice())).collect(),
    };
    let mut found: Vec<(String, TokenRows)> = Vec::new();
    for (wanted, ids) in by_module {
        let Some(module) = [embedding, "lm_head"].into_iter().find(|module| is_named(module, wanted)) else {
            return Err(Error::Argument(format!(
                "trainable_token_indices: \"{wanted}\" is neither this model's embedding, {embedding}, nor its lm_head"
            )));
        };
        for (field, taken) in [("modules_to_save", is_saved(config, module)), ("target_modules", adapted.contains(&module))] {
            if taken {
                return Err(Error::Argument(format!("trainable_token_indices: {module} is in {field} already")));
            }
        }
        if found.iter().any(|(other, _)| other == module) {
            return Err(Error::Argument(format!("trainable_token_indices: {module} is named twice")));
        }
        if ids.is_empty() {
            return Err(Error::Argument(format!("trainable_token_indices: there is no token for {module}")));
        }
        let weight = if module == embedding { decoder.embedding().base() } else { decoder.head().weight.base() };
        found.push((module.to_string(), TokenRows::new(weight, ids)?));
    }
    // A head that shares the matrix and is to train the same rows shares these too, as in PEFT.
    let shared = |rows: &TokenRows, other: &TokenRows| decoder.config().tie_word_embeddings && rows.ids == other.ids;
    if let [(first, rows), (second, other)] = found.as_slice()
        && first != second
        && shared(rows, other)
    {
        found.retain(|(module, _)| module == embedding);
    }
    Ok(found)
}

/// The name of the embedding of tokens.
pub(super) fn config_embedding(decoder: &Decoder) -> &'static str {
    decoder.config().family.traits().names.embedding
}
