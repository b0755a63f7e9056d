//! `kubewasm module pull`

use indicatif::HumanBytes;
use kubewasm_modules::{Image, ImageName, PullProgress};

use super::{ModuleSession, credentials, progress::TransferBar, refused, shapes::ImageShape};

/// Arguments of `kubewasm module pull`.
#[derive(Debug, clap::Args)]
pub(crate) struct PullArgs {
    /// The image, as a pod names it.
    #[arg(value_name = "IMAGE", add = super::candidates::images())]
    name: ImageName,
}

pub(crate) async fn run(session: &ModuleSession, args: &PullArgs) -> anyhow::Result<()> {
    let name = &args.name;
    anyhow::ensure!(
        !matches!(name, ImageName::Path(_)),
        "{name} is here already: a file is imported when it is run"
    );
    let image = fetch(session, name).await?;
    session.say(&ImageShape::from(&image), |out| {
        writeln!(out, "{} ({})", image.id(), HumanBytes(image.size_bytes))
    })
}

/// Pulls an image with what this user has for its registry, and shows how far it is.
pub(crate) async fn fetch(session: &ModuleSession, name: &ImageName) -> anyhow::Result<Image> {
    let credentials = credentials(name).await;
    let bar = TransferBar::new(session, format!("pulling {name}"));
    let listener = |state: PullProgress| bar.update(state);
    let pulled = session.store.pull(name.clone(), &credentials, Some(&listener)).await;
    drop(bar);
    Ok(pulled.map_err(|error| refused(error, name, credentials.len()))?.image)
}
