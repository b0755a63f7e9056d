//! What idle pods cost: resident memory of the agent and of its workers, and the processor time that is
//! used while nothing happens.

use std::time::{Duration, Instant};

use anyhow::Result;
use kubewasm_tests::{
    node::Node,
    progress::{Step, say},
};
use serde::Serialize;

use crate::{
    observer::Observer,
    pods::Pods,
    processes::Processes,
    procfs::{self, Footprint},
};

/// Time for all pods of a measurement to run, however few they are, and for each of them besides.
const MANY: Duration = Duration::from_secs(180);
const EACH: Duration = Duration::from_millis(200);

/// How long the processes are watched at a time. Processor time is counted in hundredths of a second, so
/// this is good for a tenth of a percent of a core.
const WINDOW: Duration = Duration::from_secs(5);

/// How often they are watched at most, until memory stands still.
const WINDOWS: u32 = 6;

/// Memory that changes by less than this part of itself in a window stands still.
const STILL: u64 = 200;

/// What a node costs with so many idle pods.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Memory {
    /// How many pods.
    pub(crate) pods: usize,
    /// The agent.
    pub(crate) agent: Footprint,
    /// All workers together.
    pub(crate) workers: Footprint,
    /// How many workers.
    pub(crate) worker_processes: usize,
    /// Processor time of all of them, in percent of one core.
    pub(crate) cpu_percent: f64,
}

impl Memory {
    /// Agent and workers.
    pub(crate) fn all(&self) -> Footprint {
        self.agent + self.workers
    }
}

/// Measures `node` without pods, and then with as many as each of `sizes`, which rise. The pods stay, and so does who watches them.
///
/// # Errors
/// When a pod does not come to run, or a process cannot be read.
pub(crate) async fn measure(pods: &Pods, node: &Node, sizes: &[usize]) -> Result<(Vec<Memory>, Observer)> {
    let name = node.name();
    let mut observer = pods.observe(name).await?;
    let mut there = 0;
    let mut measured = Vec::with_capacity(sizes.len() + 1);
    for size in std::iter::once(0).chain(sizes.iter().copied()) {
        let step = Step::begin(&format!("memory with {size} idle pods"));
        pods.create_all(name, node.name(), there..size).await?;
        let patience = MANY + EACH * u32::try_from(size).unwrap_or(u32::MAX);
        observer.running(size, patience).await?;
        there = there.max(size);
        pods.settle().await?;
        measured.push(look(node, size).await?);
        step.done();
    }
    Ok((measured, observer))
}

/// Watches the processes of a node with so many pods until their memory stands still, and returns the last window.
///
/// # Errors
/// When a process cannot be read.
pub(crate) async fn look(node: &Node, pods: usize) -> Result<Memory> {
    let mut last = window(node, pods).await?;
    for _ in 1..WINDOWS {
        let next = window(node, pods).await?;
        let still = is_still(last.all().rss_kib, next.all().rss_kib);
        last = next;
        if still {
            return Ok(last);
        }
    }
    say(&format!("  memory still changes after {} s; its last value counts", (WINDOW * WINDOWS).as_secs()));
    Ok(last)
}

/// Watches the node's processes for one window.
async fn window(node: &Node, pods: usize) -> Result<Memory> {
    let processes = Processes::of(node)?;
    let (start, used) = (Instant::now(), processes.cpu_time()?);
    // Time is what is measured here, not waited for.
    tokio::time::sleep(WINDOW).await;
    let used = processes.cpu_time()?.since(used).all();
    Ok(Memory {
        pods,
        agent: procfs::footprint(processes.agent)?,
        workers: processes.workers()?,
        worker_processes: processes.workers.len(),
        cpu_percent: 100.0 * used.as_secs_f64() / start.elapsed().as_secs_f64(),
    })
}

fn is_still(before: u64, after: u64) -> bool {
    before.abs_diff(after) <= before / STILL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_percent_is_still() {
        for (before, after, still) in
            [(1_000, 1_005, true), (1_000, 995, true), (1_000, 1_006, false), (0, 0, true), (0, 1, false)]
        {
            assert_eq!(is_still(before, after), still, "{before} to {after}");
        }
    }
}
