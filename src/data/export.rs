//! Data sets to files, which appear whole or not at all.

use super::Dataset;
use crate::error::{Error, Result};
use crate::files::write_whole;
use serde_json::Value;
use std::path::Path;

impl Dataset {
    /// Writes JSON Lines, one row a line.
    ///
    /// # Errors
    /// The file cannot be written, or a row cannot be read.
    pub fn to_json(&self, path: &Path) -> Result<()> {
        write_whole(path, |out| {
            for row in self.iter() {
                serde_json::to_writer(&mut *out, &*row?).map_err(|e| Error::io("write", path, e.into()))?;
                out.write_all(b"\n").map_err(|e| Error::io("write", path, e))?;
            }
            Ok(())
        })
    }

    /// Writes CSV with a header line; a list or a map is written as JSON, null as nothing.
    ///
    /// # Errors
    /// There are no columns, the file cannot be written, or a row cannot be read.
    pub fn to_csv(&self, path: &Path) -> Result<()> {
        let columns = self.non_empty("to_csv")?.columns();
        write_whole(path, |out| {
            let fault = |e: csv::Error| Error::io("write", path, e.into());
            let mut writer = csv::Writer::from_writer(out);
            writer.write_record(&columns).map_err(fault)?;
            for row in self.iter() {
                let row = row?;
                let cells = columns.iter().map(|name| match row.get(name) {
                    None | Some(Value::Null) => String::new(),
                    Some(Value::String(text)) => text.clone(),
                    Some(other) => other.to_string(),
                });
                writer.write_record(cells).map_err(fault)?;
            }
            writer.flush().map_err(|e| Error::io("write", path, e))
        })
    }
}
