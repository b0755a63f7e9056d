//! `kubewasm policy annotate` and `push`: what a policy says of itself, into its module and beside it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use kubewasm_modules::Reference;
use kubewasm_policy::metadata::{Metadata, USAGE, section};

use super::{settings::document, source::said};
use crate::module::{ModuleSession, inspect::read, push};

/// The annotation that tells which program has written the metadata.
const WRITTEN_BY: &str = "kubewasm.dev/version";

/// Arguments of `kubewasm policy annotate`.
#[derive(Debug, clap::Args)]
pub(super) struct AnnotateArgs {
    /// The module of the policy.
    #[arg(value_name = "FILE.WASM")]
    module: PathBuf,

    /// What it says of itself, in YAML or JSON.
    #[arg(short, long, value_name = "FILE")]
    metadata_path: PathBuf,

    /// A text that tells how it is used, such as its README.
    #[arg(short, long, value_name = "FILE")]
    usage_path: Option<PathBuf>,

    /// Where the policy is written with it.
    #[arg(short, long, value_name = "FILE.WASM")]
    output_path: PathBuf,
}

pub(super) async fn run(args: &AnnotateArgs) -> anyhow::Result<()> {
    let text = document(&args.metadata_path).await?;
    let mut metadata: Metadata = serde_yaml_ng::from_slice(&text)
        .with_context(|| format!("{} is no metadata of a policy", args.metadata_path.display()))?;
    metadata.validate().with_context(|| format!("the metadata in {}", args.metadata_path.display()))?;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    metadata.annotations.insert(WRITTEN_BY.to_owned(), version);
    if let Some(path) = &args.usage_path {
        let usage = String::from_utf8(document(path).await?)
            .with_context(|| format!("{} is no text", path.display()))?;
        metadata.annotations.insert(USAGE.to_owned(), usage);
    }
    let module = read(&args.module).await?;
    let written = section::write(&module, &metadata)
        .with_context(|| format!("cannot use {}", args.module.display()))?;
    write(&args.output_path, written).await
}

/// Writes a file whole: who reads it meanwhile has all of the old one or all of the new one.
async fn write(path: &Path, content: Vec<u8>) -> anyhow::Result<()> {
    let target = path.to_owned();
    let written = tokio::task::spawn_blocking(move || {
        let folder =
            target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let part = tempfile::Builder::new()
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)?;
        std::fs::write(part.path(), content)?;
        part.persist(&target).map_err(|error| error.error).map(drop)
    });
    written.await?.with_context(|| format!("cannot write {}", path.display()))
}

/// Arguments of `kubewasm policy push`.
#[derive(Debug, clap::Args)]
pub(super) struct PushArgs {
    /// The policy.
    #[arg(value_name = "FILE.WASM")]
    module: PathBuf,

    /// What it is to be called: registry, repository and tag, or registry://….
    #[arg(value_name = "IMAGE", value_parser = reference)]
    reference: Reference,
}

fn reference(text: &str) -> Result<Reference, kubewasm_modules::InvalidReference> {
    text.strip_prefix("registry://").unwrap_or(text).parse()
}

pub(super) async fn push(session: &ModuleSession, args: &PushArgs) -> anyhow::Result<()> {
    let module = read(&args.module).await?;
    let metadata = section::read(&module).with_context(|| format!("cannot use {}", args.module.display()))?;
    let metadata = said(metadata, args.module.display())?;
    metadata.validate().with_context(|| format!("the metadata in {}", args.module.display()))?;
    push::send(session, &args.module, &args.reference, metadata.manifest_annotations()).await
}
