//! The processes that a node starts of this same program.

use std::{ffi::CStr, path::PathBuf, process::ExitCode};

use kubewasm_host::compile::{self, ChildOptions};
use kubewasm_wasi::{
    confine::Confinement,
    logs::LogOptions,
    mounter::{self, MounterOptions},
    worker,
};

/// Arguments of `kubewasm worker`.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// The Unix socket to listen on.
    #[arg(long)]
    socket: PathBuf,
    /// End when standard input ends.
    #[arg(long)]
    with_parent: bool,
    /// Bytes of memory that a container without a limit of its own may have.
    #[arg(long)]
    default_memory_limit: Option<u64>,
    /// Bytes at which a log file is rotated.
    #[arg(long)]
    log_max_size: Option<u64>,
    /// Log files kept for a container.
    #[arg(long)]
    log_max_files: Option<u32>,
    /// A file or directory that the worker must not see.
    #[arg(long)]
    hidden: Vec<PathBuf>,
    /// A directory in those that the worker sees nevertheless.
    #[arg(long)]
    shown: Vec<PathBuf>,
    /// Whether the worker runs where it cannot be confined as a whole.
    #[arg(long, default_value_t)]
    confinement: Confinement,
    /// Enter no mount namespace, as on a host that allows none.
    #[arg(long)]
    no_mounts: bool,
    /// The process is in a network namespace of its own.
    #[arg(long)]
    own_network: bool,
    /// End when confined, instead of hosting anything.
    #[arg(long)]
    check: bool,
}

/// Names the process in the columns of `ps` and `top` that show no command line, which would say `exe`.
fn name_process(name: &CStr) {
    if let Err(error) = rustix::thread::set_name(name) {
        tracing::debug!(%error, "this process keeps its name");
    }
}

/// Hosts guests until told to stop.
pub(crate) fn worker(args: WorkerArgs) -> anyhow::Result<ExitCode> {
    name_process(c"kubewasm-worker");
    let mut options = worker::WorkerOptions::new(args.socket);
    options.with_parent = args.with_parent;
    options.hidden = args.hidden;
    options.shown = args.shown;
    options.confinement = args.confinement;
    options.no_mounts = args.no_mounts;
    options.own_network = args.own_network;
    options.check = args.check;
    if let Some(bytes) = args.default_memory_limit {
        options.default_memory_limit = bytes;
    }
    let log = LogOptions::default();
    options.log = LogOptions {
        max_size: args.log_max_size.unwrap_or(log.max_size),
        max_files: args.log_max_files.unwrap_or(log.max_files),
    };
    worker::run(options)?;
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `kubewasm mounter`.
#[derive(Debug, clap::Args)]
pub(crate) struct MounterArgs {
    /// A directory to try mounts with.
    #[arg(long)]
    dir: PathBuf,
    /// Make no mounts, as on a host that allows none.
    #[arg(long)]
    no_mounts: bool,
    /// Whether the mounter runs where it cannot be confined as a whole.
    #[arg(long, default_value_t)]
    confinement: Confinement,
}

/// Makes the files of containers for the agent at standard input.
pub(crate) fn mounter(args: MounterArgs) -> anyhow::Result<ExitCode> {
    name_process(c"kubewasm-mounts");
    let MounterArgs { dir, no_mounts, confinement } = args;
    mounter::run(&MounterOptions { dir, no_mounts, confinement })?;
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `kubewasm compile`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompileArgs {
    /// Compile nothing where the compiler cannot be confined as a whole.
    #[arg(long)]
    confined: bool,
    /// End when confined, instead of compiling anything.
    #[arg(long)]
    check: bool,
}

/// Compiles one module, from standard input to standard output. What is wrong with it is said as it is: it becomes a
/// container's message.
pub(crate) fn compile(args: &CompileArgs) -> ExitCode {
    name_process(c"kubewasm-compil");
    let CompileArgs { confined, check } = *args;
    match compile::child_main(ChildOptions { confined, check }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
