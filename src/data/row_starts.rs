//! Where the rows of a file begin, in 4 bytes a row: how long each is, and where every 64th begins.

use crate::error::{Error, Result};
use std::path::Path;

/// Rows between two whole positions.
const BLOCK: usize = 64;

#[derive(Debug, Default)]
pub(super) struct RowStarts {
    blocks: Vec<u64>,
    lengths: Vec<u32>,
    /// Where the row begins that was added last.
    last: u64,
}

impl RowStarts {
    /// Adds a row, which ends the one before it; `path` is for the message.
    pub(super) fn begin(&mut self, start: u64, path: &Path) -> Result<()> {
        if !self.blocks.is_empty() {
            self.end(start, path)?;
        }
        if self.lengths.len().is_multiple_of(BLOCK) {
            self.blocks.push(start);
        }
        self.last = start;
        Ok(())
    }

    /// Ends the row that was added last.
    pub(super) fn end(&mut self, end: u64, path: &Path) -> Result<()> {
        let length = u32::try_from(end - self.last)
            .map_err(|_| Error::format(path, format!("row {} is longer than 4 GB", self.lengths.len())))?;
        self.lengths.push(length);
        Ok(())
    }

    /// Rows that have ended.
    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether no row has begun.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The bytes of a row, which must be there.
    pub(super) fn range(&self, index: usize) -> std::ops::Range<u64> {
        let block = index / BLOCK;
        let before: u64 = self.lengths[block * BLOCK..index].iter().map(|length| u64::from(*length)).sum();
        let start = self.blocks[block] + before;
        start..start + u64::from(self.lengths[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_begin_where_they_were_put() {
        let (mut starts, path) = (RowStarts::default(), Path::new("x"));
        let position = |i: u64| 3 + i * i;
        (0..200).for_each(|i| starts.begin(position(i), path).unwrap());
        starts.end(position(200), path).unwrap();
        assert_eq!(starts.len(), 200);
        assert!((0..200).all(|i| starts.range(i as usize) == (position(i)..position(i + 1))));
        assert!(starts.begin(u64::from(u32::MAX), path).is_ok());
        assert!(starts.begin(u64::from(u32::MAX) * 3, path).unwrap_err().to_string().contains("longer than 4 GB"));
    }
}
