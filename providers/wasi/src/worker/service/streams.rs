//! The calls that connect a caller to something: what it sends goes in one direction, what it is sent in the other, each at
//! the pace of who takes it. Whatever a call has begun ends with it.

use std::pin::Pin;

use bytes::Bytes;
use futures::Stream;
use kubewasm_host::{
    LARGEST_WRITE, ModuleKind, Output as _, Stream as OutputStream, exit::Exit, line_discipline::on_screen,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::mpsc,
};
use tonic::{Status, Streaming};

use super::super::hosting::{
    AttachedInput, Attachment, ConnectedCommand, ConnectedExec, ExecInput, ExecProgram, ForwardError, Outlet,
};
use crate::protocol::{
    WireError,
    wire::{self, forward_message, from_caller, to_caller},
};

/// Messages on their way to a caller.
const PIECES: usize = 2;

/// What a caller is sent.
pub(super) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Sender<T> = mpsc::Sender<Result<T, Status>>;

/// The caller has gone.
struct CallerGone;

/// Why there is nothing more to read from a caller.
enum CallerEnd {
    /// It has typed Ctrl-C.
    Interrupted,
    /// It has gone.
    Gone,
}

pub(super) fn channel<T>() -> (Sender<T>, mpsc::Receiver<Result<T, Status>>) {
    mpsc::channel(PIECES)
}

pub(super) fn program(program: wire::Program) -> Result<ExecProgram, Status> {
    let kind = program.kind();
    let kind =
        ModuleKind::try_from(kind).map_err(|error: WireError| Status::invalid_argument(error.to_string()))?;
    Ok(ExecProgram { module: program.module.into(), kind })
}

pub(super) fn command(start: wire::ExecStart) -> Result<(String, ConnectedCommand), Status> {
    let wire::ExecStart { id, argv, program: of_image, stdin, tty, size } = start;
    if argv.is_empty() {
        return Err(Status::invalid_argument("argv is empty"));
    }
    let program = of_image.map(program).transpose()?;
    let size = size.map(|wire::WindowSize { columns, lines }| (columns, lines));
    Ok((id, ConnectedCommand { argv, program, stdin, tty, size }))
}

/// The first message of a call.
pub(super) async fn first(
    incoming: &mut Streaming<wire::FromCaller>,
) -> Result<Option<from_caller::Message>, Status> {
    Ok(incoming.message().await?.and_then(|first| first.message))
}

fn piece(is_terminal: bool, stream: OutputStream, bytes: &Bytes) -> wire::ToCaller {
    let message = match stream {
        _ if is_terminal => to_caller::Message::Stdout(on_screen(bytes).into()),
        OutputStream::Stdout => to_caller::Message::Stdout(bytes.to_vec()),
        OutputStream::Stderr => to_caller::Message::Stderr(bytes.to_vec()),
    };
    wire::ToCaller::of(message)
}

/// Sends what a guest writes, until there is no more.
async fn send_output(
    outlet: &Outlet,
    is_terminal: bool,
    to: &Sender<wire::ToCaller>,
) -> Result<(), CallerGone> {
    while let Some((stream, bytes)) = outlet.next().await {
        to.send(Ok(piece(is_terminal, stream, &bytes))).await.map_err(|_| CallerGone)?;
    }
    Ok(())
}

/// Somewhere that a caller's input goes. It ends when this is dropped.
trait CallerInput {
    /// True when it was Ctrl-C, which ends what is executed.
    async fn write(&self, bytes: Bytes) -> bool;
}

/// The end of what is dropped is the end of the guest's input.
struct EndingInput(ExecInput);

impl CallerInput for EndingInput {
    async fn write(&self, bytes: Bytes) -> bool {
        self.0.write(bytes).await
    }
}

impl Drop for EndingInput {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl CallerInput for AttachedInput {
    async fn write(&self, bytes: Bytes) -> bool {
        AttachedInput::write(self, bytes).await;
        // The container ends, and is seen to.
        false
    }
}

/// Hands on what a caller sends. Nothing is read from it before the guest has room.
async fn take_input(
    mut incoming: Streaming<wire::FromCaller>,
    mut input: Option<impl CallerInput>,
    ended: tokio::sync::oneshot::Sender<()>,
) -> CallerEnd {
    let mut ended = Some(ended);
    loop {
        let message = match incoming.message().await {
            Ok(Some(message)) => message.message,
            // It will send nothing more, and goes on to listen.
            Ok(None) => Some(from_caller::Message::StdinEnd(wire::StreamEnd {})),
            Err(_) => return CallerEnd::Gone,
        };
        match message {
            Some(from_caller::Message::Stdin(bytes)) => {
                if let Some(input) = &input
                    && input.write(bytes.into()).await
                {
                    return CallerEnd::Interrupted;
                }
            }
            Some(from_caller::Message::StdinEnd(_)) => {
                drop(input.take());
                if let Some(ended) = ended.take() {
                    let _ = ended.send(());
                } else {
                    // Said, and done.
                    std::future::pending::<()>().await;
                }
            }
            Some(from_caller::Message::Exec(_) | from_caller::Message::Attach(_)) | None => {}
        }
    }
}

/// Serves the caller of an exec until that has ended, or the caller has gone, with which it ends.
pub(super) async fn exec(
    exec: ConnectedExec,
    is_terminal: bool,
    incoming: Streaming<wire::FromCaller>,
    to: Sender<wire::ToCaller>,
) {
    let ConnectedExec { outlet, input, end } = exec;
    let mut output = std::pin::pin!(send_output(&outlet, is_terminal, &to));
    let exit = {
        let mut end = end;
        let (said, _) = tokio::sync::oneshot::channel();
        let mut typed = std::pin::pin!(take_input(incoming, input.map(EndingInput), said));
        tokio::select! {
            exit = &mut end => exit,
            end = &mut typed => match end {
                CallerEnd::Interrupted => Exit::interrupted(),
                CallerEnd::Gone => return,
            },
            // It ends only when the caller has gone.
            _ = &mut output => return,
            () = to.closed() => return,
        }
    };
    if !exit.message.is_empty() {
        // Where a person looks who ran a command that crashed.
        outlet.push(OutputStream::Stderr, format!("{}\n", exit.message).into());
    }
    outlet.close();
    if output.await.is_ok() {
        let exit = wire::ToCaller::of(to_caller::Message::Exit((&exit).into()));
        let _ = to.send(Ok(exit)).await;
    }
}

/// Serves a caller that is attached until the container has ended, or the caller has gone, or is too slow. At a terminal, the end of
/// input is how clients leave (kubectl's detach keys); elsewhere, a caller that has said all that it will listens on.
pub(super) async fn attach(
    mut attachment: Attachment,
    incoming: Streaming<wire::FromCaller>,
    to: Sender<wire::ToCaller>,
) {
    let (said, stdin_ended) = tokio::sync::oneshot::channel();
    let listens_on = attachment.outlet.is_some() && !(attachment.input.is_some() && attachment.is_terminal());
    let typed = take_input(incoming, attachment.input.take(), said);
    let left = async {
        if listens_on || stdin_ended.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let output = async {
        let Some(outlet) = &attachment.outlet else {
            return attachment.ended.cancelled().await;
        };
        if send_output(outlet, attachment.is_terminal(), &to).await.is_ok() && outlet.was_given_up() {
            let text =
                "the client does not read what the container writes, and is disconnected; attach again"
                    .to_owned();
            let dropped = wire::ToCaller::of(to_caller::Message::Dropped(text));
            let _ = to.send(Ok(dropped)).await;
        }
    };
    tokio::select! {
        () = output => {}
        () = left => {}
        _ = typed => {}
        () = to.closed() => {}
    }
}

pub(super) fn forward_status(error: &ForwardError) -> Status {
    let text = error.to_string();
    match error {
        ForwardError::NotRunning => Status::not_found(text),
        ForwardError::NoPort(_) | ForwardError::Connect { .. } => Status::unavailable(text),
    }
}

/// Carries a connection in both directions until both have ended, one has failed, or the caller has gone.
pub(super) async fn forward(
    stream: TcpStream,
    mut incoming: Streaming<wire::ForwardMessage>,
    to: Sender<wire::ForwardMessage>,
) {
    let (mut reader, mut writer) = stream.into_split();
    let inwards = async {
        while let Some(message) = incoming.message().await? {
            match message.message {
                Some(forward_message::Message::Data(bytes)) => {
                    writer.write_all(&bytes).await.map_err(|error| Status::aborted(error.to_string()))?;
                }
                Some(forward_message::Message::End(_)) => break,
                Some(forward_message::Message::Start(_)) | None => {}
            }
        }
        // It may have gone meanwhile.
        let _ = writer.shutdown().await;
        Ok(())
    };
    let outwards = async {
        let mut buffer = vec![0; LARGEST_WRITE];
        let message = |message| Ok(wire::ForwardMessage::of(message));
        loop {
            let read = reader.read(&mut buffer).await.map_err(|error| Status::aborted(error.to_string()))?;
            let piece = buffer.get(..read).unwrap_or_default();
            if piece.is_empty() {
                break;
            }
            let data = forward_message::Message::Data(piece.to_vec());
            to.send(message(data)).await.map_err(|_| gone())?;
        }
        to.send(message(forward_message::Message::End(wire::StreamEnd {}))).await.map_err(|_| gone())
    };
    let both = async { tokio::try_join!(inwards, outwards).map(drop) };
    let failed = tokio::select! {
        result = both => result.err(),
        () = to.closed() => None,
    };
    if let Some(status) = failed {
        let _ = to.send(Err(status)).await;
    }
}

/// Nobody hears of it.
fn gone() -> Status {
    Status::cancelled("the caller has gone")
}
