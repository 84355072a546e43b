//! Token rows to padded batches, in an order that a seed fixes.

use super::token_rows::{Pass, TokenRows};
use super::tokenize::{Encoded, IGNORE};
use crate::error::{Error, Result};
use crate::random::Random;
use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;

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
pub fn collate(rows: &[Cow<'_, Encoded>], pad_id: u32) -> Result<Batch> {
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
pub fn shuffled_order(rows: usize, seed: u64, epoch: u64) -> Vec<u32> {
    // Half the size of positions in memory: of millions of rows the order is most of what a training holds.
    let mut order: Vec<u32> = (0..rows as u32).collect();
    Random::new(seed.wrapping_add(epoch)).shuffle(&mut order);
    order
}

/// Gives a tokenised data set out in batches. Cheap to clone.
#[derive(Debug, Clone)]
pub struct DataLoader {
    rows: TokenRows,
    /// Rows a batch; the last batch may have fewer.
    pub batch_size: usize,
    /// Whether every epoch has an order of its own; a stream has that of its rows.
    pub shuffle: bool,
    /// What the orders depend on.
    pub seed: u64,
    /// Whether a last batch with fewer rows is left out.
    pub drop_last: bool,
    /// The token that fills up shorter rows.
    pub pad_id: u32,
    /// Passes begun by [`Self::next_epoch`], of all clones together.
    passes: Rc<Cell<u64>>,
}

impl DataLoader {
    /// Batches of these rows, in their order until `shuffle` is set.
    ///
    /// # Errors
    /// No rows, or a batch size of 0.
    pub fn new(rows: impl Into<TokenRows>, batch_size: usize, pad_id: u32) -> Result<Self> {
        let rows = rows.into();
        if rows.known_len() == Some(0) {
            return Err(Error::argument("a DataLoader needs rows, but the data set is empty"));
        }
        if batch_size == 0 {
            return Err(Error::argument("batch_size must be at least 1, but it is 0"));
        }
        Ok(Self { rows, batch_size, shuffle: false, seed: 0, drop_last: false, pad_id, passes: Rc::default() })
    }

    /// The same rows in an order of its own for every epoch.
    #[must_use]
    pub fn shuffled(mut self, seed: u64) -> Self {
        (self.shuffle, self.seed) = (true, seed);
        self
    }

    /// Batches an epoch; none for a stream whose rows have not been counted.
    pub fn batches(&self) -> Option<usize> {
        let rows = self.rows.known_len()?;
        Some(if self.drop_last { rows / self.batch_size } else { rows.div_ceil(self.batch_size) })
    }

    /// The rows' order in `epoch`: their own, or that of [`shuffled_order`]. Nothing for a stream whose rows have not been counted.
    pub fn order(&self, epoch: u64) -> Vec<u32> {
        let rows = self.rows.known_len().unwrap_or(0);
        if self.is_shuffled() { shuffled_order(rows, self.seed, epoch) } else { (0..rows as u32).collect() }
    }

    fn is_shuffled(&self) -> bool {
        self.shuffle && !self.rows.is_stream()
    }

    /// The rows of one epoch in its order.
    pub fn rows(&self, epoch: u64) -> Pass<'static> {
        if !self.is_shuffled() {
            return self.rows.owned_pass(epoch);
        }
        let rows = self.rows.clone();
        let one = move |index| rows.get(index as usize).map(|row| Cow::Owned(row.into_owned()));
        Box::new(self.order(epoch).into_iter().map(one))
    }

    /// The batches of one epoch, made as they are asked for; after an error there are no more.
    pub fn epoch(&self, epoch: u64) -> impl Iterator<Item = Result<Batch>> + use<> {
        let mut groups = groups(self.rows(epoch), self.batch_size);
        let (least, pad_id) = (if self.drop_last { self.batch_size } else { 1 }, self.pad_id);
        std::iter::from_fn(move || {
            let rows = match groups.next()? {
                Ok(rows) if rows.len() < least => return None,
                Ok(rows) => rows,
                Err(error) => return Some(Err(error)),
            };
            Some(collate(&rows, pad_id))
        })
    }

    /// As [`Self::epoch`], of the epoch after the one before: the first call gives epoch 0. For loops that do not count.
    pub fn next_epoch(&self) -> impl Iterator<Item = Result<Batch>> + use<> {
        self.epoch(self.passes.replace(self.passes.get() + 1))
    }
}

/// Rows in groups of `size`, the last of which may have fewer; after an error there are no more.
pub fn groups<'a>(mut rows: Pass<'a>, size: usize) -> impl Iterator<Item = Result<Vec<Cow<'a, Encoded>>>> + use<'a> {
    let mut failed = false;
    std::iter::from_fn(move || {
        if failed {
            return None;
        }
        let group: Result<Vec<_>> = rows.by_ref().take(size).collect();
        failed = group.is_err();
        if matches!(&group, Ok(group) if group.is_empty()) { None } else { Some(group) }
    })
}
