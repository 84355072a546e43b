//! A batch of token sequences laid end to end: no padding is ever computed.

use crate::error::{Error, Result};
use crate::ops::cross_entropy::IGNORE_INDEX;

/// Sequences laid end to end.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TokenBatch {
    /// Token ids of all sequences.
    pub ids: Vec<u32>,
    /// Position of every token in its sequence.
    pub positions: Vec<u32>,
    /// Length of every sequence.
    pub segments: Vec<usize>,
}

impl TokenBatch {
    /// A batch of whole sequences.
    pub fn new<'a>(sequences: impl IntoIterator<Item = &'a [u32]>) -> Self {
        let mut batch = Self::default();
        for sequence in sequences {
            batch.push(sequence);
        }
        batch
    }

    /// Appends a sequence.
    pub fn push(&mut self, sequence: &[u32]) {
        self.push_from(sequence, 0);
    }

    /// Appends a sequence without its first tokens, which are cached.
    pub fn push_from(&mut self, sequence: &[u32], cached: usize) {
        self.ids.extend(&sequence[cached..]);
        self.positions.extend(cached as u32..sequence.len() as u32);
        self.segments.push(sequence.len() - cached);
    }

    /// Takes the tokens of padded rows whose mask is 1; positions count the whole row, as `forward` of transformers does.
    ///
    /// # Errors
    /// A mask has another length than its row, or a row has no token left.
    pub fn masked(rows: &[Vec<u32>], masks: &[Vec<bool>]) -> Result<Self> {
        let mut batch = Self::default();
        for (index, (row, mask)) in rows.iter().zip(masks).enumerate() {
            if row.len() != mask.len() {
                return Err(Error::argument(format!(
                    "row {index} has {} tokens but its attention_mask has {} entries",
                    row.len(),
                    mask.len()
                )));
            }
            let kept: Vec<usize> = (0..row.len()).filter(|i| mask[*i]).collect();
            if kept.is_empty() {
                return Err(Error::argument(format!("row {index} has no token: it is empty or masked in full")));
            }
            batch.ids.extend(kept.iter().map(|i| row[*i]));
            batch.positions.extend(kept.iter().map(|i| *i as u32));
            batch.segments.push(kept.len());
        }
        Ok(batch)
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The target of every token of sequences laid end to end: the label of the token after it; none for the last of a sequence.
pub fn shifted_targets<'a>(labels: impl IntoIterator<Item = &'a [i64]>) -> Vec<i64> {
    let mut targets = Vec::new();
    for sequence in labels {
        targets.extend(sequence.iter().skip(1));
        if !sequence.is_empty() {
            targets.push(IGNORE_INDEX);
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_drop_tokens_and_keep_positions() {
        let batch = TokenBatch::masked(&[vec![1, 2, 3], vec![4, 5, 6]], &[vec![true; 3], vec![false, true, true]]).unwrap();
        assert_eq!(batch.ids, [1, 2, 3, 5, 6]);
        assert_eq!(batch.positions, [0, 1, 2, 1, 2]);
        assert_eq!(batch.segments, [3, 2]);
    }

    #[test]
    fn targets_do_not_cross_sequences() {
        assert_eq!(shifted_targets([&[1i64, 2, 3][..], &[7]]), [2, 3, -100, -100]);
    }
}
