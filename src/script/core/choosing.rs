//! `filter`, `find`, `some`, `all`, `for_each` over arrays, in the place of Rhai's. Those take whatever a function gives that is no bool for
//! false: `rows.filter(|row| row.correct)` was empty where `correct` is 1 or 0; and `for_each(|x| ..)` gave it the index.

use crate::script::display;
use crate::script::error::ScriptResult;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, FnPtr};

/// Whether a function of an item, or of an item and its index, says yes.
fn says_yes(name: &str, call: &NativeCallContext, test: &FnPtr, (index, item): (usize, &mut Dynamic)) -> ScriptResult<bool> {
    let place = i64::try_from(index).unwrap_or(i64::MAX);
    let said = test.call_raw_with_extra_args(name, call, Some(item), [], [place.into()], Some(0))?;
    said.as_bool().map_err(|_| {
        let said = display::describe(&said);
        format!("{name}: the function must give true or false, but for item {index} it gave {said}; compare, as in `x == 1`")
            .into()
    })
}

/// The first item to which a function says `wanted`.
fn first(name: &str, call: &NativeCallContext, items: &mut Array, test: &FnPtr, wanted: bool) -> ScriptResult<Option<Dynamic>> {
    for (index, item) in items.iter_mut().enumerate() {
        if says_yes(name, call, test, (index, item))? == wanted {
            return Ok(Some(item.clone()));
        }
    }
    Ok(None)
}

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// The items of an array for which a function of an item (or of an item and its index) gives `true`.
    ///
    /// ```rhai
    /// [0.9, 0.4, 0.7].filter(|accuracy| accuracy > 0.5) // => [0.9, 0.7]
    /// ```
    #[rhai_fn(name = "filter", return_raw, pure)]
    pub fn filter(call: NativeCallContext, items: &mut Array, test: FnPtr) -> ScriptResult<Array> {
        let mut kept = Array::new();
        for (index, item) in items.iter_mut().enumerate() {
            if says_yes("filter", &call, &test, (index, item))? {
                kept.push(item.clone());
            }
        }
        Ok(kept)
    }

    /// The first item of an array for which a function gives `true`; `()` where there is none.
    ///
    /// ```rhai
    /// [0.9, 0.4, 0.7].find(|accuracy| accuracy < 0.8) // => 0.4
    /// ```
    #[rhai_fn(name = "find", return_raw, pure)]
    pub fn find(call: NativeCallContext, items: &mut Array, test: FnPtr) -> ScriptResult<Dynamic> {
        Ok(first("find", &call, items, &test, true)?.unwrap_or_default())
    }

    /// Whether a function gives `true` for some item of an array, as Python's `any`.
    ///
    /// ```rhai
    /// [0.9, 0.4].some(|accuracy| accuracy > 0.5) // => true
    /// ```
    #[rhai_fn(name = "some", return_raw, pure)]
    pub fn some(call: NativeCallContext, items: &mut Array, test: FnPtr) -> ScriptResult<bool> {
        Ok(first("some", &call, items, &test, true)?.is_some())
    }

    /// Whether a function gives `true` for every item of an array.
    ///
    /// ```rhai
    /// [0.9, 0.4].all(|accuracy| accuracy > 0.5) // => false
    /// ```
    #[rhai_fn(name = "all", return_raw, pure)]
    pub fn all(call: NativeCallContext, items: &mut Array, test: FnPtr) -> ScriptResult<bool> {
        Ok(first("all", &call, items, &test, false)?.is_none())
    }

    /// Calls a function with every item of an array (or with every item and its index).
    ///
    /// ```rhai
    /// let total = 0.0;
    /// [0.5, 2.0].for_each(|loss| total += loss);
    /// total // => 2.5
    /// ```
    #[rhai_fn(name = "for_each", return_raw)]
    pub fn for_each(call: NativeCallContext, items: &mut Array, work: FnPtr) -> ScriptResult<()> {
        for (index, item) in items.iter_mut().enumerate() {
            let place = i64::try_from(index).unwrap_or(i64::MAX);
            let _ = work.call_raw_with_extra_args("for_each", &call, Some(item), [], [place.into()], Some(0))?;
        }
        Ok(())
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(functions).into());
}
