//! Values that scripts call: `generator.call(..)`.
//!
//! Rhai allows `.call` on functions only, so a value whose use is to be called (a pipeline) is a function made of Rust code.

use super::error::ScriptResult;
use rhai::{Dynamic, FnPtr, NativeCallContext};

/// A function value from a Rust closure, which gets the arguments of `.call(..)`, however many; `name` is how it prints.
///
/// # Errors
/// `name` is not an identifier.
pub fn callable(
    name: &str,
    function: impl Fn(NativeCallContext, &mut [&mut Dynamic]) -> ScriptResult<Dynamic> + 'static,
) -> ScriptResult<FnPtr> {
    #[allow(deprecated)] // Marked so by Rhai only to say that it may change.
    FnPtr::from_fn(name, move |call, arguments| function(call, arguments))
}
