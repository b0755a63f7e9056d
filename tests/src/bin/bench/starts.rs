//! How fast pods start: one after the other, and many at once.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubewasm_tests::progress::{Step, say};
use serde::Serialize;

use crate::{observer::Sightings, pods::Pods, quantiles::Quantiles};

/// Time for one pod, and for many, to run. They need far less; who waits for it has found a fault.
const ONE: Duration = Duration::from_secs(60);
pub(crate) const MANY: Duration = Duration::from_secs(120);

/// Pods that come first and do not count: they bring the module, and what every client keeps in memory.
const WARM_UP: usize = 5;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Pods one after the other.
    pub(crate) single: usize,
    /// Pods at once.
    pub(crate) burst: usize,
    /// How often.
    pub(crate) rounds: usize,
}

/// What was measured on one node.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Starts {
    /// From seen bound to seen Running, one pod after the other.
    pub(crate) single_ms: Quantiles,
    /// Every round of many at once, the slowest first.
    pub(crate) bursts: Vec<Burst>,
    /// How often the observer's watch was closed and went on: what came late that way was stamped late.
    pub(crate) watches_closed: usize,
}

impl Starts {
    /// The round in the middle; of an even number the slower one.
    pub(crate) fn burst(&self) -> Option<&Burst> {
        self.bursts.get(self.bursts.len().saturating_sub(1) / 2)
    }
}

/// Many pods at once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Burst {
    /// How many.
    pub(crate) pods: usize,
    /// From the first request to the API server's last answer, in seconds.
    pub(crate) created_s: f64,
    /// From the first seen bound to the last seen Running, in seconds.
    pub(crate) running_s: f64,
    /// Pods per second that the API server created.
    pub(crate) created_per_s: f64,
    /// Pods per second that came to run.
    pub(crate) running_per_s: f64,
    /// From seen bound to seen Running, each pod for itself.
    pub(crate) each_ms: Quantiles,
}

impl Burst {
    /// From the time that creating took, that from the first bound to the last Running, and each pod's own.
    pub(crate) fn new(created: Duration, running: Duration, each_ms: Quantiles) -> Self {
        let (created_s, running_s) = (created.as_secs_f64(), running.as_secs_f64());
        let pods = each_ms.count as f64;
        Self {
            pods: each_ms.count,
            created_s,
            running_s,
            created_per_s: pods / created_s,
            running_per_s: pods / running_s,
            each_ms,
        }
    }
}

/// Measures all nodes, which take turns; the results are in their order.
///
/// # Errors
/// When a pod does not come to run, or cannot be removed.
pub(crate) async fn measure(pods: &Pods, nodes: &[&str], sizes: Sizes) -> Result<Vec<Starts>> {
    for node in nodes {
        let step = Step::begin(&format!("warming up {node} with {WARM_UP} pods"));
        one_by_one(pods, &format!("{node}-warm"), node, WARM_UP).await?;
        step.done();
    }
    let mut measured = Vec::with_capacity(nodes.len());
    for node in nodes {
        let step = Step::begin(&format!("{} pods one after the other on {node}", sizes.single));
        let seen = one_by_one(pods, &format!("{node}-single"), node, sizes.single).await?;
        step.done();
        let single_ms = Quantiles::of(seen.durations()).context("no pod was measured")?;
        measured.push(Starts {
            single_ms,
            bursts: Vec::with_capacity(sizes.rounds),
            watches_closed: seen.closed,
        });
    }
    for round in 0..sizes.rounds {
        for (node, starts) in nodes.iter().zip(&mut measured) {
            let name = format!("{node}-burst-{round}");
            let (created, seen) = at_once(pods, &name, node, sizes.burst).await?;
            let running = seen.span().context("no pod was seen")?;
            let each = Quantiles::of(seen.durations()).context("no pod was measured")?;
            let burst = Burst::new(created, running, each);
            say(&format!("  {} pods at once on {node}: {:.1} a second", burst.pods, burst.running_per_s));
            starts.bursts.push(burst);
            starts.watches_closed += seen.closed;
        }
    }
    for starts in &mut measured {
        starts.bursts.sort_by(|a, b| a.running_per_s.total_cmp(&b.running_per_s));
    }
    Ok(measured)
}

/// Starts a pod when the one before runs. They stay until all have run, so that no deletion gets in the way.
async fn one_by_one(pods: &Pods, name: &str, node: &str, count: usize) -> Result<Sightings> {
    let mut observer = pods.observe(name).await?;
    let mut seen = Sightings::default();
    for number in 0..count {
        pods.create(name, node, number).await?;
        seen = observer.running(number + 1, ONE).await?;
    }
    pods.remove(name, observer).await?;
    Ok(seen)
}

/// Starts pods at once, and returns the time that creating them took and what was seen of them.
async fn at_once(pods: &Pods, name: &str, node: &str, count: usize) -> Result<(Duration, Sightings)> {
    let mut observer = pods.observe(name).await?;
    let created = pods.create_all(name, node, 0..count).await?;
    let seen = observer.running(count, MANY).await?;
    pods.remove(name, observer).await?;
    Ok((created, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(seconds: u64) -> Burst {
        let each = Quantiles { count: 200, p50: 1.0, p90: 2.0, p99: 3.0 };
        Burst::new(Duration::from_secs(2), Duration::from_secs(seconds), each)
    }

    #[test]
    fn rates_are_pods_by_seconds() {
        let burst = burst(4);
        assert_eq!((burst.created_per_s, burst.running_per_s), (100.0, 50.0));
    }

    #[test]
    fn the_middle_round_counts() {
        for (rounds, expected) in
            [(vec![], None), (vec![9], Some(9.0)), (vec![9, 5], Some(9.0)), (vec![9, 5, 4], Some(5.0))]
        {
            let bursts: Vec<Burst> = rounds.into_iter().map(burst).collect();
            let single_ms = Quantiles { count: 1, p50: 1.0, p90: 1.0, p99: 1.0 };
            let starts = Starts { single_ms, bursts, watches_closed: 0 };
            assert_eq!(starts.burst().map(|burst| burst.running_s), expected);
        }
    }
}
