//! What computing costs: one guest that does nothing else, on kubewasm and under `wasmtime run`, by its own clock;
//! and how equally a hundred of them share the processors.

use std::{fs, path::Path, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;
use kubewasm_tests::{home::Home, node, process, progress::say};
use serde::Serialize;
use serde_json::{Value, json};

/// How often each side is measured; they take turns, and the best counts: whatever else the machine does only
/// makes it slower.
const ROUNDS: usize = 5;

/// Millions of steps of the guest that is alone.
const STEPS: usize = 1000;

/// Guests that share.
pub(crate) const SHARING: usize = 100;

/// Time for these to start, before they begin all at once.
const START: Duration = Duration::from_secs(20);

/// For how long they compute.
const RACE: Duration = Duration::from_secs(20);

/// All of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Cpu {
    /// Milliseconds of a guest that computes, on kubewasm.
    pub(crate) kubewasm_ms: f64,
    /// The same under `wasmtime run`, where it took part.
    pub(crate) wasmtime_ms: Option<f64>,
    /// How far those came that share.
    pub(crate) shares: Shares,
}

/// How far guests came that share, as fractions of what they came on average.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Shares {
    /// Who got least.
    pub(crate) least: f64,
    /// Who got most.
    pub(crate) most: f64,
}

/// Measures both. `image` is the actor guest's in a registry, `module` the guest itself.
///
/// # Errors
/// When a guest does not end well.
pub(crate) async fn measure(home: &Home, image: &str, module: &[u8], wasmtime: Option<&Path>) -> Result<Cpu> {
    let folder = home.folder("cpu")?;
    let guest = folder.join("actor.wasm");
    fs::write(&guest, module).context("cannot write the guest")?;
    let script = ["time", "compute", &STEPS.to_string(), "time"].map(str::to_owned);
    let alone = pod(&folder, image, &[script.to_vec()])?;
    let mut on_wasmtime = vec!["run".to_owned(), guest.display().to_string()];
    on_wasmtime.extend(script);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        ours.push(milliseconds(&on_kubewasm(&alone).await?)?);
        if let Some(wasmtime) = wasmtime {
            let output =
                process::run(wasmtime, &on_wasmtime).await.context("the guest failed under wasmtime")?;
            theirs.push(milliseconds(&output)?);
        }
        say(&format!("  computing, round {} of {ROUNDS}", round + 1));
    }
    Ok(Cpu {
        kubewasm_ms: best(&ours).context("nothing was measured")?,
        wasmtime_ms: best(&theirs),
        shares: share(&folder, image).await?,
    })
}

async fn share(folder: &Path, image: &str) -> Result<Shares> {
    let from = Timestamp::now().checked_add(START).context("the clock is at its end")?.as_second();
    let to = from.saturating_add_unsigned(RACE.as_secs());
    let script = vec!["race".to_owned(), from.to_string(), to.to_string()];
    let output = on_kubewasm(&pod(folder, image, &vec![script; SHARING])?).await?;
    let counted: Vec<f64> =
        output.lines().filter_map(|line| line.split_once("counted ")?.1.trim().parse().ok()).collect();
    if counted.len() != SHARING {
        bail!("{} of {SHARING} guests say how far they came: {output}", counted.len());
    }
    Ok(spread(&counted))
}

fn spread(counted: &[f64]) -> Shares {
    let mean = counted.iter().sum::<f64>() / counted.len() as f64;
    let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
    for count in counted {
        (least, most) = (least.min(count / mean), most.max(count / mean));
    }
    Shares { least, most }
}

/// A pod with a container for each script, in a file.
fn pod(folder: &Path, image: &str, scripts: &[Vec<String>]) -> Result<PathBuf> {
    let container = |(number, script): (usize, &Vec<String>)| json!({ "name": format!("c{number}"), "image": image, "args": script });
    let containers: Vec<Value> = scripts.iter().enumerate().map(container).collect();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "computes" },
        "spec": { "restartPolicy": "Never", "containers": containers },
    });
    let path = folder.join(format!("pod-{}.json", scripts.len()));
    fs::write(&path, pod.to_string()).context("cannot write the pod")?;
    Ok(path)
}

async fn on_kubewasm(pod: &Path) -> Result<String> {
    let arguments = [PathBuf::from("run"), pod.to_owned()];
    process::run(&node::program()?, &arguments).await.context("the guests failed on kubewasm")
}

/// The last time that a guest printed.
fn milliseconds(output: &str) -> Result<f64> {
    let mut times = output.lines().filter_map(|line| line.trim().strip_suffix(" us")?.parse::<u32>().ok());
    let last =
        times.next_back().with_context(|| format!("the guest did not print its time, but: {output}"))?;
    Ok(f64::from(last) / 1000.0)
}

fn best(measured: &[f64]) -> Option<f64> {
    measured.iter().copied().min_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_own_clock_counts() {
        assert_eq!(milliseconds("17 us\n30500 us\n").unwrap(), 30.5);
        assert!(milliseconds("mixed 7\n").is_err());
    }

    #[test]
    fn the_best_of_all_rounds_counts() {
        assert_eq!(best(&[3.0, 1.0, 2.0]), Some(1.0));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn shares_are_told_by_their_mean() {
        assert_eq!(spread(&[50.0, 100.0, 150.0]), Shares { least: 0.5, most: 1.5 });
    }
}
