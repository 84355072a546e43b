//! From the library's errors to the script's, which the engine then gives a position.

use crate::error::Error;
use rhai::{Dynamic, EvalAltResult, NativeCallContext, Position};

/// What a function of the language returns.
pub type ScriptResult<T> = Result<T, Box<EvalAltResult>>;

/// Turns a library result into a script result.
pub trait IntoScript<T> {
    /// The same value, or the error as the script sees it: its message, catchable; an interrupt ends the script.
    ///
    /// # Errors
    /// The library's error.
    fn script(self) -> ScriptResult<T>;
}

impl<T, E: Into<Error>> IntoScript<T> for Result<T, E> {
    fn script(self) -> ScriptResult<T> {
        self.map_err(|error| {
            Box::new(match error.into() {
                Error::Interrupted => EvalAltResult::ErrorTerminated(Dynamic::from("interrupted"), Position::NONE),
                other => EvalAltResult::ErrorRuntime(Dynamic::from(other.to_string()), Position::NONE),
            })
        })
    }
}

/// Puts the place of the call into an error: the engine does so for methods and global functions, but not for functions of a
/// namespace such as `AutoModelForCausalLM::from_pretrained`.
///
/// # Errors
/// The same as before.
pub fn positioned<T>(call: &NativeCallContext, result: ScriptResult<T>) -> ScriptResult<T> {
    result.map_err(|mut error| {
        if error.position().is_none() {
            error.set_position(call.call_position());
        }
        error
    })
}

/// A failed call of a user's function (callback, check, regulariser) as the library's error, for the way through library code
/// that called it; an interrupt stays an interrupt.
pub fn into_library(what: &str, error: &EvalAltResult) -> Error {
    let mut inner = error;
    while let EvalAltResult::ErrorInFunctionCall(_, _, next, _) | EvalAltResult::ErrorInModule(_, next, _) = inner {
        inner = next;
    }
    match inner {
        EvalAltResult::ErrorTerminated(..) => Error::Interrupted,
        other => {
            let place = match other.position() {
                position if position.is_none() => String::new(),
                position => format!(" ({position})"),
            };
            let text = match other {
                EvalAltResult::ErrorRuntime(value, _) => super::display::text(value) + place.as_str(),
                // The engine's name of a closure, "anon$" and a number, says nothing.
                EvalAltResult::ErrorFunctionNotFound(signature, _) if signature.starts_with("anon$") => {
                    let given = signature.split_once('(').map_or("", |(_, rest)| rest.trim_end_matches(')'));
                    let count = given.split(',').filter(|part| !part.trim().is_empty()).count();
                    format!("the function must take {count} argument(s){place}")
                }
                other => other.to_string(),
            };
            Error::Callback(format!("{what}: {text}"))
        }
    }
}
