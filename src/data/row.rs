//! What a row is for training: its shape decides which of its tokens carry loss.

use super::Row;
use super::conversation::{messages, sharegpt};
use super::format::{KNOWN, RowFormat, given};
use crate::error::{Error, Result};
use serde_json::Value;
use std::fmt::Display;

pub use super::conversation::Message;

/// A row by its shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Example {
    /// `messages: [#{ role, content }]`, or `conversations: [#{ from, value }]`: the chat template; loss on the assistant's turns.
    Messages(Vec<Message>),
    /// `prompt`, `completion`: loss on the completion alone.
    PromptCompletion {
        /// Given to the model.
        prompt: String,
        /// What it should answer.
        completion: String,
    },
    /// `prompt`, `completion`, both lists of messages: the chat template; loss on the assistant's turns of the completion.
    ChatPromptCompletion {
        /// Given to the model.
        prompt: Vec<Message>,
        /// What it should answer.
        completion: Vec<Message>,
    },
    /// `text`: loss on every token.
    Text(String),
    /// `instruction`, `input` (optional), `output`: the Alpaca layout; loss on the output alone.
    Instruction {
        /// What to do.
        instruction: String,
        /// What to do it with; may be empty.
        input: String,
        /// What the model should answer.
        output: String,
    },
}

impl Example {
    /// What a row is, by its own fields or, with a format, by that. `place` is what messages call the row.
    ///
    /// # Errors
    /// The row has none of the shapes, or not that of the format, or a field is not of the right kind.
    pub fn from_row(row: &Row, format: Option<RowFormat>, place: &dyn Display) -> Result<Self> {
        let wrong = |what: &str| Error::argument(format!("row {place}: {what}"));
        let text = |name: &str| match row.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            None | Some(Value::Null) => Ok(String::new()),
            Some(other) => Err(wrong(&format!("`{name}` must be a string, but it is {}", super::json::kind(other)))),
        };
        let chat = |name: &str| messages(row, name).map_err(|what| wrong(&what));
        let found = match format {
            Some(format) if format.fits(row) => format,
            Some(format) => return Err(misfit(row, format, place)),
            None => RowFormat::of_row(row).ok_or_else(|| unknown(row, place))?,
        };
        Ok(match found {
            RowFormat::Messages => Self::Messages(chat("messages")?),
            RowFormat::ShareGpt => Self::Messages(sharegpt(row).map_err(|what| wrong(&what))?),
            RowFormat::PromptCompletion => match (given(row, "prompt"), given(row, "completion")) {
                (Some(Value::Array(_)), Some(Value::Array(_))) => {
                    Self::ChatPromptCompletion { prompt: chat("prompt")?, completion: chat("completion")? }
                }
                (Some(Value::Array(_)), _) | (_, Some(Value::Array(_))) => {
                    return Err(wrong("`prompt` and `completion` must both be strings or both lists of messages"));
                }
                _ => Self::PromptCompletion { prompt: text("prompt")?, completion: text("completion")? },
            },
            RowFormat::Text => Self::Text(text("text")?),
            RowFormat::Alpaca => {
                Self::Instruction { instruction: text("instruction")?, input: text("input")?, output: text("output")? }
            }
        })
    }

    /// Prompt and answer of the shapes that have them as text; the Alpaca layout for an instruction.
    pub fn prompt_and_answer(&self) -> Option<(String, &str)> {
        match self {
            Self::PromptCompletion { prompt, completion } => Some((prompt.clone(), completion)),
            Self::Instruction { instruction, input, output } => {
                let input = if input.is_empty() { String::new() } else { format!("### Input:\n{input}\n\n") };
                Some((format!("### Instruction:\n{instruction}\n\n{input}### Response:\n"), output))
            }
            Self::Messages(_) | Self::Text(_) | Self::ChatPromptCompletion { .. } => None,
        }
    }
}

fn fields(row: &Row) -> String {
    let keys: Vec<_> = row.keys().map(String::as_str).collect();
    if keys.is_empty() { "no fields".to_string() } else { format!("the fields {}", keys.join(", ")) }
}

fn unknown(row: &Row, place: &dyn Display) -> Error {
    let hint = "name the columns when loading, columns: #{ prompt: \"question\", completion: \"answer\" }, or make them with \
                .map(|row| #{ prompt: row.question, completion: row.answer })";
    Error::argument(format!("row {place} has {}, but training needs {KNOWN}; {hint}", fields(row)))
}

fn misfit(row: &Row, format: RowFormat, place: &dyn Display) -> Error {
    let other = match RowFormat::of_row(row) {
        Some(other) => format!(", which is the format \"{}\"", other.name()),
        None => String::new(),
    };
    Error::argument(format!(
        "row {place} has {}{other}, but the data set is of the format \"{}\": {}",
        fields(row),
        format.name(),
        format.needs()
    ))
}
