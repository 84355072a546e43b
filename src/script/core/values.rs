//! `print` and text of any value, `assert`.

use crate::script::display;
use crate::script::error::ScriptResult;
use crate::script::registry::Registry;
use rhai::plugin::*;
use rhai::{Array, ImmutableString, Map};

fn joined(values: &[Dynamic]) -> ImmutableString {
    values.iter().map(display::text).collect::<Vec<_>>().join(" ").into()
}

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// Prints a value: strings as they are, floats as Python writes them, arrays and maps with their items. Several values (up
    /// to five) are printed on one line with spaces between them.
    ///
    /// ```rhai
    /// print([1, 2.0, "three"]); // => [1, 2.0, "three"]
    /// print("loss:", 0.25); // => loss: 0.25
    /// ```
    #[rhai_fn(name = "print")]
    pub fn print_any(value: Dynamic) -> ImmutableString {
        display::text(&value).into()
    }

    #[rhai_fn(name = "print")]
    pub fn print_two(a: Dynamic, b: Dynamic) -> ImmutableString {
        joined(&[a, b])
    }

    #[rhai_fn(name = "print")]
    pub fn print_three(a: Dynamic, b: Dynamic, c: Dynamic) -> ImmutableString {
        joined(&[a, b, c])
    }

    #[rhai_fn(name = "print")]
    pub fn print_four(a: Dynamic, b: Dynamic, c: Dynamic, d: Dynamic) -> ImmutableString {
        joined(&[a, b, c, d])
    }

    #[rhai_fn(name = "print")]
    pub fn print_five(a: Dynamic, b: Dynamic, c: Dynamic, d: Dynamic, e: Dynamic) -> ImmutableString {
        joined(&[a, b, c, d, e])
    }

    #[rhai_fn(name = "print")]
    pub fn print_array(value: Array) -> ImmutableString {
        display::text(&value.into()).into()
    }

    #[rhai_fn(name = "print")]
    pub fn print_map(value: Map) -> ImmutableString {
        display::text(&value.into()).into()
    }

    #[rhai_fn(name = "print")]
    pub fn print_float(value: f64) -> ImmutableString {
        display::float(value).into()
    }

    #[rhai_fn(name = "print")]
    pub fn print_unit(_nothing: ()) -> ImmutableString {
        "()".into()
    }

    /// The text of a value, as `print` shows it and `${..}` inserts it.
    ///
    /// ```rhai
    /// to_string(2e-5) // => 2e-05
    /// ```
    #[rhai_fn(name = "to_string")]
    pub fn text_any(value: Dynamic) -> ImmutableString {
        display::text(&value).into()
    }

    #[rhai_fn(name = "to_string", pure)]
    pub fn text_array(value: &mut Array) -> ImmutableString {
        display::text(&value.clone().into()).into()
    }

    #[rhai_fn(name = "to_string", pure)]
    pub fn text_map(value: &mut Map) -> ImmutableString {
        display::text(&value.clone().into()).into()
    }

    #[rhai_fn(name = "to_string")]
    pub fn text_float(value: f64) -> ImmutableString {
        display::float(value).into()
    }

    #[rhai_fn(name = "to_string")]
    pub fn text_unit(_nothing: ()) -> ImmutableString {
        "()".into()
    }

    /// The text of a value, as Python's `str`.
    ///
    /// ```rhai
    /// str(0.5) + "!" // => 0.5!
    /// ```
    #[rhai_fn(name = "str")]
    pub fn str_any(value: Dynamic) -> ImmutableString {
        display::text(&value).into()
    }

    /// An integer from a text, a float (cut off towards zero) or a truth value, as Python's `int`.
    ///
    /// ```rhai
    /// [int("42"), int(-2.7), int(true)] // => [42, -2, 1]
    /// ```
    #[rhai_fn(name = "int", return_raw)]
    pub fn int_any(value: Dynamic) -> ScriptResult<i64> {
        let text = value.as_immutable_string_ref().ok().map(|text| text.trim().replace('_', ""));
        let parsed = match text {
            Some(text) => text.parse().ok(),
            None => value.as_int().ok().or_else(|| value.as_bool().ok().map(i64::from)),
        };
        parsed.ok_or_else(|| format!("int: {} is not an integer", display::describe(&value)).into())
    }

    #[rhai_fn(name = "int", return_raw)]
    pub fn int_float(value: f64) -> ScriptResult<i64> {
        let cut = value.trunc();
        // Both bounds are powers of two, which a float holds exactly.
        match (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&cut) {
            true => Ok(cut as i64),
            false => Err(format!("int: {} does not fit into an integer", display::float(value)).into()),
        }
    }

    /// A float from a text, an integer or a truth value, as Python's `float`.
    ///
    /// ```rhai
    /// float("2e-5") // => 2e-05
    /// ```
    #[rhai_fn(name = "float", return_raw)]
    pub fn float_any(value: Dynamic) -> ScriptResult<f64> {
        let text = value.as_immutable_string_ref().ok().map(|text| text.trim().to_string());
        let parsed = match text {
            Some(text) => text.parse().ok(),
            None => value.as_float().ok().or_else(|| value.as_int().ok().map(|i| i as f64)),
        };
        let parsed = parsed.or_else(|| value.as_bool().ok().map(|flag| f64::from(u8::from(flag))));
        parsed.ok_or_else(|| format!("float: {} is not a number", display::describe(&value)).into())
    }

    /// Stops the script with a message unless the condition holds.
    ///
    /// ```rhai
    /// assert(1 + 1 == 2, "arithmetic is broken");
    /// ```
    #[rhai_fn(return_raw, name = "assert")]
    pub fn assert_message(condition: bool, message: &str) -> ScriptResult<()> {
        if condition { Ok(()) } else { Err(format!("assertion failed: {message}").into()) }
    }

    #[rhai_fn(return_raw, name = "assert")]
    pub fn assert_plain(condition: bool) -> ScriptResult<()> {
        if condition { Ok(()) } else { Err("assertion failed".into()) }
    }
}

/// Registers the functions.
pub fn register(engine: &mut Registry<'_>) {
    engine.register_global_module(exported_module!(functions).into());
}
