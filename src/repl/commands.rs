//! The `:` commands.

use super::config::{Config, Mode};
use super::output::{page, say, shown};
use super::transcript::{Entry, export};
use super::{Next, Repl};
use crate::machine::resident_memory;
use crate::script::display;
use crate::script::result::{bytes_of_all, extent};
use crate::session::{Session, help};
use crate::show::{Table, terminal_width};
use std::path::Path;
use std::sync::atomic::Ordering;

/// A command.
pub(super) struct Command {
    pub(super) name: &'static str,
    /// What comes behind it.
    argument: &'static str,
    about: &'static str,
    does: Does,
}

/// What a command does.
#[derive(Clone, Copy)]
enum Does {
    /// This.
    Run(fn(&mut Repl, &str) -> Next),
    /// Writes the session to a file with one of these suffixes; with `!` behind the name a file that is there is replaced.
    Write(&'static [&'static str]),
}

const fn command(name: &'static str, argument: &'static str, about: &'static str, run: fn(&mut Repl, &str) -> Next) -> Command {
    Command { name, argument, about, does: Does::Run(run) }
}

const fn writer(name: &'static str, argument: &'static str, about: &'static str, suffixes: &'static [&'static str]) -> Command {
    Command { name, argument, about, does: Does::Write(suffixes) }
}

/// All commands, in the order in which `:help` lists them.
pub(super) const COMMANDS: &[Command] = &[
    command("help", "[NAME]", "this text, or what a name is", help_command),
    command("vars", "", "the variables: type, shape, memory", variables),
    command("type", "CODE", "the type of a value", type_command),
    command("time", "CODE", "run code and say how long it took", time),
    command("load", "FILE", "run a script here; its variables and functions stay", load),
    command("run", "FILE", "run a script in a session of its own", run),
    command("edit", "[CODE]", "write an input in the editor; begins with the last one", edit),
    writer("save", "FILE.rhai", "save the inputs that worked as a script (`:save!` replaces a file)", &["rhai"]),
    writer(
        "export",
        "FILE",
        "save the session with its outputs: .ipynb, .rhai or .html (`:export!` replaces a file)",
        &["ipynb", "rhai", "html"],
    ),
    command("undo", "", "take back the last assignment", undo),
    command("reset", "", "forget all variables and functions", reset),
    command("mode", "[MODE]", "how results are shown: table, json, csv, markdown", mode),
    command("memory", "", "the memory of this process and of the variables", memory),
    command("device", "[NAME]", "where tensors and models are created: auto, cpu, cuda, cuda:N, metal", device),
    command("seed", "[N]", "restart the random numbers", seed),
    command("config", "", "the settings, and the file that may hold others", config),
    command("quit", "", "leave, as Ctrl-D does", |_, _| Next::Quit),
];

/// Runs the command of a line without its colon.
pub(super) fn run_command(repl: &mut Repl, line: &str) -> Next {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let (name, replace) = word.strip_suffix('!').map_or((word, false), |name| (name, true));
    let name = match name {
        "q" | "exit" => "quit",
        "h" | "?" => "help",
        other => other,
    };
    match COMMANDS.iter().find(|command| command.name == name).map(|command| command.does) {
        Some(Does::Run(run)) if !replace => run(repl, rest.trim()),
        Some(Does::Write(suffixes)) => write(repl, rest.trim(), replace, suffixes),
        _ => {
            let near = crate::script::options::closest(name, COMMANDS.iter().map(|command| command.name));
            let hint = near.map(|near| format!("; did you mean `:{near}`?")).unwrap_or_else(|| ";".into());
            say(&format!("no command is called `:{word}`{hint} `:help` lists them"));
            Next::Go
        }
    }
}

fn help_text() -> String {
    let mut lines: Vec<(String, &str)> = vec![
        ("?NAME".into(), "what a function, method or module is, with an example: ?LoraConfig, ?nn"),
        ("??NAME".into(), "its source, where it is written in the language"),
        ("help(\"WORDS\")".into(), "what there is about something: help(\"learning rate\")"),
    ];
    lines.extend(
        COMMANDS.iter().map(|command| (format!(":{} {}", command.name, command.argument).trim().to_string(), command.about)),
    );
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let list = lines.iter().map(|(name, about)| format!("{name:width$}  {about}\n")).collect::<String>();
    format!(
        "{list}A `;` at the end keeps a result from being shown; `ans` is the last result. Tab completes, Ctrl-R searches earlier input.\n\
         Ctrl-C interrupts what runs and keeps the session and the model as of the last step; pressed again, it ends the program."
    )
}

fn help_command(repl: &mut Repl, name: &str) -> Next {
    match name {
        "" => page(&help_text(), &repl.config),
        name => repl.document(name),
    }
    Next::Go
}

fn variables(repl: &mut Repl, _: &str) -> Next {
    let text = {
        let session = repl.session.borrow();
        let reference = session.reference();
        let mut table = Table::new(["name", "type", "shape", "memory", "value"]);
        let mut seen = std::collections::HashSet::new();
        // The latest of a name is the one that is seen.
        for (name, _, value) in session.scope().iter().filter(|(name, ..)| seen.insert(name.to_string())) {
            let (shape, bytes) = extent(&value);
            let kind = reference.type_name(value.type_name());
            let text = display::repr(&value);
            let first = text.lines().next().unwrap_or_default();
            table.push(vec![
                name.into(),
                kind.into(),
                shape.into(),
                bytes.map_or(String::new(), size).into(),
                crate::show::shorten(first, 40).into(),
            ]);
        }
        if table.rows.is_empty() { "no variables yet".to_string() } else { table.text(terminal_width()) }
    };
    page(&text, &repl.config);
    Next::Go
}

/// "1.5 MB" of bytes.
fn size(bytes: usize) -> String {
    match bytes as f64 {
        few if few < 1e3 => format!("{few} B"),
        some if some < 1e6 => format!("{:.1} kB", some / 1e3),
        many if many < 1e9 => format!("{:.1} MB", many / 1e6),
        lots => format!("{:.2} GB", lots / 1e9),
    }
}

fn type_command(repl: &mut Repl, code: &str) -> Next {
    if code.is_empty() {
        say("`:type` needs a value: `:type x`");
        return Next::Go;
    }
    if let Some(value) = repl.evaluate(code) {
        let session = repl.session.borrow();
        let (shape, _) = extent(&value);
        let kind = session.reference().type_name(value.type_name());
        say(format!("{kind} {shape}").trim_end());
    }
    Next::Go
}

fn time(repl: &mut Repl, code: &str) -> Next {
    let start = std::time::Instant::now();
    repl.show(code);
    say(&format!("{:.3} s", start.elapsed().as_secs_f64()));
    Next::Go
}

fn load(repl: &mut Repl, file: &str) -> Next {
    match crate::files::read_text(Path::new(file)) {
        Ok(source) => {
            let outcome = repl.session.borrow_mut().run_script(&source, file);
            let mut entry = Entry::new(&source, repl.take_printed());
            if let Err(error) = outcome {
                entry.error = Some(repl.tell(&error, file));
            }
            repl.entries.push(entry);
        }
        Err(error) => say(&format!("error: {error}")),
    }
    repl.interrupt_is_over();
    Next::Go
}

fn run(repl: &mut Repl, file: &str) -> Next {
    let outcome = crate::files::read_text(Path::new(file)).and_then(|source| Ok((source, (repl.restart)()?)));
    match outcome {
        Ok((source, mut session)) => {
            if let Err(error) = session.run_script(&source, file) {
                say(&super::error_text(&session, &error, file, repl.colour));
            }
            repl.take_printed();
        }
        Err(error) => say(&format!("error: {error}")),
    }
    repl.interrupt_is_over();
    Next::Go
}

fn edit(repl: &mut Repl, code: &str) -> Next {
    let begin = match code {
        "" => repl.entries.last().map(|entry| entry.input.clone()).unwrap_or_default(),
        code => code.to_string(),
    };
    match edited(&begin, &repl.config) {
        Ok(text) if text.trim().is_empty() => say("nothing to run"),
        Ok(text) => return Next::Run(text.trim_end().to_string()),
        Err(problem) => say(&format!("error: {problem}")),
    }
    Next::Go
}

/// The text as the user leaves it in the editor.
fn edited(text: &str, config: &Config) -> Result<String, String> {
    let named = |variable: &str| std::env::var(variable).ok().filter(|value| !value.trim().is_empty());
    let configured = Some(config.editor.clone()).filter(|editor| !editor.trim().is_empty());
    let editor = configured.or_else(|| named("VISUAL")).or_else(|| named("EDITOR")).unwrap_or_else(|| "vi".into());
    let file =
        tempfile::Builder::new().prefix("ftrepl-").suffix(".rhai").tempfile().map_err(|e| format!("no temporary file: {e}"))?;
    std::fs::write(file.path(), text).map_err(|e| format!("{}: {e}", file.path().display()))?;
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = std::process::Command::new(program)
        .args(words)
        .arg(file.path())
        .status()
        .map_err(|e| format!("the editor `{program}` does not start: {e}; set EDITOR, or `editor` in the configuration"))?;
    if !status.success() {
        return Err(format!("the editor `{program}` ended with {status}; nothing was run"));
    }
    crate::files::read_text(file.path()).map_err(|e| e.to_string())
}

fn write(repl: &mut Repl, file: &str, replace: bool, suffixes: &[&str]) -> Next {
    if file.is_empty() {
        say(&format!("give the name of a file that ends with .{}", suffixes.join(" or .")));
        return Next::Go;
    }
    match export(&repl.entries, Path::new(file), replace, suffixes) {
        Ok(()) => say(&format!("{file}: {} inputs", repl.entries.len())),
        Err(error) => say(&format!("error: {error}")),
    }
    Next::Go
}

fn undo(repl: &mut Repl, _: &str) -> Next {
    let taken = repl.undo.take_back(&mut repl.session.borrow_mut());
    match taken {
        Some(said) => say(&format!("{}; what a tensor or model itself holds cannot be taken back", said.join(", "))),
        None => say("there is no assignment to take back"),
    }
    Next::Go
}

fn reset(repl: &mut Repl, _: &str) -> Next {
    repl.session.borrow_mut().reset(repl.seed);
    repl.undo.clear();
    repl.entries.clear();
    say("all variables and functions are forgotten");
    Next::Go
}

fn mode(repl: &mut Repl, name: &str) -> Next {
    match (name, Mode::from_name(name)) {
        ("", _) => say(repl.config.mode.name()),
        (_, Some(mode)) => repl.config.mode = mode,
        (name, None) => say(&format!("no mode is called `{name}`; there are table, json, csv and markdown")),
    }
    Next::Go
}

fn memory(repl: &mut Repl, _: &str) -> Next {
    let (now, peak) = resident_memory();
    let variables = bytes_of_all(repl.session.borrow().scope().iter().map(|(_, _, value)| value));
    say(&format!("process {now:.0} MB, at most {peak:.0} MB; variables {}", size(variables)));
    Next::Go
}

fn device(repl: &mut Repl, name: &str) -> Next {
    let session = repl.session.borrow();
    if !name.is_empty() {
        match crate::device::parse(name) {
            Ok(device) => session.context().set_device(device),
            Err(error) => {
                say(&format!("error: {error}"));
                return Next::Go;
            }
        }
    }
    say(&crate::device::name(&session.context().device()));
    Next::Go
}

fn seed(repl: &mut Repl, number: &str) -> Next {
    match (number, crate::random::seed_of(number)) {
        ("", _) => say(&repl.seed.to_string()),
        (_, Some(seed)) => {
            repl.seed = seed;
            *repl.session.borrow().context().random.borrow_mut() = crate::random::Random::new(repl.seed);
        }
        (text, None) => say(&format!("a seed is an integer from -2^63 to 2^64 - 1, but this is `{text}`")),
    }
    Next::Go
}

fn config(repl: &mut Repl, _: &str) -> Next {
    let place = Config::path().map_or("nowhere".into(), |path| path.display().to_string());
    say(&format!("# {place}\n{}", repl.config.to_toml().trim_end()));
    Next::Go
}

impl Repl {
    /// What a name is.
    pub(super) fn document(&self, name: &str) {
        let text = {
            let session = self.session.borrow();
            match name.trim() {
                "" => crate::script::docs::render::overview(&session.reference(), terminal_width()),
                name => about(&session, name),
            }
        };
        page(&text, &self.config);
    }

    /// The source of a name.
    pub(super) fn source(&self, name: &str) {
        let text = help::source_or_help(&self.session.borrow(), name);
        page(&text, &self.config);
    }

    /// Runs code and shows its value.
    pub(super) fn show(&mut self, line: &str) {
        let Some(value) = self.evaluate(line) else { return };
        if value.is_unit() || self.session.borrow().is_muted(line) {
            return;
        }
        let text = shown(&value, self.config.mode, self.colour);
        page(&text, &self.config);
        if let Some(entry) = self.entries.pop() {
            // Kept without colours.
            let plain = if self.colour { shown(&value, self.config.mode, false) } else { text };
            self.entries.push(entry.with_result(&value, plain));
        }
        self.session.borrow_mut().set("ans", value);
    }

    /// The Ctrl-C that was dealt with; the next one is new.
    pub(super) fn interrupt_is_over(&self) {
        self.session.borrow().control().flag().store(false, Ordering::SeqCst);
    }
}

/// What a name is: a variable by its value's type, else what the reference says.
fn about(session: &Session, name: &str) -> String {
    let reference = session.reference();
    match session.scope().get(name) {
        Some(value) => {
            let kind = reference.type_name(value.type_name());
            let (shape, _) = extent(value);
            let methods: Vec<&str> = reference
                .entries()
                .iter()
                .filter(|entry| {
                    entry.ours && entry.signatures.iter().any(|s| s.parameters.first().is_some_and(|(_, first)| *first == kind))
                })
                .map(|entry| entry.name.as_str())
                .filter(|name| name.starts_with(|c: char| c.is_alphabetic()))
                .collect();
            let methods = if methods.is_empty() { String::new() } else { format!("\nmembers: {}", methods.join(", ")) };
            format!("{}{methods}", format!("{name}: {kind} {shape}").trim_end())
        }
        None => match help::source(session, name).filter(|_| reference.find(name).is_empty()) {
            Some(source) => source,
            None => help::about(&reference, session.options(), name),
        },
    }
}
