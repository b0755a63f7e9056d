//! `kubewasm plugin upgrade`

use std::process::ExitCode;

use kubewasm_modules::ImageName;
use kubewasm_plugin::{FoundPlugin, Grant, PluginName, PluginRecord};

use super::{
    PluginSession,
    install::{Installed, Wanted, install},
    shapes::{InstalledShape, UpgradeFailure, UpgradeShape},
};
use crate::module;

/// Arguments of `kubewasm plugin upgrade`.
#[derive(Debug, clap::Args)]
pub(super) struct UpgradeArgs {
    /// Plugins that are here [default: all].
    #[arg(value_name = "NAME", add = super::candidates::plugins())]
    names: Vec<PluginName>,

    /// What they get besides what they have. May be repeated.
    #[arg(long, value_name = "GRANT")]
    grant: Vec<Grant>,

    /// Give them whatever they want, without a question.
    #[arg(short, long)]
    yes: bool,
}

/// One plugin that fails does not keep the others from being upgraded.
pub(super) async fn run(session: &PluginSession, args: &UpgradeArgs) -> anyhow::Result<ExitCode> {
    let names = match args.names.is_empty() {
        false => args.names.clone(),
        true => session
            .plugins
            .list()?
            .into_iter()
            .filter(|(_, found)| matches!(found, Ok(FoundPlugin::Pulled(_)) | Err(_)))
            .map(|(name, _)| name)
            .collect(),
    };
    let mut shape = UpgradeShape { plugins: Vec::new(), failed: Vec::new() };
    let mut lines = Vec::new();
    for name in &names {
        match upgrade(session, args, name).await {
            Ok(installed) => {
                let Installed { record, is_new, .. } = &installed;
                lines.push(match is_new {
                    true => format!("{name}: now {}", record.pinned),
                    false => format!("{name}: is the newest"),
                });
                shape.plugins.push(InstalledShape::from(&installed));
            }
            Err(error) => {
                let reason = module::text(&error);
                eprintln!("kubewasm: {name}: {reason}");
                shape.failed.push(UpgradeFailure { name: name.to_string(), reason });
            }
        }
    }
    session.modules.say(&shape, |out| lines.iter().try_for_each(|line| writeln!(out, "{line}")))?;
    Ok(if shape.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn upgrade(
    session: &PluginSession,
    args: &UpgradeArgs,
    name: &PluginName,
) -> anyhow::Result<Installed> {
    let record = session.record(name)?;
    let session = &session.of_record(&record)?;
    let source = source(&record)?;
    let wanted = Wanted {
        name: name.clone(),
        source,
        overwrites: true,
        grants: args.grant.iter().cloned().collect(),
        access: record.access.clone().filter(|_| record.access_is_users),
        // Whoever has said so once need not say it again.
        completions: record.completions,
        agrees: args.yes,
    };
    install(session, wanted).await
}

fn source(record: &PluginRecord) -> anyhow::Result<ImageName> {
    record
        .source()
        .ok_or_else(|| anyhow::anyhow!("where it is from, {:?}, is no name of an image", record.source))
}
