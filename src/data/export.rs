//! Data sets to files, which appear whole or not at all. What a file's name says, that it is compressed or has tabs between its fields,
//! is how it is written, since it is how it will be read.

use super::read::delimiter_of;
use super::{Dataset, input};
use crate::error::{Error, Result};
use crate::files::write_whole;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use std::io::Write;
use std::path::Path;

/// Writes a file through `fill`, compressed where its name ends in `.gz`.
fn write_rows(path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    write_whole(path, |out| {
        if !input::is_called_compressed(path) {
            return fill(out);
        }
        let mut packed = GzEncoder::new(out, Compression::default());
        fill(&mut packed)?;
        packed.finish().map(|_| ()).map_err(|e| Error::io("write", path, e))
    })
}

impl Dataset {
    /// Writes JSON Lines, one row a line; compressed where the name ends in `.gz`.
    ///
    /// # Errors
    /// The file cannot be written, or a row cannot be read.
    pub fn to_json(&self, path: &Path) -> Result<()> {
        write_rows(path, |out| {
            for row in self.iter() {
                serde_json::to_writer(&mut *out, &*row?).map_err(|e| Error::io("write", path, e.into()))?;
                out.write_all(b"\n").map_err(|e| Error::io("write", path, e))?;
            }
            Ok(())
        })
    }

    /// Writes CSV with a header line; a list or a map is written as JSON, null as nothing. Fields of a `.tsv` file have tabs between them,
    /// and a name that ends in `.gz` is that of a compressed file.
    ///
    /// # Errors
    /// There are no columns, the file cannot be written, or a row cannot be read.
    pub fn to_csv(&self, path: &Path) -> Result<()> {
        let columns = self.non_empty("to_csv")?.columns();
        write_rows(path, |out| {
            let fault = |e: csv::Error| Error::io("write", path, e.into());
            let mut writer = csv::WriterBuilder::new().delimiter(delimiter_of(path)).from_writer(out);
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
