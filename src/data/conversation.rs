//! Conversations in rows: lists of messages, in the layout of chat templates or in that of ShareGPT.

use super::Row;
use super::format::given;
use serde_json::Value;

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// "system", "user", "assistant" or what else the chat template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Who speaks in ShareGPT's layout and the roles of chat templates, as axolotl maps them.
const SPEAKERS: &[(&str, &str)] = &[
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("assistant", "assistant"),
    ("chatgpt", "assistant"),
    ("model", "assistant"),
    ("function_call", "assistant"),
    ("system", "system"),
    ("tool", "tool"),
    ("function_response", "tool"),
    ("observation", "tool"),
];

/// The list of messages in this field, or what is wrong with it.
pub(super) fn messages(row: &Row, name: &str) -> Result<Vec<Message>, String> {
    let hint = format!("`{name}` is an array of {{role, content}}, both strings");
    let turn = |(i, turn): (usize, &Value)| {
        if let Some(what) = unheeded(turn, turn.get("role").and_then(Value::as_str)) {
            return Err(format!("message {i} has {what}"));
        }
        match (turn.get("role"), turn.get("content").and_then(content)) {
            (Some(Value::String(role)), Some(content)) => Ok(Message { role: role.clone(), content }),
            _ => Err(format!("message {i} lacks a role or content, or one of them is not a string; {hint}")),
        }
    };
    turns(row, name, &hint)?.iter().enumerate().map(turn).collect()
}

/// The conversation of a row in ShareGPT's layout; a field `system` is its system message.
pub(super) fn sharegpt(row: &Row) -> Result<Vec<Message>, String> {
    let hint = "`conversations` is an array of {from, value}, both strings";
    let turn = |(i, turn): (usize, &Value)| {
        let pick = |ours: &str, other: &str| turn.get(ours).or_else(|| turn.get(other));
        let (from, value) = (pick("from", "role"), pick("value", "content").and_then(content));
        let (Some(Value::String(from)), Some(content)) = (from, value) else {
            return Err(format!("message {i} lacks from or value, or one of them is not a string; {hint}"));
        };
        match SPEAKERS.iter().find(|(speaker, _)| speaker == from) {
            Some((_, role)) => match unheeded(turn, Some(*role)) {
                Some(what) => Err(format!("message {i} has {what}")),
                None => Ok(Message { role: role.to_string(), content }),
            },
            None => {
                let known: Vec<&str> = SPEAKERS.iter().map(|(speaker, _)| *speaker).collect();
                Err(format!("message {i} is from \"{from}\", but known are {}", known.join(", ")))
            }
        }
    };
    let mut messages = turns(row, "conversations", hint)?.iter().enumerate().map(turn).collect::<Result<Vec<_>, _>>()?;
    if let Some(Value::String(system)) = given(row, "system").filter(|_| messages[0].role != "system")
        && !system.is_empty()
    {
        messages.insert(0, Message { role: "system".into(), content: system.clone() });
    }
    Ok(messages)
}

/// What a message says beside its content that would change what is learned, and is refused because it is not heeded.
fn unheeded(turn: &Value, role: Option<&str>) -> Option<String> {
    let calls = ["tool_calls", "function_call"].into_iter().find(|name| match turn.get(name) {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => !calls.is_empty(),
        Some(_) => true,
    });
    if let Some(name) = calls {
        return Some(format!(
            "`{name}`, which would not be learned: write the calls into its content, as the model should write them"
        ));
    }
    let unlearned = turn.get("weight").and_then(Value::as_f64) == Some(0.0) && role == Some("assistant");
    unlearned.then(|| {
        "the `weight` 0, but every turn of the assistant is learned: put the turns before the answer into `prompt` and the \
         answer into `completion`"
            .to_string()
    })
}

fn turns<'a>(row: &'a Row, name: &str, hint: &str) -> Result<&'a [Value], String> {
    match row.get(name) {
        Some(Value::Array(turns)) if turns.is_empty() => Err(format!("`{name}` is empty; {hint}")),
        Some(Value::Array(turns)) => Ok(turns),
        _ => Err(format!("`{name}` is not an array; {hint}")),
    }
}

/// The text of a message: a string, or parts of which all are text.
fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(|part| part.get("text")?.as_str()).collect(),
        _ => None,
    }
}
