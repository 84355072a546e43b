//! Rows in the order of a column, and the different values of one.

use super::{Dataset, Row, RowWriter};
use crate::error::{Error, Result};
use serde_json::Value;
use std::cmp::Ordering;
use std::collections::HashSet;

impl Dataset {
    /// The rows in the order of a column: numbers by size, texts by their characters, false before true; rows of one value keep
    /// their order, and rows without one come last.
    ///
    /// # Errors
    /// There is no such column, or it holds lists or maps, or values of several kinds.
    pub fn sort(&self, column: &str, descending: bool) -> Result<Self> {
        let keys = self.column(column)?;
        let mut kinds = HashSet::new();
        for (number, key) in keys.iter().enumerate() {
            match key {
                Value::Array(_) | Value::Object(_) => {
                    let kind = super::json::kind(key);
                    return Err(Error::argument(format!(
                        "sort: row {} has {kind} in `{column}`, which has no order; sort by a number or a text",
                        self.place(number)
                    )));
                }
                Value::Null => {}
                _ => drop(kinds.insert(std::mem::discriminant(key))),
            }
        }
        if kinds.len() > 1 {
            return Err(Error::argument(format!("sort: `{column}` holds values of several kinds; make them one with .map")));
        }
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by(|a, b| match (&keys[*a], &keys[*b]) {
            (Value::Null, Value::Null) => Ordering::Equal,
            (Value::Null, _) => Ordering::Greater,
            (_, Value::Null) => Ordering::Less,
            (a, b) if descending => compare(b, a),
            (a, b) => compare(a, b),
        });
        Ok(self.gather(order))
    }

    /// The different values of a column, in the order in which they first come.
    ///
    /// # Errors
    /// There is no such column.
    pub fn unique(&self, column: &str) -> Result<Vec<Value>> {
        let mut seen = HashSet::new();
        let mut values = self.column(column)?;
        values.retain(|value| seen.insert(value.to_string()));
        Ok(values)
    }

    /// The rows with a further column, last.
    ///
    /// # Errors
    /// There is such a column, or there are not as many values as rows.
    pub fn add_column(&self, name: &str, values: Vec<Value>) -> Result<Self> {
        if self.columns().iter().any(|column| column == name) {
            return Err(Error::argument(format!("add_column: there is a column `{name}` already; choose another name")));
        }
        if values.len() != self.len() {
            let message = format!("add_column: {} values for {} rows; there must be one a row", values.len(), self.len());
            return Err(Error::argument(message));
        }
        let mut writer = RowWriter::default();
        for (row, value) in self.iter().zip(values) {
            let mut row: Row = (*row?).clone();
            row.insert(name.to_string(), value);
            writer.push(row)?;
        }
        writer.finish()
    }
}

fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().unwrap_or(f64::NAN).total_cmp(&b.as_f64().unwrap_or(f64::NAN)),
        },
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        _ => Ordering::Equal,
    }
}
