//! Progress on standard output, which is all that evcxr shows while a cell runs: on a terminal one line that is rewritten, in a
//! notebook, where a line cannot be taken back, one every few seconds. Where this program stands between evcxr and Jupyter it gets
//! records and makes of them an output that is rewritten.

use crate::control::{ProgressSink, ProgressUpdate, RECORDS, progress_line};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How the progress is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Records, for the program that started evcxr.
    Records,
    /// Lines that stay.
    Lines,
    /// A line that is rewritten.
    Rewritten,
}

impl Form {
    /// As this process's environment asks for.
    fn asked_for() -> Self {
        let set = |name| std::env::var_os(name).is_some();
        match (set(RECORDS), set("JPY_PARENT_PID")) {
            (true, _) => Self::Records,
            // Jupyter tells its kernels, and they their cells, whose children they are.
            (false, true) => Self::Lines,
            (false, false) => Self::Rewritten,
        }
    }

    /// The time between two reports of a task.
    fn interval(self) -> Duration {
        match self {
            Self::Lines => Duration::from_secs(5),
            Self::Records | Self::Rewritten => Duration::from_millis(200),
        }
    }
}

/// The progress of a lab.
#[derive(Debug)]
pub(super) struct Progress {
    form: Form,
    tasks: Mutex<HashMap<String, Task>>,
}

#[derive(Debug)]
struct Task {
    started: Instant,
    shown: Option<Instant>,
    done: u64,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { form: Form::asked_for(), tasks: Mutex::default() }
    }
}

impl ProgressSink for Progress {
    fn update(&self, update: &ProgressUpdate) {
        let mut tasks = self.tasks.lock().unwrap_or_else(|e| e.into_inner());
        if tasks.get(&update.task).is_some_and(|task| update.done < task.done) {
            tasks.remove(&update.task);
        }
        let task = tasks.entry(update.task.clone()).or_insert_with(|| Task { started: Instant::now(), shown: None, done: 0 });
        task.done = update.done;
        let waited = task.shown.unwrap_or(task.started).elapsed() >= self.form.interval();
        let due = match self.form {
            // A curve needs every point, the reader of records each end: he decides what is worth showing.
            Form::Records => waited || update.finished || update.loss.is_some() || task.shown.is_none(),
            Form::Lines | Form::Rewritten => waited || (update.finished && task.shown.is_some()),
        };
        if due {
            let line = match (self.form, task.shown) {
                (Form::Records, _) => update.to_record(),
                (Form::Rewritten, Some(_)) => format!("\x1b[1A\x1b[2K{}", progress_line(update, task.started.elapsed())),
                (Form::Lines | Form::Rewritten, _) => progress_line(update, task.started.elapsed()),
            };
            // A closed output is no reason to stop.
            let _ = writeln!(std::io::stdout(), "{line}");
            task.shown = Some(Instant::now());
        }
        if update.finished {
            tasks.remove(&update.task);
        }
    }

    fn warn(&self, message: &str) {
        let _ = writeln!(std::io::stdout(), "warning: {message}");
    }
}
