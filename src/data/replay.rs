//! Replay: general rows mixed into the rows of a narrow task, so that training keeps rehearsing what it could forget.

use super::Dataset;
use crate::error::{Error, Result};
use crate::random::PythonRandom;
use serde::{Deserialize, Serialize};

/// What a replay fraction is a fraction of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FractionOf {
    /// Of the domain rows: 0.15 adds 15 general rows to 100 domain rows, which makes 13 % of the mix.
    #[default]
    Domain,
    /// Of the mixed set: 0.15 adds 18 general rows to 100 domain rows.
    Total,
}

/// A mixed data set and how it came about.
#[derive(Debug, Clone)]
pub struct Replay {
    /// Domain and general rows in random order.
    pub dataset: Dataset,
    /// General rows in it.
    pub replayed: usize,
    /// How many general rows were lacking for the wanted fraction.
    pub shortfall: usize,
}

/// Mixes general rows, drawn without repetition, into the domain rows. The rows and their order are those that the lesson's
/// Python function gives after `random.seed(seed)`.
///
/// # Errors
/// The domain set is empty, or the fraction is out of range.
pub fn create_replay_dataset(domain: &Dataset, general: &Dataset, fraction: f64, seed: i64, of: FractionOf) -> Result<Replay> {
    let n = domain.non_empty("create_replay_dataset")?.len();
    let wanted = match of {
        FractionOf::Domain if fraction >= 0.0 && fraction.is_finite() => (n as f64 * fraction) as usize,
        FractionOf::Domain => {
            return Err(Error::argument(format!("replay_fraction must be 0 or more, such as 0.15, but it is {fraction}")));
        }
        FractionOf::Total if (0.0..1.0).contains(&fraction) => (fraction / (1.0 - fraction) * n as f64).round() as usize,
        FractionOf::Total => {
            let message = "with of: \"total\" replay_fraction is a share of the mixed set, at least 0 and below 1";
            return Err(Error::argument(format!("{message}, but it is {fraction}")));
        }
    };
    let replayed = wanted.min(general.len());
    // As the lesson does: random.sample of the general rows, then random.shuffle of all.
    let mut random = PythonRandom::new(seed);
    let drawn = random.sample(general.len(), replayed);
    let mixed = Dataset::concatenate([domain, &general.gather(drawn)]);
    let mut order: Vec<usize> = (0..mixed.len()).collect();
    random.shuffle(&mut order);
    Ok(Replay { dataset: mixed.gather(order), replayed, shortfall: wanted - replayed })
}
