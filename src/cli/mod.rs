//! The command line: what each command does is a file here; this one reads the arguments and sets up the session.

mod arguments;
mod build_folder;
pub mod check;
mod convert;
mod doc;
mod doctor;
mod evcxr;
mod jupyter;
pub mod lesson;
mod model;
mod output;
mod progress;
mod run;
mod signals;

use crate::repl::Setup;
use arguments::{Arguments, Command, Common};
use clap::{CommandFactory, Parser};
use output::Output;
use std::cell::RefCell;
use std::io::IsTerminal;
use std::process::ExitCode;
use std::rc::Rc;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Done,
    /// The script, or what was asked for, failed.
    Failed,
    /// Wrong usage.
    Usage,
    /// Interrupted by the user.
    Interrupted,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(match status {
            Status::Done => 0,
            Status::Failed => 1,
            Status::Usage => 2,
            Status::Interrupted => 130,
        })
    }
}

/// Scripts may call functions this deep, which needs more stack than a process's first thread has.
const CALL_LEVELS: usize = 256;
/// Enough for [`CALL_LEVELS`]; only what is used is ever backed by memory.
const STACK_BYTES: usize = 512 << 20;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = error.use_stderr();
            let _ = error.print();
            // An option that is asked for behind `--` is the script's.
            if usage && std::env::args_os().take_while(|word| word != "--").any(|word| word == "--json") {
                output::error_document(error.render().to_string().trim());
            }
            return if usage { Status::Usage.into() } else { Status::Done.into() };
        }
    };
    if let Some(threads) = arguments.common.threads.filter(|threads| *threads > 0) {
        // candle asks this variable, not the pool, how far to split its matrix products.
        // SAFETY: no other thread runs yet.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    }
    let worker = std::thread::Builder::new().name("session".into()).stack_size(STACK_BYTES).spawn(|| dispatch(arguments));
    match worker.map(std::thread::JoinHandle::join) {
        Ok(Ok(status)) => status.into(),
        // The panic has been reported on standard error; nothing of it is the user's fault.
        Ok(Err(_)) => Status::Failed.into(),
        Err(error) => {
            eprintln!("error: cannot start a thread: {error}");
            Status::Failed.into()
        }
    }
}

fn dispatch(arguments: Arguments) -> Status {
    // This thread computes as one of the pool's: from outside, each of a step's thousands of small parallel operations would have
    // to wake the pool and wait for it. It cannot fail before the pool is first used; if it did, the pool would still work.
    let _ = rayon::ThreadPoolBuilder::new().use_current_thread().build_global();
    let Arguments { common, code, command } = arguments;
    let output = Output::new(&common);
    if let Err(error) = crate::machine::check_switches() {
        return output.usage(&error.to_string());
    }
    match (code, command) {
        (Some(_), Some(_)) => output.usage("-e CODE cannot be combined with a command"),
        (Some(code), None) => run::code(&code, &common, &output),
        (None, None) if std::io::stdin().is_terminal() && !common.json => start_repl(&common, &output),
        (None, None) => run::standard_input(&common, &output),
        (None, Some(command)) => run_command(command, &common, &output),
    }
}

fn run_command(command: Command, common: &Common, output: &Output) -> Status {
    match command {
        Command::Run { file, arguments } => run::file(&file, arguments, common, output),
        Command::Lesson { number, list, step, quick } => {
            lesson::run(&lesson::Choice { number, list, step, quick }, common, output)
        }
        Command::Model { action } => model::run(&action, output),
        Command::Doc { name, format } => doc::run(name.as_deref(), format, common, output),
        Command::Check { files } => check::run(&files, common, output),
        Command::Jupyter { action, rust, notebooks, prefix } => {
            let choice = evcxr::Choice { notebooks: &notebooks, prefix: prefix.as_deref(), threads: common.threads };
            jupyter::run(action, rust.then_some(choice), prefix.as_deref(), output)
        }
        Command::Kernel { connection } => jupyter::serve(&connection, common, output),
        Command::RustKernel { command } => jupyter::start_rust(&command, output),
        Command::Convert { file, to, kernel, output: target } => {
            convert::run(&file, (to, kernel), target.as_deref(), common, output)
        }
        Command::Doctor => doctor::run(common, output),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "ftrepl", &mut script);
            let script = String::from_utf8_lossy(&script);
            if output.json() {
                output.document(&serde_json::json!(script));
            } else {
                output.text(script.trim_end());
            }
            Status::Done
        }
    }
}

fn start_repl(common: &Common, output: &Output) -> Status {
    let printed: Rc<RefCell<String>> = Rc::default();
    let make = {
        let (common, output, printed) = (common.clone(), output.clone(), printed.clone());
        move || run::recorded_session(&common, &output, &printed)
    };
    let session = match make() {
        Ok(session) => session,
        Err(error) => return output.usage(&error.to_string()),
    };
    let bars = output.bars();
    let colour = output.color() && std::io::stdout().is_terminal();
    let setup = Setup {
        session,
        printed,
        restart: Box::new(make),
        clear_progress: Box::new(move || bars.clear()),
        seed: common.seed,
        colour,
    };
    match crate::repl::run(setup) {
        Ok(()) => Status::Done,
        Err(error) => output.failure(&error.to_string()),
    }
}
