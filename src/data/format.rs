//! The formats of rows that training takes, by the names that TRL and axolotl have for them.

use super::Row;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What rows are for training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowFormat {
    /// `messages`.
    Messages,
    /// `conversations` of `from` and `value`.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// `prompt` and `completion`, both text or both lists of messages.
    PromptCompletion,
    /// `text`.
    Text,
    /// `instruction`, `input`, `output`.
    Alpaca,
}

/// The accepted shapes, for messages.
pub(super) const KNOWN: &str = "{text}, {prompt, completion}, {messages: [{role, content}, ..]}, \
                                {conversations: [{from, value}, ..]}, {instruction, input, output} or {input_ids, labels}";

impl RowFormat {
    /// Every format; a row that fits several is of the first.
    pub const ALL: [Self; 5] = [Self::Messages, Self::ShareGpt, Self::PromptCompletion, Self::Text, Self::Alpaca];

    /// The name: "messages", "sharegpt", "prompt_completion", "text" or "alpaca".
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::ShareGpt => "sharegpt",
            Self::PromptCompletion => "prompt_completion",
            Self::Text => "text",
            Self::Alpaca => "alpaca",
        }
    }

    /// The columns that it needs, in words.
    pub(super) fn needs(self) -> &'static str {
        match self {
            Self::Messages => "messages: [{role, content}, ..]",
            Self::ShareGpt => "conversations: [{from, value}, ..]",
            Self::PromptCompletion => "prompt, completion",
            Self::Text => "text",
            Self::Alpaca => "instruction, output, and input where there is one",
        }
    }

    fn columns(self) -> &'static [&'static str] {
        match self {
            Self::Messages => &["messages"],
            Self::ShareGpt => &["conversations"],
            Self::PromptCompletion => &["prompt", "completion"],
            Self::Text => &["text"],
            Self::Alpaca => &["instruction", "output"],
        }
    }

    /// Whether a row has the fields of this format.
    pub fn fits(self, row: &Row) -> bool {
        self.columns().iter().all(|name| given(row, name).is_some())
    }

    /// The format of a row by its fields.
    pub fn of_row(row: &Row) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.fits(row))
    }

    /// The format of a row, of which messages speak as the first of its data set.
    ///
    /// # Errors
    /// It has none; the message lists the columns and the formats.
    pub fn detect(row: &Row) -> Result<Self> {
        Self::of_row(row).ok_or_else(|| {
            let columns: Vec<&str> = row.keys().map(String::as_str).collect();
            Error::argument(format!(
                "the format of the rows cannot be told from the columns {}. Known formats: {}. Name the columns that are meant: \
                 columns: #{{ prompt: \"question\", completion: \"answer\" }}",
                columns.join(", "),
                known_formats()
            ))
        })
    }

    /// Whether a data set's columns are those of this format.
    ///
    /// # Errors
    /// They are not; the message lists the columns and the formats.
    pub fn check(self, columns: &[String]) -> Result<()> {
        match self.columns().iter().find(|name| !columns.iter().any(|column| column == *name)) {
            None => Ok(()),
            Some(missing) => Err(Error::argument(format!(
                "format \"{}\" needs the column `{missing}`, but the columns are {}. Known formats: {}. Name the columns that \
                 are meant: columns: #{{ {missing}: \"...\" }}",
                self.name(),
                columns.join(", "),
                known_formats()
            ))),
        }
    }
}

fn known_formats() -> String {
    let one = |format: RowFormat| format!("\"{}\" ({})", format.name(), format.needs());
    RowFormat::ALL.map(one).join(", ")
}

/// A field that is there and not null.
pub(super) fn given<'a>(row: &'a Row, name: &str) -> Option<&'a Value> {
    row.get(name).filter(|value| !value.is_null())
}
