//! The REPL: lines with history, completion and multi-line input; results, errors with carets, `?name` and `:commands`.

mod editing;
mod state;

use crate::error::{Error, Result};
use crate::script::display;
use crate::script::docs::render;
use crate::session::{Session, is_interrupt};
use editing::Assistant;
use rustyline::error::ReadlineError;
use rustyline::history::FileHistory;
use rustyline::{CompletionType, Config, Editor};
use std::io::Write;
use std::sync::atomic::Ordering;

const HELP: &str = "\
?NAME          documentation of a function, method or module: ?LoraConfig, ?nn
:vars          the variables of this session
:load FILE     run a script here; its variables and functions stay
:time CODE     run code and say how long it took
:help          this text
:quit          leave, as Ctrl-D does
A `;` at the end keeps a result from being shown; `ans` is the last result. Ctrl-C interrupts what runs and keeps the session.";

/// What a line of input asked for.
enum Next {
    Go,
    Quit,
}

/// Runs the REPL until the user leaves.
///
/// # Errors
/// The terminal cannot be read.
pub fn run(mut session: Session, color: bool) -> Result<()> {
    let terminal = |e: ReadlineError| Error::io("read from", "the terminal", std::io::Error::other(e));
    let config = Config::builder().completion_type(CompletionType::List).history_ignore_space(true).build();
    let mut editor: Editor<Assistant, FileHistory> = Editor::with_config(config).map_err(terminal)?;
    editor.set_helper(Some(Assistant::new(&session)));
    let history = state::folder().map(|folder| folder.join("history"));
    if let Some(history) = &history {
        // There is none at the first start.
        let _ = editor.load_history(history);
    }
    say(concat!("ftrepl ", env!("CARGO_PKG_VERSION"), "   :help for help, Ctrl-D to quit"));
    loop {
        match editor.readline("> ") {
            Ok(line) => {
                // Refused only for what is not to be kept: repeated lines and those that start with a space.
                let _ = editor.add_history_entry(line.as_str());
                let next = evaluate(&mut session, line.trim(), color);
                if let Some(assistant) = editor.helper_mut() {
                    assistant.refresh(&session);
                }
                if matches!(next, Next::Quit) {
                    break;
                }
            }
            // Ctrl-C on a line drops the line.
            Err(ReadlineError::Interrupted) => {}
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(terminal(error)),
        }
        if let Some(history) = &history {
            state::save_history(&mut editor, history);
        }
    }
    Ok(())
}

/// A line to the terminal. When that is gone there is nobody left to tell.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn evaluate(session: &mut Session, line: &str, color: bool) -> Next {
    if line.is_empty() {
        return Next::Go;
    }
    if let Some(name) = line.strip_prefix('?').or_else(|| line.strip_suffix('?').filter(|name| !name.contains(' '))) {
        say(&document(session, name));
        return Next::Go;
    }
    if let Some(command) = line.strip_prefix(':') {
        let (word, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        match word {
            "q" | "quit" | "exit" => return Next::Quit,
            "h" | "help" if rest.is_empty() => say(HELP),
            "help" => say(&document(session, rest.trim())),
            "vars" => variables(session),
            "load" => load(session, rest.trim(), color),
            "time" => {
                let start = std::time::Instant::now();
                show(session, rest.trim(), color);
                say(&format!("{:.3} s", start.elapsed().as_secs_f64()));
            }
            _ => say(&format!("no command is called `:{word}`; :help lists them")),
        }
        return Next::Go;
    }
    show(session, line, color);
    Next::Go
}

fn document(session: &Session, name: &str) -> String {
    let reference = session.reference();
    if name.trim().is_empty() {
        return render::overview(&reference);
    }
    match reference.find(name).as_slice() {
        [] => reference.unknown(name.trim()),
        found => render::text(found),
    }
}

fn show(session: &mut Session, line: &str, color: bool) {
    match session.eval_line(line) {
        Ok(value) => {
            if !value.is_unit() && !line.trim_end().ends_with(';') {
                say(&display::repr(&value));
                session.set("ans", value);
            }
        }
        Err(error) => {
            let name = session.line_name();
            tell(session, &error, &name, color);
        }
    }
    // The interrupt has been dealt with; the next Ctrl-C is a new one.
    session.control().flag().store(false, Ordering::SeqCst);
}

fn tell(session: &Session, error: &rhai::EvalAltResult, name: &str, color: bool) {
    if is_interrupt(error) {
        say("interrupted");
    } else {
        say(&session.report(error, name, color));
    }
}

fn load(session: &mut Session, file: &str, color: bool) {
    match crate::files::read_text(std::path::Path::new(file)) {
        Ok(source) => {
            if let Err(error) = session.run_script(&source, file) {
                tell(session, &error, file, color);
            }
        }
        Err(error) => say(&format!("error: {error}")),
    }
    session.control().flag().store(false, Ordering::SeqCst);
}

fn variables(session: &Session) {
    for (name, _, value) in session.scope().iter() {
        let mut text = display::repr(&value);
        if text.chars().count() > 80 {
            text = text.chars().take(77).chain("...".chars()).collect();
        }
        say(&format!("{name} = {text}"));
    }
}
