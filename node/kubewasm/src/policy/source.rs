//! Where a policy comes from: a file, a name, or the beginning of a digest.

use std::{fmt, path::Path, str::FromStr};

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use kubewasm_host::{compile::ChildCompiler, program::Program};
use kubewasm_modules::{Credential, Hold, Image, ImageName, Module, Precompiled, Reference, Store};
use kubewasm_policy::{
    host::ImageCredentials,
    metadata::{ContextAwareResource, ExecutionMode, Metadata, PolicyType, section},
};
use kubewasm_wasi::provider::StoreCompiler;

use crate::module::{
    ModuleSession, credentials,
    inspect::{command_of, read},
    precompile, print, pull,
};

/// A policy, as a user names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PolicySource {
    /// A file, an image or a URL.
    Name(ImageName),
    /// The beginning of the digest of one that is here.
    DigestPrefix(String),
}

/// The least characters of a digest that name a policy.
const SHORTEST_PREFIX: usize = 6;

impl FromStr for PolicySource {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = |text: &str| text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        if (SHORTEST_PREFIX..=64).contains(&hex.len()) && is_hex(hex) && !Path::new(text).exists() {
            return Ok(Self::DigestPrefix(hex.to_owned()));
        }
        // What kwctl calls a registry is what everybody else calls by its name.
        let name = match text.split_once("://") {
            Some(("registry", reference)) => reference.parse::<ImageName>()?,
            Some(("file", path)) => ImageName::Path(path.into()),
            None if Path::new(text).is_file() => ImageName::Path(text.into()),
            _ => text.parse()?,
        };
        Ok(Self::Name(name))
    }
}

/// A policy that is here.
pub(crate) struct Found {
    /// The image that it is of.
    pub(crate) image: Image,
    /// Its file.
    pub(crate) module: Module,
    /// What it says of itself.
    pub(crate) metadata: Option<Metadata>,
    /// It is not removed meanwhile.
    _hold: Hold,
}

/// Finds a policy, and pulls it when it is not here.
pub(super) async fn find(session: &ModuleSession, source: &PolicySource) -> anyhow::Result<Found> {
    let store = &session.store;
    let image = match source {
        PolicySource::DigestPrefix(prefix) => by_digest(session, prefix)?,
        PolicySource::Name(ImageName::Path(path)) => store.import(path).await?,
        PolicySource::Name(name) => match store.get(name)? {
            Some(image) => image,
            None => pull::fetch(session, name).await?,
        },
    };
    Found::of(store, image).await
}

fn by_digest(session: &ModuleSession, prefix: &str) -> anyhow::Result<Image> {
    let images = session.store.list()?;
    let mut matching = images
        .into_iter()
        .filter(|image| image.digest.hex().starts_with(prefix) || image.manifest.hex().starts_with(prefix));
    match (matching.next(), matching.next()) {
        (Some(image), None) => Ok(image),
        (None, _) => bail!(
            "no policy that is here has a digest that begins with {prefix}; `kubewasm policy ls` lists them"
        ),
        (Some(one), Some(other)) => bail!(
            "several policies have a digest that begins with {prefix}, {} and {} among them; give more of it",
            one.reference,
            other.reference
        ),
    }
}

/// What a module says of itself, which it has to.
pub(super) fn said<M>(metadata: Option<M>, of: impl fmt::Display) -> anyhow::Result<M> {
    metadata.with_context(|| {
        format!("{of} says nothing of itself; write it into it with `kubewasm policy annotate`")
    })
}

impl Found {
    /// The policy that an image is.
    pub(crate) async fn of(store: &Store, image: Image) -> anyhow::Result<Self> {
        let hold = store.hold(&image)?;
        let module = store.module(&image, command_of(&image, None)?).await?;
        let bytes = read(&module.path).await?;
        let metadata = section::read(&bytes).with_context(|| format!("cannot use {}", image.reference))?;
        Ok(Self { image, module, metadata, _hold: hold })
    }

    /// What it says of itself, which it has to.
    pub(super) fn metadata(&self) -> anyhow::Result<&Metadata> {
        said(self.metadata.as_ref(), &self.image.reference)
    }

    /// Whether it says that it judges any JSON.
    pub(super) fn is_raw(&self) -> bool {
        self.metadata.as_ref().is_some_and(|metadata| metadata.policy_type == PolicyType::Raw)
    }

    /// How it says that it is called.
    pub(super) fn mode(&self) -> Option<ExecutionMode> {
        self.metadata.as_ref().map(|metadata| metadata.execution_mode)
    }

    /// What it says that it needs of a cluster.
    pub(super) fn context_aware_resources(&self) -> Vec<ContextAwareResource> {
        let metadata = self.metadata.as_ref();
        metadata.map(|metadata| metadata.context_aware_resources.clone()).unwrap_or_default()
    }

    /// Its machine code, compiled now if need be.
    pub(super) async fn compiled(&self, session: &ModuleSession) -> anyhow::Result<Precompiled> {
        let compiler = StoreCompiler::from(ChildCompiler::new(Program::current())?);
        precompile::compile(session, &self.image, Some(&self.image.reference), &self.module, &compiler).await
    }
}

/// What this user has for registries.
#[derive(Debug)]
pub(super) struct UserCredentials;

#[async_trait]
impl ImageCredentials for UserCredentials {
    async fn of(&self, image: &Reference) -> Vec<Credential> {
        credentials(&ImageName::Reference(image.clone())).await
    }
}

/// Arguments of `kubewasm policy digest`.
#[derive(Debug, clap::Args)]
pub(super) struct DigestArgs {
    /// The policy: an image, or registry://….
    #[arg(value_name = "URI")]
    policy: PolicySource,
}

/// Prints the name of a policy with its digest.
pub(super) async fn digest(session: &ModuleSession, args: &DigestArgs) -> anyhow::Result<()> {
    let found = find(session, &args.policy).await?;
    print(|out| writeln!(out, "{}", found.image.id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kwctl_and_ours() {
        let name = |text: &str| PolicySource::Name(text.parse().unwrap());
        for (text, expected) in [
            ("registry://example.dev/p:v1", name("example.dev/p:v1")),
            ("oci://example.dev/p:v1", name("example.dev/p:v1")),
            ("example.dev/p", name("example.dev/p")),
            ("https://example.dev/p.wasm", name("https://example.dev/p.wasm")),
            ("file:///srv/p.wasm", name("/srv/p.wasm")),
            ("./p.wasm", name("./p.wasm")),
            ("0123abcd", PolicySource::DigestPrefix("0123abcd".into())),
            ("sha256:0123abcd", PolicySource::DigestPrefix("0123abcd".into())),
            ("0123a", name("0123a")),
        ] {
            assert_eq!(text.parse::<PolicySource>().unwrap(), expected, "{text}");
        }
        assert!("gopher://x".parse::<PolicySource>().is_err());
    }
}
