//! Callers that are connected to what runs: their streams on this side, a call of the worker protocol on the other.
//!
//! Each call has a connection of its own. Calls that share one share its window, and a caller that does not read would hold up
//! all else that the worker has to say.

use std::{
    io,
    net::IpAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use kubewasm_host::{LARGEST_WRITE, ModuleKind, exit::CODE_KILLED};
use kubewasm_kubelet::runtime::{CallerStreams, InputStream, OutputStream, TerminalSize};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

use super::{Supervisor, SupervisorError, WorkerFailure, connect::Client, error::GroupError, of_status};
use crate::protocol::{
    Versions,
    wire::{self, forward_message, from_caller, to_caller},
};

/// Messages on their way to a worker.
const PIECES: usize = 1;
/// How long an exec waits to be told how large its terminal is: a client says so at once, and a guest can be told at its start
/// only.
const SIZE: Duration = Duration::from_millis(500);

/// What a caller is told whose connection was cut.
fn cut(ended: &Result<Option<to_caller::Message>, Status>) -> String {
    let why = ended.as_ref().err().map_or("it has ended", Status::message);
    format!("the connection to the container's worker is gone: {why}\n")
}

/// A program of a container's image, in place of the container's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageProgram {
    /// Precompiled.
    pub module: std::path::PathBuf,
    /// What it is.
    pub kind: ModuleKind,
}

impl From<&ImageProgram> for wire::Program {
    fn from(program: &ImageProgram) -> Self {
        let module = program.module.to_string_lossy().into_owned();
        Self { module, kind: wire::Kind::from(program.kind).into() }
    }
}

impl Supervisor {
    /// The worker that hosts a running instance.
    pub(super) async fn host_of(&self, id: &str) -> Result<Client, SupervisorError> {
        let not_running = || SupervisorError::NotRunning(id.to_owned());
        let group = self.view().running_in(id).ok_or_else(not_running)?;
        match self.group(&group).await.client().await {
            Ok(client) => Ok(client),
            Err(GroupError::NoWorker { .. }) => Err(not_running()),
            Err(error) => Err(error.into()),
        }
    }

    /// Runs one more guest in a running container, connected to a caller, to its end. Returns its exit code when the caller
    /// has taken what it wrote. Dropping the future ends it.
    ///
    /// # Errors
    /// [`SupervisorError`] when it could not be started.
    pub async fn exec_stream(
        &self,
        id: &str,
        argv: &[String],
        program: Option<&ImageProgram>,
        mut streams: CallerStreams,
    ) -> Result<i32, SupervisorError> {
        let client = self.host_of(id).await?;
        let size = if streams.tty { size(&mut streams).await } else { None };
        let start = wire::ExecStart {
            id: id.to_owned(),
            argv: argv.to_vec(),
            program: program.map(Into::into),
            stdin: streams.stdin.is_some(),
            tty: streams.tty,
            size,
        };
        let (requests, receiver) = requests(from_caller::Message::Exec(start));
        let mut worker = streaming(&client).await?;
        let answers = worker.exec_stream(receiver).await;
        let answers = answers.map_err(|status| failed(id, status))?.into_inner();
        let CallerStreams { stdin, stdout, stderr, .. } = streams;
        let mut written = Written { stdout, stderr };
        let ended = tokio::select! {
            ended = written.take(answers) => ended,
            // The caller has gone, and what runs goes with it.
            () = send_input(stdin, requests) => return Ok(CODE_KILLED),
        };
        let code = match &ended {
            Ok(Some(to_caller::Message::Exit(exit))) => exit.code,
            Ok(_) | Err(_) => {
                written.error(cut(&ended).as_bytes()).await;
                CODE_KILLED
            }
        };
        written.finish().await;
        Ok(code)
    }

    /// Connects a caller to the standard streams of a running instance, until that ends. Dropping the future takes the caller
    /// away.
    ///
    /// # Errors
    /// [`SupervisorError`] when there was nothing to connect to.
    pub async fn attach(&self, id: &str, streams: CallerStreams) -> Result<(), SupervisorError> {
        let client = self.host_of(id).await?;
        let CallerStreams { stdin, stdout, stderr, earlier, .. } = streams;
        let start = wire::AttachStart {
            id: id.to_owned(),
            stdin: stdin.is_some(),
            output: stdout.is_some() || stderr.is_some(),
            earlier,
        };
        let (requests, receiver) = requests(from_caller::Message::Attach(start));
        let mut worker = streaming(&client).await?;
        let answers = worker.attach(receiver).await;
        let answers = answers.map_err(|status| failed(id, status))?.into_inner();
        let mut written = Written { stdout, stderr };
        let ended = tokio::select! {
            ended = written.take(answers) => ended,
            () = send_input(stdin, requests) => return Ok(()),
        };
        match &ended {
            Ok(Some(to_caller::Message::Dropped(text))) => {
                written.error(format!("{text}\n").as_bytes()).await;
            }
            Ok(_) => {}
            Err(_) => written.error(cut(&ended).as_bytes()).await,
        }
        written.finish().await;
        Ok(())
    }

    /// Connects to a TCP port of a pod; `addresses` are the pod's own, where its network is a namespace that others have made.
    /// Dropping the connection ends it.
    ///
    /// # Errors
    /// [`SupervisorError::NotRunning`] when nothing of the pod runs, and others.
    pub async fn forward(
        &self,
        pod_uid: &str,
        port: u16,
        addresses: &[IpAddr],
    ) -> Result<ForwardedConnection, SupervisorError> {
        let not_running = || SupervisorError::NotRunning(pod_uid.to_owned());
        let of_pod = |claims: Vec<(String, super::Claim)>| {
            claims.into_iter().filter(|(_, claim)| claim.pod_uid == pod_uid).map(|(id, _)| id)
        };
        let running = of_pod(self.claims().0).find(|id| self.view().running_in(id).is_some());
        let client = self.host_of(&running.ok_or_else(not_running)?).await?;
        let addresses = addresses.iter().map(ToString::to_string).collect();
        let start = wire::ForwardStart { pod_uid: pod_uid.to_owned(), port: port.into(), addresses };
        let (requests, receiver) = mpsc::channel(PIECES);
        let first = forward_message::Message::Start(start);
        // There is room for one.
        let _ = requests.try_send(wire::ForwardMessage::of(first));
        let mut worker = streaming(&client).await?;
        let answers = worker.forward(ReceiverStream::new(receiver)).await;
        let answers = answers.map_err(|status| match status.code() {
            Code::NotFound => not_running(),
            Code::Unavailable => SupervisorError::Connection(status.message().to_owned()),
            _ => failed(pod_uid, status),
        })?;
        let (near, far) = tokio::io::duplex(LARGEST_WRITE);
        let carry = tokio::spawn(carry(far, requests, answers.into_inner()));
        Ok(ForwardedConnection { near, failure: None, carry: Some(AbortOnDropHandle::new(carry)) })
    }
}

/// A client of a worker, with a connection of its own.
async fn streaming(
    client: &Client,
) -> Result<wire::worker_client::WorkerClient<tonic::transport::Channel>, SupervisorError> {
    if client.version < Versions::STREAMS {
        return Err(SupervisorError::OldWorker);
    }
    let connected = tokio::time::timeout(super::CALL, client.streams.connect()).await;
    let channel = connected.map_err(|_| WorkerFailure::NoAnswer)?;
    let channel = channel.map_err(|error| of_status(Status::unavailable(error.to_string())))?;
    Ok(wire::worker_client::WorkerClient::new(channel))
}

/// Why there is nothing to be connected to.
fn failed(id: &str, status: Status) -> SupervisorError {
    match status.code() {
        Code::NotFound => SupervisorError::NotRunning(id.to_owned()),
        Code::Unimplemented => SupervisorError::OldWorker,
        _ => of_status(status),
    }
}

/// The size of the caller's terminal, if it is told soon.
async fn size(streams: &mut CallerStreams) -> Option<wire::WindowSize> {
    let told = tokio::time::timeout(SIZE, streams.size.wait_for(Option::is_some)).await;
    let TerminalSize { cols, rows } = (*told.ok()?.ok()?)?;
    Some(wire::WindowSize { columns: cols.into(), lines: rows.into() })
}

type Requests = mpsc::Sender<wire::FromCaller>;

/// Where messages go, the first of which is there already.
fn requests(first: from_caller::Message) -> (Requests, ReceiverStream<wire::FromCaller>) {
    let (requests, receiver) = mpsc::channel(PIECES);
    // There is room for one.
    let _ = requests.try_send(wire::FromCaller::of(first));
    (requests, ReceiverStream::new(receiver))
}

/// Sends what a caller sends, at the worker's pace. Returns when the caller has gone; otherwise never.
async fn send_input(stdin: Option<InputStream>, requests: Requests) {
    let send = async |message| requests.send(wire::FromCaller::of(message)).await.is_ok();
    if let Some(mut stdin) = stdin {
        let mut buffer = vec![0; LARGEST_WRITE];
        loop {
            let Ok(read) = stdin.read(&mut buffer).await else { return };
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() || !send(from_caller::Message::Stdin(piece.to_vec())).await {
                break;
            }
        }
    }
    // One who does not listen any more has ended, and says so elsewhere.
    send(from_caller::Message::StdinEnd(wire::StreamEnd {})).await;
    std::future::pending().await
}

/// Where a caller is written to. One of the streams may be gone before the other.
struct Written {
    stdout: Option<OutputStream>,
    stderr: Option<OutputStream>,
}

impl Written {
    /// Writes what comes, at the caller's pace, until something comes that is no output, which is returned, or nothing.
    async fn take(
        &mut self,
        mut answers: Streaming<wire::ToCaller>,
    ) -> Result<Option<to_caller::Message>, Status> {
        while let Some(answer) = answers.message().await? {
            match answer.message {
                Some(to_caller::Message::Stdout(bytes)) => write(&mut self.stdout, &bytes).await,
                Some(to_caller::Message::Stderr(bytes)) => write(&mut self.stderr, &bytes).await,
                other @ Some(to_caller::Message::Exit(_) | to_caller::Message::Dropped(_)) => {
                    return Ok(other);
                }
                None => {}
            }
        }
        Ok(None)
    }

    /// Writes where errors go.
    async fn error(&mut self, text: &[u8]) {
        let to = if self.stderr.is_some() { &mut self.stderr } else { &mut self.stdout };
        write(to, text).await;
    }

    async fn finish(&mut self) {
        for stream in [&mut self.stdout, &mut self.stderr].into_iter().flatten() {
            // Whoever is gone needs no end.
            let _ = stream.shutdown().await;
        }
    }
}

/// Writes to a stream, which is given up when nobody takes it.
async fn write(to: &mut Option<OutputStream>, bytes: &[u8]) {
    let Some(stream) = to else { return };
    let written = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    if written.await.is_err() {
        *to = None;
    }
}

/// A connection to a port of a pod.
#[derive(Debug)]
pub struct ForwardedConnection {
    near: DuplexStream,
    /// Why it was cut.
    failure: Option<io::Error>,
    /// What carries it; over when both directions are.
    carry: Option<AbortOnDropHandle<io::Result<()>>>,
}

/// Carries both directions of a connection, until both have ended or one has failed.
async fn carry(
    far: DuplexStream,
    requests: mpsc::Sender<wire::ForwardMessage>,
    mut answers: Streaming<wire::ForwardMessage>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(far);
    let cut = |why: String| io::Error::new(io::ErrorKind::ConnectionReset, why);
    let there = async {
        let send = async |message| {
            let message = wire::ForwardMessage::of(message);
            requests.send(message).await.map_err(|_| cut("the connection to the worker has ended".to_owned()))
        };
        let mut buffer = vec![0; LARGEST_WRITE];
        loop {
            let read = reader.read(&mut buffer).await?;
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() {
                return send(forward_message::Message::End(wire::StreamEnd {})).await;
            }
            send(forward_message::Message::Data(piece.to_vec())).await?;
        }
    };
    let back = async {
        loop {
            let answer = answers.message().await.map_err(|status| cut(status.message().to_owned()))?;
            match answer.and_then(|answer| answer.message) {
                Some(forward_message::Message::Data(bytes)) => writer.write_all(&bytes).await?,
                Some(forward_message::Message::End(_)) => return writer.shutdown().await,
                Some(forward_message::Message::Start(_)) => {}
                None => return Err(cut("the worker has ended the connection".to_owned())),
            }
        }
    };
    tokio::try_join!(there, back).map(drop)
}

impl ForwardedConnection {
    /// How it was cut, once it was.
    fn failure(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        if let Some(carry) = &mut self.carry
            && let Poll::Ready(ended) = Pin::new(carry).poll(cx)
        {
            self.carry = None;
            self.failure = ended.unwrap_or_else(|_| Err(io::ErrorKind::ConnectionReset.into())).err();
        }
        self.failure.take()
    }
}

impl AsyncRead for ForwardedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let had_room = buffer.remaining() > 0;
        let read = Pin::new(&mut self.near).poll_read(cx, buffer);
        let is_end = matches!(read, Poll::Ready(Ok(()))) && had_room && buffer.filled().len() == before;
        // One that was cut is no end.
        if is_end && let Some(error) = self.failure(cx) {
            return Poll::Ready(Err(error));
        }
        read
    }
}

impl AsyncWrite for ForwardedConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.near).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}
