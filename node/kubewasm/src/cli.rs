//! The command line: what there is to say, and where it goes.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "extension")]
use crate::extension;
#[cfg(feature = "plugin")]
use crate::plugin;
#[cfg(feature = "policy")]
use crate::policy;
use crate::{approver, complete, doctor, exec, log, manual, module, node, processes, run};

/// A Kubernetes node whose containers are WebAssembly.
#[derive(Debug, Parser)]
#[command(name = "kubewasm", version, max_term_width = 100, arg_required_else_help = true)]
struct Cli {
    /// How much to log: 0 is warnings and what matters, 2 says what is done, 4 why, 6 everything.
    #[arg(short, long, global = true, default_value_t = 1, value_name = "LEVEL", env = "KUBEWASM_V")]
    v: u8,

    /// How to log.
    #[arg(long, alias = "logging-format", global = true, value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Join a cluster as a node and run the pods that are scheduled to it.
    Node(Box<node::NodeArgs>),
    /// Approve the certificates of nodes that run as pods of the cluster.
    Approver(approver::ApproverArgs),
    /// Run one pod from files, without any cluster.
    Run(run::RunArgs),
    /// Run a command in a pod of `kubewasm run`.
    Exec(exec::ExecArgs),
    /// Say what this machine can and cannot do as a node with these flags, and what to do about it.
    Doctor(Box<doctor::DoctorArgs>),
    /// Pull, push, list, inspect, remove and compile modules.
    Module(module::ModuleArgs),
    /// Pull and run kubectl plugins that are WebAssembly.
    #[cfg(feature = "plugin")]
    Plugin(plugin::PluginArgs),
    /// Run, inspect and annotate admission policies that are WebAssembly.
    #[cfg(feature = "policy")]
    Policy(policy::PolicyArgs),
    /// Serve Envoy extensions that are WebAssembly.
    #[cfg(feature = "extension")]
    Extension(extension::ExtensionArgs),
    /// Print completions for a shell.
    Completions(complete::CompletionArgs),
    /// Write manual pages.
    #[command(name = "man")]
    Manual(manual::ManualArgs),
    /// Host guests for a node. Started by `kubewasm node` and `kubewasm run`.
    #[command(hide = true)]
    Worker(processes::WorkerArgs),
    /// Make the files of containers. Started by `kubewasm node` and `kubewasm run`.
    #[command(hide = true)]
    Mounter(processes::MounterArgs),
    /// Compile one module. Started by `kubewasm node` and `kubewasm run`.
    #[command(hide = true)]
    Compile(processes::CompileArgs),
}

/// Runs the program. Exit codes: 0 is success, 1 a failure that was said, 2 a command line that was not
/// understood; those of `kubewasm run` follow the pod, that of `kubewasm exec` is the
/// command's, and `kubewasm module` has some of its own. Under the name of a kubectl
/// plugin, it is that plugin.
pub(crate) fn main() -> ExitCode {
    #[cfg(feature = "plugin")]
    if let Some(started) = plugin::started_as() {
        return plugin::run_started(&started);
    }
    complete::answer();
    let cli = Cli::parse();
    log::init(cli.v, cli.log_format);
    let outcome = match cli.command {
        Command::Node(args) => node::main(*args),
        Command::Approver(args) => approver::main(args),
        Command::Run(args) => run::main(args),
        Command::Exec(args) => exec::main(args),
        Command::Doctor(args) => doctor::main(*args),
        Command::Module(args) => module::main(args),
        #[cfg(feature = "plugin")]
        Command::Plugin(args) => plugin::main(args),
        #[cfg(feature = "policy")]
        Command::Policy(args) => policy::main(args),
        #[cfg(feature = "extension")]
        Command::Extension(args) => extension::main(args),
        Command::Completions(args) => complete::main(&args),
        Command::Manual(args) => manual::main(&args),
        Command::Worker(args) => processes::worker(args),
        Command::Mounter(args) => processes::mounter(args),
        Command::Compile(args) => Ok(processes::compile(&args)),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kubewasm: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The command line's definition, for completions.
pub(crate) fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}
