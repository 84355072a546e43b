//! `sum`, `mean`, `std`, `median`, `min`, `max`, `range`, `enumerate`, `zip` over arrays.

use crate::script::display;
use crate::script::error::ScriptResult;
use crate::script::registry::Registry;
use rhai::Array;
use rhai::plugin::*;
use std::cmp::Ordering;

fn number(function: &str, item: &Dynamic) -> ScriptResult<f64> {
    item.as_float()
        .or_else(|_| item.as_int().map(|i| i as f64))
        .or_else(|_| item.as_bool().map(|b| f64::from(u8::from(b))))
        .map_err(|_| format!("{function}: every item must be a number, one is {}", display::describe(item)).into())
}

fn add_up(items: &[Dynamic]) -> ScriptResult<Dynamic> {
    let whole = |item: &Dynamic| item.as_int().ok().or_else(|| item.as_bool().ok().map(i64::from));
    if let Some(numbers) = items.iter().map(whole).collect::<Option<Vec<_>>>() {
        let total = numbers.iter().try_fold(0i64, |sum, n| sum.checked_add(*n));
        return total.map(Dynamic::from).ok_or_else(|| "sum: the result does not fit into an integer".into());
    }
    let mut total = 0.0;
    for item in items {
        total += number("sum", item)?;
    }
    Ok(total.into())
}

/// Numbers with numbers, strings with strings; anything else has no order.
pub(super) fn compare(function: &str, a: &Dynamic, b: &Dynamic) -> ScriptResult<Ordering> {
    if let (Ok(a), Ok(b)) = (a.as_int(), b.as_int()) {
        return Ok(a.cmp(&b));
    }
    if let (Ok(a), Ok(b)) = (a.as_immutable_string_ref(), b.as_immutable_string_ref()) {
        return Ok(a.as_str().cmp(b.as_str()));
    }
    if let (Ok(a), Ok(b)) = (a.as_char(), b.as_char()) {
        return Ok(a.cmp(&b));
    }
    match (number(function, a), number(function, b)) {
        (Ok(a), Ok(b)) => Ok(a.total_cmp(&b)),
        _ => Err(format!("{function}: cannot compare {} with {}", display::describe(a), display::describe(b)).into()),
    }
}

/// The numbers of an array that has some.
fn numbers(function: &str, items: &[Dynamic]) -> ScriptResult<Vec<f64>> {
    if items.is_empty() {
        return Err(format!("{function}: the array is empty").into());
    }
    items.iter().map(|item| number(function, item)).collect()
}

fn extreme(function: &str, items: &[Dynamic], wanted: Ordering) -> ScriptResult<Dynamic> {
    let (first, rest) = items.split_first().ok_or_else(|| format!("{function}: the array is empty"))?;
    let mut best = first;
    for item in rest {
        if compare(function, item, best)? == wanted {
            best = item;
        }
    }
    Ok(best.clone())
}

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// The sum of an array of numbers; `true` counts as 1.
    ///
    /// ```rhai
    /// sum([1, 2, 3.5]) // => 6.5
    /// ```
    #[rhai_fn(name = "sum", return_raw, pure)]
    pub fn sum(items: &mut Array) -> ScriptResult<Dynamic> {
        add_up(items)
    }

    /// The mean of an array of numbers.
    ///
    /// ```rhai
    /// mean([1, 2, 6]) // => 3.0
    /// ```
    #[rhai_fn(name = "mean", return_raw, pure)]
    pub fn mean(items: &mut Array) -> ScriptResult<f64> {
        let numbers = numbers("mean", items)?;
        Ok(numbers.iter().sum::<f64>() / numbers.len() as f64)
    }

    /// The standard deviation of an array of numbers with n - 1, as `torch.std` and pandas compute it: how far runs with different seeds are
    /// apart. Of one number it is NaN.
    ///
    /// ```rhai
    /// std([0.5, 0.5, 2.0]) // => 0.8660254037844386
    /// ```
    #[rhai_fn(name = "std", return_raw, pure)]
    pub fn std_array(items: &mut Array) -> ScriptResult<f64> {
        let numbers = numbers("std", items)?;
        let mean = numbers.iter().sum::<f64>() / numbers.len() as f64;
        let squares: f64 = numbers.iter().map(|number| (number - mean).powi(2)).sum();
        Ok((squares / (numbers.len() as f64 - 1.0)).sqrt())
    }

    /// The median of an array of numbers: the one in the middle, or the mean of the two in the middle.
    ///
    /// ```rhai
    /// median([1, 10, 2]) // => 2.0
    /// median([1, 10, 2, 4]) // => 3.0
    /// ```
    #[rhai_fn(name = "median", return_raw, pure)]
    pub fn median(items: &mut Array) -> ScriptResult<f64> {
        let mut numbers = numbers("median", items)?;
        if numbers.iter().any(|number| number.is_nan()) {
            return Ok(f64::NAN);
        }
        numbers.sort_by(f64::total_cmp);
        let middle = numbers.len() / 2;
        Ok(if numbers.len() % 2 == 1 { numbers[middle] } else { (numbers[middle - 1] + numbers[middle]) / 2.0 })
    }

    /// The smallest item of an array of numbers or of strings.
    ///
    /// ```rhai
    /// min([3, 1, 2]) // => 1
    /// ```
    #[rhai_fn(name = "min", return_raw, pure)]
    pub fn min_array(items: &mut Array) -> ScriptResult<Dynamic> {
        extreme("min", items, Ordering::Less)
    }

    /// The largest item of an array of numbers or of strings.
    ///
    /// ```rhai
    /// max([3, 1, 2]) // => 3
    /// ```
    #[rhai_fn(name = "max", return_raw, pure)]
    pub fn max_array(items: &mut Array) -> ScriptResult<Dynamic> {
        extreme("max", items, Ordering::Greater)
    }

    /// The integers from 0 up to, not including, a number.
    ///
    /// ```rhai
    /// let squares = [];
    /// for i in range(4) { squares.push(i * i); }
    /// squares // => [0, 1, 4, 9]
    /// ```
    #[rhai_fn(name = "range")]
    pub fn range(end: i64) -> std::ops::Range<i64> {
        0..end
    }

    /// Pairs `[index, item]` of an array.
    ///
    /// ```rhai
    /// enumerate(["a", "b"]) // => [[0, "a"], [1, "b"]]
    /// ```
    #[rhai_fn(name = "enumerate", pure)]
    pub fn enumerate(items: &mut Array) -> Array {
        let pair = |(index, item): (usize, &Dynamic)| {
            Dynamic::from_array(vec![i64::try_from(index).unwrap_or(i64::MAX).into(), item.clone()])
        };
        items.iter().enumerate().map(pair).collect()
    }

    /// Pairs of two arrays' items, as long as the shorter one.
    ///
    /// ```rhai
    /// zip([1, 2], ["a", "b"]) // => [[1, "a"], [2, "b"]]
    /// ```
    #[rhai_fn(name = "zip", pure)]
    pub fn zip_arrays(left: &mut Array, right: Array) -> Array {
        left.iter().cloned().zip(right).map(|(a, b)| Dynamic::from_array(vec![a, b])).collect()
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(functions).into());
}
