//! CSV files: a header row, then one row a line. A column whose cells are all numbers becomes numbers. Only an empty cell is null:
//! `NA`, `NaN` and their like, which pandas takes for null too, stay text. A column without a name, such as the one that pandas writes
//! an index into, gets the name that pandas reads it under.

use super::Row;
use super::input::{self, Input};
use super::read::{FileRow, FileRows, OFTEN};
use crate::control::Control;
use crate::error::{Error, Result};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Rows of a file, which is read twice: what a column is shows only in its last cell.
pub(super) fn rows(path: &Path, delimiter: u8, control: &Control) -> Result<FileRows> {
    let mut first = Records::open(path, delimiter)?;
    let mut kinds: Vec<Cells> = first.header.iter().map(|_| Cells::default()).collect();
    let mut number: usize = 0;
    while let Some(record) = first.next()? {
        kinds.iter_mut().zip(record).for_each(|(kind, cell)| kind.see(cell));
        if number.is_multiple_of(OFTEN) {
            control.check()?;
        }
        number += 1;
    }
    let kinds: Vec<Kind> = kinds.iter().map(Cells::kind).collect();
    let mut records = Records::open(path, delimiter)?;
    Ok(Box::new(std::iter::from_fn(move || {
        let header = records.header.clone();
        let row = records.next().map(|record| {
            record.map(|record| {
                let cells = record.iter().zip(&kinds).map(|(cell, kind)| kind.value(cell));
                let line = record.position().map_or(0, csv::Position::line);
                FileRow { row: header.iter().cloned().zip(cells).collect::<Row>(), line }
            })
        });
        row.transpose()
    })))
}

struct Records {
    path: PathBuf,
    reader: csv::Reader<Quotes>,
    header: std::rc::Rc<[String]>,
    record: csv::StringRecord,
    done: bool,
}

impl Records {
    fn open(path: &Path, delimiter: u8) -> Result<Self> {
        let input = Quotes { input: input::open(path)?, delimiter, place: Place::FieldStart, line: 1, opened: 1 };
        let mut reader = csv::ReaderBuilder::new().delimiter(delimiter).flexible(true).from_reader(input);
        let name = |(i, name): (usize, &str)| match name.trim() {
            "" => format!("Unnamed: {i}"),
            name => name.to_string(),
        };
        let header: Vec<String> = reader.headers().map_err(|e| fault(path, &e))?.iter().enumerate().map(name).collect();
        if let Some((i, name)) = header.iter().enumerate().find(|(i, name)| header[..*i].contains(name)) {
            let message = format!("line 1: column {} `{name}` appears twice; every column needs a name of its own", i + 1);
            return Err(Error::format(path, message));
        }
        Ok(Self { path: path.to_path_buf(), reader, header: header.into(), record: csv::StringRecord::new(), done: false })
    }

    fn next(&mut self) -> Result<Option<&csv::StringRecord>> {
        if self.done {
            return Ok(None);
        }
        self.done = true;
        if !self.reader.read_record(&mut self.record).map_err(|e| fault(&self.path, &e))? {
            return self.check_closed().map(|()| None);
        }
        if self.record.len() != self.header.len() {
            // Where this is the last record, the quotes may have swallowed the others.
            if matches!(self.reader.read_record(&mut csv::StringRecord::new()), Ok(false)) {
                self.check_closed()?;
            }
            let line = self.record.position().map_or(0, csv::Position::line);
            let message = format!("line {line} has {} fields, but the header names {}", self.record.len(), self.header.len());
            return Err(Error::format(
                &self.path,
                format!("{message}; a field with a comma or a line break needs double quotes"),
            ));
        }
        self.done = false;
        Ok(Some(&self.record))
    }

    /// At the end of the file: refuses a quoted field that has not ended.
    fn check_closed(&self) -> Result<()> {
        match self.reader.get_ref().unclosed() {
            None => Ok(()),
            Some(line) => Err(Error::format(
                &self.path,
                format!(
                    "line {line}: the quotes that open here are never closed; a quote inside a quoted field is written twice"
                ),
            )),
        }
    }
}

fn fault(path: &Path, error: &csv::Error) -> Error {
    if let csv::ErrorKind::Io(reason) = error.kind() {
        return Error::io("read", path, std::io::Error::new(reason.kind(), reason.to_string()));
    }
    let line = error.position().map_or(String::new(), |at| format!("line {}: ", at.line()));
    let message = match error.kind() {
        csv::ErrorKind::Utf8 { .. } => "not valid UTF-8; save the file as UTF-8".to_string(),
        _ => format!("{error}; expected CSV with a header line"),
    };
    Error::format(path, format!("{line}{message}"))
}

/// Bytes on their way to the parser, which takes a quoted field that is never closed for the rest of the file and says nothing.
struct Quotes {
    input: Input,
    delimiter: u8,
    place: Place,
    line: u64,
    /// The line in which the last quoted field began.
    opened: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    FieldStart,
    Plain,
    Quoted,
    /// Behind a quote inside a quoted field, which ends it unless another follows.
    Quote,
}

impl Quotes {
    fn see(&mut self, byte: u8) {
        self.place = match (self.place, byte) {
            (Place::Quoted, b'"') => Place::Quote,
            (Place::Quoted, _) | (Place::Quote, b'"') => Place::Quoted,
            (Place::FieldStart, b'"') => {
                self.opened = self.line;
                Place::Quoted
            }
            (_, b'\n' | b'\r') => Place::FieldStart,
            _ if byte == self.delimiter => Place::FieldStart,
            _ => Place::Plain,
        };
        self.line += u64::from(byte == b'\n');
    }

    /// The line of a quoted field that the end of the file has cut off.
    fn unclosed(&self) -> Option<u64> {
        (self.place == Place::Quoted).then_some(self.opened)
    }
}

impl Read for Quotes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.input.read(buffer)?;
        buffer[..length].iter().for_each(|byte| self.see(*byte));
        Ok(length)
    }
}

/// A cell without the blanks around it, which are no part of a number: `1, 2`.
fn unpadded(cell: &str) -> &str {
    cell.trim_matches(' ')
}

/// What the cells of a column that are not empty have been so far.
struct Cells {
    filled: bool,
    integer: bool,
    float: bool,
    bool: bool,
}

impl Default for Cells {
    fn default() -> Self {
        Self { filled: false, integer: true, float: true, bool: true }
    }
}

impl Cells {
    fn see(&mut self, cell: &str) {
        if cell.is_empty() {
            return;
        }
        self.filled = true;
        let number = unpadded(cell);
        // "007" is a code, not a number: reading it as 7 would lose it, and so would reading more digits than an integer holds.
        let digits = number.trim_start_matches(['-', '+']);
        let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let code = whole && (digits.len() > 1 && digits.starts_with('0') || number.parse::<i64>().is_err());
        let numeric = !code && number.bytes().any(|b| b.is_ascii_digit());
        self.integer = self.integer && numeric && number.parse::<i64>().is_ok();
        self.float = self.float && numeric && number.parse::<f64>().is_ok_and(f64::is_finite);
        self.bool &= matches!(cell, "true" | "false" | "True" | "False" | "TRUE" | "FALSE");
    }

    fn kind(&self) -> Kind {
        match self {
            Self { filled: false, .. } => Kind::Text,
            Self { integer: true, .. } => Kind::Integer,
            Self { float: true, .. } => Kind::Float,
            Self { bool: true, .. } => Kind::Bool,
            _ => Kind::Text,
        }
    }
}

/// What all cells of a column are that are not empty.
enum Kind {
    Integer,
    Float,
    Bool,
    Text,
}

impl Kind {
    fn value(&self, cell: &str) -> Value {
        let parsed = match self {
            _ if cell.is_empty() => Some(Value::Null),
            Self::Integer => unpadded(cell).parse::<i64>().ok().map(Value::from),
            Self::Float => unpadded(cell).parse::<f64>().ok().map(Value::from),
            Self::Bool => Some(Value::Bool(cell.eq_ignore_ascii_case("true"))),
            Self::Text => None,
        };
        parsed.unwrap_or_else(|| Value::String(cell.to_string()))
    }
}
