//! How fast an image is pulled, set against `curl` and the same blob: `kubewasm module pull` into an empty store, from a
//! registry on this machine.
//!
//! `curl` leaves what it has written to the page cache. A pull computes the digest of what comes, waits until it is on the
//! disk, and unpacks it when it is a layer of an image.

use std::{
    ffi::OsStr,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use kubewasm_tests::{
    guests,
    home::Home,
    node, process,
    progress::say,
    registry::{Pushed, Registry, image::Content},
};
use rand::RngExt as _;
use serde::Serialize;

/// How often each side is measured; they take turns, and the median counts.
const ROUNDS: usize = 5;

/// Size of what is pulled, in MiB.
pub(crate) const SIZE: usize = 256;

/// How fast one kind of image is pulled.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PullSpeed {
    /// What it is.
    pub(crate) content: String,
    /// Size of its blob.
    pub(crate) blob_bytes: usize,
    /// 10^6 bytes of the blob per second by `kubewasm module pull`, from its start to its end.
    pub(crate) kubewasm_mb_per_s: f64,
    /// The same by `curl`, where it took part.
    pub(crate) curl_mb_per_s: Option<f64>,
}

/// Measures both kinds, a module alone and an image with a file system, of bytes that cannot be compressed.
///
/// # Errors
/// When an image cannot be pushed or pulled.
pub(crate) async fn measure(home: &Home, registry: &Registry, curl: Option<&Path>) -> Result<Vec<PullSpeed>> {
    let folder = home.folder("pulls")?;
    let module = guests::guest("actor.c").await?;
    let mut random = vec![0_u8; SIZE << 20];
    rand::rng().fill(random.as_mut_slice());
    let artifact = Content::Artifact(guests::with_section(&module, &random));
    let image = Content::Image {
        files: vec![("main".to_owned(), module), ("random".to_owned(), random)],
        entrypoint: vec!["/main".to_owned()],
        cmd: Vec::new(),
        env: Vec::new(),
    };
    let mut measured = Vec::new();
    for (kind, name, content) in
        [("a module", "pulled-module:v1", artifact), ("a layer of an image", "pulled-image:v1", image)]
    {
        say(&format!("  pushing {SIZE} MiB in {kind}"));
        let pushed = registry.push(name, &content).await?;
        measured.push(speed(&folder, kind, &pushed, curl).await?);
    }
    Ok(measured)
}

async fn speed(folder: &Path, kind: &str, image: &Pushed, curl: Option<&Path>) -> Result<PullSpeed> {
    let [blob] = &image.layers[..] else {
        anyhow::bail!("{kind} was pushed as {} layers", image.layers.len())
    };
    let (root, file) = (folder.join("store"), folder.join("blob"));
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let pull: [&OsStr; 5] = [
            "module".as_ref(),
            "pull".as_ref(),
            image.tagged.as_ref(),
            "--root-dir".as_ref(),
            root.as_os_str(),
        ];
        ours.push(timed(&node::program()?, &pull).await?);
        fs::remove_dir_all(&root).context("cannot remove the store")?;
        if let Some(curl) = curl {
            let fetch: [&OsStr; 6] = [
                "--silent".as_ref(),
                "--show-error".as_ref(),
                "--fail".as_ref(),
                "--output".as_ref(),
                file.as_os_str(),
                blob.url.as_ref(),
            ];
            theirs.push(timed(curl, &fetch).await?);
            fs::remove_file(&file).context("cannot remove what curl has fetched")?;
        }
        say(&format!("  pulling {kind}, round {round} of {ROUNDS}"));
    }
    let rate = |took: Duration| blob.size_bytes as f64 / 1e6 / took.as_secs_f64();
    Ok(PullSpeed {
        content: kind.to_owned(),
        blob_bytes: blob.size_bytes,
        kubewasm_mb_per_s: median(ours).map(rate).context("nothing was measured")?,
        curl_mb_per_s: median(theirs).map(rate),
    })
}

async fn timed(program: &Path, arguments: &[&OsStr]) -> Result<Duration> {
    let start = Instant::now();
    process::run(program, arguments).await?;
    Ok(start.elapsed())
}

fn median(mut measured: Vec<Duration>) -> Option<Duration> {
    measured.sort_unstable();
    measured.get(measured.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_counts() {
        assert_eq!(median([9, 1, 5].map(Duration::from_secs).to_vec()), Some(Duration::from_secs(5)));
        assert_eq!(median(vec![]), None);
    }
}
