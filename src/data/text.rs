//! Plain text: rows with one field, `text`, that hold a line, a paragraph or the whole file.

use super::input::{self, Input};
use super::read::{FileRow, FileRows, SampleBy};
use crate::error::{Error, Result};
use std::io::BufRead;
use std::path::{Path, PathBuf};

pub(super) fn rows(path: &Path, sample_by: SampleBy) -> Result<FileRows> {
    let mut pieces =
        Pieces { path: path.to_path_buf(), input: input::open(path)?, sample_by, line: Vec::new(), number: 0, done: false };
    Ok(Box::new(std::iter::from_fn(move || pieces.next().transpose())))
}

struct Pieces {
    path: PathBuf,
    input: Input,
    sample_by: SampleBy,
    line: Vec<u8>,
    number: u64,
    done: bool,
}

impl Pieces {
    /// The next piece that is not blank, with the line where it begins.
    fn next(&mut self) -> Result<Option<FileRow>> {
        let (mut piece, mut start) = (String::new(), 0);
        while !self.done {
            self.line.clear();
            self.number += 1;
            self.done = true;
            if self.input.read_until(b'\n', &mut self.line).map_err(|e| Error::io("read", &self.path, e))? == 0 {
                break;
            }
            let text = input::text(&self.path, &self.line, self.number)?;
            self.done = false;
            let (text, broken) = match text.strip_suffix('\n') {
                Some(text) => (text.strip_suffix('\r').unwrap_or(text), true),
                None => (text, false),
            };
            let blank = text.trim().is_empty();
            if start == 0 && !blank {
                start = self.number;
            }
            match self.sample_by {
                SampleBy::Line if !blank => return Ok(Some(row(text, self.number))),
                SampleBy::Paragraph if !blank => {
                    if !piece.is_empty() {
                        piece.push('\n');
                    }
                    piece.push_str(text);
                }
                SampleBy::Paragraph if !piece.is_empty() => break,
                SampleBy::Document => {
                    piece.push_str(text);
                    if broken {
                        piece.push('\n');
                    }
                }
                _ => {}
            }
        }
        Ok((start > 0 && !piece.is_empty()).then(|| row(&piece, start)))
    }
}

fn row(text: &str, line: u64) -> FileRow {
    FileRow { row: [("text".to_string(), text.into())].into_iter().collect(), line }
}
