//! What the training loop is fed with: for every optimiser step its micro batches, tokenised no earlier than they are needed.

use super::arguments::TrainingArguments;
use super::trainer::Trainer;
use crate::control::Control;
use crate::data::loader::shuffled_order;
use crate::data::token_rows::Pass;
use crate::data::{Encoded, TokenRows, pack};
use crate::error::{Error, Result};
use std::borrow::Cow;

/// The micro batches of one optimiser step.
pub(super) type Step<'a> = Vec<Vec<Cow<'a, Encoded>>>;

/// Rows of a stream that are packed at a time; TRL takes as many.
const PACKED_AT_ONCE: usize = 1000;

pub(super) struct Feed<'a> {
    rows: &'a TokenRows,
    args: &'a TrainingArguments,
    layout: Layout,
}

/// What a batch is made of.
enum Layout {
    /// So many rows, each by itself.
    Rows(usize),
    /// Packed rows: the numbers of the rows in each.
    Packed(Vec<Vec<usize>>),
    /// Rows as they come; with `packing` up to so many tokens together.
    Stream { length: Option<usize>, packing: Option<usize> },
}

impl<'a> Feed<'a> {
    /// For packing the length of every row is found here.
    pub(super) fn new(trainer: &'a Trainer<'_>, control: &Control) -> Result<Self> {
        let (rows, args) = (&trainer.train, &trainer.args);
        let packing = args.packing.then(|| args.longest_row(trainer.model.model().decoder().config().max_position_embeddings));
        if rows.known_len() == Some(0) {
            return Err(Error::argument("the training data set is empty"));
        }
        let layout = match (rows.known_len(), packing) {
            (length, None) if rows.is_stream() => Layout::Stream { length, packing },
            (Some(length), None) => Layout::Rows(length),
            (Some(_), Some(longest)) if !rows.is_stream() => Layout::Packed(pack(&rows.lengths(control)?, longest)?),
            _ => Layout::Stream { length: None, packing },
        };
        let feed = Self { rows, args, layout };
        if matches!(feed.layout, Layout::Stream { length: None, .. }) && args.max_steps <= 0 {
            return Err(Error::argument(
                "train_dataset is a stream, and how many rows it has is not known: give TrainingArguments max_steps, the number of \
                 optimiser steps",
            ));
        }
        if let Some(length) = feed.len().filter(|length| args.batches_per_epoch(*length) == 0) {
            return Err(Error::argument(format!(
                "train_dataset has {length} {}rows, which make no whole batch of per_device_train_batch_size {}, and dataloader_drop_last \
                 leaves out any other",
                if args.packing { "packed " } else { "" },
                args.per_device_train_batch_size
            )));
        }
        Ok(feed)
    }

    fn len(&self) -> Option<usize> {
        match &self.layout {
            Layout::Rows(length) => Some(*length),
            Layout::Packed(rows) => Some(rows.len()),
            Layout::Stream { length, .. } => *length,
        }
    }

    /// The lengths of the rows in the largest micro batch that can be drawn, where all rows are tokenised already.
    pub(super) fn largest_batch(&self) -> Option<Vec<usize>> {
        let kept = self.rows.kept()?;
        let length = |row: &usize| kept.get(*row).map_or(0, |row| row.input_ids.len());
        let mut batches: Vec<Vec<usize>> = match &self.layout {
            Layout::Rows(count) => (0..*count).map(|row| vec![length(&row)]).collect(),
            Layout::Packed(rows) => rows.iter().map(|rows| rows.iter().map(length).collect()).collect(),
            Layout::Stream { .. } => return None,
        };
        batches.sort_by_key(|lengths| std::cmp::Reverse(lengths.iter().sum::<usize>()));
        batches.truncate(self.args.per_device_train_batch_size);
        Some(batches.concat())
    }

    /// Optimiser steps of the whole run.
    pub(super) fn total_steps(&self) -> u64 {
        self.args.total_steps(self.len().unwrap_or(0))
    }

    /// Optimiser steps of an epoch; where nobody knows, the whole run is one, as transformers has it.
    pub(super) fn steps_per_epoch(&self) -> u64 {
        self.len().map_or_else(|| self.total_steps(), |length| self.args.steps_per_epoch(length))
    }

    /// The share of an epoch that its first `steps` optimiser steps are: that of its micro batches, as transformers counts it.
    pub(super) fn share(&self, steps: u64) -> f64 {
        let Some(length) = self.len() else { return steps as f64 / self.steps_per_epoch() as f64 };
        let batches = self.args.batches_per_epoch(length) as u64;
        let trained = steps.saturating_mul(self.args.gradient_accumulation_steps as u64).min(batches);
        trained as f64 / batches as f64
    }

    /// The passes over the data that so many optimiser steps are.
    pub(super) fn passes(&self, steps: u64) -> f64 {
        let Some(before) = steps.checked_sub(1) else { return 0.0 };
        let each = self.steps_per_epoch();
        (before / each) as f64 + self.share(before % each + 1)
    }

    /// Leaves out the last of these rows where they make no whole batch and are not wanted.
    fn whole_batches<T>(&self, rows: &mut Vec<T>) {
        if self.args.dataloader_drop_last {
            rows.truncate(rows.len() - rows.len() % self.args.per_device_train_batch_size);
        }
    }

    /// The steps of an epoch without the first `skip`. Of a stream of unknown length all passes make one epoch.
    pub(super) fn epoch(&self, seed: u64, epoch: u64, skip: u64) -> Box<dyn Iterator<Item = Result<Step<'_>>> + '_> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        let batch = self.args.per_device_train_batch_size;
        let size = batch.saturating_mul(self.args.gradient_accumulation_steps);
        let Some(length) = self.len().filter(|_| !self.rows.is_stream()) else {
            return Box::new(StreamSteps::new(self, epoch).skip(skip));
        };
        let mut order = shuffled_order(length, seed, epoch);
        self.whole_batches(&mut order);
        let length = order.len();
        Box::new((skip..length.div_ceil(size)).map(move |step| {
            let rows = &order[step * size..length.min((step + 1).saturating_mul(size))];
            let micro = |batch: &[u32]| batch.iter().flat_map(|row| self.members(*row)).map(|row| self.rows.get(row)).collect();
            rows.chunks(batch).map(micro).collect()
        }))
    }

    /// The rows that lie in a packed row, or the row itself.
    fn members(&self, row: u32) -> impl Iterator<Item = usize> + '_ {
        let row = row as usize;
        let (packed, single) = match &self.layout {
            Layout::Packed(packed) => (packed[row].as_slice(), None),
            _ => (&[][..], Some(row)),
        };
        packed.iter().copied().chain(single)
    }
}

/// One row or the rows of a packed one.
type Unit<'a> = Vec<Cow<'a, Encoded>>;

struct StreamSteps<'a> {
    feed: &'a Feed<'a>,
    units: Box<dyn Iterator<Item = Result<Unit<'a>>> + 'a>,
    pass: u64,
    /// Whether this pass has given a row.
    fed: bool,
}

impl<'a> StreamSteps<'a> {
    fn new(feed: &'a Feed<'_>, pass: u64) -> Self {
        Self { feed, units: units(feed, pass), pass, fed: false }
    }

    fn read(&mut self) -> Result<Option<Step<'a>>> {
        let batch = self.feed.args.per_device_train_batch_size;
        let size = batch.saturating_mul(self.feed.args.gradient_accumulation_steps);
        loop {
            let mut taken: Vec<Unit<'a>> = self.units.by_ref().take(size).collect::<Result<_>>()?;
            self.feed.whole_batches(&mut taken);
            if !taken.is_empty() {
                self.fed = true;
                let mut step = Vec::new();
                while !taken.is_empty() {
                    let rest = taken.split_off(batch.min(taken.len()));
                    step.push(std::mem::replace(&mut taken, rest).into_iter().flatten().collect());
                }
                return Ok(Some(step));
            }
            if self.feed.len().is_some() {
                return Ok(None);
            }
            if !self.fed {
                let dropped = if self.feed.args.dataloader_drop_last { " that make a whole batch" } else { "" };
                let advice = "look at its filters and at skip";
                return Err(Error::argument(format!("train_dataset is a stream that gives no rows{dropped}; {advice}")));
            }
            self.pass += 1;
            (self.units, self.fed) = (units(self.feed, self.pass), false);
        }
    }
}

impl<'a> Iterator for StreamSteps<'a> {
    type Item = Result<Step<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn units<'a>(feed: &'a Feed<'_>, pass: u64) -> Box<dyn Iterator<Item = Result<Unit<'a>>> + 'a> {
    let rows = feed.rows.pass(pass);
    match feed.layout {
        Layout::Stream { packing: Some(longest), .. } => {
            let mut rows = rows;
            Box::new(
                std::iter::from_fn(move || {
                    let packed = packed(&mut rows, longest);
                    (!matches!(&packed, Ok(units) if units.is_empty())).then_some(packed)
                })
                .flat_map(|units| match units {
                    Ok(units) => units.into_iter().map(Ok).collect::<Vec<_>>(),
                    Err(error) => vec![Err(error)],
                }),
            )
        }
        _ => Box::new(rows.map(|row| row.map(|row| vec![row]))),
    }
}

/// The next rows of a stream, packed.
fn packed<'a>(rows: &mut Pass<'a>, longest: usize) -> Result<Vec<Unit<'a>>> {
    let rows: Vec<Cow<'a, Encoded>> = rows.by_ref().take(PACKED_AT_ONCE).collect::<Result<_>>()?;
    let lengths: Vec<usize> = rows.iter().map(|row| row.input_ids.len()).collect();
    let mut rows: Vec<Option<Cow<'a, Encoded>>> = rows.into_iter().map(Some).collect();
    let bins = pack(&lengths, longest)?;
    Ok(bins.into_iter().map(|bin| bin.into_iter().filter_map(|row| rows[row].take()).collect()).collect())
}
