//! The Jupyter kernel: cells of the language, with the session of the REPL behind it.
//!
//! Sockets live on a thread of their own with an asynchronous runtime; the session, which is bound to its thread, takes one request
//! after the other from a queue. What it prints and shows goes back through another queue, so that output streams while a cell runs.

mod channels;
pub mod client;
mod display;
pub mod install;
mod progress;
pub mod relay;
mod requests;
#[cfg(feature = "rust-cells")]
mod rust_cells;

use crate::control::Control;
use crate::error::{Error, Result};
use crate::script::context::Canvas;
use crate::session::{Builder, Session};
use channels::{Channels, Outgoing};
use jupyter_protocol::{ClearOutput, ConnectionInfo, Status};
use progress::Progress;
use requests::{Next, Requests};
use rhai::Dynamic;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The output of the cell that runs.
#[derive(Debug)]
struct Cells(Outgoing);

impl Canvas for Cells {
    fn show(&self, value: &Dynamic) {
        self.0.publish(display::shown(value).into());
    }

    fn clear(&self, wait: bool) {
        self.0.publish(ClearOutput { wait }.into());
    }
}

/// Serves one notebook: reads the connection file, answers until it is shut down.
///
/// # Errors
/// The connection file cannot be read, or a port cannot be bound.
pub fn run(connection: &Path, builder: Builder) -> Result<()> {
    let info = connection_info(connection)?;
    let interrupt = Arc::new(AtomicBool::new(false));
    let Channels { requests, outgoing } = channels::open(info, interrupt.clone())?;
    outgoing.publish(Status::starting().into());
    let progress = Arc::new(Progress::new(outgoing.clone()));
    let printer = outgoing.clone();
    let session: Session = builder
        .control(Control::new(interrupt, progress))
        .canvas(Cells(outgoing.clone()))
        .output(move |text| printer.print(text))
        .build()?;
    let mut state = Requests::new(session, outgoing);
    while let Ok(message) = requests.recv() {
        match state.answer(&message, &|| requests.try_iter().collect()) {
            Next::Go => {}
            Next::Stop => break,
            // What was asked to run after a cell that failed is not run: "run all" stops there.
            Next::Drop(waiting) => waiting.iter().for_each(|message| state.drop(message)),
        }
    }
    Ok(())
}

/// What Jupyter tells a kernel of its sockets.
fn connection_info(file: &Path) -> Result<ConnectionInfo> {
    let text = crate::files::read_text(file)?;
    serde_json::from_str(&text).map_err(|e| Error::format(file, format!("is no Jupyter connection file: {e}")))
}

/// Where messages to the front end go.
pub(crate) type Sender = Outgoing;
