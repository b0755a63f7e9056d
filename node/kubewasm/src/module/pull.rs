//! `kubewasm module pull`

use indicatif::HumanBytes;
use kubewasm_modules::{ImageName, PullProgress};

use super::{ModuleSession, credentials, progress::TransferBar, refused, shapes::ImageShape};

/// Arguments of `kubewasm module pull`.
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// The image, as a pod names it.
    #[arg(value_name = "IMAGE", add = super::candidates::images())]
    name: ImageName,
}

pub(super) async fn run(session: &ModuleSession, args: &PullArgs) -> anyhow::Result<()> {
    let name = &args.name;
    anyhow::ensure!(
        !matches!(name, ImageName::Path(_)),
        "{name} is here already: a file is imported when it is run"
    );
    let credentials = credentials(name).await;
    let bar = TransferBar::new(session, format!("pulling {name}"));
    let listener = |state: PullProgress| bar.update(state);
    let pulled = session.store.pull(name.clone(), &credentials, Some(&listener)).await;
    drop(bar);
    let image = pulled.map_err(|error| refused(error, name, credentials.len()))?.image;
    session.say(&ImageShape::from(&image), |out| {
        writeln!(out, "{} ({})", image.id(), HumanBytes(image.size_bytes))
    })
}
