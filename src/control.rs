//! What long work is given: a flag that asks it to stop, and a place to report progress to.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One report of long work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressUpdate {
    /// What is being done: "train", "generate", "evaluate", "fisher", "download".
    pub task: String,
    /// Units done so far.
    pub done: u64,
    /// Units in all, 0 where unknown.
    pub total: u64,
    /// The unit: "steps", "prompts", "bytes", "batches".
    pub unit: Cow<'static, str>,
    /// More to show behind the bar: "loss 2.31, 180 tokens/s".
    pub message: String,
    /// The training loss of this step [nats per token], where the task is a training.
    pub loss: Option<f64>,
    /// True with the last report of a task.
    pub finished: bool,
}

/// Names the variable of the environment that asks a process to report by [`ProgressUpdate::to_record`].
pub const RECORDS: &str = "FTREPL_PROGRESS_RECORDS";

/// What a record begins with, and nothing that is printed for people.
const RECORD: &str = "\u{1e}progress ";

impl ProgressUpdate {
    /// This report as a line for another process to read.
    pub fn to_record(&self) -> String {
        // Of numbers and texts there is always a JSON.
        format!("{RECORD}{}", serde_json::to_string(self).unwrap_or_default())
    }

    /// The report of a line that [`Self::to_record`] made; nothing of another line.
    pub fn from_record(line: &str) -> Option<Self> {
        serde_json::from_str(line.strip_prefix(RECORD)?.trim_end()).ok()
    }
}

/// A report as a line of text, for places without a bar: "train: 12/60 steps, loss 2.3100, 8 s left".
pub fn progress_line(update: &ProgressUpdate, elapsed: Duration) -> String {
    let elapsed = elapsed.as_secs_f64();
    let counts = match update.total {
        0 => format!("{} {}", update.done, update.unit),
        total => format!("{}/{total} {}", update.done, update.unit),
    };
    let remaining = match (update.total, update.done) {
        (0, _) | (_, 0) => String::new(),
        (total, done) if done >= total => format!(", {elapsed:.0} s"),
        (total, done) => format!(", {:.0} s left", elapsed * (total - done) as f64 / done as f64),
    };
    let message = if update.message.is_empty() { String::new() } else { format!(", {}", update.message) };
    format!("{}: {counts}{message}{remaining}", update.task)
}

/// Receives progress; a front decides what it looks like.
pub trait ProgressSink: Send + Sync {
    /// One report; called often, so it must be cheap.
    fn update(&self, update: &ProgressUpdate);
    /// A line for the user that is not a result: a warning, a hint.
    fn warn(&self, message: &str);
}

/// Drops every report.
pub struct Silent;

impl ProgressSink for Silent {
    fn update(&self, _: &ProgressUpdate) {}
    fn warn(&self, _: &str) {}
}

/// The interrupt flag and the progress sink, handed down to everything that takes long.
#[derive(Clone)]
pub struct Control {
    interrupt: Arc<AtomicBool>,
    sink: Arc<dyn ProgressSink>,
}

impl Default for Control {
    fn default() -> Self {
        Self::new(Arc::new(AtomicBool::new(false)), Arc::new(Silent))
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("interrupted", &self.interrupted()).finish()
    }
}

impl Control {
    /// A control with this flag and sink.
    pub fn new(interrupt: Arc<AtomicBool>, sink: Arc<dyn ProgressSink>) -> Self {
        Self { interrupt, sink }
    }

    /// The flag, for a signal handler to set.
    pub fn flag(&self) -> Arc<AtomicBool> {
        self.interrupt.clone()
    }

    /// Whether a stop was asked for.
    pub fn interrupted(&self) -> bool {
        self.interrupt.load(Ordering::Relaxed)
    }

    /// To be called in every training step and generated token.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when a stop was asked for. The flag stays set until the session clears it.
    pub fn check(&self) -> Result<()> {
        if self.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Reports progress.
    pub fn progress(&self, task: &str, done: u64, total: u64, unit: &'static str, message: String) {
        let finished = total > 0 && done >= total;
        self.sink.update(&ProgressUpdate {
            task: task.to_string(),
            done,
            total,
            unit: unit.into(),
            message,
            loss: None,
            finished,
        });
    }

    /// Reports a step of a training with its loss.
    pub fn training_step(&self, done: u64, total: u64, loss: f64, message: String) {
        let (task, unit) = ("train".to_string(), "steps".into());
        self.sink.update(&ProgressUpdate { task, done, total, unit, message, loss: Some(loss), finished: done >= total });
    }

    /// Shows a warning.
    pub fn warn(&self, message: impl AsRef<str>) {
        self.sink.warn(message.as_ref());
    }
}
