//! `sort`, `sorted` and their kin, in the place of Rhai's, which take a failing or unusable comparer for any order, and integers beside
//! floats for things without one.

use super::lists::compare;
use crate::script::display;
use crate::script::error::ScriptResult;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, FnPtr};
use std::cmp::Ordering;

/// A stable merge sort that ends at the first error. What scripts compare by may fail, and need not be an order, at which the standard
/// library's sort may panic; Rhai's own goes on with any order in both cases.
fn merge_sorted(mut items: Array, compare: &mut impl FnMut(&Dynamic, &Dynamic) -> ScriptResult<Ordering>) -> ScriptResult<Array> {
    if items.len() < 2 {
        return Ok(items);
    }
    let right = items.split_off(items.len() / 2);
    let mut left = merge_sorted(items, compare)?.into_iter().peekable();
    let mut right = merge_sorted(right, compare)?.into_iter().peekable();
    let mut sorted = Array::new();
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let order = compare(a, b)?;
        sorted.extend(if order == Ordering::Greater { right.next() } else { left.next() });
    }
    sorted.extend(left.chain(right));
    Ok(sorted)
}

/// What a script's comparer says of two items: the sign of a number, or whether the first comes first.
fn order_by(call: &NativeCallContext, comparer: &FnPtr, a: &Dynamic, b: &Dynamic) -> ScriptResult<Ordering> {
    let said = comparer.call_within_context::<Dynamic>(call, (a.clone(), b.clone()))?;
    if let Ok(first) = said.as_bool() {
        return Ok(if first { Ordering::Less } else { Ordering::Greater });
    }
    let number = said.as_float().or_else(|_| said.as_int().map(|number| number as f64)).ok();
    number.and_then(|number| number.partial_cmp(&0.0)).ok_or_else(|| {
        let [a, b, said] = [a, b, &said].map(display::describe);
        format!(
            "sort: of {a} and {b} the function gave {said}; it must give a number, below 0 where the first comes first, or a bool"
        )
        .into()
    })
}

fn ordered(call: &NativeCallContext, items: &[Dynamic], comparer: &FnPtr) -> ScriptResult<Array> {
    merge_sorted(items.to_vec(), &mut |a, b| order_by(call, comparer, a, b))
}

fn ascending(function: &str, items: &[Dynamic]) -> ScriptResult<Array> {
    merge_sorted(items.to_vec(), &mut |a, b| compare(function, a, b))
}

fn descending(function: &str, items: &[Dynamic]) -> ScriptResult<Array> {
    merge_sorted(items.to_vec(), &mut |a, b| compare(function, b, a))
}

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// A sorted copy of an array of numbers or of strings.
    ///
    /// ```rhai
    /// sorted([3, 1, 2]) // => [1, 2, 3]
    /// ```
    #[rhai_fn(name = "sorted", return_raw, pure)]
    pub fn sorted(items: &mut Array) -> ScriptResult<Array> {
        ascending("sorted", items)
    }

    /// A copy of an array in the order of what a function gives for its items, numbers or strings.
    ///
    /// ```rhai
    /// let runs = [#{ seed: 1, accuracy: 0.7 }, #{ seed: 2, accuracy: 0.9 }];
    /// sorted(runs, |run| -run.accuracy)[0].seed // => 2
    /// ```
    #[rhai_fn(name = "sorted", return_raw, pure)]
    pub fn sorted_by(call: NativeCallContext, items: &mut Array, key: FnPtr) -> ScriptResult<Array> {
        let mut pairs = Array::new();
        for item in items.iter() {
            let key = key.call_within_context::<Dynamic>(&call, (item.clone(),))?;
            pairs.push(Dynamic::from_array(vec![key, item.clone()]));
        }
        let part = |pair: &Dynamic, place: usize| {
            pair.read_lock::<Array>().and_then(|pair| pair.get(place).cloned()).unwrap_or_default()
        };
        let pairs = merge_sorted(pairs, &mut |a, b| compare("sorted", &part(a, 0), &part(b, 0)))?;
        Ok(pairs.iter().map(|pair| part(pair, 1)).collect())
    }

    /// Sorts an array of numbers or of strings.
    ///
    /// ```rhai
    /// let scores = [0.9, 1, 0.5];
    /// scores.sort();
    /// scores // => [0.5, 0.9, 1]
    /// ```
    #[rhai_fn(name = "sort", return_raw)]
    pub fn sort(items: &mut Array) -> ScriptResult<()> {
        *items = ascending("sort", items)?;
        Ok(())
    }

    /// Sorts an array of numbers or of strings, the largest first.
    ///
    /// ```rhai
    /// let scores = [0.9, 1, 0.5];
    /// scores.sort_desc();
    /// scores // => [1, 0.9, 0.5]
    /// ```
    #[rhai_fn(name = "sort_desc", return_raw)]
    pub fn sort_desc(items: &mut Array) -> ScriptResult<()> {
        *items = descending("sort_desc", items)?;
        Ok(())
    }

    /// Sorts an array by a function of two items, which gives a number (below 0 where the first comes first), or whether the first comes
    /// first.
    ///
    /// ```rhai
    /// let runs = [#{ seed: 1, loss: 0.75 }, #{ seed: 2, loss: 0.5 }];
    /// runs.sort(|a, b| a.loss - b.loss);
    /// runs[0].seed // => 2
    /// ```
    #[rhai_fn(name = "sort", name = "sort_by", return_raw)]
    pub fn sort_with(call: NativeCallContext, items: &mut Array, comparer: FnPtr) -> ScriptResult<()> {
        *items = ordered(&call, items, &comparer)?;
        Ok(())
    }

    /// The same by the name of a function.
    #[rhai_fn(name = "sort", name = "sort_by", return_raw)]
    pub fn sort_with_name(call: NativeCallContext, items: &mut Array, comparer: &str) -> ScriptResult<()> {
        *items = ordered(&call, items, &FnPtr::new(comparer)?)?;
        Ok(())
    }

    /// A sorted copy of an array; a function of two items may say the order, as `sort` takes it.
    ///
    /// ```rhai
    /// [3, 1, 2].order(|a, b| b - a) // => [3, 2, 1]
    /// ```
    #[rhai_fn(name = "order", name = "order_by", return_raw, pure)]
    pub fn order_with(call: NativeCallContext, items: &mut Array, comparer: FnPtr) -> ScriptResult<Array> {
        ordered(&call, items, &comparer)
    }

    /// The same by the name of a function.
    #[rhai_fn(name = "order", name = "order_by", return_raw, pure)]
    pub fn order_with_name(call: NativeCallContext, items: &mut Array, comparer: &str) -> ScriptResult<Array> {
        ordered(&call, items, &FnPtr::new(comparer)?)
    }

    #[rhai_fn(name = "order", return_raw, pure)]
    pub fn order(items: &mut Array) -> ScriptResult<Array> {
        ascending("order", items)
    }

    /// A sorted copy of an array of numbers or of strings, the largest first.
    ///
    /// ```rhai
    /// [3, 1, 2].order_desc() // => [3, 2, 1]
    /// ```
    #[rhai_fn(name = "order_desc", return_raw, pure)]
    pub fn order_desc(items: &mut Array) -> ScriptResult<Array> {
        descending("order_desc", items)
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(functions).into());
}
