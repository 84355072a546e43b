//! What helps while typing: Enter goes on to the next line where the input is unfinished, Tab completes, earlier input is suggested,
//! the text is coloured and brackets find their partners.

use super::theme::Theme;
use crate::session::complete::{Candidate, Completer as Names, Completion};
use crate::session::tokens::{matching_bracket, pieces};
use crate::session::{Session, incomplete};
use rhai::Engine;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::{Hinter, HistoryHinter};
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Helper, Result};
use std::borrow::Cow;
use std::cell::RefCell;
use std::rc::Rc;

/// Longer input is neither coloured nor looked through for what could follow.
const LONGEST: usize = 32 << 10;

/// Completion, validation, hints and colours.
pub(super) struct Assistant {
    /// Only parses; knows the language's words but none of its functions.
    parser: Engine,
    session: Rc<RefCell<Session>>,
    names: Names,
    files: FilenameCompleter,
    history: HistoryHinter,
    theme: Theme,
    hints: bool,
    /// Columns of the terminal, for lists that fit.
    width: usize,
}

impl Assistant {
    pub(super) fn new(session: Rc<RefCell<Session>>, theme: Theme, hints: bool) -> Self {
        let mut parser = Engine::new_raw();
        parser.set_max_expr_depths(128, 128);
        crate::script::names::free_reserved_words(&mut parser);
        Self {
            parser,
            session,
            names: Names::default(),
            files: FilenameCompleter::new(),
            history: HistoryHinter::new(),
            theme,
            hints,
            width: crate::show::terminal_width(),
        }
    }

    /// The terminal may have another size now.
    pub(super) fn refresh(&mut self) {
        self.width = crate::show::terminal_width();
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
        if line.len() > LONGEST {
            return Ok((at, Vec::new()));
        }
        let before = &line[..at];
        let session = self.session.borrow();
        if let Some(found) = self.command(&session, before) {
            return found.map_or_else(|| self.files.complete(line, at, context), |found| Ok(self.pairs(found)));
        }
        // `?name` is a name too.
        let marks = before.len() - before.trim_start_matches('?').len();
        let found = self.names.complete(&session, &line[marks..], at - marks);
        if found.candidates.is_empty() && found.path {
            return self.files.complete(line, at, context);
        }
        let (start, pairs) = self.pairs(found);
        Ok((start + marks, pairs))
    }
}

impl Assistant {
    /// For a `:` command: its name, or its argument; the inner `None` means a path.
    #[allow(clippy::option_option, reason = "no command, a path, names")]
    fn command(&self, session: &Session, before: &str) -> Option<Option<Completion>> {
        let command = before.strip_prefix(':')?;
        let words = |start: usize, words: &[&str], typed: &str| {
            let fits = words.iter().filter(|word| word.starts_with(typed));
            let candidate = |word: &&str| Candidate { replacement: word.to_string(), label: word.to_string() };
            Some(Some(Completion { start, candidates: fits.map(candidate).collect(), path: false }))
        };
        let Some((name, rest)) = command.split_once(' ') else {
            let names: Vec<String> = super::commands::COMMANDS.iter().map(|command| format!(":{}", command.name)).collect();
            return words(0, &names.iter().map(String::as_str).collect::<Vec<_>>(), before);
        };
        let start = before.len() - rest.len();
        match name {
            "load" | "run" | "save" | "save!" | "export" | "export!" => Some(None),
            "mode" => words(start, &["table", "json", "csv", "markdown"], rest),
            "device" => words(start, &["auto", "cpu", "cuda", "metal"], rest),
            // The rest is code, or a name.
            _ => {
                let found = self.names.complete(session, rest, rest.len());
                Some(Some(Completion { start: found.start + start, ..found }))
            }
        }
    }

    fn pairs(&self, found: Completion) -> (usize, Vec<Pair>) {
        let pair = |candidate: Candidate| Pair {
            display: crate::show::shorten(&candidate.label, self.width.saturating_sub(2).max(8)),
            replacement: candidate.replacement,
        };
        (found.start, found.candidates.into_iter().map(pair).collect())
    }
}

impl Hinter for Assistant {
    type Hint = String;

    fn hint(&self, line: &str, at: usize, context: &Context<'_>) -> Option<String> {
        if !self.hints || line.len() > LONGEST {
            return None;
        }
        // Of an earlier input of several lines only the first is suggested.
        let hint = self.history.hint(line, at, context)?;
        let first = hint.lines().next().unwrap_or_default();
        (!first.is_empty()).then(|| first.to_string())
    }
}

impl Highlighter for Assistant {
    fn highlight<'l>(&self, line: &'l str, at: usize) -> Cow<'l, str> {
        if !self.theme.colours() || line.len() > LONGEST || line.starts_with([':', '?']) {
            return Cow::Borrowed(line);
        }
        let pieces = pieces(&self.parser, line);
        let bracket = matching_bracket(line, &pieces, at);
        Cow::Owned(self.theme.paint(line, &pieces, bracket))
    }

    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, default: bool) -> Cow<'b, str> {
        let _ = default;
        Cow::Owned(self.theme.prompt(prompt))
    }

    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(self.theme.hint(hint))
    }

    fn highlight_char(&self, line: &str, _: usize, _: CmdKind) -> bool {
        self.theme.colours() && line.len() <= LONGEST
    }
}

impl Helper for Assistant {}
