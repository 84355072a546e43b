//! The five sockets of a kernel.

use crate::error::{Error, Result};
use jupyter_protocol::{
    ConnectionInfo, Header, InterruptReply, JupyterMessage, JupyterMessageContent, ShutdownReply, Status, StreamContent,
    UnknownMessage,
};
use jupyter_zmq_client::{
    Connection, RawMessage, RouterSendConnection, RuntimeError, create_kernel_control_connection,
    create_kernel_heartbeat_connection, create_kernel_iopub_connection, create_kernel_shell_connection,
    create_kernel_stdin_connection,
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Printed texts that are sent as one are not longer than about this, in bytes.
const LONGEST_STREAM: usize = 64 << 10;

/// A printed text follows another one at this distance.
const STREAM_EVERY: Duration = Duration::from_millis(10);

/// Messages from the front end, and the way back.
pub(super) struct Channels {
    pub(super) requests: mpsc::Receiver<JupyterMessage>,
    pub(super) outgoing: Outgoing,
}

/// Sends to the front end; clones share the request that is being answered.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    published: UnboundedSender<JupyterMessage>,
    replies: UnboundedSender<JupyterMessage>,
    parent: Arc<Mutex<Option<JupyterMessage>>>,
}

impl Outgoing {
    /// What is published comes out here; nobody asks, so that replies go nowhere.
    pub(super) fn apart() -> (Self, UnboundedReceiver<JupyterMessage>) {
        let (published, made) = unbounded_channel();
        let (replies, _) = unbounded_channel();
        (Self { published, replies, parent: Arc::default() }, made)
    }

    /// From now on messages belong to this request.
    pub(super) fn answering(&self, request: Option<JupyterMessage>) {
        *self.parent.lock().unwrap_or_else(|e| e.into_inner()) = request;
    }

    /// Tells the present request from others.
    pub(super) fn request(&self) -> Option<String> {
        let parent = self.parent.lock().unwrap_or_else(|e| e.into_inner());
        parent.as_ref().map(|parent| parent.header.msg_id.clone())
    }

    /// To all front ends, as part of the present request's output.
    pub(super) fn publish(&self, message: JupyterMessage) {
        let parent = self.parent.lock().unwrap_or_else(|e| e.into_inner());
        let message = match &*parent {
            Some(parent) => message.with_parent(parent),
            None => message,
        };
        // The front end may be gone; then nobody misses it.
        let _ = self.published.send(message);
    }

    /// To the one that asked.
    pub(super) fn reply(&self, message: JupyterMessage) {
        let _ = self.replies.send(message);
    }

    /// A line on standard error.
    #[cfg(feature = "rust-cells")]
    pub(super) fn tell(&self, text: &str) {
        self.publish(StreamContent::stderr(&format!("{text}\n")).into());
    }

    /// A printed line.
    pub(super) fn print(&self, text: &str) {
        self.publish(StreamContent::stdout(&format!("{text}\n")).into());
    }
}

pub(super) fn failed(what: &str) -> impl Fn(RuntimeError) -> Error {
    move |error| Error::Missing(format!("cannot open the kernel's {what} channel: {error}"))
}

/// Opens the sockets on a thread of their own.
///
/// # Errors
/// A port cannot be bound.
pub(super) fn open(info: ConnectionInfo, interrupt: Arc<AtomicBool>) -> Result<Channels> {
    let (request_sender, requests) = mpsc::channel();
    let (published, to_publish) = unbounded_channel();
    let (replies, to_reply) = unbounded_channel();
    let (ready, is_ready) = mpsc::channel();
    let outgoing = Outgoing { published, replies, parent: Arc::default() };
    let control_out = outgoing.published.clone();
    let serve = move || {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(ready.send(Err(Error::Missing(format!("cannot start the kernel's runtime: {error}"))))),
        };
        runtime.block_on(async move {
            match bind(&info, request_sender, to_publish, to_reply, control_out, interrupt).await {
                Ok(()) => {
                    let _ = ready.send(Ok(()));
                    std::future::pending::<()>().await;
                }
                Err(error) => drop(ready.send(Err(error))),
            }
        });
    };
    std::thread::Builder::new()
        .name("jupyter".into())
        .spawn(serve)
        .map_err(|e| Error::Missing(format!("cannot start a thread: {e}")))?;
    match is_ready.recv() {
        Ok(Ok(())) => Ok(Channels { requests, outgoing }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Missing("the kernel's sockets did not open".into())),
    }
}

async fn bind(
    info: &ConnectionInfo,
    requests: mpsc::Sender<JupyterMessage>,
    to_publish: UnboundedReceiver<JupyterMessage>,
    to_reply: UnboundedReceiver<JupyterMessage>,
    published: UnboundedSender<JupyterMessage>,
    interrupt: Arc<AtomicBool>,
) -> Result<()> {
    let session = uuid::Uuid::new_v4().to_string();
    let mut heartbeat = create_kernel_heartbeat_connection(info).await.map_err(failed("heartbeat"))?;
    let mut iopub = create_kernel_iopub_connection(info, &session).await.map_err(failed("iopub"))?;
    let shell = create_kernel_shell_connection(info, &session).await.map_err(failed("shell"))?;
    let mut control = create_kernel_control_connection(info, &session).await.map_err(failed("control"))?;
    let stdin = create_kernel_stdin_connection(info, &session).await.map_err(failed("stdin"))?;
    tokio::spawn(watch_parent());
    tokio::spawn(async move { while heartbeat.single_heartbeat().await.is_ok() {} });
    let mut to_publish = to_publish;
    tokio::spawn(async move {
        let mut next = to_publish.recv().await;
        let mut printed_at = tokio::time::Instant::now() - STREAM_EVERY;
        while let Some(mut message) = next.take() {
            // Printed lines soon after others go together: a script may print a hundred thousand.
            if matches!(message.content, JupyterMessageContent::StreamContent(_)) {
                tokio::time::sleep_until(printed_at + STREAM_EVERY).await;
                printed_at = tokio::time::Instant::now();
            }
            while let Ok(following) = to_publish.try_recv() {
                if let Some(following) = join(&mut message, following) {
                    next = Some(following);
                    break;
                }
            }
            // A front end that has gone away is no reason to stop.
            let _ = iopub.send(message).await;
            if next.is_none() {
                next = to_publish.recv().await;
            }
        }
    });
    let (shell_send, mut shell_receive) = shell.split();
    tokio::spawn(answer(shell_send, to_reply));
    let shell_requests = requests.clone();
    tokio::spawn(async move {
        loop {
            if let Some(message) = next_message(&mut shell_receive).await
                && shell_requests.send(message).is_err()
            {
                break;
            }
        }
    });
    tokio::spawn(async move {
        // Bound for the protocol's sake: nothing is ever asked of the user.
        let _stdin = stdin;
        loop {
            let Some(message) = next_message(&mut control).await else { continue };
            let _ = published.send(Status::busy().as_child_of(&message));
            match &message.content {
                JupyterMessageContent::InterruptRequest(_) => {
                    interrupt.store(true, Ordering::SeqCst);
                    let _ = control.send(InterruptReply::new().as_child_of(&message)).await;
                }
                JupyterMessageContent::ShutdownRequest(request) => {
                    interrupt.store(true, Ordering::SeqCst);
                    let reply = ShutdownReply { restart: request.restart, ..ShutdownReply::default() };
                    let _ = control.send(reply.as_child_of(&message)).await;
                    let _ = published.send(reply.as_child_of(&message));
                    let _ = published.send(Status::idle().as_child_of(&message));
                    // Until what was sent is on its way.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    std::process::exit(0);
                }
                JupyterMessageContent::KernelInfoRequest(_) => {
                    let _ = control.send(super::requests::kernel_info().as_child_of(&message)).await;
                }
                _ => {}
            }
            let _ = published.send(Status::idle().as_child_of(&message));
        }
    });
    Ok(())
}

/// The next message of a socket; nothing where it is forged or broken.
async fn next_message<S: zeromq::SocketRecv>(connection: &mut Connection<S>) -> Option<JupyterMessage> {
    match connection.socket.recv().await {
        Ok(parts) => RawMessage::from_multipart(parts, &connection.mac).ok().and_then(parse),
        // A front end that has gone away; the next may come.
        Err(_) => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}

/// A message of which the signature is right. The protocol's crate knows no defaults for a search in the history; a request that
/// it cannot read becomes an unknown one, so that it is answered.
pub(super) fn parse(raw: RawMessage) -> Option<JupyterMessage> {
    let [header, parent_header, metadata, content] = raw.jparts.first_chunk()?;
    let header: Header = serde_json::from_slice(header).ok()?;
    let mut content: Value = serde_json::from_slice(content).ok()?;
    if header.msg_type == "history_request" && content["hist_access_type"] == "search" {
        for (key, default) in [("n", json!(i32::MAX)), ("unique", json!(false)), ("pattern", json!("*"))] {
            if content[key].is_null() {
                content[key] = default;
            }
        }
    }
    let kind = header.msg_type.clone();
    let content = JupyterMessageContent::from_type_and_content(&kind, content.clone())
        .unwrap_or(JupyterMessageContent::UnknownMessage(UnknownMessage { msg_type: kind, content }));
    Some(JupyterMessage {
        parent_header: serde_json::from_slice(parent_header).ok(),
        metadata: serde_json::from_slice(metadata).unwrap_or_default(),
        buffers: raw.jparts[4..].to_vec(),
        zmq_identities: raw.zmq_identities,
        header,
        content,
        channel: None,
    })
}

/// Adds a printed text to the one before it; gives back what is something else.
fn join(message: &mut JupyterMessage, following: JupyterMessage) -> Option<JupyterMessage> {
    let same_cell = message.parent_header.as_ref().map(|header| &header.msg_id)
        == following.parent_header.as_ref().map(|header| &header.msg_id);
    match (&mut message.content, &following.content) {
        (JupyterMessageContent::StreamContent(text), JupyterMessageContent::StreamContent(more))
            if same_cell
                && std::mem::discriminant(&text.name) == std::mem::discriminant(&more.name)
                && text.text.len() < LONGEST_STREAM =>
        {
            text.text.push_str(&more.text);
            None
        }
        _ => Some(following),
    }
}

/// Ends the kernel when the server that started it is gone, which Jupyter's servers name in a variable.
pub(super) async fn watch_parent() {
    if std::env::var_os("JPY_PARENT_PID").is_none() {
        return;
    }
    let first = std::os::unix::process::parent_id();
    while std::os::unix::process::parent_id() == first {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    std::process::exit(1);
}

async fn answer(mut shell: RouterSendConnection, mut replies: UnboundedReceiver<JupyterMessage>) {
    while let Some(message) = replies.recv().await {
        let _ = shell.send(message).await;
    }
}
