//! Scripts from a file, from `-e` and from standard input.

use super::arguments::Common;
use super::output::Output;
use super::{CALL_LEVELS, Status, signals};
use crate::control::Control;
use crate::error::Result;
use crate::script::options::closest;
use crate::session::{Session, is_interrupt};
use std::cell::RefCell;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

/// A session with the common flags, its output and its progress on this terminal, listening to Ctrl-C.
pub(super) fn session(common: &Common, arguments: Vec<String>, output: &Output) -> Result<Session> {
    let printer = output.clone();
    session_with(common, arguments, output, move |text| printer.text(text))
}

/// A session whose printed text is also kept in `printed`.
pub(super) fn recorded_session(common: &Common, output: &Output, printed: &Rc<RefCell<String>>) -> Result<Session> {
    let (printer, printed) = (output.clone(), printed.clone());
    session_with(common, Vec::new(), output, move |text| {
        printer.text(text);
        let mut kept = printed.borrow_mut();
        kept.push_str(text);
        kept.push('\n');
    })
}

fn session_with(common: &Common, arguments: Vec<String>, output: &Output, print: impl Fn(&str) + 'static) -> Result<Session> {
    let bars = output.bars();
    let mut builder = Session::builder()
        .seed(common.seed)
        .device(&common.device)
        .out(&common.out)
        .parameters(common.parameters.iter().cloned())
        .arguments(arguments)
        .call_levels(CALL_LEVELS)
        .control(Control::new(signals::flag(), bars))
        .output(print);
    if let Some(threads) = common.threads {
        builder = builder.threads(threads);
    }
    builder.build()
}

/// Runs a script's text, reports its error and, with `--json`, its value.
pub(super) fn text(source: &str, name: &str, session: &mut Session, output: &Output, show: bool) -> Status {
    match session.run_script(source, name) {
        Ok(value) => {
            output.value(&value);
            if show && !output.json() && !value.is_unit() && !session.is_muted(source) {
                output.text(&crate::script::display::text(&value));
            }
            Status::Done
        }
        Err(error) => {
            output.bars().clear();
            if is_interrupt(&error) {
                output.error("interrupted");
                return Status::Interrupted;
            }
            output.error(&session.report(&error, name, output.color()));
            Status::Failed
        }
    }
}

pub(super) fn file(path: &Path, arguments: Vec<String>, common: &Common, output: &Output) -> Status {
    // Named with a dash the script comes from standard input, as elsewhere.
    if path == Path::new("-") {
        return read_standard_input(arguments, common, output);
    }
    let source = match crate::files::read_text(path) {
        Ok(source) => source,
        Err(error) => return output.usage(&error.to_string()),
    };
    run_source(&source, &path.display().to_string(), arguments, common, output, false)
}

pub(super) fn code(code: &str, common: &Common, output: &Output) -> Status {
    run_source(code, "-e", Vec::new(), common, output, true)
}

pub(super) fn standard_input(common: &Common, output: &Output) -> Status {
    read_standard_input(Vec::new(), common, output)
}

fn read_standard_input(arguments: Vec<String>, common: &Common, output: &Output) -> Status {
    let mut source = String::new();
    match std::io::stdin().read_to_string(&mut source) {
        Ok(_) => run_source(&source, "<stdin>", arguments, common, output, false),
        Err(error) => output.failure(&format!("cannot read the script from standard input: {error}")),
    }
}

fn run_source(source: &str, name: &str, arguments: Vec<String>, common: &Common, output: &Output, show: bool) -> Status {
    match session(common, arguments, output) {
        Ok(mut session) => {
            let status = text(source, name, &mut session, output, show);
            if status == Status::Done {
                unused_parameters(&session, common, output);
            }
            status
        }
        Err(error) => output.usage(&error.to_string()),
    }
}

/// Says which values of `--set` the script did not ask for: a slip in a name would else go unseen.
fn unused_parameters(session: &Session, common: &Common, output: &Output) {
    let asked = session.context().asked.borrow();
    for (key, value) in common.parameters.iter().filter(|(key, _)| !asked.contains(key)) {
        let names = || asked.iter().map(String::as_str);
        let hint = match closest(key, names()) {
            Some(near) => format!("; did you mean \"{near}\"?"),
            None if asked.is_empty() => ": it asks for none".to_string(),
            None => format!("; it asks for {}", names().collect::<Vec<_>>().join(", ")),
        };
        output.note(&format!("warning: --set {key}={value}: the script did not ask for a parameter \"{key}\"{hint}"));
    }
}
