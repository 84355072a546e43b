//! The REPL: lines with history, completion, colours and multi-line input; results by what they are, errors with carets, `?name`
//! and `:commands`.

mod commands;
pub mod config;
mod editing;
mod history;
mod output;
mod state;
mod theme;
mod transcript;
mod undo;

use crate::error::{Error, Result};
use crate::session::help::{Question, question};
use crate::session::{Session, is_interrupt};
use config::{CompletionStyle, Config, EditMode};
use editing::Assistant;
use history::Log;
use output::say;
use rhai::{Dynamic, EvalAltResult};
use rustyline::error::ReadlineError;
use rustyline::{CompletionType, Editor};
use std::cell::RefCell;
use std::rc::Rc;
use theme::Theme;
use transcript::Entry;
use undo::Undo;

/// What a REPL is started with.
pub struct Setup {
    /// The session.
    pub session: Session,
    /// What scripts print is written here too, for `:export`.
    pub printed: Rc<RefCell<String>>,
    /// Makes a fresh session, for `:run`.
    pub restart: Box<dyn Fn() -> Result<Session>>,
    /// Takes the progress of interrupted work off the screen.
    pub clear_progress: Box<dyn Fn()>,
    /// Where the random numbers begin.
    pub seed: u64,
    /// Whether colours may be used.
    pub colour: bool,
}

/// The state between two prompts.
pub(crate) struct Repl {
    session: Rc<RefCell<Session>>,
    printed: Rc<RefCell<String>>,
    restart: Box<dyn Fn() -> Result<Session>>,
    clear_progress: Box<dyn Fn()>,
    seed: u64,
    colour: bool,
    config: Config,
    entries: Vec<Entry>,
    undo: Undo,
}

/// What a line of input asked for.
enum Next {
    Go,
    Quit,
    /// Run this as if it had been typed.
    Run(String),
}

/// Runs the REPL until the user leaves.
///
/// # Errors
/// The terminal cannot be read.
pub fn run(setup: Setup) -> Result<()> {
    let terminal = |e: ReadlineError| Error::io("read from", "the terminal", std::io::Error::other(e));
    let (config, problem) = match Config::load() {
        Ok(config) => (config, None),
        Err(error) => (Config::default(), Some(error)),
    };
    let theme = Theme::new(config.theme, setup.colour);
    let Setup { session, printed, restart, clear_progress, seed, .. } = setup;
    let session = Rc::new(RefCell::new(session));
    let settings = rustyline::Config::builder()
        .completion_type(match config.completion {
            CompletionStyle::List => CompletionType::List,
            CompletionStyle::Circular => CompletionType::Circular,
        })
        .edit_mode(match config.edit_mode {
            EditMode::Emacs => rustyline::EditMode::Emacs,
            EditMode::Vi => rustyline::EditMode::Vi,
        })
        // Escape alone is a key of vi; it is told from the start of an arrow key by what comes at once behind it.
        .keyseq_timeout((config.edit_mode == EditMode::Vi).then_some(50))
        .bracketed_paste(config.bracketed_paste)
        .build();
    let folder = state::folder();
    let no_folder = folder.as_ref().err().map(ToString::to_string).filter(|_| config.history_size > 0);
    let log = Log::new(folder.ok().map(|folder| folder.join("history")), config.history_size);
    let mut editor: Editor<Assistant, Log> = Editor::with_history(settings, log).map_err(terminal)?;
    editor.set_helper(Some(Assistant::new(session.clone(), theme, config.hints)));
    say(concat!("ftrepl ", env!("CARGO_PKG_VERSION"), "   :help for help, Ctrl-D to quit"));
    if let Some(problem) = problem {
        say(&format!("error: {problem}\nthe settings are the defaults"));
    }
    if let Some(error) = no_folder {
        say(&format!("warning: the history cannot be kept: {error}; FTREPL_STATE can name another folder"));
    }
    let mut repl = Repl {
        session,
        printed,
        restart,
        clear_progress,
        seed,
        colour: theme.colours(),
        config,
        entries: Vec::new(),
        undo: Undo::default(),
    };
    let mut history_works = true;
    let mut failures = 0;
    loop {
        editor.history_mut().read_new();
        if let Some(assistant) = editor.helper_mut() {
            assistant.refresh();
        }
        match editor.readline(&repl.config.prompt) {
            Ok(line) => {
                failures = 0;
                let mut next = Next::Run(line);
                while let Next::Run(line) = next {
                    // Before it runs: what ends the program must not cost the input.
                    let kept = editor.history_mut().remember(line.trim_end());
                    if let Err(error) = kept.as_ref()
                        && std::mem::take(&mut history_works)
                    {
                        say(&format!("warning: the history cannot be kept: {error}"));
                    }
                    next = repl.line(line.trim());
                }
                if matches!(next, Next::Quit) {
                    break;
                }
            }
            // Ctrl-C on a line drops the line.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            // Bytes that are no text, as of a terminal with another encoding; a terminal that gives nothing else is gone.
            Err(ReadlineError::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData && failures < 100 => {
                failures += 1;
                say("this input is not UTF-8 and was dropped");
            }
            Err(error) => return Err(terminal(error)),
        }
    }
    Ok(())
}

/// An error in words.
fn error_text(session: &Session, error: &EvalAltResult, name: &str, colour: bool) -> String {
    if is_interrupt(error) { "interrupted".into() } else { session.report(error, name, colour) }
}

impl Repl {
    /// What a line asks for.
    fn line(&mut self, line: &str) -> Next {
        if line.is_empty() {
            return Next::Go;
        }
        match question(line) {
            Some(Question::Source(name)) => {
                self.source(name);
                return Next::Go;
            }
            Some(Question::About(name)) => {
                self.document(name);
                return Next::Go;
            }
            None => {}
        }
        match line.strip_prefix(':') {
            Some(command) => commands::run_command(self, command),
            None => {
                self.show(line);
                Next::Go
            }
        }
    }

    /// Runs code; tells the error, if there is one.
    fn evaluate(&mut self, line: &str) -> Option<Dynamic> {
        self.printed.borrow_mut().clear();
        self.undo.before(&self.session.borrow(), line);
        let outcome = self.session.borrow_mut().eval_line(line);
        let mut entry = Entry::new(line, self.take_printed());
        let value = match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                let name = self.session.borrow().line_name();
                entry.error = Some(self.tell(&error, &name));
                None
            }
        };
        self.entries.push(entry);
        self.interrupt_is_over();
        value
    }

    /// Shows an error; gives it without colours.
    fn tell(&self, error: &EvalAltResult, name: &str) -> String {
        (self.clear_progress)();
        let session = self.session.borrow();
        say(&error_text(&session, error, name, self.colour));
        error_text(&session, error, name, false)
    }

    fn take_printed(&self) -> String {
        std::mem::take(&mut self.printed.borrow_mut())
    }
}
