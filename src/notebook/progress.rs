//! Progress on standard output, which is all that evcxr shows while a cell runs: on a terminal one line that is rewritten, in a
//! notebook, where a line cannot be taken back, one every few seconds.

use crate::control::{ProgressSink, ProgressUpdate, progress_line};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How often a line is rewritten on a terminal.
const REWRITE_EVERY: Duration = Duration::from_millis(200);
/// How often a line is added in a notebook.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The progress of a lab.
#[derive(Debug, Default)]
pub(super) struct Lines {
    tasks: Mutex<HashMap<String, Task>>,
}

#[derive(Debug)]
struct Task {
    started: Instant,
    shown: Option<Instant>,
    done: u64,
}

impl ProgressSink for Lines {
    fn update(&self, update: &ProgressUpdate) {
        let mut tasks = self.tasks.lock().unwrap_or_else(|e| e.into_inner());
        if tasks.get(&update.task).is_some_and(|task| update.done < task.done) {
            tasks.remove(&update.task);
        }
        let task = tasks.entry(update.task.clone()).or_insert_with(|| Task { started: Instant::now(), shown: None, done: 0 });
        task.done = update.done;
        // Jupyter tells its kernels, and they their cells, whose children they are.
        let notebook = std::env::var_os("JPY_PARENT_PID").is_some();
        let every = if notebook { LINE_EVERY } else { REWRITE_EVERY };
        let due = task.shown.unwrap_or(task.started).elapsed() >= every || (update.finished && task.shown.is_some());
        if due {
            let back = if notebook || task.shown.is_none() { "" } else { "\x1b[1A\x1b[2K" };
            // A closed output is no reason to stop.
            let _ = writeln!(std::io::stdout(), "{back}{}", progress_line(update, task.started.elapsed()));
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
