//! A plugin's program, from the module store to what can be run.

use std::path::Path;

use anyhow::{Context as _, ensure};
use kubewasm_host::compile::MODULE_LIMIT;
use kubewasm_modules::{Digest, Hold, Image, ImageName};
use kubewasm_plugin::{PluginProgram, PluginRecord};

use super::{PluginSession, install};

/// What can be run, and is kept as long as this is.
pub(super) struct Prepared {
    pub(super) program: PluginProgram,
    pub(super) image: Image,
    /// Digest of the module.
    pub(super) module: Digest,
    _hold: Hold,
}

/// What a record is about: the very module that its user has agreed to.
pub(super) async fn of_record(session: &PluginSession, record: &PluginRecord) -> anyhow::Result<Prepared> {
    let again =
        || format!("fetch it again with `kubewasm plugin pull -f {} --name {}`", record.source, record.name);
    let name = record.image().with_context(|| format!("its record is damaged; {}", again()))?;
    let image = match &name {
        ImageName::Path(path) => {
            let image = of_file(session, &name, path).await?;
            ensure!(
                image.digest == record.digest,
                "{} is not the file that it was when it was pulled; {}",
                path.display(),
                again()
            );
            image
        }
        ImageName::Reference(_) | ImageName::Url(_) => {
            let image = session.modules.store.get(&name)?;
            image.with_context(|| format!("its module is not in the module store any more; {}", again()))?
        }
    };
    of_image(session, image).await
}

/// The image of a file. Most files are what they were, and in the store already.
async fn of_file(session: &PluginSession, name: &ImageName, path: &Path) -> anyhow::Result<Image> {
    let store = &session.modules.store;
    if let Some(image) = store.get(name)?
        && file_digest(path).await == Some(image.digest)
    {
        return Ok(image);
    }
    Ok(store.import(path).await?)
}

/// The digest of a file as it is now, if it can be read and is no larger than modules are.
async fn file_digest(path: &Path) -> Option<Digest> {
    let size = tokio::fs::metadata(path).await.ok()?.len();
    let bytes = if size <= MODULE_LIMIT { tokio::fs::read(path).await.ok()? } else { return None };
    Some(Digest::of(&bytes))
}

/// An image that is in the store.
pub(super) async fn of_image(session: &PluginSession, image: Image) -> anyhow::Result<Prepared> {
    let hold = session.modules.store.hold(&image)?;
    let (module, program) = install::compile(session, &image).await?;
    Ok(Prepared { program, image, module: module.digest, _hold: hold })
}
