//! `kubewasm policy`: admission policies, by hand and as a service.
//!
//! Flags, output and exit codes are those of kwctl and policy-server, so that scripts carry over. Policies are in the module store that `kubewasm module`
//! has.

mod annotate;
mod bench;
mod cluster;
mod evaluation;
mod inspect;
mod modules;
mod run;
mod scaffold;
mod serve;
mod settings;
mod source;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

pub(crate) use self::{
    modules::{StoreModule, failure},
    settings::document,
    source::{Found, PolicySource},
};
use crate::{
    home,
    module::{self, ModuleSession, RegistryArgs, list, pull, remove},
};

/// Arguments of `kubewasm policy`.
#[derive(Debug, clap::Args)]
pub(crate) struct PolicyArgs {
    /// Where policies are kept, with other modules [default: kubewasm in the user's cache folder].
    #[arg(long, global = true, value_name = "DIR")]
    root_dir: Option<PathBuf>,

    #[command(flatten)]
    registries: RegistryArgs,

    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Let a policy judge a request.
    Run(run::RunArgs),
    /// Serve policies, as admission webhooks of an API server or to anybody.
    Serve(Box<serve::ServeArgs>),
    /// Measure how long a policy takes.
    Bench(bench::BenchArgs),
    /// Say what a policy says of itself.
    Inspect(inspect::InspectArgs),
    /// Write into a policy what it says of itself.
    Annotate(annotate::AnnotateArgs),
    /// Write what is needed to deploy a policy.
    Scaffold(scaffold::ScaffoldArgs),
    /// Fetch a policy from its registry.
    Pull(pull::PullArgs),
    /// Send a policy to a registry, with what it says of itself in its annotations.
    Push(annotate::PushArgs),
    /// List the policies and other modules that are here.
    #[command(visible_aliases = ["list", "policies"])]
    Ls,
    /// Remove policies and other modules.
    Rm(remove::RemoveArgs),
    /// Print the digest that a policy has in its registry.
    Digest(source::DigestArgs),
}

/// Runs the command. 0 where it did what it was to do, also where a policy has refused what it judged; else 1, and those of
/// `kubewasm module` for policies that are not there.
pub(crate) fn main(args: PolicyArgs) -> anyhow::Result<ExitCode> {
    let tokio = module::tokio_runtime()?;
    let PolicyArgs { root_dir, registries, command } = args;
    let outcome = tokio.block_on(async {
        let root = root_dir.map_or_else(home::default_root, Ok)?;
        let session = ModuleSession::open(&root, registries.into())?;
        match command {
            PolicyCommand::Run(args) => run::run(&session, args).await,
            PolicyCommand::Serve(args) => serve::run(session, *args).await,
            PolicyCommand::Bench(args) => bench::run(&session, args).await,
            PolicyCommand::Inspect(args) => inspect::run(&session, &args).await,
            PolicyCommand::Annotate(args) => annotate::run(&args).await,
            PolicyCommand::Scaffold(args) => scaffold::run(&session, args).await,
            PolicyCommand::Pull(args) => pull::run(&session, &args).await,
            PolicyCommand::Push(args) => annotate::push(&session, &args).await,
            PolicyCommand::Ls => list::run(&session),
            PolicyCommand::Rm(args) => remove::run(&session, &args),
            PolicyCommand::Digest(args) => source::digest(&session, &args).await,
        }
    });
    match outcome {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(error) => {
            // As kwctl says it.
            eprintln!("Error: {}", module::text(&error));
            Ok(ExitCode::from(module::exit_code(&error)))
        }
    }
}
