//! The REPL through a pseudo terminal, as a user sits in front of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(unix)]

mod commands;
mod editing;
mod results;
mod robustness;
mod terminal;

use expectrl::process::unix::WaitStatus;
use expectrl::{ControlCode, Eof, Expect};
use std::time::Duration;
use terminal::{Start, Terminal, say};

fn start(state: &std::path::Path, terminal: &str) -> Terminal {
    Start { terminal, ..Start::new(state) }.ready()
}

#[test]
fn a_session_at_the_terminal() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = start(state.path(), "dumb");
    say(&mut terminal, "let x = 20; fn double(n) { n * 2 }", &["> "]);
    say(&mut terminal, "double(x) + 2", &["42"]);
    say(&mut terminal, "let x = [1.0, 2.0];", &["> "]);
    say(&mut terminal, "x", &["[1.0, 2.0]"]);
    say(&mut terminal, "ans[1] * 8", &["16.0"]);
    // An unfinished input goes on in the next line.
    say(&mut terminal, "fn add(a, b) {", &[]);
    say(&mut terminal, "a + b + 100", &[]);
    say(&mut terminal, "}", &["> "]);
    say(&mut terminal, "add(3, 4)", &["107"]);
    // An error has a caret and a guess, and the session goes on.
    say(&mut terminal, "doubel(1)", &["no function is called `doubel`", "^^^^^^", "did you mean `double`?"]);
    say(&mut terminal, "?round", &["round(x: float, digits: int) -> float"]);
    say(&mut terminal, ":help", &[":quit"]);
    say(&mut terminal, ":vars", &["ans", "107"]);
    // Ctrl-C stops what runs and keeps the variables.
    say(&mut terminal, "loop { }", &[]);
    std::thread::sleep(Duration::from_millis(400));
    terminal.send(ControlCode::EndOfText).unwrap();
    terminal.expect("interrupted").unwrap();
    say(&mut terminal, "x[0] + 6.5", &["7.5"]);
    terminal.expect("> ").unwrap();
    terminal.send(ControlCode::EndOfTransmission).unwrap();
    terminal.expect(Eof).unwrap();
    assert!(matches!(terminal.get_process().wait().unwrap(), WaitStatus::Exited(_, 0)));
    let history = std::fs::read_to_string(state.path().join("history")).unwrap();
    assert!(history.contains("double(x) + 2"), "{history}");
}

#[test]
fn quit_leaves() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = start(state.path(), "dumb");
    say(&mut terminal, ":quit", &[]);
    terminal.expect(Eof).unwrap();
    assert!(matches!(terminal.get_process().wait().unwrap(), WaitStatus::Exited(_, 0)));
}

#[test]
fn on_a_terminal_with_all_features() {
    let state = tempfile::tempdir().unwrap();
    let mut terminal = start(state.path(), "xterm-256color");
    say(&mut terminal, "6 * 7", &["42"]);
    say(&mut terminal, "let text = `one", &[]);
    say(&mut terminal, "two`; text.len * 100", &["700"]);
    say(&mut terminal, "manual_se\t(1); 9 * 9", &["81", "> "]);
    // Ctrl-C on a line drops the line.
    // Sent before the prompt is back, it would be a signal instead of a key.
    std::thread::sleep(Duration::from_millis(300));
    terminal.send("nonsense(").unwrap();
    terminal.expect("nonsense(").unwrap();
    std::thread::sleep(Duration::from_millis(300));
    terminal.send(ControlCode::EndOfText).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    // Ctrl-D before the prompt is back would be the line discipline's, and get lost as the terminal changes its mode.
    say(&mut terminal, "8 * 8", &["64", "> "]);
    terminal.send(ControlCode::EndOfTransmission).unwrap();
    terminal.expect(Eof).unwrap();
}
