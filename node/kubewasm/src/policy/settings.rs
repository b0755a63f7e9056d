//! Documents that a user hands over, and settings among them.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use kubewasm_policy::request::Settings;
use tokio::io::AsyncReadExt as _;

/// Most bytes of a document, 16 MiB.
const LONGEST_DOCUMENT: u64 = 16 << 20;

/// Where a policy's settings are.
#[derive(Debug, clap::Args)]
pub(super) struct SettingsArgs {
    /// The settings, in YAML or JSON.
    #[arg(short, long, value_name = "FILE", conflicts_with = "settings_json")]
    settings_path: Option<PathBuf>,

    /// The settings as such.
    #[arg(long, value_name = "JSON")]
    settings_json: Option<String>,
}

impl SettingsArgs {
    /// The settings, or none where nothing is said of them.
    pub(super) async fn read(&self) -> anyhow::Result<Settings> {
        match (&self.settings_path, &self.settings_json) {
            (Some(path), _) => {
                let text = document(path).await?;
                Settings::parse(&text)
                    .with_context(|| format!("cannot read the settings in {}", path.display()))
            }
            (None, Some(json)) => Settings::parse(json.as_bytes()).context("cannot read --settings-json"),
            (None, None) => Ok(Settings::default()),
        }
    }
}

/// What is in a file, or at standard input where that is `-`.
pub(crate) async fn document(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = || format!("cannot read {}", path.display());
    let mut text = Vec::new();
    let limit = LONGEST_DOCUMENT + 1;
    if path == Path::new("-") {
        tokio::io::stdin().take(limit).read_to_end(&mut text).await.context("cannot read standard input")?;
    } else {
        let file = tokio::fs::File::open(path).await.with_context(failed)?;
        file.take(limit).read_to_end(&mut text).await.with_context(failed)?;
    }
    ensure!(
        text.len() as u64 <= LONGEST_DOCUMENT,
        "{} has more than {} MiB",
        path.display(),
        LONGEST_DOCUMENT >> 20
    );
    Ok(text)
}
