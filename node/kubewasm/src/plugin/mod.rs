//! `kubewasm plugin`, and this program under the names of plugins.
//!
//! ```text
//!   kubewasm plugin pull URI ─[install]─► module store, PluginHome: a record and a link ─┐
//!   kubectl NAME ─► the link: this program, as kubectl-NAME ─[started]──────────────────┴─[prepare]─► kubewasm_plugin::run
//! ```
//!
//! What is printed for people is a matter of taste; what `-o json` prints ([`shapes`]) is documented and stays.

mod candidates;
mod consent;
mod inspect;
mod install;
mod list;
mod new;
mod prepare;
mod pull;
mod remove;
mod run;
mod shapes;
mod started;
mod upgrade;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Subcommand;
use kubewasm_modules::{Digest, ImageName};
use kubewasm_plugin::{FoundPlugin, PluginHome, PluginName, PluginRecord};

pub(crate) use started::{run_started, started_as};

use crate::{
    home,
    module::{self, ModuleSession, StoreArgs},
};

/// Arguments of `kubewasm plugin`.
#[derive(Debug, clap::Args)]
pub(crate) struct PluginArgs {
    #[command(flatten)]
    store: StoreArgs,

    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Debug, Subcommand)]
enum PluginCommand {
    /// Fetch a plugin, and make it a command of kubectl.
    Pull(pull::PullArgs),
    /// List the plugins that are here.
    #[command(visible_alias = "ls")]
    List,
    /// Make a project for a new plugin, in Rust.
    New(new::NewArgs),
    /// Run a module as a plugin, without keeping it as one.
    Run(run::RunArgs),
    /// Say what a plugin is, and what it may do.
    Inspect(inspect::InspectArgs),
    /// Fetch newer versions of plugins. One that wants more than before asks for it.
    Upgrade(upgrade::UpgradeArgs),
    /// Remove plugins, with their modules.
    Rm(remove::RemoveArgs),
}

/// Runs the command. Exit codes are those of `kubewasm module`; that of `run` is the plugin's.
pub(crate) fn main(args: PluginArgs) -> anyhow::Result<ExitCode> {
    let tokio = module::tokio_runtime()?;
    let PluginArgs { store, command } = args;
    let outcome = tokio.block_on(async {
        let session = PluginSession::open(store)?;
        match command {
            PluginCommand::Pull(args) => pull::run(&session, args).await.map(|()| ExitCode::SUCCESS),
            PluginCommand::List => list::run(&session).map(|()| ExitCode::SUCCESS),
            PluginCommand::New(args) => new::run(&session, args).map(|()| ExitCode::SUCCESS),
            PluginCommand::Run(args) => run::run(&session, args).await,
            PluginCommand::Inspect(args) => inspect::run(&session, &args).await.map(|()| ExitCode::SUCCESS),
            PluginCommand::Upgrade(args) => upgrade::run(&session, &args).await,
            PluginCommand::Rm(args) => remove::run(&session, &args).map(|()| ExitCode::SUCCESS),
        }
    });
    // A plugin that was interrupted may have left a look-up behind, for which nobody waits.
    tokio.shutdown_background();
    match outcome {
        Ok(code) => Ok(code),
        Err(error) => {
            eprintln!("kubewasm: {}", module::text(&error));
            Ok(ExitCode::from(module::exit_code(&error)))
        }
    }
}

/// What every command works with.
struct PluginSession {
    modules: ModuleSession,
    plugins: PluginHome,
    args: StoreArgs,
}

impl PluginSession {
    fn open(args: StoreArgs) -> anyhow::Result<Self> {
        let modules = ModuleSession::open(&home::default_root()?, args.clone())?;
        Ok(Self { modules, plugins: plugin_home()?, args })
    }

    /// The same, by the policy for signatures that a plugin was pulled by, unless there is another one now.
    fn of_record(&self, record: &PluginRecord) -> anyhow::Result<Self> {
        let mut args = self.args.clone();
        args.registries.image_signature_policy =
            args.registries.image_signature_policy.or_else(|| record.signature_policy.clone());
        Self::open(args)
    }

    /// The policy for signatures, which is noted down with what is pulled by it.
    fn signature_policy(&self) -> anyhow::Result<Option<PathBuf>> {
        Ok(self.args.registries.image_signature_policy.as_ref().map(std::path::absolute).transpose()?)
    }

    /// Removes an image that no plugin is, unless somebody holds it, or the name means another one by now.
    fn forget(&self, image: &ImageName, digest: &Digest) -> anyhow::Result<()> {
        let is_other =
            |found: &FoundPlugin| matches!(found, FoundPlugin::Pulled(record) if record.digest == *digest);
        let others = self.plugins.list()?;
        let here = self.modules.store.get(image).ok().flatten();
        if others.values().flatten().any(is_other) || here.is_none_or(|here| here.digest != *digest) {
            return Ok(());
        }
        Ok(self.modules.store.remove(image)?)
    }

    /// The same, of what a record is about.
    fn forget_record(&self, record: &PluginRecord) -> anyhow::Result<()> {
        record.image().map_or(Ok(()), |image| self.forget(&image, &record.digest))
    }

    /// What was pulled under this name, which must be.
    fn record(&self, name: &PluginName) -> anyhow::Result<PluginRecord> {
        match self.plugins.get(name)? {
            FoundPlugin::Pulled(record) => Ok(*record),
            FoundPlugin::Stray(path) => anyhow::bail!(
                "{name} is {}, and was not pulled: pull it with `kubewasm plugin pull -f`",
                path.display()
            ),
        }
    }
}

fn plugin_home() -> anyhow::Result<PluginHome> {
    PluginHome::of_user()
        .context("neither HOME nor XDG_DATA_HOME is set: plugins are noted down below one of them")
}

/// Digests of images that plugins are, which nobody should tidy away; none where they cannot be read.
pub(crate) fn digests() -> Vec<Digest> {
    let plugins = PluginHome::of_user().and_then(|home| home.list().ok()).unwrap_or_default();
    let digest = |found: FoundPlugin| match found {
        FoundPlugin::Pulled(record) => Some(record.digest),
        FoundPlugin::Stray(_) => None,
    };
    plugins.into_values().filter_map(|found| digest(found.ok()?)).collect()
}
