//! `kubewasm plugin run`

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use kubewasm_modules::ImageName;
use kubewasm_plugin::{
    AccessRules, ClusterChoice, ClusterEnvironment, Grant, Grants, KubeconfigOverrides, PluginName,
    PluginSetup,
};

use super::{
    PluginSession,
    prepare::{self, Prepared},
    pull,
};
use crate::home;

/// Arguments of `kubewasm plugin run`.
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    /// The module.
    #[arg(value_name = "FILE.WASM")]
    file: PathBuf,

    /// What it gets besides the API server: fs=ro:PATH, fs=rw:PATH, env=NAME, tty=raw. May be repeated.
    #[arg(long, value_name = "GRANT")]
    grant: Vec<Grant>,

    /// A file with all that it may ask of the API server: rules like a Role's.
    #[arg(long, value_name = "FILE")]
    access: Option<PathBuf>,

    /// Arguments of the plugin.
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
}

pub(super) async fn run(session: &PluginSession, args: RunArgs) -> anyhow::Result<ExitCode> {
    let RunArgs { file, grant, access, args } = args;
    let name = PluginName::of_image(&ImageName::Path(file.clone())).context("rename the file")?;
    let access = pull::access(access.as_deref())?;
    let image = session.modules.store.import(&file).await?;
    let prepared = prepare::of_image(session, image).await?;
    start(prepared, name, args, grant.into_iter().collect(), access).await
}

/// Runs what was prepared, with these arguments behind its own name.
pub(super) async fn start(
    prepared: Prepared,
    name: PluginName,
    args: Vec<String>,
    grants: Grants,
    access: Option<AccessRules>,
) -> anyhow::Result<ExitCode> {
    let overrides = KubeconfigOverrides::of_arguments(&args);
    let cluster = ClusterChoice::read(&overrides, &ClusterEnvironment::of_process());
    let argv = std::iter::once(format!("kubectl-{name}")).chain(args).collect();
    let empty_root = home::default_root()?.join("empty");
    let setup = PluginSetup { name, argv, grants, access, cluster, empty_root };
    let code = kubewasm_plugin::run(&prepared.program, setup).await?;
    Ok(ExitCode::from(code))
}
