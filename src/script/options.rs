//! Trailing option maps become typed structs: unknown keys, wrong types and values out of range are refused in words.

use super::error::{IntoScript, ScriptResult};
use crate::error::Result;
use rhai::Map;
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

/// Parses the option map of `function`. Values that are not data (models, closures, tensors) must be taken out of the map first.
///
/// # Errors
/// Unknown key, wrong type, value out of range; the message names the key, what was given and what is allowed.
pub fn options<T: DeserializeOwned + Validate>(function: &str, map: Map) -> ScriptResult<T> {
    let entries = map.into_iter().map(|(key, value)| Ok((key.to_string(), serde_json::to_value(&value)?)));
    let value: serde_json::Map<_, _> =
        entries.collect::<std::result::Result<_, serde_json::Error>>().map_err(|e| format!("{function}: {e}"))?;
    let value = serde_json::Value::Object(value);
    let parsed: T = serde_json::from_value(value).map_err(|e| format!("{function}: {e}"))?;
    parsed.validate().script()?;
    Ok(parsed)
}
