//! Trailing option maps become typed structs: unknown keys, wrong types and values out of range are refused in words.
//!
//! An option struct derives `Deserialize` with `#[serde(default, deny_unknown_fields)]` and implements [`Validate`]. Values that
//! are not data (models, closures, tensors) are taken out of the map first, through [`OptionMap`], so that the message about
//! an unknown key can list every key that the function knows.

pub mod describe;
mod deserialize;
mod fields;

pub use describe::OptionInfo;
pub use fields::field_names;

use super::display;
use super::error::{IntoScript, ScriptResult};
use crate::error::{Error, Result};
use deserialize::{DeserializeError, Source};
use rhai::{Dynamic, Map};
use serde::de::DeserializeOwned;

/// Options that can say what is wrong with them.
pub trait Validate {
    /// Checks every field's range.
    ///
    /// # Errors
    /// Names the field, what was given and what is allowed.
    fn validate(&self) -> Result<()> {
        Ok(())
    }
}

/// Parses the option map of `function`. Values that are not data must be taken out of the map first, see [`OptionMap`].
///
/// # Errors
/// Unknown key, wrong type, value out of range; the message names the key, what was given and what is allowed.
pub fn options<T: DeserializeOwned + Validate>(function: &str, map: Map) -> ScriptResult<T> {
    OptionMap::new(function, map).parse()
}

/// Takes a value of type `T` out of an option map; `what` is how a message calls it: "a model".
///
/// # Errors
/// The key is missing or holds something else.
pub fn take<T: Clone + 'static>(function: &str, map: &mut Map, key: &str, what: &str) -> ScriptResult<T> {
    let value = map.remove(key).ok_or_else(|| missing(function, key, what))?;
    cast(function, key, what, value)
}

/// As [`take`], but a key that is absent or holds `()` gives `None`.
///
/// # Errors
/// The key holds something else.
pub fn take_optional<T: Clone + 'static>(function: &str, map: &mut Map, key: &str, what: &str) -> ScriptResult<Option<T>> {
    match map.remove(key) {
        None => Ok(None),
        Some(value) if value.is_unit() => Ok(None),
        Some(value) => cast(function, key, what, value).map(Some),
    }
}

/// The message about a key that is not among `valid`, with the closest valid key.
pub fn unknown_key(function: &str, key: &str, valid: &[&str]) -> String {
    if valid.is_empty() {
        return format!("{function}: unknown option \"{key}\"; there are no options left to set");
    }
    let hint = closest(key, valid.iter().copied()).map(|near| format!("; did you mean \"{near}\"?")).unwrap_or_default();
    format!("{function}: unknown option \"{key}\"{hint}\nvalid options: {}", valid.join(", "))
}

/// The candidate that `word` was most likely meant to be, if any is close.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = word.to_lowercase();
    candidates
        .into_iter()
        .filter(|candidate| *candidate != word)
        .map(|candidate| {
            let lower = candidate.to_lowercase();
            let distance = strsim::damerau_levenshtein(&wanted, &lower);
            let mut score = strsim::jaro_winkler(&wanted, &lower);
            // A word of three letters has many neighbours; more than a third of the letters wrong is another word.
            if distance > (wanted.chars().count() / 3).max(1) {
                score = score.min(0.8);
            }
            // A word that contains the other ("lr" in "lr_scheduler" is too short to count) is a good guess too.
            if wanted.len() >= 4 && lower.len() >= 4 && (lower.contains(&wanted) || wanted.contains(&lower)) {
                score = score.max(0.9);
            }
            if distance <= 1 && wanted.len() >= 3 {
                score = score.max(0.95);
            }
            (score, candidate)
        })
        .filter(|(score, _)| *score >= 0.84)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// An option map that remembers which keys were taken out of it.
#[derive(Debug)]
pub struct OptionMap {
    function: String,
    map: Map,
    taken: Vec<String>,
}

impl OptionMap {
    /// The map given to `function`.
    pub fn new(function: &str, map: Map) -> Self {
        Self { function: function.to_string(), map, taken: Vec::new() }
    }

    /// Takes a required value of type `T`; see [`take`].
    ///
    /// # Errors
    /// The key is missing or holds something else.
    pub fn take<T: Clone + 'static>(&mut self, key: &str, what: &str) -> ScriptResult<T> {
        self.taken.push(key.to_string());
        take(&self.function, &mut self.map, key, what)
    }

    /// Takes a value that may be absent or `()`; see [`take_optional`].
    ///
    /// # Errors
    /// The key holds something else.
    pub fn take_optional<T: Clone + 'static>(&mut self, key: &str, what: &str) -> ScriptResult<Option<T>> {
        self.taken.push(key.to_string());
        take_optional(&self.function, &mut self.map, key, what)
    }

    /// Takes whatever the key holds; absent and `()` are both `None`.
    pub fn take_any(&mut self, key: &str) -> Option<Dynamic> {
        self.taken.push(key.to_string());
        self.map.remove(key).filter(|value| !value.is_unit())
    }

    /// Parses what is left into an option struct and validates it.
    ///
    /// # Errors
    /// As [`options`].
    pub fn parse<T: DeserializeOwned + Validate>(self) -> ScriptResult<T> {
        let Self { function, map, taken } = self;
        let parsed: T = serde_path_to_error::deserialize(Source::new(Dynamic::from_map(map))).map_err(|error| {
            let path = error.path().to_string();
            explain(&function, &path, error.into_inner(), &taken)
        })?;
        parsed.validate().map_err(|error| prefixed(&function, error)).script()?;
        Ok(parsed)
    }

    /// For functions whose every option is taken out by hand: refuses what is left.
    ///
    /// # Errors
    /// A key is left.
    pub fn finish(self) -> ScriptResult<()> {
        let valid: Vec<&str> = self.taken.iter().map(String::as_str).collect();
        match self.map.keys().next() {
            Some(key) => Err(unknown_key(&self.function, key, &valid).into()),
            None => Ok(()),
        }
    }
}

fn prefixed(function: &str, error: Error) -> Error {
    match error {
        Error::Argument(message) if !message.starts_with(function) => Error::Argument(format!("{function}: {message}")),
        other => other,
    }
}

fn explain(function: &str, path: &str, error: DeserializeError, taken: &[String]) -> String {
    // serde reports a missing or unknown field on the struct; everything else on the field, which the path names.
    let at_root = path == "." || path.is_empty();
    match error {
        DeserializeError::Unknown { key, valid } => {
            let nested = path.contains('.') || path.contains('[');
            let valid: Vec<&str> = match nested {
                true => valid,
                false => {
                    let own: Vec<&str> = taken.iter().map(String::as_str).filter(|key| !valid.contains(key)).collect();
                    own.into_iter().chain(valid).collect()
                }
            };
            unknown_key(function, &key, &valid)
        }
        DeserializeError::Missing(key) => format!("{function}: option \"{key}\" is required"),
        DeserializeError::Message(message) if at_root => format!("{function}: {message}"),
        DeserializeError::Message(message) => format!("{function}: option \"{path}\" {message}"),
    }
}

fn missing(function: &str, key: &str, what: &str) -> String {
    format!("{function}: option \"{key}\" is required: {what}")
}

fn cast<T: Clone + 'static>(function: &str, key: &str, what: &str, value: Dynamic) -> ScriptResult<T> {
    let value = value.flatten();
    let given = display::describe(&value);
    value.try_cast::<T>().ok_or_else(|| format!("{function}: option \"{key}\" must be {what}, given {given}").into())
}

#[cfg(test)]
mod tests;
