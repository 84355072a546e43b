//! JSON Lines and JSON arrays of objects, one row at a time.

use super::columns::Columns;
use super::input::{self, Input};
use super::read::{FileRow, FileRows};
use super::{Row, json_array::JsonArray};
use crate::error::{Error, Result};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

/// The longest text that is looked through to explain what is wrong with it.
const EXPLAINED: u64 = 1 << 20;

/// Rows of a JSON array, or of JSON Lines (one object a line, blank lines skipped).
pub(super) fn rows(path: &Path) -> Result<FileRows> {
    let mut input = input::open(path)?;
    Ok(if begins_array(path, &mut input)? {
        Box::new(JsonArray::new(path, input))
    } else {
        Box::new(JsonLines { path: path.to_path_buf(), input, line: Vec::new(), number: 0, first: true, done: false })
    })
}

/// Rows that one field of a file, which is a JSON object, holds as an array. The file is in memory as a whole.
pub(super) fn rows_of_field(path: &Path, field: &str) -> Result<FileRows> {
    let mut text = Vec::new();
    input::open(path)?.read_to_end(&mut text).map_err(|e| Error::io("read", path, e))?;
    let wrong = |message: String| Error::format(path, message);
    let document: Value = serde_json::from_slice(&text).map_err(|e| {
        let expected = format!("expected one JSON object with the field \"{field}\"");
        wrong(format!("line {}, column {}: {}; {expected}", e.line(), e.column(), reason(&e)))
    })?;
    let mut document = match document {
        Value::Object(document) => document,
        other => return Err(wrong(format!("the file is {}, which has no field \"{field}\"", kind(&other)))),
    };
    let rows = match document.remove(field) {
        Some(Value::Array(rows)) => rows,
        Some(other) => {
            return Err(wrong(format!("the field \"{field}\" is {}, but it must be an array of objects", kind(&other))));
        }
        None => {
            let names: Vec<&str> = document.keys().map(String::as_str).collect();
            return Err(wrong(format!("there is no field \"{field}\"; there are: {}", names.join(", "))));
        }
    };
    let (path, field) = (path.to_path_buf(), field.to_string());
    Ok(Box::new(rows.into_iter().enumerate().map(move |(i, row)| match row {
        Value::Object(row) => Ok(FileRow { row, line: 0 }),
        other => {
            let message = format!("item {i} of the field \"{field}\" is {}, but every row must be an object", kind(&other));
            Err(Error::format(&path, message))
        }
    })))
}

/// Whether a file is a JSON array rather than JSON Lines.
pub(super) fn is_array(path: &Path) -> Result<bool> {
    begins_array(path, &mut input::open(path)?)
}

fn begins_array(path: &Path, input: &mut Input) -> Result<bool> {
    loop {
        let block = input.fill_buf().map_err(|e| Error::io("read", path, e))?;
        match block.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => return Ok(block[at] == b'['),
            None if block.is_empty() => return Ok(false),
            // A line break that is skipped would make the lines' numbers wrong, so all blanks stay where a line begins.
            None if block.contains(&b'\n') => return Ok(false),
            None => {
                let length = block.len();
                input.consume(length);
            }
        }
    }
}

/// Rows of text in memory. `path` is for messages.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Row>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(i, line)| line_row(path, line.as_bytes(), i as u64 + 1)).collect()
}

struct JsonLines {
    path: PathBuf,
    input: Input,
    line: Vec<u8>,
    number: u64,
    first: bool,
    done: bool,
}

impl JsonLines {
    fn read(&mut self) -> Result<Option<FileRow>> {
        loop {
            self.line.clear();
            self.number += 1;
            if self.input.read_until(b'\n', &mut self.line).map_err(|e| Error::io("read", &self.path, e))? == 0 {
                return Ok(None);
            }
            if self.line.trim_ascii().is_empty() {
                continue;
            }
            let first = std::mem::take(&mut self.first);
            let row = match line_row(&self.path, &self.line, self.number) {
                Err(_) if first && self.is_spread()? => return Err(spread(&self.path)),
                row => row?,
            };
            return Ok(Some(FileRow { row, line: self.number }));
        }
    }

    /// Whether the file's first object goes over several lines.
    fn is_spread(&mut self) -> Result<bool> {
        let first_line = self.line.len();
        let mut text = std::mem::take(&mut self.line);
        (&mut self.input).take(EXPLAINED).read_to_end(&mut text).map_err(|e| Error::io("read", &self.path, e))?;
        let mut objects = serde_json::Deserializer::from_slice(&text).into_iter::<Row>();
        Ok(matches!(objects.next(), Some(Ok(_))) && objects.byte_offset() > first_line)
    }
}

impl Iterator for JsonLines {
    type Item = Result<FileRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let row = self.read().transpose();
        self.done = !matches!(row, Some(Ok(_)));
        row
    }
}

fn spread(path: &Path) -> Error {
    let message = "the first JSON object goes over several lines, but JSON Lines has one object a line";
    let inside = "rows inside an object are read with the option field";
    Error::format(path, format!("{message}; for several rows write an array: [{{..}}, {{..}}]; {inside}"))
}

fn line_row(path: &Path, line: &[u8], number: u64) -> Result<Row> {
    let text = input::text(path, line, number)?.trim_end();
    match serde_json::from_str(text) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(other) => Err(not_an_object(path, number, &other)),
        Err(e) => Err(malformed(path, number, text, &e)),
    }
}

/// Checks a line without making a row of it, and notes its fields' names.
pub(super) fn check_line(path: &Path, line: &[u8], number: u64, first: bool, columns: &mut Columns) -> Result<()> {
    let text = input::text(path, line, number)?.trim_end();
    let mut parser = serde_json::Deserializer::from_str(text);
    let checked = parser.deserialize_map(Names(columns)).and_then(|()| parser.end());
    match checked {
        Ok(()) => Ok(()),
        // The whole way gives the words; only the first line of a file can be the first of an object.
        Err(_) => match line_row(path, line, number) {
            Err(_) if first && text == "{" => Err(spread(path)),
            other => other.map(|_| ()),
        },
    }
}

/// Takes the names of an object's fields and skips their values.
struct Names<'a>(&'a mut Columns);

impl<'de> Visitor<'de> for Names<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            self.0.add(&name);
            map.next_value::<Checked>()?;
        }
        Ok(())
    }
}

/// Any value, of which nothing is kept. serde's `IgnoredAny` would let pass what a row cannot hold: half of a surrogate pair, a
/// number out of range, lists inside each other without end.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Self, E> {
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> std::result::Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> std::result::Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> std::result::Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> std::result::Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> std::result::Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> std::result::Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

fn not_an_object(path: &Path, number: u64, value: &Value) -> Error {
    let message =
        format!("line {number}: every line must be an object such as {{\"text\": \"..\"}}, but this is {}", kind(value));
    Error::format(path, message)
}

fn malformed(path: &Path, number: u64, text: &str, error: &serde_json::Error) -> Error {
    // Python writes these, which are no JSON.
    let stumbled = text.get(error.column().saturating_sub(1)..).unwrap_or_default();
    let message = match ["NaN", "Infinity"].into_iter().find(|word| stumbled.starts_with(word)) {
        Some(word) => format!("{word} is no number of JSON; write null where there is none"),
        None => format!("{}; expected one JSON object a line", reason(error)),
    };
    Error::format(path, format!("line {number}, column {}: {message}", error.column()))
}

/// serde_json's message without its own position, which counts from what we gave it.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rfind(" at line ").map_or(text.clone(), |end| text[..end].to_string())
}

/// A value's kind in words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
