//! One run of a plugin, from its first instruction to the exit code that kubectl answers.

use std::{
    env, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kubewasm_host::{
    CpuShare, GuestLimits, Host, HostError, HostOptions, HttpSender, Input, LoadError, ModuleKind, Output,
    PrepareError, Setup, Stack,
    exit::{Exit, ExitReason},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    access::AccessRules,
    cluster::ClusterChoice,
    console::Console,
    directories::{self, DirectoryError},
    environment::environment,
    grants::{Grant, Grants},
    name::PluginName,
    outbound_http::{OUTBOUND_HTTP, OutboundHttp},
    sender::PluginSender,
    terminal::{self, RawTerminal},
    virtual_kubeconfig::VirtualKubeconfig,
};

/// What a shell answers for a program that a signal has ended: 128 and the signal's number.
const INTERRUPTED: u8 = 128 + 2;
const HUNG_UP: u8 = 128 + 1;
const TERMINATED: u8 = 128 + 15;
const BROKEN_PIPE: u8 = 128 + 13;

/// A plugin's machine code, and what it is.
#[derive(Clone, Debug)]
pub struct PluginProgram {
    /// The file that a compiler made.
    pub code: PathBuf,
    /// How it is run.
    pub kind: ModuleKind,
    /// It imports what plugins of krew-wasm's do, and reads a kubeconfig first.
    pub reads_kubeconfig: bool,
}

impl PluginProgram {
    /// What a compiler has found out about a module: how it can be run, and what it imports. `None` for one that is no command.
    #[must_use]
    pub fn new(
        code: PathBuf,
        kinds: impl IntoIterator<Item = ModuleKind>,
        imports: &[String],
    ) -> Option<Self> {
        let reads_kubeconfig = imports.iter().any(|import| import == OUTBOUND_HTTP);
        command_kind(kinds).map(|kind| Self { code, kind, reads_kubeconfig })
    }
}

/// What a plugin is run with.
#[derive(Debug)]
pub struct PluginSetup {
    /// What it is called in messages.
    pub name: PluginName,
    /// Its arguments, `argv[0]` included.
    pub argv: Vec<String>,
    /// What its user has granted it.
    pub grants: Grants,
    /// All that it may ask of the API server; `None` for what its user may ask for.
    pub access: Option<AccessRules>,
    /// The cluster that it speaks to.
    pub cluster: ClusterChoice,
    /// An empty directory, which is `/` for a plugin without a grant of one. It is made if need be.
    pub empty_root: PathBuf,
}

/// A plugin was not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The host cannot be set up.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Its code cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The guest cannot be made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A granted directory is not to be had.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Something of this process' own.
    #[error("cannot {doing}: {source}")]
    Process {
        /// What.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// How a module is run as a plugin, of all the ways in which it can be: as a command.
fn command_kind(kinds: impl IntoIterator<Item = ModuleKind>) -> Option<ModuleKind> {
    kinds.into_iter().find(|kind| {
        matches!(kind, ModuleKind::CoreCommand | ModuleKind::CliComponent | ModuleKind::CliComponentP3)
    })
}

/// Runs a plugin, with the standard streams of this process, and answers with the exit code for whoever has started it. A signal
/// that would end this process ends the plugin at once.
///
/// # Errors
/// [`RunError`], when the plugin has not begun.
pub async fn run(program: &PluginProgram, setup: PluginSetup) -> Result<u8, RunError> {
    let PluginSetup { name, argv, grants, access, cluster, empty_root } = setup;
    let process = |doing| move |source| RunError::Process { doing, source };
    let mut signals = EndSignals::listen().map_err(process("listen for signals"))?;
    let console = Console::of_process().map_err(process("write output"))?;
    let mut preopens = directories::preopens(&grants, env::home_dir().as_deref(), Path::new("."))?;
    let mut env = environment(user_variables(), &grants, &cluster.namespace, terminal::size());
    let kubeconfig = match program.reads_kubeconfig {
        true => Some(VirtualKubeconfig::write(&cluster.namespace).map_err(process("write a kubeconfig"))?),
        false => None,
    };
    if let Some(kubeconfig) = &kubeconfig {
        preopens.push(kubeconfig.preopen());
        VirtualKubeconfig::tell(&mut env);
    }
    let sender = PluginSender::new(name.clone(), access, cluster, console.clone());
    let sender: Arc<dyn HttpSender> = Arc::new(sender);
    let output: Arc<dyn Output> = Arc::new(console.clone());

    let mut options = HostOptions::new(empty_root);
    options.plugins.push(Arc::new(OutboundHttp));
    let host = Arc::new(Host::new(options)?);
    let loaded = host.load(&program.code, program.kind, Stack::DEFAULT).await?;
    let account = host.account(GuestLimits { memory_bytes: 0, cpu: CpuShare::default() });
    let setup = Setup {
        argv: &argv,
        env: &env,
        preopens: &preopens,
        has_volumes: !preopens.is_empty(),
        http_sender: Some(&sender),
        input: Input::Process,
        ..Setup::isolated(&output, &account)
    };
    let guest = host.prepare(loaded, setup)?;
    let raw = match grants.include(&Grant::RawTerminal) {
        true => RawTerminal::set().map_err(process("set the terminal"))?,
        false => None,
    };
    let ended = tokio::select! {
        exit = guest.run() => Ok(exit),
        code = signals.next() => Err(code),
        () = console.broken().cancelled() => Err(BROKEN_PIPE),
    };
    let code = match ended {
        Ok(exit) => {
            console.flush().await;
            drop(raw);
            let code = exit_code(&exit);
            if let Some(line) = last_line(&name, &exit) {
                console.say(&line);
                console.flush().await;
            }
            code
        }
        // Nobody waits for what was not said yet.
        Err(code) => code,
    };
    Ok(code)
}

/// What this process' environment has, as far as it is text.
fn user_variables() -> impl Iterator<Item = (String, String)> {
    env::vars_os().filter_map(|(name, value)| name.into_string().ok().zip(value.into_string().ok()))
}

/// The guest's own code, or that of what has ended it.
fn exit_code(exit: &Exit) -> u8 {
    match exit.reason {
        // As of any process, the lowest eight bits are seen.
        ExitReason::Exited => exit.code.to_le_bytes()[0],
        _ => u8::try_from(exit.code).unwrap_or(1),
    }
}

/// What is said of an end that the plugin has not chosen.
fn last_line(name: &PluginName, exit: &Exit) -> Option<String> {
    let what = match exit.reason {
        ExitReason::Exited | ExitReason::Stopped => return None,
        ExitReason::Trapped => "the plugin has crashed",
        ExitReason::OutOfMemory => "the plugin is out of memory",
        ExitReason::StartFailed => "the plugin cannot be started",
        ExitReason::Lost => "the plugin was lost",
    };
    Some(match exit.message.as_str() {
        "" => format!("kubectl {name}: {what}"),
        message => format!("kubectl {name}: {what}: {message}"),
    })
}

/// Signals that end a process that does not listen for them.
struct EndSignals {
    interrupt: Signal,
    hang_up: Signal,
    terminate: Signal,
}

impl EndSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The exit code of the next one.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPTED,
            _ = self.hang_up.recv() => HUNG_UP,
            _ = self.terminate.recv() => TERMINATED,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_is_a_command_whatever_else_it_is() {
        use ModuleKind::{CliComponent, CliComponentP3, CoreCommand, HttpComponent, HttpComponentP3};
        assert_eq!(command_kind([HttpComponentP3, CliComponentP3, CliComponent]), Some(CliComponentP3));
        assert_eq!(command_kind([CoreCommand]), Some(CoreCommand));
        assert_eq!(command_kind([HttpComponent]), None);
    }

    #[test]
    fn an_end_has_the_code_that_a_process_would_have() {
        let exit = |code, reason| Exit::new(code, reason, "why");
        for (exit, code, line) in [
            (exit(0, ExitReason::Exited), 0, None),
            (exit(42, ExitReason::Exited), 42, None),
            (exit(256 + 7, ExitReason::Exited), 7, None),
            (exit(134, ExitReason::Trapped), 134, Some("kubectl x: the plugin has crashed: why")),
            (exit(137, ExitReason::OutOfMemory), 137, Some("kubectl x: the plugin is out of memory: why")),
        ] {
            assert_eq!(exit_code(&exit), code, "{exit:?}");
            assert_eq!(last_line(&"x".parse().unwrap(), &exit).as_deref(), line, "{exit:?}");
        }
    }
}
