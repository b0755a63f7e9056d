//! From the name of an image to a plugin that kubectl finds.

use anyhow::{Context as _, bail};
use kubewasm_host::{compile::ChildCompiler, program::Program};
use kubewasm_modules::{Facts, Image, ImageName, Module};
use kubewasm_plugin::{
    AccessRules, FoundPlugin, Grants, HomeError, Linked, PluginName, PluginProgram, PluginRecord,
    PluginWishes,
};
use kubewasm_wasi::provider::StoreCompiler;

use super::{PluginSession, consent};
use crate::module::{inspect::command_of, precompile, pull::fetch as fetch_image};

/// What is to become a plugin.
pub(super) struct Wanted {
    pub(super) name: PluginName,
    pub(super) source: ImageName,
    /// What is there of that name is replaced.
    pub(super) overwrites: bool,
    /// What its user grants it without being asked.
    pub(super) grants: Grants,
    /// A manifest that counts in the place of the module's own.
    pub(super) access: Option<AccessRules>,
    /// Its user says that it knows completions.
    pub(super) completions: bool,
    /// Whatever it wants, it gets.
    pub(super) agrees: bool,
}

/// A plugin that is there now.
pub(super) struct Installed {
    pub(super) record: PluginRecord,
    pub(super) linked: Linked,
    pub(super) size_bytes: u64,
    /// There was another version of it, or none.
    pub(super) is_new: bool,
}

/// Fetches, compiles, asks its user, and only then replaces what was there.
pub(super) async fn install(session: &PluginSession, wanted: Wanted) -> anyhow::Result<Installed> {
    let Wanted { name, source, overwrites, grants, access, completions, agrees } = wanted;
    let known = known(session, &name, overwrites)?;
    let store = &session.modules.store;
    let before = store.get(&source).ok().flatten();
    let image = fetch(session, &source).await?;
    // Whoever prunes meanwhile leaves it.
    let hold = store.hold(&image)?;
    let outcome = async {
        let mut wishes = PluginWishes::read(&store.annotations(&image)?)
            .with_context(|| format!("{source} cannot be a plugin"))?;
        let access_is_users = access.is_some();
        wishes.access = access.or(wishes.access);
        wishes.completions |= completions;
        compile(session, &image).await?;
        // What was agreed to is of somebody's plugin, and not of a name.
        let agreed = known.as_ref().filter(|known| known.source().is_some_and(|at| is_same(&at, &source)));
        let granted = agreed.map(|known| known.grants.clone()).unwrap_or_default().with(&grants);
        let needed = wishes.consent_needed(agreed, &granted);
        consent::ask(session, &name, &needed, &wishes, agrees)?;
        let pinned = match &source {
            ImageName::Path(path) => std::path::absolute(path)?.display().to_string(),
            ImageName::Reference(_) | ImageName::Url(_) => image.id(),
        };
        let record = PluginRecord {
            name: name.clone(),
            source: match &source {
                ImageName::Path(_) => pinned.clone(),
                other => other.to_string(),
            },
            pinned,
            digest: image.digest,
            grants: granted.with(&wishes.grants),
            access: wishes.access,
            access_is_users,
            completions: wishes.completions,
            signature_policy: session.signature_policy()?,
        };
        let linked = session.plugins.put(&record, &program()?)?;
        anyhow::Ok((record, linked))
    };
    let outcome = outcome.await;
    drop(hold);
    let (record, linked) = match outcome {
        Ok(installed) => installed,
        Err(error) => {
            // Nothing stays of what nobody wanted.
            if before.is_none_or(|before| before.digest != image.digest) {
                let pinned = match &source {
                    ImageName::Path(_) => source.clone(),
                    ImageName::Reference(_) | ImageName::Url(_) => {
                        image.id().parse().unwrap_or(source.clone())
                    }
                };
                let forgotten = session.forget(&pinned, &image.digest);
                forgotten.unwrap_or_else(|error| tracing::debug!(%error, "a module stays that is no plugin"));
            }
            return Err(error);
        }
    };
    let is_new = known.as_ref().is_none_or(|known| known.digest != record.digest);
    if let Some(known) = known.filter(|known| known.digest != record.digest) {
        // It may be in use; then it stays, and goes when somebody tidies up.
        session
            .forget_record(&known)
            .unwrap_or_else(|error| tracing::debug!(%error, "the old version stays"));
    }
    Ok(Installed { record, linked, size_bytes: image.size_bytes, is_new })
}

/// What is there of that name, which may be replaced.
fn known(
    session: &PluginSession,
    name: &PluginName,
    overwrites: bool,
) -> anyhow::Result<Option<PluginRecord>> {
    let from = match session.plugins.get(name) {
        Err(HomeError::Unknown { .. }) => return Ok(None),
        Ok(FoundPlugin::Pulled(record)) if overwrites => return Ok(Some(*record)),
        Ok(FoundPlugin::Stray(_)) | Err(HomeError::Damaged { .. }) if overwrites => return Ok(None),
        Ok(FoundPlugin::Pulled(record)) => record.source,
        Ok(FoundPlugin::Stray(path)) => path.display().to_string(),
        Err(error) => return Err(error.into()),
    };
    bail!(
        "a plugin of the name {name} is there already, from {from}; -f overwrites it, and --name calls this one something else"
    )
}

/// Whether two names are of one repository, or of one file.
fn is_same(one: &ImageName, other: &ImageName) -> bool {
    match (one, other) {
        (ImageName::Reference(one), ImageName::Reference(other)) => one.name() == other.name(),
        (ImageName::Path(one), ImageName::Path(other)) => {
            std::path::absolute(one).ok() == std::path::absolute(other).ok()
        }
        (one, other) => one == other,
    }
}

async fn fetch(session: &PluginSession, source: &ImageName) -> anyhow::Result<Image> {
    let store = &session.modules.store;
    if let ImageName::Path(path) = source {
        return Ok(store.import(path).await?);
    }
    fetch_image(&session.modules, source).await
}

/// The module of an image, compiled, and how it is run as a plugin.
pub(super) async fn compile(
    session: &PluginSession,
    image: &Image,
) -> anyhow::Result<(Module, PluginProgram)> {
    let store = &session.modules.store;
    let module = store.module(image, command_of(image, None)?).await?;
    let compiler = StoreCompiler::from(ChildCompiler::new(self_as_compiler())?);
    let modules = &session.modules;
    let compiled = precompile::compile(modules, image, Some(&image.reference), &module, &compiler).await?;
    let Facts { kind, other_kinds, imports, .. } = compiled.facts;
    let kinds = std::iter::once(&kind).chain(&other_kinds).filter_map(|kind| kind.parse().ok());
    let program = PluginProgram::new(compiled.path, kinds, &imports).with_context(|| {
        format!(
            "{} is no command, and cannot be a plugin: build it with wasi:cli/run or _start",
            image.reference
        )
    })?;
    Ok((module, program))
}

/// This program by its own name, whatever it was started as: under that of a plugin, it would be the plugin.
fn self_as_compiler() -> Program {
    Program::new("/proc/self/exe")
}

/// Where this program is, for links to it.
fn program() -> anyhow::Result<std::path::PathBuf> {
    std::env::current_exe().context("cannot tell where this program is")
}
