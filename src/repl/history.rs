//! What was typed before: one file for all sessions, in the format of rustyline. Each input is appended the moment it is given, so
//! that nothing is lost when the program is killed; what other sessions add is read before every prompt; of the same input only the
//! latest is kept.

use rustyline::Result;
use rustyline::history::{History, SearchDirection, SearchResult};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The first line of a file of this format.
const HEADER: &str = "#V2";
/// Longer inputs are remembered in this session alone.
const LONGEST_KEPT: usize = 64 << 10;

/// The history of all sessions, as this one knows it.
pub(super) struct Log {
    entries: Vec<String>,
    most: usize,
    file: Option<PathBuf>,
    /// How far the file has been read.
    read: u64,
}

impl Log {
    /// At most `most` entries, kept in `file` where there is one.
    pub(super) fn new(file: Option<PathBuf>, most: usize) -> Self {
        let mut log = Self { entries: Vec::new(), most, file, read: 0 };
        log.read_new();
        log.compact();
        log
    }

    /// Adds what other sessions have written since.
    pub(super) fn read_new(&mut self) {
        let Some(path) = &self.file else { return };
        let Ok(mut file) = File::open(path) else { return };
        let length = file.metadata().map_or(0, |data| data.len());
        if !file.metadata().is_ok_and(|data| data.is_file()) {
            return;
        }
        if length < self.read {
            // Another session has made it shorter.
            self.read = 0;
        }
        let mut bytes = Vec::new();
        if file.seek(SeekFrom::Start(self.read)).is_err() || file.read_to_end(&mut bytes).is_err() {
            return;
        }
        // What is being written just now has no end of line yet.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        self.read += whole as u64;
        let new = text.lines().filter(|line| *line != HEADER && !line.is_empty()).map(decode);
        self.entries.extend(new);
        self.tidy();
    }

    /// Remembers an input and appends it to the file.
    ///
    /// # Errors
    /// The file cannot be written; the input is remembered all the same.
    pub(super) fn remember(&mut self, input: &str) -> std::io::Result<()> {
        self.read_new();
        if self.ignored(input) {
            return Ok(());
        }
        self.entries.push(input.to_string());
        self.tidy();
        let Some(path) = self.file.as_ref().filter(|_| input.len() <= LONGEST_KEPT) else { return Ok(()) };
        let mut file = open_locked(path)?;
        let header = if file.metadata().is_ok_and(|data| data.len() == 0) { format!("{HEADER}\n") } else { String::new() };
        file.write_all(format!("{header}{}\n", encode(input)).as_bytes())?;
        drop(file);
        // With what others wrote meanwhile.
        self.read_new();
        Ok(())
    }

    fn ignored(&self, input: &str) -> bool {
        self.most == 0
            || input.trim().is_empty()
            || input.starts_with(char::is_whitespace)
            || self.entries.last().is_some_and(|last| last == input)
    }

    /// Of equal entries the last stays, and only so many.
    fn tidy(&mut self) {
        let last: HashMap<&str, usize> = self.entries.iter().enumerate().map(|(i, entry)| (entry.as_str(), i)).collect();
        if last.len() < self.entries.len() {
            let keep: Vec<bool> =
                self.entries.iter().enumerate().map(|(i, entry)| last.get(entry.as_str()) == Some(&i)).collect();
            let mut flags = keep.into_iter();
            self.entries.retain(|_| flags.next().unwrap_or(true));
        }
        let surplus = self.entries.len().saturating_sub(self.most);
        self.entries.drain(..surplus);
    }

    /// Writes the file anew where it holds far more than is kept.
    fn compact(&mut self) {
        let Some(path) = &self.file else { return };
        if !std::fs::metadata(path).is_ok_and(|data| data.is_file()) {
            return;
        }
        let Ok(file) = open_locked(path) else { return };
        let Ok(text) = std::fs::read_to_string(path) else { return };
        let lines = text.lines().count();
        if lines <= self.entries.len() * 2 + 100 {
            return;
        }
        let kept: String = self.entries.iter().map(|entry| format!("{}\n", encode(entry))).collect();
        // The lock is held until the new file is in place; who waits for it looks again which file that is.
        let _ = crate::files::write_text(path, &format!("{HEADER}\n{kept}"));
        drop(file);
    }

    fn find(&self, start: usize, direction: SearchDirection, test: impl Fn(&str) -> Option<usize>) -> Option<SearchResult<'_>> {
        let hit = |i: usize| {
            let entry = self.entries.get(i)?;
            test(entry).map(|pos| SearchResult { entry: Cow::Borrowed(entry), idx: i, pos })
        };
        match direction {
            SearchDirection::Reverse => (0..=start.min(self.entries.len().checked_sub(1)?)).rev().find_map(hit),
            SearchDirection::Forward => (start..self.entries.len()).find_map(hit),
        }
    }
}

/// The file, to append to, locked. Where a file system has no locks, lines of two sessions could mix; that is no reason to keep none.
fn open_locked(path: &Path) -> std::io::Result<File> {
    loop {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let _ = file.lock();
        if same_file(&file, path) {
            return Ok(file);
        }
    }
}

/// Whether the path still leads to the open file: another session may have put a shorter one in its place.
fn same_file(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        match (file.metadata(), std::fs::metadata(path)) {
            (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
            // Gone: the open file is as good as any.
            _ => true,
        }
    }
    #[cfg(not(unix))]
    {
        let _ = (file, path);
        true
    }
}

/// An entry on one line.
fn encode(entry: &str) -> String {
    entry.replace('\\', "\\\\").replace('\n', "\\n")
}

fn decode(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => match letters.next() {
                Some('n') => out.push('\n'),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            other => out.push(other),
        }
    }
    out
}

impl History for Log {
    fn get(&self, index: usize, _: SearchDirection) -> Result<Option<SearchResult<'_>>> {
        Ok(self.entries.get(index).map(|entry| SearchResult { entry: Cow::Borrowed(entry), idx: index, pos: 0 }))
    }

    fn add(&mut self, line: &str) -> Result<bool> {
        self.remember(line)?;
        Ok(true)
    }

    fn add_owned(&mut self, line: String) -> Result<bool> {
        self.add(&line)
    }

    fn len(&self) -> usize {
        self.entries.len()
    }

    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn set_max_len(&mut self, len: usize) -> Result<()> {
        self.most = len;
        self.tidy();
        Ok(())
    }

    fn ignore_dups(&mut self, _: bool) -> Result<()> {
        Ok(())
    }

    fn ignore_space(&mut self, _: bool) {}

    fn save(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn append(&mut self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn load(&mut self, _: &Path) -> Result<()> {
        self.read_new();
        Ok(())
    }

    fn clear(&mut self) -> Result<()> {
        self.entries.clear();
        Ok(())
    }

    fn search(&self, term: &str, start: usize, direction: SearchDirection) -> Result<Option<SearchResult<'_>>> {
        Ok(if term.is_empty() { None } else { self.find(start, direction, |entry| entry.find(term)) })
    }

    fn starts_with(&self, term: &str, start: usize, direction: SearchDirection) -> Result<Option<SearchResult<'_>>> {
        let begins = |entry: &str| entry.starts_with(term).then_some(term.len());
        Ok(if term.is_empty() { None } else { self.find(start, direction, begins) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(log: &Log) -> Vec<&str> {
        log.entries.iter().map(String::as_str).collect()
    }

    #[test]
    fn sessions_share_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let mut one = Log::new(Some(path.clone()), 100);
        let mut two = Log::new(Some(path.clone()), 100);
        one.remember("let a = 1").unwrap();
        two.remember("fn f() {\n  \"\\\\\"\n}").unwrap();
        one.remember("a").unwrap();
        assert_eq!(texts(&one), ["let a = 1", "fn f() {\n  \"\\\\\"\n}", "a"]);
        two.read_new();
        assert_eq!(texts(&two), texts(&one));
        // Equal inputs are one, the latest; blank ones and those behind a space are none.
        two.remember("let a = 1").unwrap();
        two.remember("  secret").unwrap();
        two.remember(" \n").unwrap();
        let three = Log::new(Some(path), 100);
        assert_eq!(texts(&three), ["fn f() {\n  \"\\\\\"\n}", "a", "let a = 1"]);
    }

    #[test]
    fn only_so_many_are_kept_and_the_file_stays_small() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let mut log = Log::new(Some(path.clone()), 3);
        for i in 0..200 {
            log.remember(&format!("{i}")).unwrap();
        }
        assert_eq!(texts(&log), ["197", "198", "199"]);
        let again = Log::new(Some(path.clone()), 3);
        assert_eq!(texts(&again), ["197", "198", "199"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "#V2\n197\n198\n199\n");
    }

    #[test]
    fn searches_go_both_ways() {
        let mut log = Log::new(None, 10);
        for line in ["let x = 1", "x + 1", "let y = 2"] {
            log.remember(line).unwrap();
        }
        let found = |term: &str, start: usize, direction| log.search(term, start, direction).unwrap().map(|found| found.idx);
        assert_eq!(found("let", 2, SearchDirection::Reverse), Some(2));
        assert_eq!(found("let", 1, SearchDirection::Reverse), Some(0));
        assert_eq!(found("x", 1, SearchDirection::Forward), Some(1));
        assert_eq!(found("none", 2, SearchDirection::Reverse), None);
        assert_eq!(log.starts_with("x", 2, SearchDirection::Reverse).unwrap().unwrap().idx, 1);
    }

    #[test]
    fn what_cannot_be_written_is_remembered_all_the_same() {
        let mut log = Log::new(Some("/dev/full".into()), 10);
        assert!(log.remember("1 + 1").is_err());
        assert_eq!(texts(&log), ["1 + 1"]);
    }
}
