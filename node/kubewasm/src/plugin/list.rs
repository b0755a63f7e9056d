//! `kubewasm plugin list`

use super::{
    PluginSession,
    shapes::{ListedShape, PluginListShape},
};

pub(super) fn run(session: &PluginSession) -> anyhow::Result<()> {
    let listed = session.plugins.list()?;
    let plugins: Vec<_> = listed.iter().map(|(name, found)| ListedShape::new(name, found)).collect();
    let shape = PluginListShape { plugins };
    session.modules.say(&shape, |out| {
        let width =
            shape.plugins.iter().map(|plugin| plugin.name.len()).chain(["NAME".len()]).max().unwrap_or(0);
        writeln!(out, "{:width$}  LOCATION", "NAME")?;
        for plugin in &shape.plugins {
            writeln!(out, "{:width$}  {}", plugin.name, plugin.place())?;
        }
        Ok(())
    })
}
