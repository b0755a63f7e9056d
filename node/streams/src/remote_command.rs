//! exec and attach: which stream is what, sizes of terminals, and how it ended.

mod sizes;
mod status;
#[cfg(test)]
mod tests;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::watch,
};

pub use sizes::TerminalSize;
#[cfg(any(fuzzing, test))]
pub(crate) use sizes::read as read_sizes;
pub use status::Outcome;

use self::status::StatusStream;
use crate::{
    ConnectionError, Stream, StreamTimes,
    negotiation::{ChannelVersion, RemoteCommandProtocol},
    spdy::{self, IncomingStreams},
    websocket::{self, Channel, Codec},
};

/// The streams that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Input.
    pub stdin: bool,
    /// Output.
    pub stdout: bool,
    /// Errors; with `tty`, they are part of the output.
    pub stderr: bool,
    /// The caller's side is a terminal.
    pub tty: bool,
}

/// The streams of a caller, as they were asked for.
#[derive(Debug)]
pub struct Streams {
    /// From the caller.
    pub stdin: Option<Stream>,
    /// To the caller.
    pub stdout: Option<Stream>,
    /// To the caller.
    pub stderr: Option<Stream>,
    /// The size of the caller's terminal.
    pub size: watch::Receiver<Option<TerminalSize>>,
}

/// Serves exec or attach on an upgraded connection: `run` gets the streams, once they are all there, and says how it ended.
/// Returns when the client has gone. It is dropped when the client goes before that, and so is `run`.
///
/// # Errors
/// [`ConnectionError`]: how the client went, if it was not by closing the connection.
pub async fn serve<F: Future<Output = Outcome>>(
    io: impl AsyncRead + AsyncWrite + Unpin,
    protocol: RemoteCommandProtocol,
    wanted: Wanted,
    times: StreamTimes,
    run: impl FnOnce(Streams) -> F,
) -> Result<(), ConnectionError> {
    match protocol {
        RemoteCommandProtocol::Spdy(version) => {
            let (incoming, connection) = spdy::serve(io, times);
            let session = async {
                let opened = opened(incoming, version, wanted);
                let opened = tokio::time::timeout(times.creation, opened).await;
                let opened = opened.ok().flatten().ok_or(ConnectionError::NoStreams)?;
                opened.run(version, run).await;
                Ok(())
            };
            alongside(connection, session).await
        }
        RemoteCommandProtocol::WebSocket(version, encoding) => {
            let is = |asked: bool, channel| if asked { channel } else { Channel::Unused };
            let channels = [
                is(wanted.stdin, Channel::Read),
                is(wanted.stdout, Channel::Write),
                is(wanted.stderr, Channel::Write),
                Channel::Write,
                Channel::Read,
            ];
            let greeted = match wanted {
                Wanted { stdout: true, .. } => 1,
                Wanted { stderr: true, .. } => 2,
                _ => 3,
            };
            let codec = Codec { version, encoding };
            let (streams, connection) = websocket::serve(io, codec, &channels, Some(greeted), times);
            let mut streams = streams.into_iter();
            let mut next = |is_wanted: bool| streams.next().filter(|_| is_wanted);
            let opened = Opened {
                stdin: next(wanted.stdin),
                stdout: next(wanted.stdout),
                stderr: next(wanted.stderr),
                error: next(true),
                resize: next(true),
            };
            drop(streams);
            let session = async {
                opened.run(version, run).await;
                Ok(())
            };
            alongside(connection, session).await
        }
    }
}

/// Runs a session on a connection, which goes on until it has sent everything.
async fn alongside(
    connection: impl Future<Output = Result<(), ConnectionError>>,
    session: impl Future<Output = Result<(), ConnectionError>>,
) -> Result<(), ConnectionError> {
    let mut connection = std::pin::pin!(connection);
    {
        let session = std::pin::pin!(session);
        tokio::select! {
            ended = &mut connection => return ended,
            ended = session => ended?,
        }
    }
    connection.await
}

/// Streams that have come.
#[derive(Debug, Default)]
struct Opened {
    stdin: Option<Stream>,
    stdout: Option<Stream>,
    stderr: Option<Stream>,
    error: Option<Stream>,
    resize: Option<Stream>,
}

/// Waits for all the streams that a request asks for; `None` when the connection is gone. One that was not asked for is
/// accepted, and ended unused; one that nobody knows, or that is there, is refused.
async fn opened(mut incoming: IncomingStreams, version: ChannelVersion, wanted: Wanted) -> Option<Opened> {
    let mut opened = Opened::default();
    let has_size = wanted.tty && version >= ChannelVersion::V3;
    loop {
        let is_complete = opened.error.is_some()
            && (opened.stdin.is_some() || !wanted.stdin)
            && (opened.stdout.is_some() || !wanted.stdout)
            && (opened.stderr.is_some() || !wanted.stderr)
            && (opened.resize.is_some() || !has_size);
        if is_complete {
            return Some(Opened {
                stdin: opened.stdin.filter(|_| wanted.stdin),
                stdout: opened.stdout.filter(|_| wanted.stdout),
                stderr: opened.stderr.filter(|_| wanted.stderr),
                ..opened
            });
        }
        let stream = incoming.next().await?;
        let place = match stream.headers().get("streamtype") {
            Some("error") => &mut opened.error,
            Some("stdin") => &mut opened.stdin,
            Some("stdout") => &mut opened.stdout,
            Some("stderr") => &mut opened.stderr,
            Some("resize") => &mut opened.resize,
            other => {
                tracing::debug!(kind = other, "a client opens a stream of an unknown kind");
                continue;
            }
        };
        if place.is_none() {
            *place = Some(stream.accept());
        }
    }
}

impl Opened {
    async fn run<F: Future<Output = Outcome>>(self, version: ChannelVersion, run: impl FnOnce(Streams) -> F) {
        let (sender, size) = watch::channel(None);
        let Self { stdin, stdout, stderr, error, resize } = self;
        let outcome = {
            let running = run(Streams { stdin, stdout, stderr, size });
            let sizes = async {
                if let Some(resize) = resize {
                    sizes::follow(resize, &sender).await;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                outcome = running => outcome,
                () = sizes => return,
            }
        };
        if let Some(error) = error {
            StatusStream::new(error, version).tell(&outcome).await;
        }
    }
}
