//! `ftrepl check`: scripts are parsed and their names resolved; nothing runs.
//!
//! What is certainly wrong is an error: syntax, variables that nothing defines, functions that do not exist or take another number
//! of arguments, unknown modules, options that a function does not know. What is probably a mistake is a warning: results that
//! nothing uses, variables that hide others. What only running can tell (types, keys of other maps) is left alone.

mod calls;
mod habits;
mod outer;

use super::Status;
use super::arguments::Common;
use super::output::Output;
use crate::script::options::closest;
use crate::session::{Session, parseable, report, without_mark};
use calls::Calls;
use rhai::{AST, Module, OptimizationLevel, ParseErrorType, Position, Scope};
use serde_json::json;
use std::collections::HashSet;
use std::path::PathBuf;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Running would fail.
    Error,
    /// Probably not what is meant.
    Warning,
}

/// A finding.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Where.
    pub position: Position,
    /// What, with what was probably meant on a second line.
    pub message: String,
}

impl Problem {
    fn error(position: Position, message: String) -> Self {
        Self { severity: Severity::Error, position, message }
    }

    fn warning(position: Position, message: String) -> Self {
        Self { severity: Severity::Warning, position, message }
    }
}

pub(super) fn run(files: &[PathBuf], _: &Common, output: &Output) -> Status {
    let mut session = match Session::builder().device("cpu").build() {
        Ok(session) => session,
        Err(error) => return output.failure(&error.to_string()),
    };
    let mut documents = Vec::new();
    let mut unreadable = false;
    let mut warnings = 0;
    for file in files {
        let name = file.display().to_string();
        match crate::files::read_text(file) {
            Err(error) => {
                unreadable = true;
                output.note(&format!("error: {error}"));
                documents.push(json!({ "file": name, "severity": "error", "message": error.to_string() }));
            }
            Ok(source) => {
                let source = without_mark(&source);
                for problem in problems(&mut session, source) {
                    let Problem { severity, position, message } = problem;
                    let warning = severity == Severity::Warning;
                    warnings += usize::from(warning);
                    output.note(&report::render_plain(&name, source, position, &message, warning, output.color()));
                    documents.push(json!({
                        "file": name,
                        "severity": if warning { "warning" } else { "error" },
                        "line": position.line(),
                        "column": position.position(),
                        "message": message,
                    }));
                }
            }
        }
    }
    let found = documents.len() - warnings;
    output.document(&documents.into());
    if !output.json() && found == 0 {
        let beside = if warnings > 0 { format!("; {}", plural(warnings, "warning")) } else { String::new() };
        output.text(&format!("{} checked, nothing wrong{beside}", plural(files.len(), "script")));
    } else if found > 0 {
        let beside = if warnings > 0 { format!(", {}", plural(warnings, "warning")) } else { String::new() };
        output.note(&format!("{}{beside}", plural(found, "problem")));
    }
    match (unreadable, found) {
        (_, 0) => Status::Done,
        (true, 1) if files.len() == 1 => Status::Usage,
        _ => Status::Failed,
    }
}

fn plural(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// What is wrong with a script, or probably so.
pub fn problems(session: &mut Session, source: &str) -> Vec<Problem> {
    let parseable = parseable(source);
    let source = &*parseable;
    // The optimiser would take away what nothing uses.
    session.engine_mut().set_optimization_level(OptimizationLevel::None);
    let ast = match session.engine().compile(source) {
        Ok(ast) => ast,
        Err(error) => {
            let message = report::parse_message(session, &error, source);
            return vec![Problem::error(error.position(), message)];
        }
    };
    let reference = session.reference();
    let mut found = Calls::new(&reference, session.options(), &ast, source).problems(&ast);
    found.extend(habits::unused_results(&reference, &ast));
    found.extend(habits::hidden_variables(session, source));
    found.extend(outer::uses(&ast, &session.global_names()));
    found.extend(undefined_variables(session, &ast, source));
    found.sort_by_key(|problem| (problem.position.line(), problem.position.position()));
    found.dedup();
    found
}

/// More undefined variables than this in one script come from one mistake.
const MOST_VARIABLES: usize = 50;

/// The strict parser stops at the first undefined variable; each found one is declared and the script parsed again.
fn undefined_variables(session: &mut Session, ast: &AST, source: &str) -> Vec<Problem> {
    let globals = session.global_names();
    let mut known = Scope::new();
    for name in &globals {
        known.push(name.clone(), ());
    }
    let engine = session.engine_mut();
    engine.set_strict_variables(true);
    let mut found = Vec::new();
    let mut modules = HashSet::new();
    while found.len() < MOST_VARIABLES {
        let Err(error) = engine.compile_with_scope(&known, source) else { break };
        let name = match error.err_type() {
            ParseErrorType::VariableUndefined(name) => name,
            // Reported with the call; declared here so that the parser goes on to the variables behind it.
            ParseErrorType::ModuleUndefined(module) if !modules.contains(module) => {
                modules.insert(module.clone());
                engine.register_static_module(module.clone(), Module::new().into());
                continue;
            }
            _ => break,
        };
        let message = match declared(source).any(|known| known == name) {
            true if outer::in_function(ast, error.position()) => outer::message(name),
            true => format!(
                "no variable is called `{name}` here\nhelp: it is declared further down, or in a block that has ended; declare it before both"
            ),
            false => {
                let near = closest(name, globals.iter().map(String::as_str).chain(declared(source)));
                format!("no variable is called `{name}` here{}", help(near))
            }
        };
        found.push(Problem::error(error.position(), message));
        if known.contains(name) {
            // Declared already and still unknown: inside a function, where outer variables do not reach.
            break;
        }
        known.push(name.clone(), ());
    }
    engine.set_strict_variables(false);
    found
}

/// The names after `let` and `const`, to guess from.
fn declared(source: &str) -> impl Iterator<Item = &str> {
    let mut words = source.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    std::iter::from_fn(move || {
        words.find(|word| matches!(*word, "let" | "const" | "for"))?;
        words.next()
    })
}

fn help(near: Option<&str>) -> String {
    near.map(|near| format!("\nhelp: did you mean `{near}`?")).unwrap_or_default()
}
