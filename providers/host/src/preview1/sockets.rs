//! The sockets of a guest of WASI 0.1: those on which it listens from its start, and those that it has accepted.
//!
//! Each has its number among the [files](super::files)' as well, which hand the numbers out.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustix::net::{RecvFlags, SendFlags, sockopt};
use tokio::{
    io::{Interest, ReadBuf},
    net::{TcpListener, TcpStream},
};

use crate::{
    listen::OpenListener,
    network::{guard::Guard, node_ports::NodePort, ports::OpenPort},
    traffic::Traffic,
};

/// The sockets of one guest, by the numbers of their descriptors.
#[derive(Debug)]
pub(crate) struct CoreSockets {
    sockets: BTreeMap<i32, CoreSocket>,
    /// From before its first instruction until it runs: sockets belong to the executor on which they are waited for.
    opened: Vec<OpenListener>,
    traffic: Arc<Traffic>,
}

/// A socket, and how its guest wants to be answered.
#[derive(Debug)]
pub(super) struct CoreSocket {
    pub(super) kind: SocketKind,
    /// Calls answer EAGAIN where they would wait.
    pub(super) nonblocking: bool,
    /// Where its bytes are counted.
    pub(super) traffic: Arc<Traffic>,
}

#[derive(Debug)]
pub(super) enum SocketKind {
    Listener(Listener),
    Stream(TcpStream),
}

/// A port that is listened on.
#[derive(Debug)]
pub(super) struct Listener {
    /// Before the sockets, so that what is known of them is given up before they are closed.
    _known: (Vec<OpenPort>, Vec<NodePort>),
    sockets: Vec<TcpListener>,
    /// Of the sockets, the one that is asked first.
    first: usize,
    /// A connection that was found when the guest wanted to know whether there is one.
    waiting: Option<TcpStream>,
    guard: Arc<Guard>,
}

/// Whether something can be done with a socket without waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Readiness {
    /// Bytes that can be read, or 1 where that is not known.
    pub(super) bytes: u64,
    /// The other side sends no more.
    pub(super) hung_up: bool,
}

impl CoreSockets {
    /// Those of a guest that has these from its start, whose descriptors come first after the standard streams.
    pub(crate) fn new(opened: Vec<OpenListener>, traffic: &Arc<Traffic>) -> Self {
        Self { sockets: BTreeMap::new(), opened, traffic: Arc::clone(traffic) }
    }

    /// Makes the sockets ready to be waited for, within the executor that the guest runs on.
    pub(crate) fn begin(&mut self, guard: &Arc<Guard>) -> io::Result<()> {
        for (fd, OpenListener { ports, node_ports, sockets }) in
            (super::STANDARD_STREAMS_END..).zip(self.opened.drain(..))
        {
            let sockets = sockets.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?;
            let guard = Arc::clone(guard);
            let listener = Listener { _known: (ports, node_ports), sockets, first: 0, waiting: None, guard };
            let kind = SocketKind::Listener(listener);
            let traffic = Arc::clone(&self.traffic);
            self.sockets.insert(fd, CoreSocket { kind, nonblocking: false, traffic });
        }
        Ok(())
    }

    pub(crate) fn has(&self, fd: i32) -> bool {
        self.sockets.contains_key(&fd)
    }

    pub(super) fn get(&mut self, fd: i32) -> Option<&mut CoreSocket> {
        self.sockets.get_mut(&fd)
    }

    pub(super) fn insert(&mut self, fd: i32, stream: TcpStream, nonblocking: bool) {
        let (kind, traffic) = (SocketKind::Stream(stream), Arc::clone(&self.traffic));
        self.sockets.insert(fd, CoreSocket { kind, nonblocking, traffic });
    }

    /// Closes a socket, if it is one.
    pub(super) fn close(&mut self, fd: i32) {
        self.sockets.remove(&fd);
    }

    /// Gives the number `to`, whose socket is closed, to what has `from`.
    pub(super) fn renumber(&mut self, from: i32, to: i32) {
        self.sockets.remove(&to);
        if let Some(socket) = self.sockets.remove(&from) {
            self.sockets.insert(to, socket);
        }
    }
}

impl Listener {
    /// Finds a connection that the guest may accept, and keeps it for [`take`](Self::take). Those that its rules forbid are
    /// closed.
    pub(super) fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_some() {
            return Poll::Ready(Ok(()));
        }
        let count = self.sockets.len();
        for offset in 0..count {
            let at = (self.first + offset) % count;
            // Connections that are refused use up the turn of the task, too.
            while let Poll::Ready(accepted) = self.sockets[at].poll_accept(context) {
                match accepted {
                    Ok((stream, peer)) if self.may_accept(&stream, peer) => {
                        // A guest has no call to ask for it, and answers are what it sends.
                        let _ = stream.set_nodelay(true);
                        self.first = (at + 1) % count;
                        self.waiting = Some(stream);
                        return Poll::Ready(Ok(()));
                    }
                    // It is reset, as it would be where nobody listens.
                    Ok((stream, _)) => {
                        let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        Poll::Pending
    }

    /// Whether the guest's rules let it have a connection.
    fn may_accept(&self, stream: &TcpStream, peer: SocketAddr) -> bool {
        stream.local_addr().is_ok_and(|local| self.guard.may_accept(peer, local.port()))
    }

    /// Takes the connection that was found.
    pub(super) fn take(&mut self) -> Option<TcpStream> {
        self.waiting.take()
    }
}

impl CoreSocket {
    /// Whether it can be read from, or accepted from, without waiting; wakes the task when it can.
    pub(super) fn poll_readable(&mut self, context: &mut Context<'_>) -> Poll<Readiness> {
        match &mut self.kind {
            SocketKind::Listener(listener) => {
                // An error is what the call to accept will tell.
                listener.poll_waiting(context).map(|_| Readiness { bytes: 1, hung_up: false })
            }
            SocketKind::Stream(stream) => {
                let mut byte = [0];
                stream.poll_peek(context, &mut ReadBuf::new(&mut byte)).map(|peeked| match peeked {
                    Ok(0) | Err(_) => Readiness { bytes: 0, hung_up: true },
                    Ok(_) => {
                        Readiness { bytes: rustix::io::ioctl_fionread(&*stream).unwrap_or(1), hung_up: false }
                    }
                })
            }
        }
    }

    /// Whether it can be written to without waiting; wakes the task when it can. A listener never can.
    pub(super) fn poll_writable(&mut self, context: &mut Context<'_>) -> Poll<Readiness> {
        match &mut self.kind {
            SocketKind::Listener(_) => Poll::Pending,
            SocketKind::Stream(stream) => {
                // What cannot be written any more is what the call to write will tell.
                stream.poll_write_ready(context).map(|_| Readiness { bytes: 1, hung_up: false })
            }
        }
    }
}

/// Receives into `buffer`; waits for the first byte if need be and `wait` allows it.
pub(super) async fn receive(
    stream: &TcpStream,
    buffer: &mut [u8],
    flags: RecvFlags,
    wait: bool,
) -> io::Result<usize> {
    let receive = || Ok(rustix::net::recv(stream, &mut *buffer, flags)?.0);
    attempt(stream, Interest::READABLE, receive, wait).await
}

/// Sends the beginning of `bytes`; waits until there is room for some if need be and `wait` allows it.
pub(super) async fn send(stream: &TcpStream, bytes: &[u8], wait: bool) -> io::Result<usize> {
    let send = || Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?);
    attempt(stream, Interest::WRITABLE, send, wait).await
}

async fn attempt(
    stream: &TcpStream,
    interest: Interest,
    mut operation: impl FnMut() -> io::Result<usize>,
    wait: bool,
) -> io::Result<usize> {
    // First through the executor, which takes note where nothing could be done; then past it, because it may not have
    // heard yet of what has come.
    match stream.try_io(interest, &mut operation) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        done => return done,
    }
    match operation() {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && wait => {
            stream.async_io(interest, operation).await
        }
        done => done,
    }
}
