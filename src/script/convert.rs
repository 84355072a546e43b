//! Between the script's values and the rows of data sets: integers stay integers, `()` is null, maps and arrays nest. What is
//! not data is refused here; [`super::display::json`] writes anything.

use super::display::from_json;
use super::error::ScriptResult;
use super::tensor_data::kind;
use crate::data::Row;
use rhai::{Array, Dynamic, ImmutableString, Map};
use serde_json::{Number, Value};

/// A script value as JSON.
///
/// # Errors
/// A value that is not data (a closure, a model, a tensor), or a number that JSON cannot hold; the message says where.
pub fn to_json(value: &Dynamic) -> ScriptResult<Value> {
    convert(value, "value")
}

/// A script map as a row of a data set.
///
/// # Errors
/// As [`to_json`].
pub fn to_row(map: &Map) -> ScriptResult<Row> {
    object(map, "row")
}

fn object(map: &Map, place: &str) -> ScriptResult<Row> {
    map.iter().map(|(key, value)| Ok((key.to_string(), convert(value, &format!("{place}.{key}"))?))).collect()
}

fn convert(value: &Dynamic, place: &str) -> ScriptResult<Value> {
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(number) = value.as_int() {
        return Ok(Value::from(number));
    }
    if let Ok(number) = value.as_float() {
        return match Number::from_f64(number) {
            Some(number) => Ok(Value::Number(number)),
            None => Err(format!("{place} is {number}, which JSON cannot hold; give () or a string instead").into()),
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
        let items = items.iter().enumerate().map(|(i, item)| convert(item, &format!("{place}[{i}]")));
        return Ok(Value::Array(items.collect::<ScriptResult<_>>()?));
    }
    if let Some(map) = value.read_lock::<Map>() {
        return Ok(Value::Object(object(&map, place)?));
    }
    Err(format!("{place} is of type {}, which is not data: take it out first", kind(value)).into())
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
        to_number(item).ok_or_else(|| format!("{what}: item {i} must be a number, but it is of type {}", kind(item)).into())
    };
    items.iter().enumerate().map(number).collect()
}

/// A number, integer or float.
pub fn to_number(value: &Dynamic) -> Option<f64> {
    value.as_float().ok().or_else(|| value.as_int().ok().map(|number| number as f64))
}
