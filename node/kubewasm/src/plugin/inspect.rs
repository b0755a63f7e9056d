//! `kubewasm plugin inspect`

use kubewasm_plugin::PluginName;

use super::{
    PluginSession, consent, prepare,
    shapes::{PluginInspectShape, PluginShape},
};

/// Arguments of `kubewasm plugin inspect`.
#[derive(Debug, clap::Args)]
pub(super) struct InspectArgs {
    /// A plugin that is here.
    #[arg(value_name = "NAME", add = super::candidates::plugins())]
    name: PluginName,
}

pub(super) async fn run(session: &PluginSession, args: &InspectArgs) -> anyhow::Result<()> {
    let record = session.record(&args.name)?;
    let session = &session.of_record(&record)?;
    let prepared = prepare::of_record(session, &record).await?;
    let shape = PluginInspectShape {
        plugin: PluginShape::from(&record),
        signed_by: session.modules.store.signer(&prepared.image)?,
        module: prepared.module,
        kind: prepared.program.kind.to_string(),
    };
    session.modules.say(&shape, |out| {
        writeln!(out, "Name:       {}", record.name)?;
        writeln!(out, "From:       {}", record.source)?;
        writeln!(out, "Digest:     {}", record.digest)?;
        if let Some(key) = &shape.signed_by {
            writeln!(out, "Signed by:  {key}")?;
        }
        writeln!(out, "Module:     {}", shape.module)?;
        writeln!(out, "Runs as:    {}", shape.kind)?;
        writeln!(out, "It may ask the API server to")?;
        writeln!(out, "  {}", consent::requests(record.access.as_ref(), "\n  "))?;
        writeln!(out, "Granted:{}", if record.grants.is_empty() { "    nothing else" } else { "" })?;
        for grant in record.grants.iter() {
            writeln!(out, "  {grant} ({})", grant.meaning())?;
        }
        Ok(())
    })
}
