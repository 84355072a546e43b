//! Files as they are read from front to back: decompressed where their name ends in `.gz`, without a byte order mark.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The byte order mark that some programs write in front of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

pub(super) type Input = BufReader<Box<dyn Read>>;

/// Whether a file's name says that it is compressed.
pub(super) fn is_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("gz"))
}

/// The name of the file inside, whose suffix says what it is.
pub(super) fn inner_name(path: &Path) -> PathBuf {
    if is_compressed(path) { path.with_extension("") } else { path.to_path_buf() }
}

pub(super) fn open(path: &Path) -> Result<Input> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    if path.is_dir() {
        return Err(Error::argument(format!("cannot read {}: it is a folder; give the name of a file", path.display())));
    }
    // Several compressed parts one after the other are one text, as gunzip has it.
    let raw: Box<dyn Read> = if is_compressed(path) { Box::new(flate2::read::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut input = BufReader::with_capacity(1 << 16, raw);
    let start = input.fill_buf().map_err(|e| Error::io("read", path, e))?;
    if start.starts_with(MARK) {
        input.consume(MARK.len());
    }
    Ok(input)
}

/// Bytes that [`open`] leaves out in front of a file that is not compressed.
pub(super) fn mark_length(path: &Path) -> Result<u64> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    file.take(MARK.len() as u64).read_to_end(&mut start).map_err(|e| Error::io("read", path, e))?;
    Ok(if start == MARK { MARK.len() as u64 } else { 0 })
}

/// A line as text; `number` is for the message.
pub(super) fn text<'a>(path: &Path, line: &'a [u8], number: u64) -> Result<&'a str> {
    std::str::from_utf8(line).map_err(|e| {
        let column = e.valid_up_to() + 1;
        Error::format(path, format!("line {number}, column {column}: not valid UTF-8; save the file as UTF-8"))
    })
}
