//! Chat templates: Jinja, set up as transformers sets it up, and where the assistant's turns are in what they render.

use crate::error::{Error, Result};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Serde};
use minijinja::{Environment, ErrorKind, Value as JinjaValue};
use serde_json::{Map, Value};
use std::ops::Range;
use std::path::{Path, PathBuf};

const NAME: &str = "chat_template";

/// Put behind the message that is to be continued, to find its end in what is rendered; with the space that some templates trim.
const CONTINUED: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// A model's chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    path: PathBuf,
    /// "bos_token" and the like.
    variables: Vec<(String, String)>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTemplate({})", self.path.display())
    }
}

impl ChatTemplate {
    /// Compiles a template; `path` is where it was read, `variables` the special tokens it may name.
    ///
    /// # Errors
    /// It is no valid template; the message gives the line.
    pub fn new(source: &str, path: &Path, variables: Vec<(String, String)>) -> Result<Self> {
        let refused =
            |error: &minijinja::Error| Error::format(path, format!("the chat template cannot be read: {}", message(error)));
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(|e| refused(&e))?);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", |message: String| -> Result<JinjaValue, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", |format: String| super::local_time::strftime_now(&format));
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(|e| refused(&e))?;
        Ok(Self { environment, source: source.to_string(), path: path.to_path_buf(), variables })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// A message is no object with a role, or the template refuses the messages.
    pub fn render(&self, messages: &[Value], add_generation_prompt: bool) -> Result<String> {
        self.render_with(messages, add_generation_prompt, &Map::new())
    }

    /// As [`Self::render`], with variables of the template's own, such as "enable_thinking".
    ///
    /// # Errors
    /// As [`Self::render`]; or the template does not have such a variable.
    pub fn render_with(&self, messages: &[Value], add_generation_prompt: bool, variables: &Map<String, Value>) -> Result<String> {
        let unknown =
            |name: &&String| matches!(name.as_str(), "messages" | "add_generation_prompt") || !self.source.contains(*name);
        if let Some(name) = variables.keys().find(unknown) {
            return Err(Error::argument(format!(
                "the chat template of {} takes no variable \"{name}\"; leave it out",
                self.path.display()
            )));
        }
        for (i, message) in messages.iter().enumerate() {
            if message.get("role").and_then(Value::as_str).is_none() {
                let wanted = "expected an object with role (\"system\", \"user\" or \"assistant\") and content";
                return Err(Error::argument(format!("message {i}: {wanted}, found {message}")));
            }
        }
        let mut context: std::collections::BTreeMap<&str, JinjaValue> =
            self.variables.iter().map(|(key, value)| (key.as_str(), JinjaValue::from(value.as_str()))).collect();
        context.insert("messages", JinjaValue::from(Serde(messages)));
        context.insert("add_generation_prompt", add_generation_prompt.into());
        context.insert("tools", ().into());
        context.insert("documents", ().into());
        context.extend(variables.iter().map(|(name, value)| (name.as_str(), JinjaValue::from(Serde(value)))));
        let rendered = self.environment.get_template(NAME).and_then(|template| template.render(context));
        rendered.map_err(|error| Error::argument(format!("the chat template of {}: {}", self.path.display(), message(&error))))
    }
}

impl ChatTemplate {
    /// Renders a conversation up to the end of what its last message says, for the model to go on with it.
    ///
    /// # Errors
    /// As [`Self::render_with`]; there is no last message, or the template changes what it says.
    pub fn render_to_continue(&self, messages: &[Value], variables: &Map<String, Value>) -> Result<String> {
        let refuse = |what: &str| Err(Error::argument(format!("continue_final_message: {what}")));
        let Some((last, before)) = messages.split_last() else { return refuse("there are no messages") };
        let Some(content) = last.get("content").and_then(Value::as_str) else {
            return refuse("the content of the last message is no text");
        };
        let mut marked = last.clone();
        marked["content"] = format!("{content}{CONTINUED}").into();
        let text = self.render_with(&[before, &[marked]].concat(), false, variables)?;
        let Some(end) = text.rfind(CONTINUED.trim_end()).filter(|_| text.contains(content.trim())) else {
            return refuse("the chat template changes the last message, so that its end cannot be found");
        };
        // Without the space the template has trimmed the message.
        Ok(if text[end..].starts_with(CONTINUED) { text[..end].to_string() } else { text[..end].trim_end().to_string() })
    }
}

/// Where in `full` the assistant's message `index` is, from its first character to its end-of-turn token, searched from `cursor` on.
///
/// Found by rendering: what the messages up to the turn give beyond the prompt before it. Templates that change earlier turns
/// (leave out reasoning) or need the turn to render its prompt are searched for the content itself.
pub(super) fn span_of_turn(
    template: &ChatTemplate,
    messages: &[Value],
    index: usize,
    full: &str,
    cursor: usize,
) -> Result<Range<usize>> {
    let upto = if index + 1 == messages.len() { full.to_string() } else { template.render(&messages[..=index], false)? };
    // Without messages, or with a system message alone, some templates refuse to render.
    if let Ok(prompt) = template.render(&messages[..index], true)
        && upto.starts_with(&prompt)
        && full.starts_with(&upto)
        && prompt.len() >= cursor
    {
        return Ok(prompt.len()..prompt.len() + turn_length(&upto[prompt.len()..]));
    }
    let content = messages[index].get("content").and_then(Value::as_str).unwrap_or_default().trim();
    let lost = || {
        Error::argument(format!(
            "the chat template changes message {index} of the assistant so that it cannot be found in the rendered conversation; \
             train on such data as prompt and completion"
        ))
    };
    if content.is_empty() {
        return Err(lost());
    }
    let in_upto = upto.rfind(content).ok_or_else(lost)?;
    let after = &upto[in_upto + content.len()..];
    let ending = &after[..turn_length(after)];
    let start = cursor + full[cursor..].find(content).ok_or_else(lost)?;
    let end = start + content.len();
    Ok(start..if full[end..].starts_with(ending) { end + ending.len() } else { end })
}

/// A turn without the white space that the template puts behind its end-of-turn token.
fn turn_length(turn: &str) -> usize {
    turn.trim_end().len()
}

/// transformers' own block tag marks the assistant's words; it renders its content.
fn without_generation_tags(source: &str) -> String {
    match regex::Regex::new(r"\{%([-+]?)\s*(end)?generation\s*([-+]?)%\}") {
        Ok(tag) => tag
            .replace_all(source, |found: &regex::Captures<'_>| {
                let block = if found.get(2).is_some() { "endif" } else { "if true" };
                format!("{{%{} {block} {}%}}", &found[1], &found[3])
            })
            .into_owned(),
        Err(_) => source.to_string(),
    }
}

/// minijinja's message with the line, without its error kind where the template itself raised it.
fn message(error: &minijinja::Error) -> String {
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    match error.line() {
        Some(line) => format!("{text} (line {line} of the template)"),
        None => text,
    }
}

/// Python's `json.dumps(value, ensure_ascii=False, indent=indent)`: transformers replaces Jinja's filter, which escapes HTML.
fn tojson(value: &JinjaValue, options: Kwargs) -> Result<JinjaValue, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let _: Option<JinjaValue> = options.get("separators")?;
    options.assert_all_used()?;
    let mut json =
        serde_json::to_value(value).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, format!("tojson: {e}")))?;
    if sort == Some(true) {
        json.sort_all_objects();
    }
    let mut out = String::new();
    dump(&json, indent, 0, &mut out);
    Ok(JinjaValue::from_safe_string(out))
}

fn dump(value: &Value, indent: Option<usize>, depth: usize, out: &mut String) {
    let items: Vec<(Option<&String>, &Value)> = match value {
        Value::Array(items) => items.iter().map(|item| (None, item)).collect(),
        Value::Object(map) => map.iter().map(|(key, item)| (Some(key), item)).collect(),
        other => return out.push_str(&other.to_string()),
    };
    let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
    out.push(open);
    for (i, (key, item)) in items.iter().enumerate() {
        if i > 0 {
            out.push_str(if indent.is_some() { "," } else { ", " });
        }
        new_line(indent, depth + 1, out);
        if let Some(key) = key {
            out.push_str(&format!("{}: ", Value::from(key.as_str())));
        }
        dump(item, indent, depth + 1, out);
    }
    if !items.is_empty() {
        new_line(indent, depth, out);
    }
    out.push(close);
}

fn new_line(indent: Option<usize>, depth: usize, out: &mut String) {
    if let Some(width) = indent {
        out.push('\n');
        out.push_str(&" ".repeat(width * depth));
    }
}
