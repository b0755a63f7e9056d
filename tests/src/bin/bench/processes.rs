//! The processes that make a node: its agent, and the workers of it.

use std::time::Duration;

use anyhow::{Context as _, Result};
use kubewasm_tests::{node::Node, process};
use rustix::process::Pid;

use crate::procfs::{self, Footprint};

/// The processes of a node as they are now.
#[derive(Clone, Debug)]
pub(crate) struct Processes {
    /// The agent.
    pub(crate) agent: Pid,
    /// The workers; a node that fakes its pods has none.
    pub(crate) workers: Vec<Pid>,
}

/// Processor time of a node's processes since each of them began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CpuTime {
    /// Of the agent.
    pub(crate) agent: Duration,
    /// Of all workers together.
    pub(crate) workers: Duration,
}

impl CpuTime {
    /// Agent and workers.
    pub(crate) fn all(self) -> Duration {
        self.agent + self.workers
    }

    /// What was used since `earlier`. A worker that has ended in between takes its time with it.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            agent: self.agent.saturating_sub(earlier.agent),
            workers: self.workers.saturating_sub(earlier.workers),
        }
    }
}

impl Processes {
    /// Those of a kubewasm node.
    ///
    /// # Errors
    /// When the agent does not run.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        let (mut agent, mut workers) = (None, Vec::new());
        for pid in process::all_under(node.root())? {
            // What has ended since it was found was no worker: those stay.
            match procfs::subcommand(pid).as_deref() {
                Ok("node") => agent = Some(pid),
                Ok("worker") => workers.push(pid),
                _ => {}
            }
        }
        Ok(Self { agent: agent.context("the node's agent does not run")?, workers })
    }

    /// The worker that listens on a port of the node.
    ///
    /// # Errors
    /// When none does.
    pub(crate) fn serving(&self, port: u16) -> Result<Pid> {
        let serves = |pid: &&Pid| procfs::listens(**pid, port).unwrap_or(false);
        self.workers.iter().find(serves).copied().with_context(|| format!("no worker listens on {port}"))
    }

    /// Resident memory of the workers.
    ///
    /// # Errors
    /// When one is gone.
    pub(crate) fn workers(&self) -> Result<Footprint> {
        self.workers.iter().map(|&pid| procfs::footprint(pid)).sum()
    }

    /// Processor time of all of them.
    ///
    /// # Errors
    /// When one is gone.
    pub(crate) fn cpu_time(&self) -> Result<CpuTime> {
        Ok(CpuTime {
            agent: procfs::cpu_time(self.agent)?,
            workers: self.workers.iter().map(|&pid| procfs::cpu_time(pid)).sum::<Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_is_never_negative() {
        let time = |agent, workers| CpuTime {
            agent: Duration::from_secs(agent),
            workers: Duration::from_secs(workers),
        };
        assert_eq!(time(5, 3).since(time(2, 1)), time(3, 2));
        assert_eq!(time(5, 0).since(time(2, 1)), time(3, 0));
        assert_eq!(time(5, 3).all(), Duration::from_secs(8));
    }
}
