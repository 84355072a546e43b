//! From the library's errors to the script's, which the engine then gives a position.

use crate::error::Error;
use rhai::{Dynamic, EvalAltResult, Position};

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
                other => other.to_string(),
            };
            Error::Callback(format!("{what}: {text}"))
        }
    }
}
