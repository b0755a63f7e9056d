//! One more guest in a container that runs: of its own module, or of another program of its image.

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use kubewasm_host::{
    Capture, Guest, Input, InputPipe, InputSource, Loaded, ModuleKind, Output, Setup, Stream, exit::Exit,
};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::AbortOnDropHandle;

use super::{
    HostedInstance, Hosting, HostingError, fault_of_ours, keyboard::Keyboard, outlet::Outlet, setup,
};
use crate::worker::handover::HeldDirectories;

/// Another program than the container's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::worker) struct ExecProgram {
    /// Precompiled.
    pub(in crate::worker) module: PathBuf,
    pub(in crate::worker) kind: ModuleKind,
}

/// What is executed for a caller.
#[derive(Clone, Debug)]
pub(in crate::worker) struct ConnectedCommand {
    pub(in crate::worker) argv: Vec<String>,
    pub(in crate::worker) program: Option<ExecProgram>,
    /// The caller sends input.
    pub(in crate::worker) stdin: bool,
    /// The caller's side is a terminal, of so many columns and lines where that is known.
    pub(in crate::worker) tty: bool,
    pub(in crate::worker) size: Option<(u32, u32)>,
}

/// How an exec ended.
#[derive(Debug)]
pub(in crate::worker) struct ExecOutcome {
    pub(in crate::worker) exit_code: i32,
    pub(in crate::worker) output: Vec<u8>,
    pub(in crate::worker) timed_out: bool,
}

/// A guest that is connected to a caller.
pub(in crate::worker) struct ConnectedExec {
    /// What it writes.
    pub(in crate::worker) outlet: Outlet,
    /// What it reads, if the caller sends any.
    pub(in crate::worker) input: Option<ExecInput>,
    /// Its end. Dropped, it ends.
    pub(in crate::worker) end: Pin<Box<dyn Future<Output = Exit> + Send>>,
}

/// What the caller of an exec sends.
#[derive(Debug)]
pub(in crate::worker) struct ExecInput {
    pipe: Arc<InputPipe>,
    keyboard: Option<Keyboard>,
    /// Where keys are shown.
    screen: Outlet,
}

impl ExecInput {
    /// Writes what the caller has sent, once there is room. True when it was Ctrl-C at a terminal.
    pub(in crate::worker) async fn write(&self, bytes: Bytes) -> bool {
        let Some(keyboard) = &self.keyboard else {
            self.pipe.write(bytes).await;
            return false;
        };
        keyboard.press(&bytes, |echo| {
            // A screen that is full misses keys.
            self.screen.push(Stream::Stdout, echo);
        })
    }

    /// The caller sends nothing more.
    pub(in crate::worker) fn end(&self) {
        self.pipe.end();
    }
}

/// What a guest is made of that is executed.
struct Command<'a> {
    argv: &'a [String],
    program: Option<&'a ExecProgram>,
    env: &'a [(String, String)],
    output: &'a Arc<dyn Output>,
    input: Input<'a>,
    terminal: bool,
}

/// A guest that does not run yet, and the directories that it has: their paths are numbers of descriptors, which are held
/// for as long as it runs.
struct PreparedExec {
    guest: Guest,
    held: Arc<HeldDirectories>,
    permit: OwnedSemaphorePermit,
}

impl Hosting {
    fn permit(&self) -> Result<OwnedSemaphorePermit, HostingError> {
        Arc::clone(&self.0.execs).try_acquire_owned().map_err(|_| HostingError::Busy)
    }

    async fn loaded(
        &self,
        running: &HostedInstance,
        program: Option<&ExecProgram>,
    ) -> Result<Arc<Loaded>, HostingError> {
        let spec = &running.spec;
        let (module, kind) =
            program.map_or((&spec.module, spec.kind), |program| (&program.module, program.kind));
        match kind {
            ModuleKind::CoreCommand | ModuleKind::CliComponent | ModuleKind::CliComponentP3 => {}
            ModuleKind::HttpComponent | ModuleKind::HttpComponentP3 => return Err(HostingError::Serves),
            ModuleKind::EmbeddedCore | ModuleKind::EmbeddedComponent => return Err(HostingError::NoCommand),
        }
        if *module == spec.module && kind == spec.kind {
            return Ok(Arc::clone(&running.loaded));
        }
        Ok(self.0.host.load(module, kind, spec.stack).await?)
    }

    async fn prepare(
        &self,
        running: &HostedInstance,
        command: Command<'_>,
    ) -> Result<PreparedExec, HostingError> {
        let inner = &self.0;
        let permit = self.permit()?;
        let HostedInstance { spec, root, account, .. } = running;
        let Command { argv, program, env, output, input, terminal } = command;
        let loaded = self.loaded(running, program).await?;
        let held = root.held().ok_or(HostingError::NotRunning)?;
        let pod = inner.pod_share(&spec.pod_uid);
        let setup = Setup { argv, env, input, terminal, ..setup(spec, &held, output, account, &pod) };
        let guest = inner.host.prepare(loaded, setup)?;
        Ok(PreparedExec { guest, held, permit })
    }

    /// Runs one more guest in a running container. It ends with this future, with the container, and when `timeout` is over.
    pub(in crate::worker) async fn exec(
        &self,
        id: &str,
        argv: &[String],
        program: Option<&ExecProgram>,
        timeout: Duration,
        output_limit: usize,
    ) -> Result<ExecOutcome, HostingError> {
        let running = self.0.table.running(id).ok_or(HostingError::NotRunning)?;
        let capture = Capture::new(output_limit);
        let output: Arc<dyn Output> = Arc::new(capture.clone());
        let spec = &running.spec;
        let command = Command {
            argv,
            program,
            env: &spec.env,
            output: &output,
            input: Input::Nothing,
            terminal: spec.terminal,
        };
        let PreparedExec { guest, held: _held, permit: _permit } = self.prepare(&running, command).await?;
        let guest = AbortOnDropHandle::new(self.0.threads.guests.spawn(guest.run()));
        let (exit, timed_out) = tokio::select! {
            exit = guest => (exit.unwrap_or_else(|_| fault_of_ours()), false),
            () = running.ended.cancelled() => (Exit::stopped(true), false),
            () = tokio::time::sleep(timeout) => (Exit::stopped(true), true),
        };
        let mut output = capture.take();
        if !exit.message.is_empty() {
            // Where a person looks who ran a command that crashed.
            let room = output_limit.saturating_sub(output.len());
            output.extend(format!("{}\n", exit.message).bytes().take(room));
        }
        Ok(ExecOutcome { exit_code: exit.code, output, timed_out })
    }

    /// Runs one more guest in a running container, connected to a caller. It ends with what is returned, and with the
    /// container.
    pub(in crate::worker) async fn exec_connected(
        &self,
        id: &str,
        command: &ConnectedCommand,
    ) -> Result<ConnectedExec, HostingError> {
        let running = self.0.table.running(id).ok_or(HostingError::NotRunning)?;
        let outlet = Outlet::default();
        let output: Arc<dyn Output> = Arc::new(outlet.clone());
        let pipe = command.stdin.then(|| InputPipe::new(command.tty, None));
        let source = pipe.clone().map(|pipe| pipe as Arc<dyn InputSource>);
        let env = environment(&running.spec.env, command);
        let prepared = Command {
            argv: &command.argv,
            program: command.program.as_ref(),
            env: &env,
            output: &output,
            input: source.as_ref().map_or(Input::Nothing, Input::From),
            terminal: command.tty,
        };
        let PreparedExec { guest, held, permit } = self.prepare(&running, prepared).await?;
        let guest = AbortOnDropHandle::new(self.0.threads.guests.spawn(guest.run()));
        let ended = running.ended.clone();
        let end = async move {
            let _held = (held, permit);
            tokio::select! {
                exit = guest => exit.unwrap_or_else(|_| fault_of_ours()),
                () = ended.cancelled() => Exit::stopped(true),
            }
        };
        let input = pipe.map(|pipe| ExecInput {
            keyboard: command.tty.then(|| Keyboard::new(&pipe)),
            pipe,
            screen: outlet.clone(),
        });
        Ok(ConnectedExec { outlet, input, end: Box::pin(end) })
    }
}

/// The environment of a guest that is executed: its container's, and at a terminal what says how large that is, since WASI has
/// nothing that does.
fn environment(of_container: &[(String, String)], command: &ConnectedCommand) -> Vec<(String, String)> {
    let mut env = of_container.to_vec();
    if !command.tty {
        return env;
    }
    let size = command
        .size
        .into_iter()
        .flat_map(|(columns, lines)| [("COLUMNS", columns.to_string()), ("LINES", lines.to_string())]);
    for (name, value) in std::iter::once(("TERM", "xterm".to_owned())).chain(size) {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value));
        }
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_of_in_the_environment() {
        let command =
            |tty, size| ConnectedCommand { argv: vec!["x".into()], program: None, stdin: true, tty, size };
        let of_container = [("LINES".to_owned(), "7".to_owned())];
        let env = |command| {
            let env = environment(&of_container, &command).into_iter();
            env.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(env(command(false, Some((80, 24)))), "LINES=7");
        assert_eq!(env(command(true, None)), "LINES=7 TERM=xterm");
        assert_eq!(env(command(true, Some((80, 24)))), "LINES=7 TERM=xterm COLUMNS=80");
    }
}
