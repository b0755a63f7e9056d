//! What it takes to bring pods and to let them go: pods are created, come to be Ready, are deleted and are
//! gone, and each that is gone makes room for the next.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use futures::future;
use kubewasm_tests::{node::Node, progress::say};
use serde::Serialize;

use crate::{
    observer::Observer,
    peer::{self, Peer},
    pods::Pods,
    processes::{CpuTime, Processes},
    quantiles::Quantiles,
};

/// Time for one pod to become Ready, and to go. It takes far less; who waits for it has found a fault.
const ONE: Duration = Duration::from_secs(120);

/// A node whose pods churn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Subject<'a> {
    /// A kubewasm node.
    Kubewasm(&'a Node),
    /// Its peer.
    Kwok(&'a Peer),
}

impl Subject<'_> {
    fn name(self) -> String {
        match self {
            Self::Kubewasm(node) => node.name().to_owned(),
            Self::Kwok(_) => peer::NODE.to_owned(),
        }
    }

    fn cpu_time(self) -> Result<CpuTime> {
        match self {
            Self::Kubewasm(node) => Processes::of(node)?.cpu_time(),
            Self::Kwok(peer) => peer.processes()?.cpu_time(),
        }
    }
}

/// What was measured of one node at one number of pods in flight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Churn {
    /// Pods in flight at a time.
    pub(crate) in_flight: usize,
    /// Pods that came and went in all.
    pub(crate) pods: usize,
    /// Pods that came and went, per second.
    pub(crate) per_s: f64,
    /// From the request that creates a pod to the sight of it gone, each pod for itself.
    pub(crate) each_ms: Quantiles,
    /// Processor time of the agent, in milliseconds per pod.
    pub(crate) agent_cpu_ms: f64,
    /// Processor time of the workers, in milliseconds per pod.
    pub(crate) workers_cpu_ms: f64,
}

impl Churn {
    /// From the times of all pods, and what they took together.
    fn new(in_flight: usize, each: Vec<Duration>, elapsed: Duration, used: CpuTime) -> Result<Self> {
        let each_ms = Quantiles::of(each).context("no pod was measured")?;
        let pods = each_ms.count as f64;
        let per_pod = |time: Duration| time.as_secs_f64() * 1_000.0 / pods;
        Ok(Self {
            in_flight,
            pods: each_ms.count,
            per_s: pods / elapsed.as_secs_f64(),
            each_ms,
            agent_cpu_ms: per_pod(used.agent),
            workers_cpu_ms: per_pod(used.workers),
        })
    }
}

/// Lets `count` pods come and go on `subject`, so many at a time as each of `levels` says.
///
/// # Errors
/// When a pod does not become Ready, or does not go.
pub(crate) async fn measure(
    pods: &Pods,
    subject: Subject<'_>,
    levels: &[usize],
    count: usize,
) -> Result<Vec<Churn>> {
    let mut measured = Vec::with_capacity(levels.len());
    for &in_flight in levels {
        let churn = level(pods, subject, in_flight, count).await?;
        say(&format!("  {in_flight} pods in flight on {}: {:.1} a second", subject.name(), churn.per_s));
        measured.push(churn);
    }
    Ok(measured)
}

async fn level(pods: &Pods, subject: Subject<'_>, in_flight: usize, count: usize) -> Result<Churn> {
    let node = subject.name();
    let name = format!("{node}-churn-{in_flight}");
    let observer = pods.observe(&name).await?;
    let next = AtomicUsize::new(0);
    let (used, start) = (subject.cpu_time()?, Instant::now());
    let lanes = (0..in_flight).map(|_| async {
        let mut times = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok::<_, anyhow::Error>(times);
            }
            times.push(one(pods, &mut observer.clone(), &name, &node, number).await?);
        }
    });
    let times = future::try_join_all(lanes).await?.concat();
    let (elapsed, used) = (start.elapsed(), subject.cpu_time()?.since(used));
    pods.settle().await?;
    Churn::new(in_flight, times, elapsed, used)
}

/// One pod comes and goes; returns how long that took.
async fn one(
    pods: &Pods,
    observer: &mut Observer,
    name: &str,
    node: &str,
    number: usize,
) -> Result<Duration> {
    let start = Instant::now();
    pods.create(name, node, number).await?;
    let pod = Pods::name(name, number);
    observer.one_ready(&pod, ONE).await?;
    pods.delete(name, number).await?;
    observer.one_gone(&pod, ONE).await?;
    Ok(start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_per_pod() {
        let used = CpuTime { agent: Duration::from_secs(1), workers: Duration::from_millis(100) };
        let each = vec![Duration::from_millis(50); 200];
        let churn = Churn::new(10, each, Duration::from_secs(4), used).unwrap();
        assert_eq!((churn.pods, churn.per_s, churn.each_ms.p50), (200, 50.0, 50.0));
        assert_eq!((churn.agent_cpu_ms, churn.workers_cpu_ms), (5.0, 0.5));
    }

    #[test]
    fn no_pods_are_no_figures() {
        let used = CpuTime { agent: Duration::ZERO, workers: Duration::ZERO };
        assert!(Churn::new(10, Vec::new(), Duration::from_secs(1), used).is_err());
    }
}
