//! Callers connected to instances: exec, attach, port-forward.

use std::fmt;

pub use kubewasm_streams::remote_command::TerminalSize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

use super::RuntimeCause;

/// What a caller sends, with the caller's pace: as long as nobody reads, nothing more is taken from the connection. Its end is
/// the end of input; an error says that the caller is gone.
pub type InputStream = Box<dyn AsyncRead + Send + Unpin>;

/// What a caller is sent, with the caller's pace: writes wait while it does not read. Whoever has written everything shuts it
/// down; dropping it is the same. An error says that the caller wants no more of it, or is gone.
pub type OutputStream = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection in both directions, each of which ends by itself: what is read ends where the other side has shut down.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The ends of a caller's streams, for [`super::Runtime::exec_stream`] and [`super::Runtime::attach`]. A stream that is `None`
/// was not asked for: an instance without stdin reads the end of input, and output that nobody wants is dropped.
pub struct CallerStreams {
    /// Input.
    pub stdin: Option<InputStream>,
    /// Output.
    pub stdout: Option<OutputStream>,
    /// Errors; always `None` with `tty`, where they are part of the output.
    pub stderr: Option<OutputStream>,
    /// The caller's side is a terminal.
    pub tty: bool,
    /// What a container with [`super::ContainerSpec::stdin_once`] has written while it waited for its one caller is wanted first.
    /// A client that prints the log before it attaches, as kubectl does, would show it twice. Of no meaning for an exec.
    pub earlier: bool,
    /// The size of the caller's terminal; `None` until it is known. Only the newest counts. Its sender may go away before the
    /// streams end. Never changes without `tty`.
    pub size: watch::Receiver<Option<TerminalSize>>,
}

impl fmt::Debug for CallerStreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallerStreams")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("tty", &self.tty)
            .field("earlier", &self.earlier)
            .field("size", &*self.size.borrow())
            .finish()
    }
}

/// Why no connection was made to a port of a pod.
#[derive(Debug, thiserror::Error)]
pub enum PortForwardError {
    /// Nothing of the pod runs, so that nobody can listen.
    #[error("no container of the pod runs")]
    NotRunning,
    /// Nobody listens there, or the process that hosts the pod could not be asked. For people: the address, and what the
    /// system says.
    #[error(transparent)]
    Failed(RuntimeCause),
}
