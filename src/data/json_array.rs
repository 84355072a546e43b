//! A JSON array of objects, of which only one is in memory at a time.

use super::input::Input;
use super::json::{kind, reason};
use super::read::FileRow;
use crate::error::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

pub(super) struct JsonArray {
    path: PathBuf,
    input: Counted,
    index: usize,
    done: bool,
}

/// Bytes with the place of the next one, counted from 1, and that of the one before it.
struct Counted {
    input: Input,
    line: u64,
    column: u64,
    last: (u64, u64),
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.input.read(buffer)?;
        self.count(&buffer[..length]);
        Ok(length)
    }
}

impl Counted {
    fn count(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.last = (self.line, self.column);
            match byte {
                b'\n' => (self.line, self.column) = (self.line + 1, 1),
                _ => self.column += 1,
            }
        }
    }

    /// The next byte that is not blank; it is not taken.
    fn peek(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            let Some(byte) = self.input.fill_buf()?.first().copied() else { return Ok(None) };
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            self.pass_over(byte);
        }
    }

    fn pass_over(&mut self, byte: u8) {
        self.count(&[byte]);
        self.input.consume(1);
    }
}

impl JsonArray {
    pub(super) fn new(path: &Path, input: Input) -> Self {
        Self { path: path.to_path_buf(), input: Counted { input, line: 1, column: 1, last: (1, 1) }, index: 0, done: false }
    }

    fn read(&mut self) -> Result<Option<FileRow>> {
        let next = self.peek()?;
        match (self.index, next) {
            (0, Some(b'[')) => self.input.pass_over(b'['),
            (_, Some(b',')) => self.input.pass_over(b','),
            (_, Some(b']')) => return self.end(),
            (_, Some(byte)) => return Err(self.fault(&format!("expected `,` or `]`, but found `{}`", byte.escape_ascii()))),
            (_, None) => return Err(self.fault("the file ends before the array does")),
        }
        match self.peek()? {
            Some(b']') if self.index == 0 => return self.end(),
            Some(b']') => return Err(self.fault("a comma is followed by the end of the array")),
            None => return Err(self.fault("the file ends before the array does")),
            _ => {}
        }
        let line = self.input.line;
        // An object ends with its brace, so that no byte after it is read.
        let parsed = Value::deserialize(&mut serde_json::Deserializer::from_reader(&mut self.input));
        let row = match parsed {
            Ok(Value::Object(row)) => row,
            Ok(other) => {
                let message = format!("item {} of the array is {}, but every row must be an object", self.index, kind(&other));
                return Err(Error::format(&self.path, format!("line {line}: {message}")));
            }
            Err(e) if e.is_io() => return Err(Error::io("read", &self.path, e.into())),
            // The parser has taken the byte that it stumbled over.
            Err(e) => return Err(self.fault_at(self.input.last, &reason(&e))),
        };
        self.index += 1;
        Ok(Some(FileRow { row, line }))
    }

    fn end(&mut self) -> Result<Option<FileRow>> {
        self.input.pass_over(b']');
        match self.peek()? {
            None => Ok(None),
            Some(_) => Err(self.fault("the array is followed by something else")),
        }
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        self.input.peek().map_err(|e| Error::io("read", &self.path, e))
    }

    fn fault(&self, what: &str) -> Error {
        self.fault_at((self.input.line, self.input.column), what)
    }

    fn fault_at(&self, (line, column): (u64, u64), what: &str) -> Error {
        Error::format(&self.path, format!("line {line}, column {column}: {what}; expected a JSON array of objects"))
    }
}

impl Iterator for JsonArray {
    type Item = Result<FileRow>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let row = self.read().transpose();
        self.done = !matches!(row, Some(Ok(_)));
        row
    }
}
