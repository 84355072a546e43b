//! The program on a pseudo terminal.

use expectrl::{Expect, Session};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub type Terminal = Session<expectrl::process::unix::UnixProcess, expectrl::process::unix::PtyStream>;

/// How the program is started.
pub struct Start<'a> {
    pub state: &'a Path,
    pub terminal: &'a str,
    pub variables: Vec<(&'a str, String)>,
    pub arguments: Vec<&'a str>,
    pub size: (u16, u16),
}

impl<'a> Start<'a> {
    /// A terminal of 100 columns without colours, with history in `state`.
    pub fn new(state: &'a Path) -> Self {
        Self { state, terminal: "dumb", variables: vec![("NO_COLOR", "1".into())], arguments: Vec::new(), size: (100, 50) }
    }

    /// A terminal with everything, and colours.
    pub fn coloured(state: &'a Path) -> Self {
        Self { terminal: "xterm-256color", variables: Vec::new(), ..Self::new(state) }
    }

    pub fn set(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    pub fn spawn(&self) -> Terminal {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ftrepl"));
        command.args(&self.arguments).current_dir(self.state).env("HF_HUB_OFFLINE", "1");
        for name in ["NO_COLOR", "COLORFGBG", "PAGER", "VISUAL", "EDITOR"] {
            command.env_remove(name);
        }
        command.env("FTREPL_STATE", self.state).env("FTREPL_CONFIG", self.state.join("config.toml")).env("TERM", self.terminal);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let mut terminal = Session::spawn(command).unwrap();
        terminal.set_expect_timeout(Some(Duration::from_secs(20)));
        terminal.get_process_mut().set_window_size(self.size.0, self.size.1).unwrap();
        terminal
    }

    /// Started, with the first prompt on the screen.
    #[track_caller]
    pub fn ready(&self) -> Terminal {
        let mut terminal = self.spawn();
        see(&mut terminal, ":help for help");
        see(&mut terminal, "> ");
        settle();
        terminal
    }
}

/// The line editor sets the terminal's mode just after the prompt; a key before that is the line discipline's.
pub fn settle() {
    std::thread::sleep(Duration::from_millis(150));
}

/// Waits for a text.
#[track_caller]
pub fn see(terminal: &mut Terminal, text: &str) -> String {
    match terminal.expect(text) {
        Ok(found) => String::from_utf8_lossy(found.before()).into_owned(),
        Err(error) => panic!("no {text:?}: {error}"),
    }
}

/// Sends a line and waits for what it must show.
#[track_caller]
pub fn say(terminal: &mut Terminal, line: &str, shown: &[&str]) {
    // See `settle`: a whole line survives the change of the mode most times, and the tests say many.
    std::thread::sleep(Duration::from_millis(30));
    terminal.send_line(line).unwrap();
    for text in shown {
        if let Err(error) = terminal.expect(text) {
            panic!("after {line:?}: no {text:?}: {error}; there is {:?}", rest(terminal));
        }
    }
}

/// What has been shown and was not waited for.
fn rest(terminal: &mut Terminal) -> String {
    let all = terminal.check(expectrl::Regex("(?s).+"));
    all.map_or_else(|error| error.to_string(), |found| String::from_utf8_lossy(found.as_bytes()).into_owned())
}

/// Sends keys and waits for what they must show.
#[track_caller]
pub fn press(terminal: &mut Terminal, keys: &str, shown: &[&str]) {
    settle();
    terminal.send(keys).unwrap();
    for text in shown {
        if let Err(error) = terminal.expect(text) {
            panic!("after the keys {keys:?}: no {text:?}: {error}");
        }
    }
}

/// Leaves by Ctrl-D and gives the exit status.
#[track_caller]
pub fn leave(terminal: &mut Terminal) -> i32 {
    settle();
    terminal.send(expectrl::ControlCode::EndOfTransmission).unwrap();
    terminal.expect(expectrl::Eof).unwrap();
    status(terminal)
}

pub fn status(terminal: &Terminal) -> i32 {
    match terminal.get_process().wait().unwrap() {
        expectrl::process::unix::WaitStatus::Exited(_, status) => status,
        other => panic!("{other:?}"),
    }
}
