//! `kubewasm plugin pull`

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use indicatif::HumanBytes;
use kubewasm_modules::ImageName;
use kubewasm_plugin::{AccessRules, Grant, PluginName};

use super::{
    PluginSession, consent,
    install::{Wanted, install},
    shapes::InstalledShape,
};

/// Arguments of `kubewasm plugin pull`.
#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// An image, the URL of a module, or a file: ghcr.io/team/decoder:v1, ./decoder.wasm.
    #[arg(value_name = "URI", value_parser = uri)]
    source: ImageName,

    /// Replace the plugin that is there of that name.
    #[arg(short, long)]
    force: bool,

    /// What it is called, if not like the last part of the URI.
    #[arg(long)]
    name: Option<PluginName>,

    /// What it gets besides the API server: fs=ro:PATH, fs=rw:PATH, env=NAME, tty=raw. May be repeated.
    #[arg(long, value_name = "GRANT")]
    grant: Vec<Grant>,

    /// A file with all that it may ask of the API server, in the place of what its image says: rules like a Role's.
    #[arg(long, value_name = "FILE")]
    access: Option<PathBuf>,

    /// It answers `__complete` with completions, as Cobra's programs do.
    #[arg(long)]
    completions: bool,

    /// Give it whatever it wants, without a question.
    #[arg(short, long)]
    yes: bool,
}

/// The name of an image, with what others write in front of it. A file is named as one, so that nobody is given an image in
/// the place of the file that was meant.
fn uri(text: &str) -> Result<ImageName, String> {
    let is_plain = !text.contains("://") && !text.starts_with(['.', '/']);
    if is_plain && Path::new(text).is_file() {
        return Err(format!(
            "it is a file here, and the name of an image: write ./{text} for the file, oci://{text} for the image"
        ));
    }
    let text = text.strip_prefix("registry://").unwrap_or(text);
    text.parse().map_err(|error: kubewasm_modules::InvalidReference| error.to_string())
}

/// Reads a manifest of the user's own.
pub(super) fn access(file: Option<&Path>) -> anyhow::Result<Option<AccessRules>> {
    let Some(file) = file else { return Ok(None) };
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let rules = text.parse().with_context(|| format!("{} is not right", file.display()))?;
    Ok(Some(rules))
}

pub(super) async fn run(session: &PluginSession, args: PullArgs) -> anyhow::Result<()> {
    let PullArgs { source, force, name, grant, access: file, completions, yes } = args;
    let name = match name {
        Some(name) => name,
        None => PluginName::of_image(&source).context("call the plugin something with --name")?,
    };
    let installed = install(
        session,
        Wanted {
            name,
            source,
            overwrites: force,
            grants: grant.into_iter().collect(),
            access: access(file.as_deref())?,
            completions,
            agrees: yes,
        },
    )
    .await?;
    let shape = InstalledShape::from(&installed);
    session.modules.say(&shape, |out| {
        let record = &installed.record;
        writeln!(out, "{} ({})", record.pinned, HumanBytes(installed.size_bytes))?;
        writeln!(
            out,
            "{} may ask the API server to {}",
            record.name,
            consent::requests(record.access.as_ref(), "; to ")
        )?;
        for grant in record.grants.iter() {
            writeln!(out, "and {}", grant.meaning())?;
        }
        writeln!(out, "Its link is {}", shape.link.display())?;
        let folder = shape.link.parent().unwrap_or(&shape.link);
        match shape.on_path {
            true => writeln!(out, "Its folder is on PATH: `kubectl {}` runs it", record.name),
            false => writeln!(
                out,
                "Its folder is not on PATH, where kubectl looks: export PATH=\"{}:$PATH\"",
                folder.display()
            ),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_named_as_images_are_and_as_others_name_them() {
        assert_eq!(uri("registry://ghcr.io/a/b:v1"), uri("ghcr.io/a/b:v1"));
        assert_eq!(uri("oci://ghcr.io/a/b:v1"), uri("ghcr.io/a/b:v1"));
        assert!(matches!(uri("./a.wasm"), Ok(ImageName::Path(_))));
        assert!(matches!(uri("https://example.com/a.wasm"), Ok(ImageName::Url(_))));
        assert!(uri("Nope").is_err());
    }
}
