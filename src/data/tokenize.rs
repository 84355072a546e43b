//! Rows to tokens and labels. A label is the token that must be predicted at that place, or -100 where none counts.

use super::{Dataset, Example, Message, Row};
use crate::control::Control;
use crate::error::{Error, Result};

/// The label of a token that carries no loss, as in PyTorch's cross entropy.
pub const IGNORE: i64 = -100;

/// What tokenising a row needs; the model layer's tokenizer implements it.
pub trait TextTokenizer {
    /// Text to token ids; with `add_special_tokens` also what the tokenizer puts around a whole text (such as a start token).
    ///
    /// # Errors
    /// The text cannot be tokenised.
    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Vec<u32>>;

    /// The token that ends a text.
    fn eos_id(&self) -> Option<u32>;

    /// A conversation through the chat template: ids, and for each whether the assistant writes it (its end token included).
    ///
    /// # Errors
    /// There is no chat template, or it refuses these messages.
    fn chat(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<bool>)>;
}

/// How rows become tokens.
#[derive(Debug, Clone, Copy)]
pub struct Encoding {
    /// Longer rows are cut here; none: never.
    pub max_length: Option<usize>,
    /// Whether text and answers end with the end token, so that the model learns to stop.
    pub add_eos: bool,
}

impl Default for Encoding {
    fn default() -> Self {
        Self { max_length: None, add_eos: true }
    }
}

/// One row as tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// Token ids.
    pub input_ids: Vec<u32>,
    /// One a token: the token itself, or [`IGNORE`]. The shift by one happens in the loss.
    pub labels: Vec<i64>,
    /// Whether the row was cut to `max_length`.
    pub truncated: bool,
}

impl Encoded {
    /// Tokens that carry loss; the first token of a row has nothing before it, so it never does.
    pub fn targets(&self) -> usize {
        self.labels.iter().skip(1).filter(|label| **label != IGNORE).count()
    }

    fn push(&mut self, ids: &[u32], trained: bool) {
        self.input_ids.extend(ids);
        self.labels.extend(ids.iter().map(|id| if trained { i64::from(*id) } else { IGNORE }));
    }

    fn push_eos(&mut self, tokenizer: &dyn TextTokenizer) {
        if let Some(eos) = tokenizer.eos_id()
            && self.input_ids.last() != Some(&eos)
        {
            self.push(&[eos], true);
        }
    }
}

/// Tokenises row `number` (counted from 0, for messages). Prompt and answer are encoded apart, so that no token spans both.
///
/// # Errors
/// The row has no accepted shape, or the tokenizer fails.
pub fn tokenize(row: &Row, number: usize, tokenizer: &dyn TextTokenizer, encoding: Encoding) -> Result<Encoded> {
    let example = Example::from_row(row, number)?;
    let mut encoded = Encoded::default();
    match &example {
        Example::Text(text) => {
            encoded.push(&tokenizer.encode(text, true)?, true);
            if encoding.add_eos {
                encoded.push_eos(tokenizer);
            }
        }
        Example::Messages(messages) => {
            let (ids, trained) = tokenizer.chat(messages)?;
            for (id, trained) in ids.iter().zip(trained) {
                encoded.push(&[*id], trained);
            }
        }
        Example::PromptCompletion { .. } | Example::Instruction { .. } => {
            if let Some((prompt, answer)) = example.prompt_and_answer() {
                let mut ids = tokenizer.encode(&prompt, true)?;
                // A tokenizer that closes every text with its end token would end the row before the answer.
                if ids.len() > 1 && ids.last().copied() == tokenizer.eos_id() {
                    ids.pop();
                }
                encoded.push(&ids, false);
                encoded.push(&tokenizer.encode(answer, false)?, true);
                if encoding.add_eos {
                    encoded.push_eos(tokenizer);
                }
            }
        }
    }
    if let Some(limit) = encoding.max_length
        && encoded.input_ids.len() > limit
    {
        encoded.input_ids.truncate(limit);
        encoded.labels.truncate(limit);
        encoded.truncated = true;
    }
    Ok(encoded)
}

/// A tokenised data set.
#[derive(Debug, Clone, Default)]
pub struct Tokenized {
    /// One a row, in order.
    pub rows: Vec<Encoded>,
    /// Rows that were cut.
    pub truncated: usize,
    /// Rows without a token that carries loss: cut before the answer began, or empty.
    pub without_target: usize,
}

impl Tokenized {
    /// What the user should know, or nothing: rows cut, rows that teach nothing.
    pub fn warning(&self, max_length: Option<usize>) -> Option<String> {
        let mut parts = Vec::new();
        if self.truncated > 0 {
            let limit = max_length.map_or(String::new(), |n| format!(" to max_length {n}"));
            parts.push(format!("{} of {} rows were cut{limit}", self.truncated, self.rows.len()));
        }
        if self.without_target > 0 {
            parts.push(format!("{} rows have no token to learn from", self.without_target));
        }
        if parts.is_empty() { None } else { Some(parts.join("; ")) }
    }
}

/// Tokenises every row.
///
/// # Errors
/// The data set is empty, a row cannot be tokenised, no row has a token to learn from, or the user interrupted.
pub fn tokenize_dataset(
    data: &Dataset,
    tokenizer: &dyn TextTokenizer,
    encoding: Encoding,
    control: &Control,
) -> Result<Tokenized> {
    let mut result = Tokenized::default();
    for (number, row) in data.non_empty("training")?.iter().enumerate() {
        control.check()?;
        let encoded = tokenize(row, number, tokenizer, encoding)?;
        result.truncated += usize::from(encoded.truncated);
        result.without_target += usize::from(encoded.targets() == 0);
        result.rows.push(encoded);
    }
    if result.without_target == result.rows.len() {
        let hint = "raise max_length, or look whether the answers are empty";
        return Err(Error::argument(format!("none of the {} rows has a token to learn from; {hint}", result.rows.len())));
    }
    Ok(result)
}
