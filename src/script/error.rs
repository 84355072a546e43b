//! From the library's errors to the script's, which the engine then gives a position.

use super::hints::{Hints, describe};
use crate::error::Error;
use rhai::{Dynamic, Engine, EvalAltResult, NativeCallContext, Position};

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

/// A failed call of a user's function (callback, regulariser) as the library's error, for the way through library code that called it; an
/// interrupt stays an interrupt.
pub fn into_library(what: &str, error: &EvalAltResult, engine: &Engine) -> Error {
    match innermost(error) {
        EvalAltResult::ErrorTerminated(..) => Error::Interrupted,
        inner => Error::Callback(format!("{what}: {}", in_words(inner, inner.position(), engine))),
    }
}

/// A failed call of a user's function, for a script to catch: what the engine has to say becomes a text in words. What was thrown stays as it
/// is, and so does what cannot be caught.
pub fn into_words(error: Box<EvalAltResult>, engine: &Engine) -> Box<EvalAltResult> {
    let inner = innermost(&error);
    if matches!(inner, EvalAltResult::ErrorRuntime(..)) || !inner.is_catchable() {
        return error;
    }
    // Where the function could not even be called, the place is that of who called it.
    let called = matches!(*error, EvalAltResult::ErrorInFunctionCall(..));
    let place = if called { inner.position() } else { Position::NONE };
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(in_words(inner, place, engine)), Position::NONE))
}

/// A failed call of a user's function with what it was called for in front of the message, such as `map: row 3`, and the place where it
/// failed. What was thrown and is no text stays as it is, and so does what cannot be caught.
pub fn called_for(what: &str, error: Box<EvalAltResult>, engine: &Engine) -> Box<EvalAltResult> {
    let inner = innermost(&error);
    let thrown = matches!(inner, EvalAltResult::ErrorRuntime(value, _) if !value.is_string());
    if thrown || !inner.is_catchable() {
        return error;
    }
    let text = format!("{what}: {}", in_words(inner, Position::NONE, engine));
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(text), inner.position()))
}

fn innermost(error: &EvalAltResult) -> &EvalAltResult {
    let mut inner = error;
    while let EvalAltResult::ErrorInFunctionCall(_, _, next, _) | EvalAltResult::ErrorInModule(_, next, _) = inner {
        inner = next;
    }
    inner
}

/// What happened, with its place, and on lines of their own what was probably meant.
fn in_words(error: &EvalAltResult, place: Position, engine: &Engine) -> String {
    let (mut text, notes) = describe(error, &Hints::new(engine, None), None, None);
    if !place.is_none() {
        text += &format!(" ({place})");
    }
    for note in notes {
        text += "\n";
        text += &note;
    }
    text
}
