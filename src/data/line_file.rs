//! Rows in a file of JSON Lines, read when they are asked for: all that is in memory is where each begins, 4 bytes a row.
//!
//! The file is read, not mapped: pages of a mapped file count as the program's memory, and a file that is cut while it is mapped
//! ends the program.

use super::columns::Columns;
use super::row_starts::RowStarts;
use super::{Row, input, json};
use crate::control::Control;
use crate::error::{Error, Result};
use std::fs::File;
use std::io::{BufRead, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Bytes read ahead where rows are read in their order.
const AHEAD: usize = 1 << 18;
/// Rows between two looks at the interrupt flag.
const OFTEN: usize = 4096;

#[derive(Debug)]
pub(super) struct LineFile {
    path: PathBuf,
    starts: RowStarts,
    columns: Vec<String>,
    reader: Mutex<Block>,
    /// Reading many rows takes long, whatever it is for.
    control: Control,
}

/// The file and the part of it that was read last.
#[derive(Debug)]
struct Block {
    file: File,
    start: u64,
    bytes: Vec<u8>,
    /// Where the row read last ends: who asks for what is there reads in order.
    next: u64,
}

impl LineFile {
    /// Rows of `file`, of which messages speak as `path`.
    pub(super) fn new(path: &Path, file: File, starts: RowStarts, columns: Vec<String>, control: Control) -> Self {
        let reader = Mutex::new(Block { file, start: 0, bytes: Vec::new(), next: 0 });
        Self { path: path.to_path_buf(), starts, columns, reader, control }
    }

    /// The index of a JSON Lines file. Every line is checked, so that what is wrong with it is said now and not hours into a
    /// training.
    pub(super) fn index(path: &Path, control: &Control) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        let size = file.metadata().map_err(|e| Error::io("read", path, e))?.len();
        let mut reader = input::open(path)?;
        let (mut starts, mut columns, mut line) = (RowStarts::default(), Columns::default(), Vec::new());
        let mut at = input::mark_length(path)?;
        for number in 1.. {
            if number % OFTEN == 0 {
                control.check()?;
                control.progress("load", at, size, "bytes", path.display().to_string());
            }
            line.clear();
            let length = reader.read_until(b'\n', &mut line).map_err(|e| Error::io("read", path, e))?;
            if length == 0 {
                break;
            }
            if !line.trim_ascii().is_empty() {
                json::check_line(path, &line, number as u64, starts.is_empty(), &mut columns)?;
                starts.begin(at, path)?;
            }
            at += length as u64;
        }
        control.progress("load", size, size, "bytes", path.display().to_string());
        if !starts.is_empty() {
            starts.end(at, path)?;
        }
        super::check_count(path, starts.len())?;
        Ok(Self::new(path, file, starts, columns.into_names(), control.clone()))
    }

    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The byte at which a row begins.
    pub(super) fn start(&self, index: usize) -> u64 {
        self.starts.range(index).start
    }

    pub(super) fn row(&self, index: usize) -> Result<Row> {
        self.control.check()?;
        let std::ops::Range { start, end } = self.starts.range(index);
        // A panic elsewhere leaves the block as it was or with other bytes of the same file; both are right.
        let mut reader = self.reader.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let bytes = reader.read(start, end).map_err(|e| Error::io("read", &self.path, e))?;
        // Blanks may follow that JSON does not know, as when the line was checked.
        let text = std::str::from_utf8(bytes).ok().map(str::trim_end);
        text.and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
            Error::format(&self.path, format!("row {index} is not what it was: the file has changed since it was loaded"))
        })
    }
}

impl Block {
    fn read(&mut self, start: u64, end: u64) -> std::io::Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if !(held.start <= start && end <= held.end) {
            let length = (end - start) as usize;
            let wanted = if start == self.next { length.max(AHEAD) } else { length };
            self.bytes.clear();
            self.start = start;
            self.file.seek(SeekFrom::Start(start))?;
            (&self.file).take(wanted as u64).read_to_end(&mut self.bytes)?;
            if self.bytes.len() < length {
                return Err(std::io::Error::other("the file has been cut since it was loaded"));
            }
        }
        self.next = end;
        let from = (start - self.start) as usize;
        Ok(&self.bytes[from..from + (end - start) as usize])
    }
}

/// The line, counted from 1, in which a byte of a file lies; none where the file is gone.
pub(super) fn line_at(path: &Path, byte: u64) -> Option<u64> {
    let mut reader = std::io::BufReader::new(File::open(path).ok()?.take(byte));
    let mut line = 1;
    loop {
        let block = reader.fill_buf().ok()?;
        if block.is_empty() {
            return Some(line);
        }
        line += block.iter().filter(|byte| **byte == b'\n').count() as u64;
        let length = block.len();
        reader.consume(length);
    }
}
