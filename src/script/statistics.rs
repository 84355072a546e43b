//! Intervals and tests for right/wrong items.

use super::convert::to_numbers;
use super::error::{IntoScript, ScriptResult};
use crate::eval::statistics::{CONFIDENCE, mcnemar_exact, paired_difference as difference, wilson_interval as wilson};
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, INT, Map};

/// Adds the functions to the language.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(statistics_functions).into());
}

fn count(value: INT, name: &str) -> ScriptResult<u64> {
    u64::try_from(value).map_err(|_| format!("{name} counts items, so it cannot be negative, but it is {value}").into())
}

fn flags(items: &[Dynamic], name: &str) -> ScriptResult<Vec<bool>> {
    let flag = |(i, item): (usize, &Dynamic)| {
        item.as_bool().map_err(|kind| format!("{name}: item {i} must be true or false, but it is of type {kind}").into())
    };
    items.iter().enumerate().map(flag).collect()
}

#[allow(missing_docs, clippy::unwrap_used)] // of the code that the macro makes
#[export_module]
mod statistics_functions {
    /// How sure a score is: the 95 % interval (Wilson) of `k` right answers of `n`. Map with `low` and `high`.
    ///
    /// ```rhai
    /// let i = wilson_interval(16, 20);
    /// [round(i.low * 100), round(i.high * 100)] // => [58.0, 92.0]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn wilson_interval(k: INT, n: INT) -> ScriptResult<Map> {
        let interval = wilson(count(k, "k")?, count(n, "n")?, CONFIDENCE).script()?;
        Ok(Map::from_iter([("low".into(), interval.low.into()), ("high".into(), interval.high.into())]))
    }

    /// Exact McNemar test for the same items answered twice: `lost` were right before only, `gained` right after only. Map
    /// with `p_value`: how likely a split at least this uneven is if training changed nothing. No changed item gives 1.
    ///
    /// ```rhai
    /// mcnemar(8, 2).p_value // => 0.109375
    /// ```
    #[rhai_fn(return_raw)]
    pub fn mcnemar(lost: INT, gained: INT) -> ScriptResult<Map> {
        let p_value = mcnemar_exact(count(lost, "lost")?, count(gained, "gained")?);
        Ok(Map::from_iter([("p_value".into(), p_value.into())]))
    }

    /// Compares the same items before and after training: two arrays of true (right) and false. Map with `drop` (share right
    /// before minus after), its 95 % interval `ci_low` to `ci_high` (Newcombe), `p_value` (exact McNemar), `lost`, `gained`, `n`.
    ///
    /// ```rhai
    /// let d = paired_difference([true, true, true, false], [true, false, false, false]);
    /// [d.drop, d.lost, d.gained, d.p_value] // => [0.5, 2, 0, 0.5]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn paired_difference(before: Array, after: Array) -> ScriptResult<Map> {
        let found = difference(&flags(&before, "before")?, &flags(&after, "after")?, CONFIDENCE).script()?;
        Ok(Map::from_iter([
            ("drop".into(), found.drop.into()),
            ("ci_low".into(), found.interval.low.into()),
            ("ci_high".into(), found.interval.high.into()),
            ("p_value".into(), found.p_value.into()),
            ("lost".into(), (found.lost as INT).into()),
            ("gained".into(), (found.gained as INT).into()),
            ("n".into(), (found.n as INT).into()),
        ]))
    }

    /// Holm's correction for several tests: the p-values, adjusted, in the order given. Compare each with 0.05 as usual; the
    /// chance of any false alarm among them is then 5 % at most.
    ///
    /// ```rhai
    /// holm([0.02, 0.04, 0.01]) // => [0.04, 0.04, 0.03]
    /// ```
    #[rhai_fn(return_raw)]
    pub fn holm(p_values: Array) -> ScriptResult<Array> {
        let adjusted = crate::eval::statistics::holm(&to_numbers(&p_values, "holm")?).script()?;
        Ok(adjusted.into_iter().map(Dynamic::from_float).collect())
    }
}
