//! Files as they are read from front to back: decompressed where they are gzip's, without a byte order mark.

use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The byte order mark that some programs write in front of UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// What gzip's files begin with, which no text does.
const GZIP: &[u8] = b"\x1f\x8b";

/// What other files begin with that are no text; what each is, and what to do with it.
const OTHERS: &[(&[u8], &str)] = &[
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard; decompress it first, or compress it with gzip"),
    (b"\xfd7zXZ\0", "compressed with xz; decompress it first, or compress it with gzip"),
    (b"PK\x03\x04", "a zip archive; unpack it first, and save a spreadsheet as CSV"),
    (b"\xff\xfe", "UTF-16 text; save the file as UTF-8"),
    (b"\xfe\xff", "UTF-16 text; save the file as UTF-8"),
];

pub(super) type Input = BufReader<Box<dyn Read>>;

/// Whether a file is compressed, by its name or by what it begins with.
///
/// # Errors
/// It cannot be read.
pub(super) fn is_compressed(path: &Path) -> Result<bool> {
    Ok(is_called_compressed(path) || beginning(path, GZIP.len())? == GZIP)
}

/// Whether a file's name says that it is compressed.
pub(super) fn is_called_compressed(path: &Path) -> bool {
    path.extension().is_some_and(|suffix| suffix.eq_ignore_ascii_case("gz"))
}

/// The first bytes of a file, as many as there are.
fn beginning(path: &Path, length: usize) -> Result<Vec<u8>> {
    let mut start = Vec::new();
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    file.take(length as u64).read_to_end(&mut start).map_err(|e| Error::io("read", path, e))?;
    Ok(start)
}

/// The name of the file inside, whose suffix says what it is.
pub(super) fn inner_name(path: &Path) -> PathBuf {
    if is_called_compressed(path) { path.with_extension("") } else { path.to_path_buf() }
}

pub(super) fn open(path: &Path) -> Result<Input> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    if path.is_dir() {
        return Err(Error::argument(format!("cannot read {}: it is a folder; give the name of a file", path.display())));
    }
    // Without reading the file a second time, which a pipe does not allow.
    let mut file = BufReader::with_capacity(1 << 16, file);
    let packed = file.fill_buf().map_err(|e| Error::io("read", path, e))?.starts_with(GZIP) || is_called_compressed(path);
    // Several compressed parts one after the other are one text, as gunzip has it.
    let raw: Box<dyn Read> = if packed { Box::new(flate2::bufread::MultiGzDecoder::new(file)) } else { Box::new(file) };
    let mut input = BufReader::with_capacity(1 << 16, raw);
    let start = input.fill_buf().map_err(|e| Error::io("read", path, e))?;
    if let Some((_, what)) = OTHERS.iter().find(|(bytes, _)| start.starts_with(bytes)) {
        return Err(Error::format(path, format!("the file is {what}")));
    }
    if start.starts_with(MARK) {
        input.consume(MARK.len());
    }
    Ok(input)
}

/// Bytes that [`open`] leaves out in front of a file that is not compressed.
pub(super) fn mark_length(path: &Path) -> Result<u64> {
    Ok(if beginning(path, MARK.len())? == MARK { MARK.len() as u64 } else { 0 })
}

/// A line as text; `number` is for the message.
pub(super) fn text<'a>(path: &Path, line: &'a [u8], number: u64) -> Result<&'a str> {
    std::str::from_utf8(line).map_err(|e| {
        let column = e.valid_up_to() + 1;
        Error::format(path, format!("line {number}, column {column}: not valid UTF-8; save the file as UTF-8"))
    })
}
