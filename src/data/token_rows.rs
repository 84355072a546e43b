//! Tokenised rows as training takes them. Few are tokenised at once and kept, so that what is wrong with any of them is said
//! before training begins; of many only the rows at hand are, each time they are needed, so that memory stays as it is.

use super::stream::IterableDataset;
use super::tokenize::no_target;
use super::{Dataset, Encoded, Encoding, TextTokenizer, Tokenized, tokenize};
use crate::control::Control;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::rc::Rc;

/// Tokens that are kept: 12 bytes each.
const KEPT: usize = 2_000_000;

/// Rows from front to back.
pub type Pass<'a> = Box<dyn Iterator<Item = Result<Cow<'a, Encoded>>> + 'a>;

/// Tokenised rows. Cheap to copy.
#[derive(Clone)]
pub struct TokenRows(Rows);

#[derive(Clone)]
enum Rows {
    Kept(Rc<Vec<Encoded>>),
    OnDemand(Dataset, Tokenizing),
    Stream(IterableDataset, Tokenizing),
}

#[derive(Clone)]
struct Tokenizing {
    tokenizer: Rc<dyn TextTokenizer>,
    encoding: Encoding,
}

impl From<Vec<Encoded>> for TokenRows {
    fn from(rows: Vec<Encoded>) -> Self {
        Self(Rows::Kept(Rc::new(rows)))
    }
}

impl Default for TokenRows {
    fn default() -> Self {
        Self::from(Vec::new())
    }
}

impl TokenRows {
    /// The rows, where all are tokenised already.
    pub fn kept(&self) -> Option<&[Encoded]> {
        match &self.0 {
            Rows::Kept(rows) => Some(rows),
            _ => None,
        }
    }

    /// The rows of a data set; and what the user should know of them, or of the first of them where they are many.
    ///
    /// # Errors
    /// The data set is empty; one of the rows that are tokenised now cannot be, or none has a token to learn from; Ctrl-C.
    pub fn of_dataset(
        data: &Dataset,
        tokenizer: Rc<dyn TextTokenizer>,
        encoding: Encoding,
        control: &Control,
    ) -> Result<(Self, Option<String>)> {
        Self::keeping(KEPT, data, tokenizer, encoding, control)
    }

    /// As [`TokenRows::of_dataset`], with at most so many tokens kept.
    ///
    /// # Errors
    /// As [`TokenRows::of_dataset`].
    pub fn keeping(
        most: usize,
        data: &Dataset,
        tokenizer: Rc<dyn TextTokenizer>,
        encoding: Encoding,
        control: &Control,
    ) -> Result<(Self, Option<String>)> {
        let encoding = Encoding { format: encoding.format.or(data.format()), ..encoding };
        let (mut first, mut tokens) = (Tokenized::default(), 0);
        for (number, row) in data.non_empty("training")?.iter().enumerate() {
            control.check()?;
            let encoded = tokenize(&*row?, &data.place(number), &*tokenizer, encoding)?;
            tokens += encoded.input_ids.len();
            first.push(encoded);
            if tokens > most && first.rows.len() < data.len() {
                break;
            }
        }
        let whole = first.rows.len() == data.len();
        if whole && first.without_target == first.rows.len() {
            return Err(no_target(first.rows.len()));
        }
        let warning = first.warning(encoding.max_length).map(|warning| match whole {
            true => warning,
            false => format!("{warning} (of the first {} rows of {})", first.rows.len(), data.len()),
        });
        let rows = match whole {
            true => Rows::Kept(Rc::new(first.rows)),
            false => Rows::OnDemand(data.clone(), Tokenizing { tokenizer, encoding }),
        };
        Ok((Self(rows), warning))
    }

    /// The rows of a stream, tokenised as they come.
    pub fn of_stream(stream: IterableDataset, tokenizer: Rc<dyn TextTokenizer>, encoding: Encoding) -> Self {
        let encoding = Encoding { format: encoding.format.or(stream.format()), ..encoding };
        Self(Rows::Stream(stream, Tokenizing { tokenizer, encoding }))
    }

    /// Number of rows; none for a stream whose rows have not been counted.
    pub fn known_len(&self) -> Option<usize> {
        match &self.0 {
            Rows::Kept(rows) => Some(rows.len()),
            Rows::OnDemand(data, _) => Some(data.len()),
            Rows::Stream(stream, _) => stream.known_len(),
        }
    }

    /// Whether rows can only be had from front to back.
    pub fn is_stream(&self) -> bool {
        matches!(self.0, Rows::Stream(..))
    }

    /// Row `index`, counted from 0.
    ///
    /// # Errors
    /// There is no such row, it cannot be tokenised, or this is a stream.
    pub fn get(&self, index: usize) -> Result<Cow<'_, Encoded>> {
        match &self.0 {
            Rows::Kept(rows) => rows
                .get(index)
                .map(Cow::Borrowed)
                .ok_or_else(|| Error::argument(format!("there is no row {index}: there are {} rows", rows.len()))),
            Rows::OnDemand(data, how) => {
                tokenize(&*data.row(index)?, &data.place(index), &*how.tokenizer, how.encoding).map(Cow::Owned)
            }
            Rows::Stream(..) => Err(Error::argument("the rows of a stream can only be read in their order")),
        }
    }

    /// The rows from front to back; a stream that is shuffled has its own order in every pass.
    pub fn pass(&self, number: u64) -> Pass<'_> {
        match &self.0 {
            Rows::Kept(rows) => Box::new(rows.iter().map(|row| Ok(Cow::Borrowed(row)))),
            Rows::OnDemand(data, _) => Box::new((0..data.len()).map(|index| self.get(index))),
            Rows::Stream(stream, how) => stream_pass(stream, how, number),
        }
    }

    /// As [`TokenRows::pass`], of copies.
    pub fn owned_pass(&self, number: u64) -> Pass<'static> {
        match &self.0 {
            Rows::Stream(stream, how) => stream_pass(stream, how, number),
            Rows::Kept(_) | Rows::OnDemand(..) => {
                let rows = self.clone();
                let one = move |index| rows.get(index).map(|row| Cow::Owned(row.into_owned()));
                Box::new((0..self.known_len().unwrap_or(0)).map(one))
            }
        }
    }

    /// The number of tokens of every row.
    ///
    /// # Errors
    /// A row cannot be tokenised, or Ctrl-C.
    pub fn lengths(&self, control: &Control) -> Result<Vec<usize>> {
        let total = self.known_len().unwrap_or(0) as u64;
        let mut lengths = Vec::new();
        for row in self.pass(0) {
            if !matches!(self.0, Rows::Kept(_)) && lengths.len().is_multiple_of(256) {
                control.check()?;
                control.progress("tokenize", lengths.len() as u64, total, "rows", String::new());
            }
            lengths.push(row?.input_ids.len());
        }
        Ok(lengths)
    }
}

fn stream_pass<'a>(stream: &IterableDataset, how: &Tokenizing, number: u64) -> Pass<'a> {
    let how = how.clone();
    Box::new(stream.rows(number).map(move |found| {
        let found = found?;
        tokenize(&found.row, &found.place, &*how.tokenizer, how.encoding).map(Cow::Owned)
    }))
}

impl std::fmt::Debug for TokenRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.known_len() {
            Some(rows) => write!(f, "TokenRows({rows} rows)"),
            None => f.write_str("TokenRows(stream)"),
        }
    }
}
