//! A client of D-Bus, as small as an inhibitor needs it: calls with texts, what they return, signals, and descriptors.
//!
//! Kept libraries for D-Bus change what others of this program's dependencies are built with, or bring an executor of their own;
//! see `docs/decisions/0039-graceful-shutdown.md`.

mod message;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    env, io,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::{AsFd as _, OwnedFd},
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream as StdStream},
    },
    path::PathBuf,
    time::Duration,
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::{io::Interest, net::UnixStream};

use self::message::MessageKind;
pub(super) use self::message::{Argument, Call, Message, Value};

/// Where the system's bus is, unless the environment says otherwise.
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(25);
/// Signals that may wait while an answer is waited for. More are dropped.
const SIGNALS: usize = 64;
/// Descriptors that may come at once.
const FDS: usize = 4;

/// Why the bus, or who was asked over it, is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum BusError {
    /// There is no bus.
    #[error("cannot connect to the system bus at {address}: {source}")]
    Connect {
        /// Where it was looked for.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The bus does not take this user.
    #[error("the system bus does not let this user in: {0:?}")]
    Refused(String),
    /// The connection has broken.
    #[error("the connection to the system bus has broken: {0}")]
    Broken(#[from] io::Error),
    /// Nobody has answered.
    #[error("{0} was not answered within {seconds} s", seconds = PATIENCE.as_secs())]
    NoAnswer(String),
    /// The answer is an error.
    #[error("{call} has failed: {failure}")]
    Failed {
        /// What was called.
        call: String,
        /// What was answered.
        failure: String,
    },
    /// What has come makes no sense.
    #[error("the system bus has sent {0}")]
    Unexpected(&'static str),
    /// A setting of logind cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A connection to a bus.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    read: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    signals: VecDeque<Message>,
}

impl Bus {
    /// Connects to the bus of this machine.
    pub(super) async fn system() -> Result<Self, BusError> {
        let address = env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|_| SYSTEM_BUS.to_owned());
        Self::connect(&address).await
    }

    async fn connect(addresses: &str) -> Result<Self, BusError> {
        let failed = |source| BusError::Connect { address: addresses.to_owned(), source };
        let mut last =
            io::Error::new(io::ErrorKind::Unsupported, "there is no address of a Unix socket in it");
        for address in addresses.split(';').filter_map(socket_address) {
            let connected = address.and_then(|address| StdStream::connect_addr(&address));
            match connected {
                Ok(stream) => {
                    stream.set_nonblocking(true).map_err(failed)?;
                    let stream = UnixStream::from_std(stream).map_err(failed)?;
                    let (read, fds, signals) = Default::default();
                    let mut bus = Self { stream, serial: 0, read, fds, signals };
                    tokio::time::timeout(PATIENCE, bus.begin())
                        .await
                        .map_err(|_| BusError::NoAnswer("the greeting".to_owned()))??;
                    return Ok(bus);
                }
                Err(error) => last = error,
            }
        }
        Err(failed(last))
    }

    async fn begin(&mut self) -> Result<(), BusError> {
        // The user, whom the kernel vouches for, in hexadecimal digits of its decimal ones.
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.write(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes()).await?;
        self.expect_line("OK ").await?;
        self.write(b"NEGOTIATE_UNIX_FD\r\n").await?;
        self.expect_line("AGREE_UNIX_FD").await?;
        self.write(b"BEGIN\r\n").await?;
        self.call(Call::of_bus("Hello", &[])).await.map(drop)
    }

    async fn expect_line(&mut self, beginning: &str) -> Result<(), BusError> {
        let end = loop {
            if let Some(end) = self.read.windows(2).position(|two| two == b"\r\n") {
                break end;
            }
            if self.read.len() > 1024 {
                return Err(BusError::Unexpected("a greeting without an end"));
            }
            self.fill().await?;
        };
        let line: Vec<u8> = self.read.drain(..end + 2).collect();
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if line.starts_with(beginning) { Ok(()) } else { Err(BusError::Refused(line)) }
    }

    /// Calls a method, and waits for what it returns.
    pub(super) async fn call(&mut self, call: Call<'_>) -> Result<Message, BusError> {
        let name = || format!("{}.{}", call.interface, call.member);
        self.serial = self.serial.wrapping_add(1).max(1);
        let serial = self.serial;
        let answer = async {
            self.write(&call.encode(serial)?).await?;
            loop {
                let message = self.next().await?;
                match message.kind {
                    MessageKind::Return(to) if to == serial => return Ok(message),
                    MessageKind::Failure(to) if to == serial => {
                        return Err(BusError::Failed { call: name(), failure: message.failure() });
                    }
                    MessageKind::Signal if self.signals.len() < SIGNALS => self.signals.push_back(message),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| Err(BusError::NoAnswer(name())))
    }

    /// Waits for the next signal. May be dropped.
    pub(super) async fn next_signal(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            let message = self.next().await?;
            if message.kind == MessageKind::Signal {
                return Ok(message);
            }
        }
    }

    async fn next(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some(length) = Message::length(&self.read)?
                && self.read.len() >= length
            {
                let bytes: Vec<u8> = self.read.drain(..length).collect();
                let mut message = Message::decode(&bytes)?;
                for _ in 0..message.fd_count {
                    message.fds.extend(self.fds.pop_front());
                }
                return Ok(message);
            }
            self.fill().await?;
        }
    }

    async fn write(&mut self, mut bytes: &[u8]) -> Result<(), BusError> {
        while !bytes.is_empty() {
            self.stream.writable().await?;
            match self.stream.try_write(bytes) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Reads what is there, and waits until there is something.
    async fn fill(&mut self) -> Result<(), BusError> {
        loop {
            self.stream.readable().await?;
            let mut bytes = [0; 4096];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let received = self.stream.try_io(Interest::READABLE, || {
                let mut into = [IoSliceMut::new(&mut bytes)];
                let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
                recvmsg(self.stream.as_fd(), &mut into, &mut ancillary, flags).map_err(io::Error::from)
            });
            let received = match received {
                Ok(received) => received.bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.into()),
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.fds.extend(fds);
                }
            }
            if received == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            self.read.extend(bytes.iter().take(received));
            return Ok(());
        }
    }
}

/// The socket that an address of a bus names; `None` where it names another means of transport.
fn socket_address(address: &str) -> Option<io::Result<SocketAddr>> {
    let keys = address.strip_prefix("unix:")?;
    let value = |name: &str| {
        let found = keys.split(',').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        found.map(|(_, value)| unescape(value))
    };
    if let Some(path) = value("path") {
        return Some(SocketAddr::from_pathname(String::from_utf8_lossy(&path).into_owned()));
    }
    value("abstract").map(SocketAddr::from_abstract_name)
}

/// Bytes of a value in an address, in which others than plain ones are `%` and two hexadecimal digits.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}
