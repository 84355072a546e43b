//! A GGUF file's metadata, read by kind: a value of another kind than its key's is an error, never as if it were not there.

use crate::error::{Error, Result};
use candle_core::quantized::gguf_file::Value;
use std::collections::HashMap;
use std::path::Path;

/// Metadata, with the file for messages.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub map: &'a HashMap<String, Value>,
    pub path: &'a Path,
}

impl<'a> Metadata<'a> {
    pub fn wrong(&self, message: impl Into<String>) -> Error {
        Error::format(self.path, message)
    }

    fn read<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.map.get(key) else { return Ok(None) };
        match read(value) {
            Some(found) => Ok(Some(found)),
            None => Err(self.wrong(format!("metadata {key}: expected {what}, found {}", described(value)))),
        }
    }

    fn array<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<Vec<T>>> {
        let values = |value: &'a Value| -> Option<Vec<T>> {
            if let Value::Array(values) = value { values.iter().map(&read).collect() } else { None }
        };
        self.read(key, &format!("an array of {what}"), values)
    }

    /// A whole number of whatever width; of a number for every layer that one which all have.
    pub fn integer(&self, key: &str) -> Result<Option<u64>> {
        let same = |value: &Value| match value {
            Value::Array(values) => {
                let first = whole(values.first()?)?;
                values.iter().all(|value| whole(value) == Some(first)).then_some(first)
            }
            value => whole(value),
        };
        self.read(key, "a whole number", same)
    }

    /// A finite number.
    pub fn float(&self, key: &str) -> Result<Option<f64>> {
        let number = |value: &Value| match value {
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            value => whole(value).map(|n| n as f64),
        };
        self.read(key, "a finite number", |value| number(value).filter(|x| x.is_finite()))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        self.read(key, "a text", text)
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let flag = |value: &Value| if let Value::Bool(flag) = value { Some(*flag) } else { None };
        self.read(key, "true or false", flag)
    }

    /// An array of texts.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.array(key, "texts", text)
    }

    /// An array of 32-bit floats that are numbers.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f32>>> {
        let number = |value: &Value| if let Value::F32(x) = value { Some(*x).filter(|x| !x.is_nan()) } else { None };
        self.array(key, "32-bit floats", number)
    }

    /// An array of whole numbers.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<u64>>> {
        self.array(key, "whole numbers of at least 0", whole)
    }

    /// The id of the token with a role ("bos", "eos"), of a vocabulary of so many.
    pub fn token(&self, role: &str, count: usize) -> Result<Option<usize>> {
        let key = format!("tokenizer.ggml.{role}_token_id");
        // What converters write for "none".
        if matches!(self.map.get(&key), Some(Value::U32(u32::MAX) | Value::I32(-1))) {
            return Ok(None);
        }
        let Some(id) = self.integer(&key)? else { return Ok(None) };
        match usize::try_from(id).ok().filter(|id| *id < count) {
            Some(id) => Ok(Some(id)),
            None => Err(self.wrong(format!("metadata {key}: {id} is none of the vocabulary's {count} tokens"))),
        }
    }
}

fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::U8(n) => Some(u64::from(*n)),
        Value::U16(n) => Some(u64::from(*n)),
        Value::U32(n) => Some(u64::from(*n)),
        Value::U64(n) => Some(*n),
        Value::I8(n) => u64::try_from(*n).ok(),
        Value::I16(n) => u64::try_from(*n).ok(),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        Value::F32(_) | Value::F64(_) | Value::Bool(_) | Value::String(_) | Value::Array(_) => None,
    }
}

fn text(value: &Value) -> Option<&str> {
    if let Value::String(text) = value { Some(text.as_str()) } else { None }
}

/// A value in a message.
fn described(value: &Value) -> String {
    match value {
        Value::U8(n) => n.to_string(),
        Value::U16(n) => n.to_string(),
        Value::U32(n) => n.to_string(),
        Value::U64(n) => n.to_string(),
        Value::I8(n) => n.to_string(),
        Value::I16(n) => n.to_string(),
        Value::I32(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
        Value::F32(x) => x.to_string(),
        Value::F64(x) => x.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::String(text) => format!("the text \"{}\"", text.chars().take(40).collect::<String>()),
        Value::Array(values) => format!("an array of {}", values.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_another_kind_is_no_absent_one() {
        let map = HashMap::from(
            [
                ("whole", Value::U16(7)),
                ("negative", Value::I32(-2)),
                ("flag", Value::Bool(true)),
                ("text", Value::String("x".into())),
                ("same", Value::Array(vec![Value::U32(2), Value::I64(2)])),
                ("other", Value::Array(vec![Value::U32(2), Value::U32(3)])),
                ("nan", Value::F32(f32::NAN)),
                ("tokenizer.ggml.bos_token_id", Value::U32(5)),
                ("tokenizer.ggml.eos_token_id", Value::U32(u32::MAX)),
            ]
            .map(|(key, value)| (key.to_string(), value)),
        );
        let metadata = Metadata { map: &map, path: Path::new("x.gguf") };
        assert_eq!(["whole", "same", "absent"].map(|key| metadata.integer(key).unwrap()), [Some(7), Some(2), None]);
        for key in ["negative", "flag", "text", "other", "nan"] {
            let error = metadata.integer(key).unwrap_err().to_string();
            assert!(error.contains(&format!("x.gguf: metadata {key}: expected a whole number, found")), "{error}");
        }
        assert_eq!(metadata.float("whole").unwrap(), Some(7.0));
        assert!(metadata.float("nan").is_err() && metadata.text("whole").is_err() && metadata.flag("whole").is_err());
        assert!(metadata.texts("same").is_err() && metadata.floats("same").is_err());
        assert_eq!(metadata.integers("other").unwrap(), Some(vec![2, 3]));
        assert_eq!(metadata.token("bos", 6).unwrap(), Some(5));
        assert!(metadata.token("bos", 5).unwrap_err().to_string().contains("5 is none of the vocabulary's 5 tokens"));
        assert_eq!((metadata.token("eos", 6).unwrap(), metadata.token("eot", 6).unwrap()), (None, None));
    }
}
