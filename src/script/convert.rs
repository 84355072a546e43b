//! Between the script's values and JSON: integers stay integers, `()` is null, maps and arrays nest.

use super::error::ScriptResult;
use crate::data::Row;
use rhai::{Array, Dynamic, ImmutableString, Map};
use serde_json::{Number, Value};

/// A script value as JSON.
///
/// # Errors
/// A value that is not data (a closure, a model, a tensor), or a number that JSON cannot hold; the message says where.
pub fn to_json(value: &Dynamic) -> ScriptResult<Value> {
    convert(value, "value", true)
}

/// A script value as JSON, for files and reports: what is not data is written as its text, NaN and infinity as null.
///
/// # Errors
/// None at present; the type is that of [`to_json`].
pub fn to_json_lossy(value: &Dynamic) -> ScriptResult<Value> {
    convert(value, "value", false)
}

/// A script map as a row of a data set.
///
/// # Errors
/// As [`to_json`].
pub fn to_row(map: &Map) -> ScriptResult<Row> {
    object(map, "row", true)
}

fn object(map: &Map, place: &str, strict: bool) -> ScriptResult<Row> {
    map.iter().map(|(key, value)| Ok((key.to_string(), convert(value, &format!("{place}.{key}"), strict)?))).collect()
}

fn convert(value: &Dynamic, place: &str, strict: bool) -> ScriptResult<Value> {
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(number) = value.as_int() {
        return Ok(Value::from(number));
    }
    if let Ok(number) = value.as_float() {
        return match Number::from_f64(number) {
            Some(number) => Ok(Value::Number(number)),
            None if strict => Err(format!("{place} is {number}, which JSON cannot hold").into()),
            None => Ok(Value::Null),
        };
    }
    if let Ok(flag) = value.as_bool() {
        return Ok(Value::Bool(flag));
    }
    if let Ok(character) = value.as_char() {
        return Ok(Value::String(character.to_string()));
    }
    if let Some(text) = value.read_lock::<ImmutableString>() {
        return Ok(Value::String(text.to_string()));
    }
    if let Some(items) = value.read_lock::<Array>() {
        let items = items.iter().enumerate().map(|(i, item)| convert(item, &format!("{place}[{i}]"), strict));
        return Ok(Value::Array(items.collect::<ScriptResult<_>>()?));
    }
    if let Some(map) = value.read_lock::<Map>() {
        return Ok(Value::Object(object(&map, place, strict)?));
    }
    if strict {
        return Err(format!("{place} is of type {}, which is not data: take it out first", value.type_name()).into());
    }
    Ok(Value::String(value.to_string()))
}

/// JSON as a script value.
pub fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(flag) => Dynamic::from_bool(*flag),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => Dynamic::from_int(integer),
            None => Dynamic::from_float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Dynamic::from(text.clone()),
        Value::Array(items) => Dynamic::from_array(items.iter().map(from_json).collect()),
        Value::Object(row) => Dynamic::from_map(from_row(row)),
    }
}

/// A row of a data set as a script map.
pub fn from_row(row: &Row) -> Map {
    row.iter().map(|(key, value)| (key.as_str().into(), from_json(value))).collect()
}

/// An array of numbers, integers accepted; `what` names it in messages.
///
/// # Errors
/// An item that is not a number.
pub fn to_numbers(items: &[Dynamic], what: &str) -> ScriptResult<Vec<f64>> {
    let number = |(i, item): (usize, &Dynamic)| {
        to_number(item).ok_or_else(|| format!("{what}: item {i} must be a number, but it is of type {}", item.type_name()).into())
    };
    items.iter().enumerate().map(number).collect()
}

/// A number, integer or float.
pub fn to_number(value: &Dynamic) -> Option<f64> {
    value.as_float().ok().or_else(|| value.as_int().ok().map(|number| number as f64))
}
