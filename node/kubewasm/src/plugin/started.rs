//! This program under the name of a plugin, as kubectl starts it.

use std::{env, ffi::OsString, process::ExitCode};

use kubewasm_plugin::{PluginName, StartedAs};

use super::{PluginSession, plugin_home, prepare, run};
use crate::{
    log,
    module::{self, RegistryArgs},
};

/// What Cobra's programs are asked for completions by.
const COMPLETE: &str = "__complete";

/// The plugin that this process is, if it was started by the name of one.
pub(crate) fn started_as() -> Option<StartedAs> {
    StartedAs::of(&env::args_os().next()?)
}

/// Runs the plugin. Nothing of this program's own goes to standard output: that is the plugin's.
pub(crate) fn run_started(started: &StartedAs) -> ExitCode {
    // Warnings, and what the user has asked for of it.
    let verbosity = env::var("KUBEWASM_V").ok().and_then(|level| level.parse().ok()).unwrap_or(0);
    log::init(verbosity, log::Format::Text);
    match block_on(started) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kubectl {}: {}", started.name(), module::text(&error));
            ExitCode::FAILURE
        }
    }
}

fn block_on(started: &StartedAs) -> anyhow::Result<ExitCode> {
    let args = env::args_os().skip(1).map(text).collect::<anyhow::Result<Vec<_>>>()?;
    let (name, args) = match started {
        StartedAs::Plugin(name) => (name, args),
        StartedAs::Companion(name) => (name, std::iter::once(COMPLETE.to_owned()).chain(args).collect()),
    };
    let tokio = module::tokio_runtime()?;
    let outcome = tokio.block_on(run_plugin(name, args));
    // A plugin that was interrupted may have left a look-up behind, for which nobody waits.
    tokio.shutdown_background();
    outcome
}

async fn run_plugin(name: &PluginName, args: Vec<String>) -> anyhow::Result<ExitCode> {
    let plugins = plugin_home()?;
    let record =
        plugins.find(name)?.ok_or_else(|| kubewasm_plugin::HomeError::Unknown { name: name.clone() })?;
    let mut registries = RegistryArgs::default();
    registries.image_signature_policy.clone_from(&record.signature_policy);
    let session = PluginSession::open(registries.into())?;
    let prepared = prepare::of_record(&session, &record).await?;
    run::start(prepared, name.clone(), args, record.grants, record.access).await
}

/// Arguments of WASI are text.
fn text(argument: OsString) -> anyhow::Result<String> {
    argument.into_string().map_err(|argument| {
        anyhow::anyhow!(
            "the argument {:?} is not UTF-8, which arguments of WebAssembly are",
            argument.to_string_lossy()
        )
    })
}
