//! `kubewasm exec`: a command in a pod of `kubewasm run`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use tokio::{io::AsyncWriteExt as _, sync::watch};

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
        let (sizes, _follow) = console::sizes().context("cannot follow the terminal")?;
        let size = sizes.borrow().filter(|_| tty).map(|size| (size.cols, size.rows));
        let ExecArgs { stdin, container, command: argv, .. } = args;
        let ask = serde_json::to_vec(&Ask { container, argv, stdin, tty, size })?;
        let connection = run_socket::connect(&folder).await?;
        let _raw = tty.then(RawConsole::set).transpose().context("cannot use this terminal")?;
        let terminated = async {
            let mut signal = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
            signal.recv().await;
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

async fn talk(
    connection: tokio::net::UnixStream,
    ask: Vec<u8>,
    stdin: bool,
    sizes: Option<watch::Receiver<Option<kubewasm_kubelet::runtime::TerminalSize>>>,
) -> anyhow::Result<i32> {
    let (mut from, mut to) = connection.into_split();
    Frame::Ask(ask).write(&mut to).await?;
    let send = async {
        let input = stdin.then(ConsoleInput::open);
        let mut is_open = input.is_some();
        let mut sizes = sizes;
        loop {
            let piece = async {
                match &input {
                    Some(input) if is_open => input.next().await,
                    _ => std::future::pending().await,
                }
            };
            let resized = async {
                match &mut sizes {
                    Some(sizes) => match sizes.changed().await {
                        Ok(()) => *sizes.borrow_and_update(),
                        Err(_) => std::future::pending().await,
                    },
                    None => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                piece = piece => match piece {
                    Some(piece) => Frame::Stdin(piece),
                    None => {
                        is_open = false;
                        Frame::StdinEnd
                    }
                },
                size = resized => match size {
                    Some(size) => Frame::Size(size.cols, size.rows),
                    None => continue,
                },
            };
            if frame.write(&mut to).await.is_err() {
                // What has come of it is said by the other direction.
                return std::future::pending::<()>().await;
            }
        }
    };
    let receive = async {
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
    };
    tokio::select! {
        code = receive => code,
        () = send => bail!("standard input cannot be sent"),
    }
}
