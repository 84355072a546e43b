//! `print` and text of any value, `help`, `assert`.

use crate::script::context;
use crate::script::display;
use crate::script::docs;
use crate::script::error::ScriptResult;
use rhai::plugin::*;
use rhai::{Array, Engine, ImmutableString, Map};

// The macro unwraps arguments whose types the engine has checked.
#[allow(clippy::unwrap_used)]
#[export_module]
mod functions {
    /// Prints a value: strings as they are, floats as Python writes them, arrays and maps with their items.
    ///
    /// ```rhai
    /// print([1, 2.0, "three"]); // => [1, 2.0, "three"]
    /// ```
    #[rhai_fn(name = "print")]
    pub fn print_any(value: Dynamic) -> ImmutableString {
        display::text(&value).into()
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

    /// Shows the documentation of a function, method or property.
    ///
    /// ```rhai
    /// help("round");
    /// ```
    #[rhai_fn(return_raw)]
    pub fn help(call: NativeCallContext, name: &str) -> ScriptResult<()> {
        let reference = docs::Reference::of(call.engine());
        let text = match reference.find(name).as_slice() {
            [] => return Err(reference.unknown(name).into()),
            found => docs::render::text(found),
        };
        context::print(&call, text)
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
pub fn register(engine: &mut Engine) {
    engine.register_global_module(exported_module!(functions).into());
}
