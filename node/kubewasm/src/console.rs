//! The terminal that this program was started in, for a guest that is connected to it.

use std::{
    io::{self, IsTerminal as _, Read as _},
    pin::Pin,
    sync::Arc,
};

use kubewasm_kubelet::runtime::TerminalSize;
use rustix::termios::{self, OptionalActions, Termios};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt as _},
    signal::unix::{SignalKind, signal},
    sync::{Mutex, mpsc, watch},
};

/// Bytes that are read at once.
const PIECE: usize = 8 << 10;

/// Whether this program is used by a person who types.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal()
}

/// Whether a terminal was asked for and can be had; says so where it cannot, as kubectl does.
pub(crate) fn wants_terminal(asked: bool) -> bool {
    if asked && !is_interactive() {
        eprintln!("kubewasm: no terminal is used, since standard input is none");
    }
    asked && is_interactive()
}

/// The terminal at standard input as a guest's: every key is handed over as it is pressed, and nothing is shown but what comes
/// back. Dropped, it is what it was.
#[derive(Debug)]
pub(crate) struct RawConsole(Termios);

impl RawConsole {
    /// Sets it.
    ///
    /// # Errors
    /// When standard input is no terminal, or not this user's.
    pub(crate) fn set() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawConsole {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// The size of the terminal, now and whenever it changes. `None` where it is not known.
///
/// # Errors
/// When changes cannot be heard of.
pub(crate) fn sizes() -> io::Result<watch::Receiver<Option<TerminalSize>>> {
    let mut changes = signal(SignalKind::window_change())?;
    let (sender, sizes) = watch::channel(size());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                change = changes.recv() => {
                    if change.is_none() {
                        return;
                    }
                }
            }
            sender.send_replace(size());
        }
    });
    Ok(sizes)
}

fn size() -> Option<TerminalSize> {
    let size = termios::tcgetwinsize(io::stdin()).or_else(|_| termios::tcgetwinsize(io::stdout())).ok()?;
    (size.ws_col > 0).then_some(TerminalSize { cols: size.ws_col, rows: size.ws_row })
}

/// Standard input, for one reader after the other. It is read by a thread of its own, which no end of this program waits for.
#[derive(Clone, Debug)]
pub(crate) struct ConsoleInput(Arc<Mutex<mpsc::Receiver<Vec<u8>>>>);

impl ConsoleInput {
    /// Begins to read.
    pub(crate) fn open() -> Self {
        let (pieces, receiver) = mpsc::channel(1);
        std::thread::spawn(move || {
            let mut buffer = vec![0; PIECE];
            let mut stdin = io::stdin().lock();
            while let Ok(read) = stdin.read(&mut buffer) {
                let piece = buffer.get(..read).unwrap_or_default().to_vec();
                if piece.is_empty() || pieces.blocking_send(piece).is_err() {
                    break;
                }
            }
        });
        Self(Arc::new(Mutex::new(receiver)))
    }

    /// Hands on what comes, at the pace of who takes it, and its end. Returns when all has come, or nobody takes it.
    pub(crate) async fn copy_to(&self, mut to: impl AsyncWrite + Unpin) {
        while let Some(piece) = self.next().await {
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        // Whoever is gone needs no end.
        let _ = to.shutdown().await;
    }

    /// The next piece; nothing at the end.
    pub(crate) async fn next(&self) -> Option<Vec<u8>> {
        self.0.lock().await.recv().await
    }
}

/// Standard output or standard error, as a stream that is written to at once.
pub(crate) fn output(is_error: bool) -> Pin<Box<dyn AsyncWrite + Send>> {
    if is_error { Box::pin(tokio::io::stderr()) } else { Box::pin(tokio::io::stdout()) }
}
