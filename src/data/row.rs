//! What a row is for training: its shape decides which of its tokens carry loss.

use super::Row;
use crate::error::{Error, Result};
use serde_json::Value;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// "system", "user", "assistant" or what else the chat template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// A row by its shape. Where a row fits several, the first of this list wins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Example {
    /// `messages: [#{ role, content }]`: the chat template; loss on the assistant's turns.
    Messages(Vec<Message>),
    /// `prompt`, `completion`: loss on the completion alone.
    PromptCompletion {
        /// Given to the model.
        prompt: String,
        /// What it should answer.
        completion: String,
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

/// The accepted shapes, for messages.
pub const SHAPES: &str = "{text}, {prompt, completion}, {messages: [{role, content}, ..]} or {instruction, input, output}";

impl Example {
    /// Classifies row `number` (counted from 0, for messages).
    ///
    /// # Errors
    /// The row has none of the shapes, or a field is not of the right kind.
    pub fn from_row(row: &Row, number: usize) -> Result<Self> {
        let has = |names: &[&str]| names.iter().all(|name| row.get(*name).is_some_and(|value| !value.is_null()));
        let text = |name: &str| match row.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            None | Some(Value::Null) => Ok(String::new()),
            Some(other) => {
                let kind = super::json::kind(other);
                Err(Error::argument(format!("row {number}: `{name}` must be a string, but it is {kind}")))
            }
        };
        if has(&["messages"]) {
            return Ok(Self::Messages(messages(row.get("messages"), number)?));
        }
        if has(&["prompt", "completion"]) {
            return Ok(Self::PromptCompletion { prompt: text("prompt")?, completion: text("completion")? });
        }
        if has(&["text"]) {
            return Ok(Self::Text(text("text")?));
        }
        if has(&["instruction", "output"]) {
            return Ok(Self::Instruction { instruction: text("instruction")?, input: text("input")?, output: text("output")? });
        }
        let keys: Vec<_> = row.keys().map(String::as_str).collect();
        let keys = if keys.is_empty() { "no fields".to_string() } else { format!("the fields {}", keys.join(", ")) };
        let hint = "make one with .map(|row| #{ prompt: row.question, completion: row.answer })";
        Err(Error::argument(format!("row {number} has {keys}, but training needs {SHAPES}; {hint}")))
    }

    /// Prompt and answer of the shapes that have them; the Alpaca layout for an instruction.
    pub fn prompt_and_answer(&self) -> Option<(String, &str)> {
        match self {
            Self::PromptCompletion { prompt, completion } => Some((prompt.clone(), completion)),
            Self::Instruction { instruction, input, output } => {
                let input = if input.is_empty() { String::new() } else { format!("### Input:\n{input}\n\n") };
                Some((format!("### Instruction:\n{instruction}\n\n{input}### Response:\n"), output))
            }
            Self::Messages(_) | Self::Text(_) => None,
        }
    }
}

fn messages(value: Option<&Value>, number: usize) -> Result<Vec<Message>> {
    let wrong = |what: String| {
        Error::argument(format!("row {number}: {what}; `messages` is an array of {{role, content}}, both strings"))
    };
    let Some(Value::Array(turns)) = value else {
        return Err(wrong("`messages` is not an array".into()));
    };
    if turns.is_empty() {
        return Err(wrong("`messages` is empty".into()));
    }
    let turn = |(i, turn): (usize, &Value)| match (turn.get("role"), turn.get("content")) {
        (Some(Value::String(role)), Some(Value::String(content))) => Ok(Message { role: role.clone(), content: content.clone() }),
        _ => Err(wrong(format!("message {i} lacks a role or content, or one of them is not a string"))),
    };
    turns.iter().enumerate().map(turn).collect()
}
