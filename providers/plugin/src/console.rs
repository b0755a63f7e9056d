//! Standard output and standard error of this process, as those of its guest.
//!
//! A thread writes, because neither stream can be written to without waiting; one for both, so that what goes to one terminal
//! comes in the order in which it was said.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _, Write},
    os::fd::AsFd,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use kubewasm_host::{LARGEST_WRITE, Output, Stream};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Bytes that wait to be written; beyond them the guest waits.
const LIMIT: usize = 256 << 10;

/// Where a guest's output goes. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Console(Arc<ConsoleState>);

struct ConsoleState {
    queue: Mutex<WriteQueue>,
    /// There is something to write.
    filled: Condvar,
    /// There is less to write.
    drained: Notify,
    /// Nobody reads standard output any more.
    broken: CancellationToken,
    terminals: [bool; 2],
}

#[derive(Debug, Default)]
struct WriteQueue {
    pieces: VecDeque<(Stream, Bytes)>,
    /// Of all pieces, and of the one that is being written.
    bytes: usize,
    broken: [bool; 2],
}

impl std::fmt::Debug for ConsoleState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsoleState").finish_non_exhaustive()
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

impl Console {
    /// Those of this process.
    pub(crate) fn of_process() -> io::Result<Self> {
        let terminals = [io::stdout().is_terminal(), io::stderr().is_terminal()];
        Self::new(terminals, |stream, bytes| match stream {
            Stream::Stdout => write(io::stdout().lock(), bytes),
            Stream::Stderr => write(io::stderr().lock(), bytes),
        })
    }

    fn new(
        terminals: [bool; 2],
        write: impl Fn(Stream, &[u8]) -> io::Result<()> + Send + 'static,
    ) -> io::Result<Self> {
        let state = Arc::new(ConsoleState {
            queue: Mutex::default(),
            filled: Condvar::new(),
            drained: Notify::new(),
            broken: CancellationToken::new(),
            terminals,
        });
        let of_thread = Arc::clone(&state);
        // It ends with the process.
        std::thread::Builder::new().name("console".to_owned()).spawn(move || of_thread.write_all(&write))?;
        Ok(Self(state))
    }

    /// Is cancelled when nobody reads standard output any more.
    pub(crate) fn broken(&self) -> &CancellationToken {
        &self.0.broken
    }

    /// Says a line to the user, on standard error, behind what the guest has said.
    pub(crate) fn say(&self, line: &str) {
        self.0.put(Stream::Stderr, format!("{line}\n").into());
    }

    /// Waits until everything is written.
    pub(crate) async fn flush(&self) {
        self.0.below(1).await;
    }
}

impl ConsoleState {
    fn lock(&self) -> MutexGuard<'_, WriteQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, stream: Stream, bytes: Bytes) {
        let mut queue = self.lock();
        queue.bytes += bytes.len();
        queue.pieces.push_back((stream, bytes));
        self.filled.notify_one();
    }

    async fn below(&self, bytes: usize) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            if self.lock().bytes < bytes {
                return;
            }
            drained.await;
        }
    }

    fn write_all(&self, write: &impl Fn(Stream, &[u8]) -> io::Result<()>) {
        loop {
            let (stream, bytes, is_broken) = {
                let mut queue = self.lock();
                loop {
                    if let Some((stream, bytes)) = queue.pieces.pop_front() {
                        let is_broken = queue.broken.get(index(stream)).copied().unwrap_or(false);
                        break (stream, bytes, is_broken);
                    }
                    queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let written = if is_broken { Ok(()) } else { write(stream, &bytes) };
            let mut queue = self.lock();
            queue.bytes = queue.bytes.saturating_sub(bytes.len());
            if written.is_err() {
                // Whatever is said there, nobody hears it.
                queue.broken.get_mut(index(stream)).into_iter().for_each(|broken| *broken = true);
                if stream == Stream::Stdout {
                    self.broken.cancel();
                }
            }
            drop(queue);
            self.drained.notify_waiters();
        }
    }
}

fn write(mut stream: impl Write + AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => has_room(&stream)?,
            Err(error) => return Err(error),
        }
    }
    loop {
        match stream.flush() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => has_room(&stream)?,
            other => return other,
        }
    }
}

/// Waits where somebody has made a stream one that does not wait by itself.
fn has_room(stream: &impl AsFd) -> io::Result<()> {
    let mut stream = [PollFd::new(stream, PollFlags::OUT)];
    match poll(&mut stream, None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

impl Output for Console {
    fn held(&self) -> u64 {
        (LIMIT + LARGEST_WRITE) as u64
    }

    fn room(&self) -> usize {
        if self.0.lock().bytes < LIMIT { LARGEST_WRITE } else { 0 }
    }

    fn push(&self, stream: Stream, bytes: Bytes) -> bool {
        let has_room = self.room() > 0;
        if has_room {
            self.0.put(stream, bytes);
        }
        has_room
    }

    fn ready(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.below(LIMIT))
    }

    fn is_terminal(&self, stream: Stream) -> Option<bool> {
        self.0.terminals.get(index(stream)).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn both_streams_are_written_in_the_order_in_which_things_were_said() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&written);
        let console = Console::new([true, false], move |stream, bytes| {
            kept.lock().unwrap().push((stream, bytes.to_vec()));
            Ok(())
        });
        let console = console.unwrap();
        assert!(console.push(Stream::Stdout, "a".into()));
        console.say("b");
        assert!(console.push(Stream::Stdout, "c".into()));
        console.flush().await;
        let expected = [
            (Stream::Stdout, b"a".to_vec()),
            (Stream::Stderr, b"b\n".to_vec()),
            (Stream::Stdout, b"c".to_vec()),
        ];
        assert_eq!(*written.lock().unwrap(), expected);
        assert_eq!(console.is_terminal(Stream::Stdout), Some(true));
        assert_eq!(console.is_terminal(Stream::Stderr), Some(false));
    }

    #[tokio::test]
    async fn a_guest_waits_for_whoever_reads_slowly() {
        let (go, wait) = mpsc::channel::<()>();
        let console = Console::new([false; 2], move |_, _| {
            wait.recv().unwrap();
            Ok(())
        });
        let console = console.unwrap();
        let mut pushed = 0;
        while console.push(Stream::Stdout, vec![0; LARGEST_WRITE].into()) {
            pushed += 1;
        }
        assert_eq!((pushed, console.room()), (LIMIT / LARGEST_WRITE, 0));
        go.send(()).unwrap();
        console.ready().await;
        assert_eq!(console.room(), LARGEST_WRITE);
        for _ in 1..pushed {
            go.send(()).unwrap();
        }
        console.flush().await;
    }

    #[tokio::test]
    async fn nobody_waits_for_output_that_nobody_reads() {
        let console = Console::new([false; 2], |stream, _| match stream {
            Stream::Stdout => Err(io::ErrorKind::BrokenPipe.into()),
            Stream::Stderr => Ok(()),
        });
        let console = console.unwrap();
        console.say("still here");
        console.flush().await;
        assert!(!console.broken().is_cancelled());
        console.push(Stream::Stdout, "lost".into());
        console.broken().cancelled().await;
        console.push(Stream::Stdout, "lost as well".into());
        console.flush().await;
    }
}
