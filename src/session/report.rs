//! Errors in words: what happened, the source line with a caret, the calls that led there, and what was probably meant.

mod snippet;

use super::Session;
use crate::script::hints::{Defined, Hints, describe, split_message};
use rhai::{EvalAltResult, ParseError, Position};
use snippet::{Report, Site};

/// Rhai's function that runs a text, which is then in no file: places inside it cannot be shown.
const EVAL: &str = "eval";

/// Puts an error into words. `name` is that of the script that was run.
pub fn render(session: &Session, error: &EvalAltResult, name: &str, color: bool) -> String {
    let mut calls = Vec::new();
    // None: the text that `eval` runs.
    let mut file = Some(name.to_string());
    let mut error = error;
    // From the outside in: each call's own position lies in the text of the function around it.
    loop {
        match error {
            EvalAltResult::ErrorInFunctionCall(function, _, inner, position) if function == EVAL => {
                calls.push((Some(EVAL), file.take(), *position));
                error = inner;
            }
            EvalAltResult::ErrorInFunctionCall(function, source, inner, position) => {
                calls.push((Some(function.as_str()), file.clone(), *position));
                file = match session.sources().of_function(function) {
                    // A script may have a function of the same name as one that it imports.
                    _ if session.sources().is_imported(source) => Some(source.clone()),
                    Some(known) => Some(known.to_string()),
                    None if source.is_empty() => file,
                    None => Some(source.clone()),
                };
                error = inner;
            }
            EvalAltResult::ErrorInModule(module, inner, position) => {
                calls.push((None, file.clone(), *position));
                file = Some(module.clone());
                error = inner;
            }
            other => {
                error = other;
                break;
            }
        }
    }
    // What `eval` runs sees the variables around it.
    let inside = calls.iter().rev().find(|(function, ..)| *function != Some(EVAL)).and_then(|(function, ..)| *function);
    let position = error.position();
    let near = file.as_deref().and_then(|file| session.sources().text(file)).and_then(|source| line_at(source, position));
    let (title, mut notes) = describe(error, &hints(session), inside, near);
    let (shown, mut told) = match file {
        Some(file) => ((file, position), (String::new(), position)),
        None => {
            if let (Some(line), Some(column)) = (position.line(), position.position()) {
                notes.push(format!("in line {line}, column {column} of the text that `eval` runs"));
            }
            let eval = calls.iter().rev().find_map(|(_, file, position)| file.clone().map(|file| (file, *position)));
            let eval = eval.unwrap_or_else(|| (name.to_string(), Position::NONE));
            (eval.clone(), eval)
        }
    };
    let mut report = Report::new(title, notes);
    report.site(site(session, &shown.0, shown.1, ""));
    for (function, file, position) in calls.iter().rev() {
        let Some(file) = file else { continue };
        // A closure is called at the place of the function that was given it; one of the two is enough.
        if function.is_some_and(anonymous) || (file.as_str(), *position) == (told.0.as_str(), told.1) {
            continue;
        }
        let label = function.map_or_else(|| "imported here".to_string(), |function| format!("`{function}` is called here"));
        report.call(site(session, file, *position, &label));
        told = (file.clone(), *position);
    }
    report.render(color)
}

/// A parse error in words, with what was probably meant on lines of their own.
pub fn parse_message(session: &Session, error: &ParseError, source: &str) -> String {
    let (title, notes) = hints(session).parse(error.err_type(), line_at(source, error.position()));
    std::iter::once(title).chain(notes).collect::<Vec<_>>().join("\n")
}

/// One line with a place and a message, as compilers write it.
pub fn render_plain(name: &str, source: &str, position: Position, message: &str, warning: bool, color: bool) -> String {
    let (title, notes) = split_message(message);
    let mut report = Report::new(title, notes);
    if warning {
        report.only_a_warning();
    }
    report.site(Site::new(name, Some(source), position, ""));
    report.render(color)
}

fn hints(session: &Session) -> Hints<'_> {
    Hints::new(
        session.engine(),
        Some(Defined {
            variables: session.scope(),
            functions: session.library(),
            modules: session.modules(),
            inner_modules: session.inner_modules(),
        }),
    )
}

fn anonymous(function: &str) -> bool {
    function.starts_with("anon$")
}

fn site<'a>(session: &'a Session, file: &str, position: Position, label: &str) -> Site<'a> {
    Site::new(file, session.sources().text(file), position, label)
}

/// The line of a position and the byte in it.
fn line_at(source: &str, position: Position) -> Option<(&str, usize)> {
    let line = source.lines().nth(position.line()?.checked_sub(1)?)?;
    let column = position.position().unwrap_or(1).max(1);
    Some((line, line.char_indices().nth(column - 1).map_or(line.len(), |(at, _)| at)))
}
