//! `kubewasm exec`: a command in a pod of `kubewasm run`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use kubewasm_kubelet::runtime::TerminalSize;
use tokio::{
    io::AsyncWriteExt as _,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    console::{self, ConsoleInput, RawConsole},
    run_socket::{self, Ask, Frame},
};

/// Arguments of `kubewasm exec`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecArgs {
    /// Pass standard input on to the command.
    #[arg(short = 'i', long)]
    stdin: bool,

    /// The command is at a terminal: this one.
    #[arg(short, long)]
    tty: bool,

    /// The container [default: the pod's first one].
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,

    /// The name of a pod that `kubewasm run` runs.
    #[arg(value_name = "POD")]
    pod: String,

    /// A program of the container's image, with its arguments; in a container whose image is one module, another instance of
    /// that.
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

/// Runs the command to its end; the exit code is the command's.
pub(crate) fn main(args: ExecArgs) -> anyhow::Result<ExitCode> {
    let folder = run_socket::find(&args.pod)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let tty = console::wants_terminal(args.tty);
    let code = tokio.block_on(async {
        let sizes = console::sizes().context("cannot follow the terminal")?;
        let size = sizes.borrow().filter(|_| tty).map(|size| (size.cols, size.rows));
        let ExecArgs { stdin, container, command: argv, .. } = args;
        let ask = serde_json::to_vec(&Ask { container, argv, stdin, tty, size })?;
        let connection = run_socket::connect(&folder).await?;
        let _raw = tty.then(RawConsole::set).transpose().context("cannot use this terminal")?;
        let terminated = async {
            signal(SignalKind::terminate())?.recv().await;
            anyhow::Ok(())
        };
        tokio::select! {
            code = talk(connection, ask, stdin, tty.then_some(sizes)) => code,
            // The terminal is given back on the way out.
            ended = terminated => ended.map(|()| 143),
        }
    })?;
    // Nobody waits for a thread that still reads what is typed.
    tokio.shutdown_background();
    Ok(exit_code(code))
}

/// As a shell shows a code: its last byte.
fn exit_code(code: i32) -> ExitCode {
    let [last, ..] = code.to_le_bytes();
    ExitCode::from(last)
}

/// The sizes of a terminal, where there is one.
type Sizes = Option<watch::Receiver<Option<TerminalSize>>>;

async fn talk(connection: UnixStream, ask: Vec<u8>, stdin: bool, sizes: Sizes) -> anyhow::Result<i32> {
    let (from, mut to) = connection.into_split();
    Frame::Ask(ask).write(&mut to).await?;
    tokio::select! {
        code = receive(from) => code,
        () = send(to, stdin, sizes) => bail!("standard input cannot be sent"),
    }
}

/// Sends what is typed, and how large the terminal is. Goes on for ever.
async fn send(mut to: OwnedWriteHalf, stdin: bool, mut sizes: Sizes) {
    let mut input = stdin.then(ConsoleInput::open);
    loop {
        let typed = async {
            match &input {
                Some(input) => input.next().await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            piece = typed => match piece {
                Some(piece) => Frame::Stdin(piece),
                None => {
                    input = None;
                    Frame::StdinEnd
                }
            },
            size = resized(&mut sizes) => Frame::Size(size.cols, size.rows),
        };
        if frame.write(&mut to).await.is_err() {
            // What has come of it is said by the other direction.
            return std::future::pending().await;
        }
    }
}

/// Waits until the terminal has another size.
async fn resized(sizes: &mut Sizes) -> TerminalSize {
    if let Some(sizes) = sizes {
        while sizes.changed().await.is_ok() {
            if let Some(size) = *sizes.borrow_and_update() {
                return size;
            }
        }
    }
    std::future::pending().await
}

/// Shows what comes, to the end of the command.
async fn receive(mut from: OwnedReadHalf) -> anyhow::Result<i32> {
    let (mut out, mut err) = (console::output(false), console::output(true));
    loop {
        let (to, bytes) = match Frame::read(&mut from).await? {
            Some(Frame::Stdout(bytes)) => (&mut out, bytes),
            Some(Frame::Stderr(bytes)) => (&mut err, bytes),
            Some(Frame::Exit(code)) => return Ok(code),
            Some(Frame::Failed(why)) => bail!("{why}"),
            Some(_) | None => bail!("the `kubewasm run` of the pod has ended"),
        };
        to.write_all(&bytes).await?;
        to.flush().await?;
    }
}
