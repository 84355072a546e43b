//! Data sets mixed by taking rows from one or another, as `interleave_datasets` of `datasets` does: in turn, or by chance.

use super::Dataset;
use super::read::OFTEN;
use crate::control::Control;
use crate::error::{Error, Result};
use crate::random::NumpyRandom;
use serde::{Deserialize, Serialize};

/// When a mix ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stopping {
    /// As soon as one data set has given all its rows.
    #[default]
    FirstExhausted,
    /// When every data set has given all its rows; those that end earlier begin again.
    AllExhausted,
    /// When every data set has given all its rows, each once.
    AllExhaustedWithoutReplacement,
}

/// Which data set gives the next row.
#[derive(Debug, Clone, Copy)]
pub enum Turn<'a> {
    /// One after the other.
    Cycle,
    /// Each with its probability, drawn as `numpy.random.default_rng(seed)` draws.
    Chance {
        /// One a data set; they sum to 1.
        probabilities: &'a [f64],
        /// The generator's seed.
        seed: u64,
    },
}

/// Rows of all data sets in turn; the rows and their order are those of `datasets`.
///
/// # Errors
/// There is no data set, one has no rows or is never drawn where its end is waited for, the probabilities are none, or Ctrl-C.
pub fn interleave(parts: &[Dataset], turn: Turn<'_>, stopping: Stopping, control: &Control) -> Result<Dataset> {
    let fault = |what: String| Error::argument(format!("interleave_datasets: {what}"));
    if parts.is_empty() {
        return Err(fault("give at least one data set".into()));
    }
    let lengths: Vec<usize> = parts.iter().map(Dataset::len).collect();
    if let Some(empty) = lengths.iter().position(|length| *length == 0) {
        return Err(fault(format!("data set {empty} has no rows")));
    }
    if let Turn::Chance { probabilities, .. } = turn {
        check(probabilities, parts.len(), stopping).map_err(fault)?;
    }
    let sums = |total: &mut f64, probability: &f64| {
        *total += probability;
        Some(*total)
    };
    let mut chance = match turn {
        Turn::Cycle => None,
        Turn::Chance { probabilities, seed } => {
            let cumulative: Vec<f64> = probabilities.iter().scan(0.0, sums).collect();
            Some((NumpyRandom::new(seed), cumulative))
        }
    };
    let starts: Vec<usize> = (0..lengths.len()).map(|source| lengths[..source].iter().sum()).collect();
    let once = stopping == Stopping::AllExhaustedWithoutReplacement;
    let (mut taken, mut order) = (vec![0_usize; lengths.len()], Vec::new());
    for drawn in 0_usize.. {
        if drawn.is_multiple_of(OFTEN) {
            control.check()?;
        }
        // In turn all give a row before it is looked whether one has ended.
        let looked = chance.is_some() || drawn.is_multiple_of(lengths.len());
        let exhausted = |source: usize| taken[source] >= lengths[source];
        let ended = match stopping {
            Stopping::FirstExhausted => (0..lengths.len()).any(exhausted),
            Stopping::AllExhausted | Stopping::AllExhaustedWithoutReplacement => (0..lengths.len()).all(exhausted),
        };
        if looked && ended {
            break;
        }
        let source = match &mut chance {
            Some((random, cumulative)) => random.choice(cumulative),
            None => drawn % lengths.len(),
        };
        if !(once && taken[source] >= lengths[source]) {
            order.push(starts[source] + taken[source] % lengths[source]);
            taken[source] += 1;
        }
    }
    Ok(Dataset::concatenate(parts).gather(order))
}

fn check(probabilities: &[f64], parts: usize, stopping: Stopping) -> Result<(), String> {
    let sum: f64 = probabilities.iter().sum();
    if probabilities.len() != parts {
        return Err(format!("{} probabilities for {parts} data sets; give one for each", probabilities.len()));
    }
    if let Some(wrong) = probabilities.iter().find(|probability| !(0.0..=1.0).contains(*probability)) {
        return Err(format!("a probability lies between 0 and 1, but one is {wrong}"));
    }
    // As exact as NumPy wants it.
    if (sum - 1.0).abs() > f64::EPSILON.sqrt() {
        return Err(format!("the probabilities must sum to 1, but they sum to {sum}"));
    }
    match probabilities.iter().position(|probability| *probability == 0.0) {
        Some(never) if stopping != Stopping::FirstExhausted => {
            Err(format!("data set {never} has the probability 0, so its end would never come; leave it out"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Row;

    /// Data sets of so many rows, `n` counted from 0, 1000, 2000, ..
    fn parts(lengths: &[u64]) -> Vec<Dataset> {
        let row = |n: u64| -> Row { [("n".to_string(), serde_json::Value::from(n))].into_iter().collect() };
        (0..).zip(lengths).map(|(i, length)| Dataset::from_list((0..*length).map(|n| row(i * 1000 + n)).collect())).collect()
    }

    fn numbers(lengths: &[u64], turn: Turn<'_>, stopping: Stopping) -> Vec<u64> {
        let mixed = interleave(&parts(lengths), turn, stopping, &Control::default()).unwrap();
        mixed.column("n").unwrap().iter().map(|n| n.as_u64().unwrap()).collect()
    }

    /// The numbers are those of `datasets.interleave_datasets` 5.2.
    #[test]
    fn rows_and_their_order_are_those_of_datasets() {
        let three = |turn, stopping| numbers(&[3, 4, 5], turn, stopping);
        let chance = Turn::Chance { probabilities: &[0.5, 0.3, 0.2], seed: 42 };
        let first = [0, 1000, 2000, 1, 1001, 2001, 2, 1002, 2002];
        assert_eq!(three(Turn::Cycle, Stopping::FirstExhausted), first);
        let rest = [0, 1003, 2003, 1, 1000, 2004];
        assert_eq!(three(Turn::Cycle, Stopping::AllExhausted), [&first[..], &rest[..]].concat());
        assert_eq!(three(Turn::Cycle, Stopping::AllExhaustedWithoutReplacement), [&first[..], &[1003, 2003, 2004][..]].concat());
        let first = [1000, 0, 2000, 1001, 1, 2001, 1002, 1003];
        assert_eq!(three(chance, Stopping::FirstExhausted), first);
        let rest = [2, 0, 1, 2002, 1000, 2003, 2, 0, 1001, 1, 2004];
        assert_eq!(three(chance, Stopping::AllExhausted), [&first[..], &rest[..]].concat());
        // 2 has come, and the others only once.
        let rest = [2, 2002, 2003, 2004];
        assert_eq!(three(chance, Stopping::AllExhaustedWithoutReplacement), [&first[..], &rest[..]].concat());
        let many = numbers(&[700, 2000], Turn::Chance { probabilities: &[0.3, 0.7], seed: 7 }, Stopping::FirstExhausted);
        assert_eq!((many.len(), many.iter().sum::<u64>()), (2323, 3_183_903));
    }
}
