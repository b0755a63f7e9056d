//! What an idle pod costs by who shares its worker.

use anyhow::{Context as _, Result};
use kubewasm_tests::node::Node;
use serde::Serialize;

use crate::{
    memory::{self, Memory},
    pods::Pods,
};

/// The two ends: one worker of all pods, and one of each. All pods of the benchmark are in one namespace, where
/// `namespace` is the same as `node`.
pub(crate) const MODES: [&str; 2] = ["node", "pod"];

/// What a node of one mode costs.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Isolated {
    /// The value of `--isolation`.
    pub(crate) isolation: String,
    /// Without pods.
    pub(crate) empty: Memory,
    /// With all of them.
    pub(crate) full: Memory,
}

impl Isolated {
    /// KiB for each pod, of agent and workers, with what is shared among them divided.
    pub(crate) fn kib_per_pod(&self) -> f64 {
        let grown = self.full.all().pss_kib as f64 - self.empty.all().pss_kib as f64;
        grown / self.full.pods.max(1) as f64
    }
}

/// Measures a fresh node of a mode with `count` idle pods.
///
/// # Errors
/// See [`memory::measure`].
pub(crate) async fn measure(pods: &Pods, node: &Node, isolation: &str, count: usize) -> Result<Isolated> {
    let mut levels = memory::measure(pods, node, &[count]).await?.0.into_iter();
    let (empty, full) = levels.next().zip(levels.next()).context("two levels are measured")?;
    Ok(Isolated { isolation: isolation.to_owned(), empty, full })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::Footprint;

    #[test]
    fn a_pod_costs_what_the_node_has_grown_by() {
        let level = |pods, kib| Memory {
            pods,
            agent: Footprint { rss_kib: 0, pss_kib: kib },
            workers: Footprint { rss_kib: 0, pss_kib: 2 * kib },
            worker_processes: pods,
            cpu_percent: 0.0,
        };
        let isolated =
            |pods| Isolated { isolation: String::new(), empty: level(0, 100), full: level(pods, 200) };
        assert!((isolated(10).kib_per_pod() - 30.0).abs() < f64::EPSILON);
        assert!(isolated(0).kib_per_pod().is_finite());
    }
}
