//! Rows to tokens and labels. A label is the token that must be predicted at that place, or -100 where none counts.

use super::format::given;
use super::{Dataset, Example, Message, Row, RowFormat};
use crate::control::Control;
use crate::error::{Error, Result};
use serde_json::Value;
use std::fmt::Display;

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
    /// What every row is; none: each is what its own fields say.
    pub format: Option<RowFormat>,
}

impl Default for Encoding {
    fn default() -> Self {
        Self { max_length: None, add_eos: true, format: None }
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

    /// The row with at most `max_length` tokens.
    pub(super) fn cut(mut self, max_length: Option<usize>) -> Self {
        if let Some(limit) = max_length.filter(|limit| self.input_ids.len() > *limit) {
            self.input_ids.truncate(limit);
            self.labels.truncate(limit);
            self.truncated = true;
        }
        self
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

/// Tokenises a row, which messages call `place`. Prompt and answer are encoded apart, so that no token spans both.
///
/// # Errors
/// The row has no accepted shape, or the tokenizer fails.
pub fn tokenize(row: &Row, place: &dyn Display, tokenizer: &dyn TextTokenizer, encoding: Encoding) -> Result<Encoded> {
    if let Some(ids) = given(row, "input_ids").filter(|_| encoding.format.is_none()) {
        return Ok(tokenized_before(row, ids, place)?.cut(encoding.max_length));
    }
    let example = Example::from_row(row, encoding.format, place)?;
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
        Example::ChatPromptCompletion { prompt, completion } => {
            let (ids, trained) = tokenizer.chat(&[prompt.as_slice(), completion].concat())?;
            // What the prompt alone begins with is the prompt's.
            let (given, _) = tokenizer.chat(prompt)?;
            let shared = ids.iter().zip(&given).take_while(|(whole, prompt)| whole == prompt).count();
            for (i, (id, trained)) in ids.iter().zip(trained).enumerate() {
                encoded.push(&[*id], trained && i >= shared);
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
    Ok(encoded.cut(encoding.max_length))
}

/// A row that is tokens already, as data sets for transformers' Trainer are: `input_ids`; `labels`, without which every token is
/// learned; and `attention_mask`, whose zeros are padding, which is left out.
fn tokenized_before(row: &Row, ids: &Value, place: &dyn Display) -> Result<Encoded> {
    let wrong = |what: String| Error::argument(format!("row {place}: {what}"));
    let numbers = |name: &str, value: &Value| -> Result<Vec<i64>> {
        let all = value.as_array().and_then(|values| values.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>());
        all.ok_or_else(|| wrong(format!("`{name}` must be an array of integers")))
    };
    let ids = numbers("input_ids", ids)?;
    let beside = |name: &str| given(row, name).map(|value| numbers(name, value)).transpose();
    let (labels, mask) = (beside("labels")?, beside("attention_mask")?);
    for (name, other) in [("labels", &labels), ("attention_mask", &mask)] {
        if let Some(other) = other.as_ref().filter(|other| other.len() != ids.len()) {
            let (entries, tokens) = (other.len(), ids.len());
            return Err(wrong(format!("`{name}` has {entries} entries, but `input_ids` has {tokens}")));
        }
    }
    let mut encoded = Encoded::default();
    for (i, id) in ids.iter().enumerate() {
        let token = u32::try_from(*id).map_err(|_| wrong(format!("{id} in `input_ids` is no token id")))?;
        if mask.as_ref().is_none_or(|mask| mask[i] != 0) {
            encoded.input_ids.push(token);
            encoded.labels.push(labels.as_ref().map_or(*id, |labels| labels[i]));
        }
    }
    if encoded.input_ids.is_empty() {
        return Err(wrong("`input_ids` has no token that counts".to_string()));
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
    /// Adds a row.
    pub(super) fn push(&mut self, mut row: Encoded) {
        // A row that was cut would keep the memory of the whole.
        row.input_ids.shrink_to_fit();
        row.labels.shrink_to_fit();
        self.truncated += usize::from(row.truncated);
        self.without_target += usize::from(row.targets() == 0);
        self.rows.push(row);
    }

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
    let encoding = Encoding { format: encoding.format.or(data.format()), ..encoding };
    for (number, row) in data.non_empty("training")?.iter().enumerate() {
        control.check()?;
        result.push(tokenize(&*row?, &data.place(number), tokenizer, encoding)?);
    }
    if result.without_target == result.rows.len() {
        return Err(no_target(result.rows.len()));
    }
    Ok(result)
}

pub(super) fn no_target(rows: usize) -> Error {
    let hint = "raise max_length, or look whether the answers are empty";
    Error::argument(format!("none of the {rows} rows has a token to learn from; {hint}"))
}
