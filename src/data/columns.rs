//! Columns: their names in the order in which rows first have them, and changes to them that are made as rows are read.

use super::{Dataset, Row};
use crate::error::{Error, Result};
use std::collections::HashSet;

/// A change of the columns of every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnChange {
    /// Pairs of an old and a new name; a column keeps its place.
    Rename(Vec<(String, String)>),
    /// These are left out.
    Remove(Vec<String>),
    /// Only these are kept, in this order.
    Select(Vec<String>),
}

impl ColumnChange {
    /// Renaming that fits these columns: every old name is there, and no two columns get one name.
    ///
    /// # Errors
    /// Names the column that is missing or would be there twice.
    pub fn rename(columns: &[String], pairs: Vec<(String, String)>) -> Result<Self> {
        let change = Self::Rename(pairs);
        let Self::Rename(pairs) = &change else { return Ok(change) };
        if let Some((old, _)) = pairs.iter().find(|(old, _)| !columns.contains(old)) {
            return Err(Error::argument(format!(
                "there is no column `{old}` to rename; the columns are: {}",
                columns.join(", ")
            )));
        }
        if let Some((i, (twice, new))) =
            pairs.iter().enumerate().find(|(i, (old, _))| pairs[..*i].iter().any(|(other, _)| other == old))
        {
            let first = pairs[..i].iter().find(|(other, _)| other == twice).map_or("", |(_, first)| first.as_str());
            return Err(Error::argument(format!(
                "the column `{twice}` would be called both `{first}` and `{new}`; it can have one name, and a copy is made with .map"
            )));
        }
        let mut seen = HashSet::new();
        let renamed = change.names(columns);
        match renamed.iter().find(|name| !seen.insert(name.as_str())) {
            Some(twice) => Err(Error::argument(format!(
                "two columns would be called `{twice}`; the columns are: {}. Remove one first: .remove_columns([\"{twice}\"])",
                columns.join(", ")
            ))),
            None => Ok(change),
        }
    }

    /// What the change makes of these names.
    pub fn names(&self, columns: &[String]) -> Vec<String> {
        match self {
            Self::Rename(pairs) => columns.iter().map(|name| new_name(pairs, name).to_string()).collect(),
            Self::Remove(gone) => columns.iter().filter(|name| !gone.contains(name)).cloned().collect(),
            Self::Select(kept) => kept.iter().filter(|name| columns.contains(name)).cloned().collect(),
        }
    }

    /// The changed row.
    pub fn apply(&self, row: &Row) -> Row {
        let keep = |(name, value): (&String, &serde_json::Value)| (name.clone(), value.clone());
        match self {
            Self::Rename(pairs) => row.iter().map(|(name, value)| (new_name(pairs, name).to_string(), value.clone())).collect(),
            Self::Remove(gone) => row.iter().filter(|(name, _)| !gone.contains(name)).map(keep).collect(),
            Self::Select(kept) => kept.iter().filter_map(|name| row.get_key_value(name)).map(keep).collect(),
        }
    }
}

fn new_name<'a>(pairs: &'a [(String, String)], name: &'a str) -> &'a str {
    pairs.iter().find(|(old, _)| old == name).map_or(name, |(_, new)| new)
}

/// Names in the order in which they were first seen.
#[derive(Debug, Default)]
pub(super) struct Columns {
    names: Vec<String>,
    known: HashSet<String>,
}

impl Columns {
    pub(super) fn add(&mut self, name: &str) {
        if !self.known.contains(name) {
            self.known.insert(name.to_string());
            self.names.push(name.to_string());
        }
    }

    pub(super) fn into_names(self) -> Vec<String> {
        self.names
    }
}

/// A kind of every column by its first value that is not null: "string", "int64", "float64", "bool", "list", "struct", "null".
///
/// # Errors
/// A row cannot be read.
pub fn kinds(data: &Dataset) -> Result<Vec<(String, &'static str)>> {
    let mut kinds: Vec<(String, &'static str)> = data.columns().into_iter().map(|name| (name, "null")).collect();
    for row in data.iter() {
        let row = row?;
        let open = kinds.iter_mut().filter(|(_, kind)| *kind == "null");
        let mut left = 0;
        for (name, kind) in open {
            *kind = row.get(name.as_str()).map_or("null", kind_of);
            left += usize::from(*kind == "null");
        }
        if left == 0 {
            break;
        }
    }
    Ok(kinds)
}

fn kind_of(value: &serde_json::Value) -> &'static str {
    use serde_json::Value;
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "list",
        Value::Object(_) => "struct",
    }
}
