//! Tells, in the Node's condition `Ready`, whether pods can be given networks, where the provider makes one for each.

use std::{sync::Arc, time::Duration};

use crate::{node::NodeHandle, pods::task::sandbox::not_ready, runtime::Runtime};

/// Between two looks, as a kubelet has between two questions to its container runtime.
const INTERVAL: Duration = Duration::from_secs(5);
/// Who says so.
const SOURCE: &str = "network";

/// What it takes to tell.
#[derive(Debug)]
pub(crate) struct NetworkReadiness {
    runtime: Arc<dyn Runtime>,
    node: NodeHandle,
}

impl NetworkReadiness {
    /// The node is not ready until the provider has been asked.
    pub(crate) fn new(runtime: Arc<dyn Runtime>, node: NodeHandle) -> Self {
        node.set_problem(SOURCE, Some(not_ready("Network plugin was not asked yet")));
        Self { runtime, node }
    }

    /// Asks again and again.
    pub(crate) async fn run(self) {
        loop {
            let problem = self.runtime.sandbox_problem().await;
            self.node.set_problem(SOURCE, problem.map(|problem| not_ready(&problem)));
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
