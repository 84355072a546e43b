//! The library's error: every message says what happened, to which file or field, and what to do.

use std::path::{Path, PathBuf};

/// What can go wrong in the library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed: shapes, dtypes or devices that do not go together.
    #[error("{}", tensor_message(.0))]
    Tensor(#[source] candle_core::Error),
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    Io {
        /// What was tried, as a verb: "read", "write", "open", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file was read but is not what it should be.
    #[error("{}: {message}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong in it, where, and what to do.
        message: String,
    },
    /// An argument or option that is out of range or of the wrong kind.
    #[error("{0}")]
    Argument(String),
    /// A model, tokenizer or data set that cannot be found or does not fit.
    #[error("{0}")]
    Missing(String),
    /// Work that needs more memory than there is, and was not begun.
    #[error("{0}")]
    Memory(String),
    /// Training stopped because its numbers went wrong (no gradient, NaN, infinite loss).
    #[error("{0}")]
    Training(String),
    /// A function of the user's (callback, check, regulariser) failed.
    #[error("{0}")]
    Callback(String),
    /// The user pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// A result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        match crate::device::out_of_memory(&error.to_string()) {
            Some(text) => Self::Memory(text),
            None => Self::Tensor(error),
        }
    }
}

impl Error {
    /// An I/O error with the verb and the path that it belongs to.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io { action, path: path.as_ref().to_path_buf(), source }
    }

    /// A file whose content is wrong.
    pub fn format(path: impl AsRef<Path>, message: impl Into<String>) -> Self {
        Self::Format { path: path.as_ref().to_path_buf(), message: message.into() }
    }

    /// A bad argument.
    pub fn argument(message: impl Into<String>) -> Self {
        Self::Argument(message.into())
    }
}

/// candle appends a backtrace to its messages; users want the first line.
fn tensor_message(error: &candle_core::Error) -> String {
    let mut inner = error;
    loop {
        match inner {
            candle_core::Error::WithBacktrace { inner: next, .. } => inner = next,
            candle_core::Error::Context { inner: next, .. } => inner = next,
            other => return other.to_string(),
        }
    }
}
