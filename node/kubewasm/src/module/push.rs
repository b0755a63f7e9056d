//! `kubewasm module push`

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use indicatif::HumanBytes;
use jiff::Timestamp;
use kubewasm_host::inspect::{ModuleForm, Surface};
use kubewasm_modules::{Artifact, ArtifactConfig, ComponentInterfaces, ImageName, PullProgress, Reference};

use super::{ModuleSession, credentials, progress::TransferBar, refused, shapes::PushShape};

/// When what is pushed was made, for builds that are to come out the same each time:
/// <https://reproducible-builds.org/docs/source-date-epoch/>.
const SOURCE_DATE_EPOCH: &str = "SOURCE_DATE_EPOCH";

/// Arguments of `kubewasm module push`.
#[derive(Debug, clap::Args)]
pub(super) struct PushArgs {
    /// The module, a core module or a component.
    #[arg(value_name = "FILE.WASM")]
    file: PathBuf,

    /// What it is to be called: registry, repository and tag.
    #[arg(value_name = "IMAGE", add = super::candidates::images())]
    reference: Reference,

    /// An annotation of the artifact, such as org.opencontainers.image.source=https://…. May be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = annotation)]
    annotation: Vec<(String, String)>,
}

fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("an annotation is key=value".to_owned()),
    }
}

pub(super) async fn run(session: &ModuleSession, args: &PushArgs) -> anyhow::Result<()> {
    let PushArgs { file, reference, annotation } = args;
    let mut annotations = BTreeMap::new();
    for (key, value) in annotation {
        if annotations.insert(key.clone(), value.clone()).is_some() {
            bail!("the annotation {key} is there twice");
        }
    }
    send(session, file, reference, annotations).await
}

/// Pushes a module with these annotations, and says what became of it.
pub(crate) async fn send(
    session: &ModuleSession,
    file: &Path,
    reference: &Reference,
    annotations: BTreeMap<String, String>,
) -> anyhow::Result<()> {
    let surface = super::inspect::surface_of(file).await?;
    let title =
        file.file_name().map_or_else(|| "module.wasm".to_owned(), |name| name.to_string_lossy().into_owned());
    let config = config(surface, created()?);
    let artifact = Artifact { module: file.to_owned(), title, config, annotations };

    let name = ImageName::Reference(reference.clone());
    let credentials = credentials(&name).await;
    let bar = TransferBar::new(session, format!("pushing {reference}"));
    let listener = |state: PullProgress| bar.update(state);
    let pushed = session.store.push(reference, &artifact, &credentials, Some(&listener)).await;
    drop(bar);
    let pushed = pushed.map_err(|error| refused(error, &name, credentials.len()))?;
    let shape = PushShape {
        reference: reference.to_string(),
        digest: pushed.digest,
        module: pushed.module,
        size_bytes: pushed.size,
    };
    session.say(&shape, |out| {
        writeln!(out, "{}@{} ({})", reference.name(), pushed.digest, HumanBytes(pushed.size))
    })
}

/// Other tools, too, call every component `wasip2`, whatever it imports.
fn config(surface: Surface, created: String) -> ArtifactConfig {
    let Surface { form, imports, exports } = surface;
    let (os, component) = match form {
        ModuleForm::Core => ("wasip1", None),
        ModuleForm::Component => ("wasip2", Some(ComponentInterfaces { imports, exports })),
    };
    ArtifactConfig { created, os: os.to_owned(), component }
}

fn created() -> anyhow::Result<String> {
    let now = match std::env::var(SOURCE_DATE_EPOCH) {
        Ok(text) => {
            let seconds = text.parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
            seconds
                .with_context(|| format!("{SOURCE_DATE_EPOCH} is {text:?}, and must be seconds since 1970"))?
        }
        Err(_) => Timestamp::now(),
    };
    Ok(now.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn annotations_have_a_key_and_any_value() {
        assert_eq!(annotation("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(annotation("a="), Ok(("a".to_owned(), String::new())));
        assert!(annotation("=a").is_err() && annotation("a").is_err());
    }

    #[test]
    fn a_component_says_what_it_imports_and_exports() {
        let surface = |form| Surface { form, imports: vec!["i".into()], exports: vec!["e".into()] };
        let core = config(surface(ModuleForm::Core), "now".to_owned());
        assert_eq!((core.os.as_str(), core.component), ("wasip1", None));
        let component = config(surface(ModuleForm::Component), "now".to_owned());
        assert_eq!(component.os, "wasip2");
        assert_eq!(component.component.unwrap().exports, ["e"]);
    }
}
