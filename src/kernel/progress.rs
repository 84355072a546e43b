//! Progress in a cell: one output that is rewritten in place for all tasks of the cell, and one for each training, with its loss
//! curve, which stays.

use super::Sender;
use crate::control::{ProgressSink, ProgressUpdate, progress_line};
use crate::show::{Figure, Plot, Series, escape};
use jupyter_protocol::{DisplayData, Media, MediaType, StreamContent, Transient, UpdateDisplayData};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Work that is done sooner shows nothing.
const WORTH_SHOWING: Duration = Duration::from_millis(400);
/// How often the output is rewritten.
const EVERY: Duration = Duration::from_millis(500);
/// More points of a curve than this are not told apart.
const MOST_POINTS: usize = 400;

/// The progress of the cell that runs.
pub(super) struct Progress {
    outgoing: Sender,
    tasks: Mutex<HashMap<String, Task>>,
    /// The output of the tasks that leave no curve, and the request that it belongs to.
    line: Mutex<Option<(Option<String>, String)>>,
}

struct Task {
    /// The request that it belongs to: one that a cell left undone is not continued by another cell's.
    request: Option<String>,
    /// The output that it is shown in, once it is.
    id: Option<String>,
    started: Instant,
    shown: Option<Instant>,
    done: u64,
    losses: Vec<(f64, f64)>,
}

impl Progress {
    pub(super) fn new(outgoing: Sender) -> Self {
        Self { outgoing, tasks: Mutex::default(), line: Mutex::default() }
    }

    /// The output that the tasks of a cell share, and whether it is not there yet.
    fn shared_line(&self) -> (String, bool) {
        let request = self.outgoing.request();
        let mut line = self.line.lock().unwrap_or_else(|e| e.into_inner());
        match &*line {
            Some((of, id)) if *of == request => (id.clone(), false),
            _ => {
                let id = uuid::Uuid::new_v4().to_string();
                *line = Some((request, id.clone()));
                (id, true)
            }
        }
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<String, Task>> {
        self.tasks.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl ProgressSink for Progress {
    fn update(&self, update: &ProgressUpdate) {
        let mut tasks = self.tasks();
        let request = self.outgoing.request();
        // The same task counting from the beginning again, or in another cell, is a new one.
        if tasks.get(&update.task).is_some_and(|task| update.done < task.done || task.request != request) {
            tasks.remove(&update.task);
        }
        let new = || Task { request, id: None, started: Instant::now(), shown: None, done: 0, losses: Vec::new() };
        let task = tasks.entry(update.task.clone()).or_insert_with(new);
        task.done = update.done;
        task.losses.extend(update.loss.map(|loss| (update.done as f64, loss)));
        let due = match task.shown {
            None => task.started.elapsed() >= WORTH_SHOWING,
            Some(shown) => shown.elapsed() >= EVERY || update.finished,
        };
        if due {
            let data = face(update, task);
            let (id, new) = match &task.id {
                Some(id) => (id.clone(), false),
                None if task.losses.is_empty() => self.shared_line(),
                None => (uuid::Uuid::new_v4().to_string(), true),
            };
            if new {
                let transient = Some(Transient { display_id: Some(id.clone()) });
                self.outgoing.publish(DisplayData { transient, ..DisplayData::new(data) }.into());
            } else {
                self.outgoing.publish(UpdateDisplayData::new(data, &id).into());
            }
            task.id = Some(id);
            task.shown = Some(Instant::now());
        }
        if update.finished {
            tasks.remove(&update.task);
        }
    }

    fn warn(&self, message: &str) {
        self.outgoing.publish(StreamContent::stderr(&format!("warning: {message}\n")).into());
    }
}

/// A line of numbers, and under it the loss so far.
fn face(update: &ProgressUpdate, task: &Task) -> Media {
    let line = progress_line(update, task.started.elapsed());
    let share = if update.total > 0 { 100.0 * update.done as f64 / update.total as f64 } else { 0.0 };
    let mut html = format!("<div><progress max=\"100\" value=\"{share:.1}\"></progress> <code>{}</code></div>", escape(&line));
    let mut text = line;
    if task.losses.len() > 1 {
        let step = task.losses.len().div_ceil(MOST_POINTS);
        let (x, y) = task.losses.iter().step_by(step).copied().unzip();
        let figure = Figure::new(Plot::Lines(vec![Series { name: String::new(), x, y }]));
        let figure = Figure { xlabel: "optimiser step".into(), ylabel: "loss [nats per token]".into(), ..figure };
        html += &figure.image();
        text += &format!("\n{}", figure.text(100, false));
    }
    Media::new(vec![MediaType::Html(html), MediaType::Plain(text)])
}
