//! `kubewasm plugin rm`

use kubewasm_plugin::{FoundPlugin, HomeError, PluginName};

use super::{PluginSession, shapes::PluginsRemovedShape};

/// Arguments of `kubewasm plugin rm`.
#[derive(Debug, clap::Args)]
pub(super) struct RemoveArgs {
    /// Plugins that are here.
    #[arg(required = true, value_name = "NAME", add = super::candidates::plugins())]
    names: Vec<PluginName>,
}

pub(super) fn run(session: &PluginSession, args: &RemoveArgs) -> anyhow::Result<()> {
    let mut removed = Vec::new();
    for name in &args.names {
        let found = match session.plugins.get(name) {
            Ok(found) => Some(found),
            // What cannot be read can be removed.
            Err(HomeError::Damaged { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        session.plugins.remove(name)?;
        if let Some(FoundPlugin::Pulled(record)) = found {
            session.forget_record(&record)?;
        }
        removed.push(name.to_string());
    }
    let shape = PluginsRemovedShape { removed };
    session.modules.say(&shape, |out| {
        for name in &shape.removed {
            writeln!(out, "{name}")?;
        }
        Ok(())
    })
}
