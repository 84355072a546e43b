//! Between Jupyter and another program's kernel: what that publishes passes through here, and where a printed line is a record of
//! progress, Jupyter gets in its place the output that our own kernel shows, rewritten as the work goes on.
//!
//! evcxr sends what a cell prints by whole lines, which nobody can take back, and shows nothing else before the cell's end.

use super::channels::{Outgoing, failed, parse, watch_parent};
use super::client::Running;
use super::progress::Progress;
use crate::control::{ProgressSink, ProgressUpdate, RECORDS};
use crate::error::{Error, Result};
use jupyter_protocol::connection_info::Transport;
use jupyter_protocol::{ConnectionInfo, JupyterMessage, JupyterMessageContent};
use jupyter_zmq_client::{
    KernelIoPubConnection, RawMessage, create_client_iopub_connection, create_kernel_iopub_connection, peek_ports_with_listeners,
};
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zeromq::{SocketRecv, SocketSend, ZmqMessage};

/// How soon a kernel that opens its sockets, and one that has ended, is noticed.
const POLL: Duration = Duration::from_millis(20);

/// Starts a kernel and passes on what it publishes until it ends. `kernel` makes its command, given its connection file, which differs
/// from `connection` in one port; all other sockets are the kernel's own.
///
/// # Errors
/// The connection file cannot be read, the port that Jupyter listens to is taken, or the kernel does not start.
pub fn relay(connection: &Path, kernel: impl FnOnce(&Path) -> Command) -> Result<ExitStatus> {
    let info = super::connection_info(connection)?;
    let (Transport::TCP, Ok(address)) = (&info.transport, info.ip.parse::<IpAddr>()) else {
        // Over other ways than numbered ports of an address, the kernel speaks for itself.
        let mut command = kernel(connection);
        return command.status().map_err(|e| Error::io("start", Path::new(command.get_program()), e));
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Missing(format!("cannot start an asynchronous runtime: {e}")))?;
    runtime.block_on(serve(info, address, kernel))
}

async fn serve(info: ConnectionInfo, address: IpAddr, kernel: impl FnOnce(&Path) -> Command) -> Result<ExitStatus> {
    let session = uuid::Uuid::new_v4().to_string();
    let to_jupyter = create_kernel_iopub_connection(&info, &session).await.map_err(failed("iopub"))?;
    let (ports, listeners) =
        peek_ports_with_listeners(address, 1).await.map_err(|e| Error::Missing(format!("no port is free: {e}")))?;
    let inner = ConnectionInfo { iopub_port: ports[0], ..info };
    // Nobody else can read it: it holds the key that messages are signed with.
    let file = tempfile::NamedTempFile::new().map_err(|e| Error::io("create", "a connection file", e))?;
    let text = serde_json::to_string(&inner).map_err(|e| Error::format(file.path(), format!("cannot be written: {e}")))?;
    std::fs::write(file.path(), text).map_err(|e| Error::io("write", file.path(), e))?;
    let mut command = kernel(file.path());
    command.env(RECORDS, "1");
    drop(listeners);
    let child = command.spawn().map_err(|e| Error::io("start", Path::new(command.get_program()), e))?;
    let mut child = Running(child);
    let (received, mut messages) = unbounded_channel();
    tokio::spawn(listen(inner, session, received));
    tokio::spawn(watch_parent());
    let mut passing = Passing::new(to_jupyter);
    loop {
        match tokio::time::timeout(POLL, messages.recv()).await {
            Ok(Some(parts)) => passing.pass(parts).await,
            // Nothing is left to pass on.
            Ok(None) | Err(_) => {
                if let Some(status) = child.0.try_wait().map_err(|e| Error::io("wait for", "the kernel", e))? {
                    return Ok(status);
                }
            }
        }
    }
}

/// Receives all that the kernel publishes.
async fn listen(inner: ConnectionInfo, session: String, received: UnboundedSender<ZmqMessage>) {
    let mut published = loop {
        match create_client_iopub_connection(&inner, "", &session).await {
            Ok(published) => break published,
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    loop {
        match published.socket.recv().await {
            Ok(parts) => {
                if received.send(parts).is_err() {
                    return;
                }
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// What is passed on, and to whom.
struct Passing {
    to_jupyter: KernelIoPubConnection,
    outgoing: Outgoing,
    progress: Progress,
    /// Messages of the progress.
    made: UnboundedReceiver<JupyterMessage>,
}

impl Passing {
    fn new(to_jupyter: KernelIoPubConnection) -> Self {
        let (outgoing, made) = Outgoing::apart();
        Self { to_jupyter, progress: Progress::new(outgoing.clone()), outgoing, made }
    }

    async fn pass(&mut self, parts: ZmqMessage) {
        // A front end that has gone away is no reason to stop.
        match self.record(&parts) {
            None => drop(self.to_jupyter.socket.send(parts).await),
            Some((update, request)) => {
                self.outgoing.answering(Some(request));
                self.progress.update(&update);
                while let Ok(message) = self.made.try_recv() {
                    let _ = self.to_jupyter.send(message).await;
                }
            }
        }
    }

    /// The report that a message holds, and the request that it belongs to.
    fn record(&self, parts: &ZmqMessage) -> Option<(ProgressUpdate, JupyterMessage)> {
        let message = RawMessage::from_multipart(parts.clone(), &self.to_jupyter.mac).ok().and_then(parse)?;
        let JupyterMessageContent::StreamContent(printed) = &message.content else { return None };
        let update = ProgressUpdate::from_record(&printed.text)?;
        let header = message.parent_header.clone()?;
        Some((update, JupyterMessage { header, parent_header: None, ..message }))
    }
}
