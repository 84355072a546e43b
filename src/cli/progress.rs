//! Progress on standard error: a bar on a terminal, a line every few seconds elsewhere, nothing with `--quiet`.

use crate::control::{ProgressSink, ProgressUpdate, progress_line};
use crate::machine::resident_memory;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// A bar that lived this long stays on the screen when it is done.
const WORTH_KEEPING: Duration = Duration::from_secs(3);

/// The progress of a command.
pub(super) struct Bars {
    mode: Mode,
    all: MultiProgress,
    tasks: Mutex<HashMap<String, Task>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Terminal,
    Lines,
    Quiet,
}

struct Task {
    bar: Option<ProgressBar>,
    started: Instant,
    shown: Instant,
    done: u64,
}

impl Bars {
    pub(super) fn new(quiet: bool) -> Self {
        let mode = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Mode::Quiet,
            (false, true) => Mode::Terminal,
            (false, false) => Mode::Lines,
        };
        let target = if mode == Mode::Terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { mode, all: MultiProgress::with_draw_target(target), tasks: Mutex::default() }
    }

    /// Writes something while no bar is in the way.
    pub(super) fn suspend(&self, write: impl FnOnce()) {
        if self.mode == Mode::Terminal { self.all.suspend(write) } else { write() }
    }

    /// Takes bars of interrupted work off the screen.
    pub(super) fn clear(&self) {
        for task in self.tasks().drain().map(|(_, task)| task) {
            if let Some(bar) = task.bar {
                bar.abandon();
            }
        }
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Task>> {
        self.tasks.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn start(&self, update: &ProgressUpdate) -> Task {
        let bar = (self.mode == Mode::Terminal).then(|| {
            let bar = match update.total {
                0 => ProgressBar::new_spinner(),
                total => ProgressBar::new(total),
            };
            let counts = match (update.unit.as_ref(), update.total) {
                ("bytes", 0) => "{bytes}",
                ("bytes", _) => "{bytes}/{total_bytes} ({bytes_per_sec})",
                (_, 0) => "{pos}",
                (_, _) => "{pos}/{len}",
            };
            let template = match update.total {
                0 => format!("{{prefix}} {{spinner}} {counts} {} {{msg}}", update.unit),
                _ => format!("{{prefix}} [{{bar:24}}] {counts} {} eta {{eta}} {{msg}}", update.unit),
            };
            // The templates are constant but for the unit; should one not parse, the plain style still counts.
            let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
            bar.set_style(style.progress_chars("=> "));
            self.all.add(bar.with_prefix(update.task.clone()))
        });
        let now = Instant::now();
        Task { bar, started: now, shown: now, done: 0 }
    }
}

impl ProgressSink for Bars {
    fn update(&self, update: &ProgressUpdate) {
        if self.mode == Mode::Quiet {
            return;
        }
        let mut tasks = self.tasks();
        // The same task counting from the beginning again is a new one.
        if tasks.get(&update.task).is_some_and(|task| update.done < task.done)
            && let Some(bar) = tasks.remove(&update.task).and_then(|task| task.bar)
        {
            bar.finish_and_clear();
        }
        let task = tasks.entry(update.task.clone()).or_insert_with(|| self.start(update));
        task.done = update.done;
        let long = task.started.elapsed() >= WORTH_KEEPING;
        if let Some(bar) = &task.bar {
            bar.set_position(update.done);
            bar.set_message(message_of(update));
            match (update.finished, long) {
                (true, true) => bar.finish(),
                (true, false) => bar.finish_and_clear(),
                (false, _) => {}
            }
        } else if task.shown.elapsed() >= LINE_EVERY || (update.finished && long) {
            task.shown = Instant::now();
            super::output::eprintln(&progress_line(
                &ProgressUpdate { message: message_of(update), ..update.clone() },
                task.started.elapsed(),
            ));
        }
        if update.finished {
            tasks.remove(&update.task);
        }
    }

    fn warn(&self, message: &str) {
        self.suspend(|| super::output::eprintln(&format!("warning: {message}")));
    }
}

/// What stands behind the bar; beside a training's numbers the memory of the process.
fn message_of(update: &ProgressUpdate) -> String {
    match update.unit.as_ref() {
        "steps" => format!("{}, {:.0} MB", update.message, resident_memory().0),
        _ => update.message.clone(),
    }
}
