//! Packing: short rows are grouped into packed rows of up to `max_length` tokens, as by TRL's `packing` with the strategy "bfd".
//!
//! A packed row is a list of the numbers of its rows and nothing more. Where a batch is laid out every row stays a sequence of
//! its own, with its own positions and targets, so grouping decides only which rows share an optimiser step.

use crate::error::{Error, Result};
use std::cmp::Reverse;
use std::collections::BTreeSet;

/// Groups rows of these lengths, in tokens, by best-fit decreasing (Johnson et al. 1974): the longest first, each into the
/// fullest packed row that has room for it, or into a new one. Of rows of one length the earlier comes first; of packed rows that
/// are equally full the one begun first is taken. Gives the numbers, from 0, of every packed row's rows, each number once.
///
/// # Errors
/// A row is longer than `max_length` tokens.
pub fn pack(lengths: &[usize], max_length: usize) -> Result<Vec<Vec<usize>>> {
    if let Some(row) = lengths.iter().position(|length| *length > max_length) {
        return Err(Error::argument(format!(
            "packing: row {row} has {} tokens, but a packed row holds at most {max_length} (max_length, or the model's context)",
            lengths[row]
        )));
    }
    let mut longest_first: Vec<usize> = (0..lengths.len()).collect();
    longest_first.sort_by_key(|row| Reverse(lengths[*row]));
    let mut bins: Vec<Vec<usize>> = Vec::new();
    // Room left and number of every bin; full ones too, so that a row without tokens never needs a bin of its own.
    let mut by_room: BTreeSet<(usize, usize)> = BTreeSet::new();
    for row in longest_first {
        let length = lengths[row];
        let fullest = by_room.range((length, 0_usize)..).next().copied();
        let (room, bin) = if let Some(found) = fullest {
            by_room.remove(&found);
            found
        } else {
            bins.push(Vec::new());
            (max_length, bins.len() - 1)
        };
        bins[bin].push(row);
        by_room.insert((room - length, bin));
    }
    Ok(bins)
}

#[cfg(test)]
mod tests {
    use super::pack;
    use proptest::prelude::*;

    #[test]
    fn the_fullest_bin_with_room_is_taken() {
        // Into 12: 9 leaves room 3; 7 leaves room 5; 4 fits only the second, room 1; the first 1 goes to the fuller second (the
        // first bin with room would be the one with 9), and the second 1 to what is left.
        assert_eq!(pack(&[1, 7, 4, 9, 1], 12).unwrap(), [vec![3, 4], vec![1, 2, 0]]);
        assert_eq!(pack(&[3, 5, 2, 6, 4, 1], 8).unwrap(), [vec![3, 2], vec![1, 0], vec![4, 5]]);
    }

    #[test]
    fn rows_that_fill_a_bin_stay_alone_and_longer_ones_are_named() {
        assert_eq!(pack(&[4, 4], 4).unwrap(), [[0], [1]]);
        assert_eq!(pack(&[0, 4, 0], 4).unwrap(), [[1, 0, 2]]);
        assert!(pack(&[], 4).unwrap().is_empty());
        let error = pack(&[4, 5], 4).unwrap_err().to_string();
        assert!(error.contains("row 1 has 5 tokens") && error.contains("at most 4"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn every_row_is_packed_once_and_no_bin_overflows(
            max_length in 1usize..40,
            drawn in prop::collection::vec(0usize..1000, 0..60),
        ) {
            let lengths: Vec<usize> = drawn.iter().map(|length| length % (max_length + 1)).collect();
            let bins = pack(&lengths, max_length).unwrap();
            for bin in &bins {
                let used: usize = bin.iter().map(|row| lengths[*row]).sum();
                prop_assert!(used <= max_length, "{used} tokens in a row of {max_length}");
            }
            let mut rows = bins.concat();
            rows.sort_unstable();
            prop_assert_eq!(rows, (0..lengths.len()).collect::<Vec<_>>());
        }
    }
}
