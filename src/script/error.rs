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
