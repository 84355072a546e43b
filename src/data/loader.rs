//! Token rows to padded batches, in an order that a seed fixes.

use super::tokenize::{Encoded, IGNORE};
use crate::error::{Error, Result};
use crate::random::Random;
use std::sync::Arc;

/// Rows of one length: row-major `[batch, seq]` arrays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Token ids `[batch, seq]`; shorter rows end with the padding token.
    pub input_ids: Vec<u32>,
    /// `[batch, seq]`: 1 for a token, 0 for padding.
    pub attention_mask: Vec<u32>,
    /// `[batch, seq]`: the token, or -100 where no loss counts.
    pub labels: Vec<i64>,
    /// Rows.
    pub batch: usize,
    /// Tokens a row, padding included.
    pub seq: usize,
}

impl Batch {
    /// Tokens that carry loss, after the shift by one.
    pub fn targets(&self) -> usize {
        let rows = self.labels.chunks(self.seq.max(1));
        rows.map(|row| row.iter().skip(1).filter(|label| **label != IGNORE).count()).sum()
    }

    /// Tokens without padding.
    pub fn tokens(&self) -> usize {
        self.attention_mask.iter().filter(|mask| **mask == 1).count()
    }
}

/// Pads rows on the right to the longest of them.
///
/// # Errors
/// There are no rows, or all are empty.
pub fn collate(rows: &[&Encoded], pad_id: u32) -> Result<Batch> {
    let seq = rows.iter().map(|row| row.input_ids.len()).max().unwrap_or(0);
    if seq == 0 {
        return Err(Error::argument("a batch needs at least one row with at least one token"));
    }
    let size = rows.len() * seq;
    let mut batch = Batch {
        input_ids: Vec::with_capacity(size),
        attention_mask: Vec::with_capacity(size),
        labels: Vec::with_capacity(size),
        batch: rows.len(),
        seq,
    };
    for row in rows {
        let padding = seq - row.input_ids.len();
        batch.input_ids.extend(row.input_ids.iter().copied().chain(std::iter::repeat_n(pad_id, padding)));
        let ones = std::iter::repeat_n(1, row.input_ids.len());
        batch.attention_mask.extend(ones.chain(std::iter::repeat_n(0, padding)));
        batch.labels.extend(row.labels.iter().copied().chain(std::iter::repeat_n(IGNORE, padding)));
    }
    Ok(batch)
}

/// The order of so many rows in `epoch`: as transformers' Trainer has it, a permutation from a generator seeded `seed + epoch`.
pub fn shuffled_order(rows: usize, seed: u64, epoch: u64) -> Vec<usize> {
    Random::new(seed.wrapping_add(epoch)).randperm(rows)
}

/// Gives a tokenised data set out in batches. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DataLoader {
    rows: Arc<Vec<Encoded>>,
    /// Rows a batch; the last batch may have fewer.
    pub batch_size: usize,
    /// Whether every epoch has an order of its own.
    pub shuffle: bool,
    /// What the orders depend on.
    pub seed: u64,
    /// Whether a last batch with fewer rows is left out.
    pub drop_last: bool,
    /// The token that fills up shorter rows.
    pub pad_id: u32,
}

impl DataLoader {
    /// Batches of these rows, in their order until `shuffle` is set.
    ///
    /// # Errors
    /// No rows, or a batch size of 0.
    pub fn new(rows: Vec<Encoded>, batch_size: usize, pad_id: u32) -> Result<Self> {
        if rows.is_empty() {
            return Err(Error::argument("a DataLoader needs rows, but the data set is empty"));
        }
        if batch_size == 0 {
            return Err(Error::argument("batch_size must be at least 1, but it is 0"));
        }
        Ok(Self { rows: Arc::new(rows), batch_size, shuffle: false, seed: 0, drop_last: false, pad_id })
    }

    /// The same rows in an order of its own for every epoch.
    #[must_use]
    pub fn shuffled(mut self, seed: u64) -> Self {
        (self.shuffle, self.seed) = (true, seed);
        self
    }

    /// The tokenised rows.
    pub fn rows(&self) -> &[Encoded] {
        &self.rows
    }

    /// Batches an epoch.
    pub fn len(&self) -> usize {
        if self.drop_last { self.rows.len() / self.batch_size } else { self.rows.len().div_ceil(self.batch_size) }
    }

    /// Whether an epoch has no batch.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows' order in `epoch`: their own, or that of [`shuffled_order`].
    pub fn order(&self, epoch: u64) -> Vec<usize> {
        if self.shuffle { shuffled_order(self.rows.len(), self.seed, epoch) } else { (0..self.rows.len()).collect() }
    }

    /// The batches of one epoch, made as they are asked for.
    pub fn epoch(&self, epoch: u64) -> Batches {
        Batches { loader: self.clone(), order: self.order(epoch), next: 0 }
    }
}

impl IntoIterator for DataLoader {
    type Item = Result<Batch>;
    type IntoIter = Batches;

    fn into_iter(self) -> Batches {
        self.epoch(0)
    }
}

/// The batches of one epoch.
#[derive(Debug, Clone)]
pub struct Batches {
    loader: DataLoader,
    order: Vec<usize>,
    next: usize,
}

impl Batches {
    /// Leaves out the next `count` batches, without making them; for resuming within an epoch.
    pub fn skip_batches(&mut self, count: usize) {
        self.next = (self.next + count).min(self.loader.len());
    }
}

impl Iterator for Batches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.loader.len() {
            return None;
        }
        let start = self.next * self.loader.batch_size;
        let end = (start + self.loader.batch_size).min(self.order.len());
        self.next += 1;
        let rows: Vec<&Encoded> = self.order[start..end].iter().map(|i| &self.loader.rows[*i]).collect();
        Some(collate(&rows, self.loader.pad_id))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.loader.len() - self.next;
        (left, Some(left))
    }
}
