//! What files cost: one guest reads and writes, on kubewasm with an image below its root, and under
//! `wasmtime run --dir`. The guest takes the times itself, so that nothing but the calls counts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use kubewasm_tests::{home::Home, node, process, progress::say};
use serde::Serialize;
use serde_json::json;

/// How often each side is measured; they take turns, and the median counts.
const ROUNDS: usize = 5;

/// Small files that are written, read and removed.
pub(crate) const SMALL: usize = 1000;

/// Size of the large file, in MiB.
pub(crate) const LARGE: usize = 64;

/// Microseconds that one guest took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Files {
    /// To write, read and remove [`SMALL`] files of 1 KiB.
    pub(crate) small_us: u64,
    /// To write a file of [`LARGE`] MiB in blocks of 64 KiB.
    pub(crate) write_us: u64,
    /// To read it again.
    pub(crate) read_us: u64,
}

/// Both sides.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sides {
    /// On kubewasm.
    pub(crate) kubewasm: Files,
    /// Under `wasmtime run`, where it took part.
    pub(crate) wasmtime: Option<Files>,
}

/// Measures both sides. `image` is the actor guest's in a registry, `module` the guest itself.
///
/// # Errors
/// When a guest does not end well.
pub(crate) async fn measure(
    home: &Home,
    image: &str,
    module: &[u8],
    wasmtime: Option<&Path>,
) -> Result<Sides> {
    let folder = home.folder("files")?;
    let guest = folder.join("actor.wasm");
    fs::write(&guest, module).context("cannot write the guest")?;
    let pod = folder.join("pod.json");
    fs::write(&pod, manifest(image).to_string()).context("cannot write the pod")?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(on_kubewasm(&pod).await?);
        if let Some(wasmtime) = wasmtime {
            theirs.push(on_wasmtime(wasmtime, &guest, &folder.join(format!("root-{round}"))).await?);
        }
        say(&format!("  files, round {} of {ROUNDS}", round + 1));
    }
    let kubewasm = median(&ours).context("nothing was measured")?;
    Ok(Sides { kubewasm, wasmtime: median(&theirs) })
}

fn script() -> Vec<String> {
    let (small, large) = (SMALL.to_string(), LARGE.to_string());
    [
        "mkdir",
        "/bench",
        "time",
        "files",
        "/bench",
        &small,
        "time",
        "flood",
        "/bench/large",
        &large,
        "time",
        "drain",
        "/bench/large",
        "time",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn manifest(image: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "files" },
        "spec": {
            "restartPolicy": "Never",
            "containers": [{ "name": "main", "image": image, "args": script() }],
        },
    })
}

async fn on_kubewasm(pod: &Path) -> Result<Files> {
    let arguments = ["run".into(), PathBuf::from(pod)];
    let output = process::run(&node::program()?, &arguments).await.context("the guest failed on kubewasm")?;
    read(&output)
}

async fn on_wasmtime(wasmtime: &Path, guest: &Path, root: &Path) -> Result<Files> {
    fs::create_dir(root).context("cannot make a root directory")?;
    let mut arguments = vec![
        "run".to_owned(),
        "--dir".to_owned(),
        format!("{}::/", root.display()),
        guest.display().to_string(),
    ];
    arguments.extend(script());
    let output = process::run(wasmtime, &arguments).await.context("the guest failed under wasmtime")?;
    read(&output)
}

/// The last three times that the guest printed.
fn read(output: &str) -> Result<Files> {
    let times: Vec<u64> =
        output.lines().filter_map(|line| line.trim().strip_suffix(" us")?.parse().ok()).collect();
    match times[..] {
        [.., small_us, write_us, read_us] => Ok(Files { small_us, write_us, read_us }),
        _ => anyhow::bail!("the guest did not print its times, but: {output}"),
    }
}

/// Of each figure for itself.
fn median(measured: &[Files]) -> Option<Files> {
    let middle = |figure: fn(&Files) -> u64| {
        let mut figures: Vec<u64> = measured.iter().map(figure).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied()
    };
    Some(Files {
        small_us: middle(|files| files.small_us)?,
        write_us: middle(|files| files.write_us)?,
        read_us: middle(|files| files.read_us)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_times_count() {
        let output = "17 us\n30 us\n20 us\n67108864 bytes\n10 us\n";
        assert_eq!(read(output).unwrap(), Files { small_us: 30, write_us: 20, read_us: 10 });
        assert!(read("1 us\n2 us\n").is_err());
        assert!(read("cannot open /bench: No space left on device\n").is_err());
    }

    #[test]
    fn the_middle_of_each_figure_counts() {
        let files = |small_us, write_us, read_us| Files { small_us, write_us, read_us };
        let found = median(&[files(3, 10, 200), files(1, 30, 100), files(2, 20, 300)]);
        assert_eq!(found, Some(files(2, 20, 200)));
        assert_eq!(median(&[]), None);
    }
}
