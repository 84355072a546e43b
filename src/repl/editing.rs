//! What helps while typing: Enter goes on to the next line where the input is unfinished, Tab completes names and paths,
//! earlier lines are suggested.

use crate::script::docs::Kind;
use crate::session::{Session, incomplete};
use rhai::Engine;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::Highlighter;
use rustyline::hint::{Hinter, HistoryHinter};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper, Result};

/// Completion, validation and hints.
pub(super) struct Assistant {
    /// Only parses; knows the language's words but none of its functions.
    parser: Engine,
    /// Names of the reference, then of the session.
    names: Vec<String>,
    members: Vec<String>,
    own: Vec<String>,
    files: FilenameCompleter,
    history: HistoryHinter,
}

const COMMANDS: &[&str] = &[":help", ":load ", ":quit", ":time ", ":vars"];
const KEYWORDS: &[&str] = &["let ", "const ", "fn ", "for ", "while ", "loop ", "return ", "throw ", "try ", "true", "false"];

impl Assistant {
    pub(super) fn new(session: &Session) -> Self {
        let mut parser = Engine::new_raw();
        parser.set_max_expr_depths(128, 128);
        crate::script::names::free_reserved_words(&mut parser);
        let reference = session.reference();
        let (mut names, mut members) = (Vec::new(), Vec::new());
        for entry in reference.entries() {
            match entry.kind {
                Kind::Function => {
                    names.push(entry.name.clone());
                    members.push(entry.name.clone());
                }
                Kind::Property => members.push(entry.name.clone()),
                Kind::Operator => {}
            }
        }
        names.extend(KEYWORDS.iter().map(ToString::to_string));
        let mut assistant =
            Self { parser, names, members, own: Vec::new(), files: FilenameCompleter::new(), history: HistoryHinter::new() };
        assistant.refresh(session);
        assistant
    }

    /// Learns the names that the last input defined.
    pub(super) fn refresh(&mut self, session: &Session) {
        self.own = session.scope().iter_raw().map(|(name, ..)| name.to_string()).collect();
        self.own.extend(session.library().iter_functions().map(|function| function.name.to_string()));
        self.own.retain(|name| !name.starts_with("anon$"));
    }
}

impl Validator for Assistant {
    fn validate(&self, context: &mut ValidationContext<'_>) -> Result<ValidationResult> {
        let text = context.input();
        let command = text.trim_start().starts_with([':', '?']);
        // An empty line at the end submits anyway: the way out of an input that will never be complete.
        let insisted = text.ends_with("\n\n") || (text.contains('\n') && text.ends_with('\n'));
        match !command && !insisted && incomplete::is_incomplete(&self.parser, text) {
            true => Ok(ValidationResult::Incomplete),
            false => Ok(ValidationResult::Valid(None)),
        }
    }
}

impl Completer for Assistant {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, context: &Context<'_>) -> Result<(usize, Vec<Pair>)> {
        let before = &line[..at];
        if before.starts_with(':') && !before.contains(' ') {
            return Ok((0, pairs(COMMANDS.iter().copied(), before)));
        }
        if before.matches('"').count() % 2 == 1 || before.starts_with(":load ") {
            return self.files.complete(line, at, context);
        }
        let start = before.rfind(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).map_or(0, |index| index + 1);
        let word = &before[start..];
        let after_period = before[..start].ends_with('.');
        if word.is_empty() && !after_period {
            return Ok((at, Vec::new()));
        }
        let known = if after_period { &self.members } else { &self.names };
        let own = self.own.iter().filter(|_| !after_period);
        Ok((start, pairs(own.chain(known).map(String::as_str), word)))
    }
}

fn pairs<'a>(names: impl Iterator<Item = &'a str>, prefix: &str) -> Vec<Pair> {
    let mut found: Vec<&str> = names.filter(|name| name.starts_with(prefix)).collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|name| Pair { display: name.trim().to_string(), replacement: name.to_string() }).collect()
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, at: usize, context: &Context<'_>) -> Option<String> {
        self.history.hint(line, at, context)
    }
}

impl Highlighter for Assistant {
    fn highlight_hint<'h>(&self, hint: &'h str) -> std::borrow::Cow<'h, str> {
        format!("\x1b[2m{hint}\x1b[0m").into()
    }
}

impl Helper for Assistant {}
