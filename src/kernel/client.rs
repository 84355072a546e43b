//! Running cells in a kernel that this program starts: to build once what a notebook will need.

use crate::error::{Error, Result};
use jupyter_protocol::connection_info::Transport;
use jupyter_protocol::{ConnectionInfo, ExecuteRequest, ExecutionState, JupyterMessage, JupyterMessageContent, ShutdownRequest};
use jupyter_zmq_client::{
    create_client_control_connection, create_client_iopub_connection, create_client_shell_connection_with_identity,
    peek_ports_with_listeners, peer_identity_for_session,
};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A kernel that has not answered in this time has not started.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// A kernel that was asked to end and has not after this time is made to.
const END_TIMEOUT: Duration = Duration::from_secs(3);

/// What cells did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the start of the kernel to the end of the first cell.
    pub first: Duration,
    /// The last cell alone.
    pub last: Duration,
}

/// A kernel's process; it ends with this value.
pub(super) struct Running(pub(super) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts `kernel FILE` and runs the cells in it; `told` gets what the cells print.
///
/// # Errors
/// The kernel does not start or answer, or a cell fails.
pub fn run_cells(kernel: Command, cells: &[&str], told: impl FnMut(&str)) -> Result<Timing> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Missing(format!("cannot start an asynchronous runtime: {e}")))?;
    runtime.block_on(run(kernel, cells, told))
}

/// How a process ended, with the first line that it complained with.
fn last_words(status: ExitStatus, complaints: &Path) -> String {
    let words = std::fs::read(complaints).unwrap_or_default();
    let words = String::from_utf8_lossy(&words);
    match words.lines().find(|line| !line.trim().is_empty()) {
        Some(line) => format!("{status}; it says: {}", line.trim()),
        None => status.to_string(),
    }
}

async fn run(mut kernel: Command, cells: &[&str], mut told: impl FnMut(&str)) -> Result<Timing> {
    let program = PathBuf::from(kernel.get_program());
    let failed = |what: &str, error: &dyn std::fmt::Display| Error::Missing(format!("{}: {what}: {error}", program.display()));
    let (ports, listeners) =
        peek_ports_with_listeners(IpAddr::V4(Ipv4Addr::LOCALHOST), 5).await.map_err(|e| failed("no ports are free", &e))?;
    let info = ConnectionInfo {
        ip: Ipv4Addr::LOCALHOST.to_string(),
        transport: Transport::TCP,
        shell_port: ports[0],
        iopub_port: ports[1],
        stdin_port: ports[2],
        control_port: ports[3],
        hb_port: ports[4],
        key: uuid::Uuid::new_v4().to_string(),
        signature_scheme: "hmac-sha256".into(),
        kernel_name: None,
    };
    let file = tempfile::NamedTempFile::new().map_err(|e| Error::io("create", "a connection file", e))?;
    let text = serde_json::to_string(&info).map_err(|e| failed("no connection file", &e))?;
    std::fs::write(file.path(), text).map_err(|e| Error::io("write", file.path(), e))?;
    let began = Instant::now();
    drop(listeners);
    // A pipe that nobody reads would stop the kernel.
    let complaints = tempfile::NamedTempFile::new().map_err(|e| Error::io("create", "a file for the kernel's errors", e))?;
    let stderr = complaints.reopen().map_err(|e| Error::io("open", complaints.path(), e))?;
    let child = kernel
        .arg(file.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr)
        .spawn()
        .map_err(|e| Error::io("start", &program, e))?;
    let mut child = Running(child);
    let session = uuid::Uuid::new_v4().to_string();
    let identity = peer_identity_for_session(&session).map_err(|e| failed("no identity", &e))?;
    // The kernel's ports open a moment after its start.
    let mut shell = loop {
        match create_client_shell_connection_with_identity(&info, &session, identity.clone()).await {
            Ok(shell) => break shell,
            Err(error) => {
                let gone = child.0.try_wait().ok().flatten();
                if let Some(status) = gone {
                    return Err(failed("ended before it answered", &last_words(status, complaints.path())));
                }
                if began.elapsed() > START_TIMEOUT {
                    return Err(failed("does not answer", &error));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    let mut published = create_client_iopub_connection(&info, "", &session).await.map_err(|e| failed("no output", &e))?;
    // That it is there says nothing yet of its being ready to send.
    let mut control = create_client_control_connection(&info, &session).await.map_err(|e| failed("no control", &e))?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut timing = Timing { first: Duration::ZERO, last: Duration::ZERO };
    for (i, cell) in cells.iter().enumerate() {
        let start = Instant::now();
        let request = JupyterMessage::from(ExecuteRequest::new((*cell).to_string()));
        let id = request.header.msg_id.clone();
        shell.send(request).await.map_err(|e| failed("cannot be asked", &e))?;
        let mut error = None;
        loop {
            // A compiler may be silent for minutes; a process that is gone is silent for ever.
            let message = match tokio::time::timeout(Duration::from_secs(2), published.read()).await {
                Ok(message) => message.map_err(|e| failed("no output", &e))?,
                Err(_) => match child.0.try_wait().ok().flatten() {
                    Some(status) => {
                        return Err(failed("ended while a cell ran", &last_words(status, complaints.path())));
                    }
                    None => continue,
                },
            };
            if message.parent_header.as_ref().is_none_or(|parent| parent.msg_id != id) {
                continue;
            }
            match message.content {
                JupyterMessageContent::StreamContent(stream) => told(stream.text.trim_end()),
                JupyterMessageContent::ErrorOutput(output) => error = Some(output.evalue),
                JupyterMessageContent::Status(status) if status.execution_state == ExecutionState::Idle => break,
                _ => {}
            }
        }
        if let Some(error) = error {
            return Err(failed(&format!("cell {} fails", i + 1), &error));
        }
        if i == 0 {
            timing.first = began.elapsed();
        }
        timing.last = start.elapsed();
    }
    // Whoever starts a kernel of its own in turn ends that first.
    if control.send(ShutdownRequest { restart: false }.into()).await.is_ok() {
        let asked = Instant::now();
        while asked.elapsed() < END_TIMEOUT && matches!(child.0.try_wait(), Ok(None)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(timing)
}
