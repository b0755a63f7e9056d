//! The loop that registers the Node and keeps its status true.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    conditions::{self, Problems},
    machine::Machine,
    object::{self, Fixed, Observed},
    patch,
    register::{self, RegisterError},
};
use crate::{
    events::{Recorder, node_reference},
    eviction::Pressure,
    identity::Connection,
    retry::{self, Backoff},
    runtime::Runtime,
};

/// How much longer than its period a computation may wait.
const JITTER: f64 = 0.04;
/// Failures in a row after which the connections are given up.
const PATIENCE: u32 = 3;

/// Everything the loop works with.
pub(super) struct StatusLoop {
    pub(super) client: Client,
    pub(super) connection: Connection,
    pub(super) fixed: Arc<Fixed>,
    /// The machine's addresses as they are now, which `fixed` is brought up to date with.
    pub(super) addresses: watch::Receiver<Vec<IpAddr>>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) recorder: Recorder,
    pub(super) problems: watch::Receiver<Problems>,
    pub(super) pressure: watch::Receiver<Pressure>,
    pub(super) node: watch::Sender<Option<Arc<Node>>>,
}

impl StatusLoop {
    /// Runs until cancelled. The Node is known to everyone through the watch channel; none there means that
    /// it has to be registered, be it for the first time or because it was deleted.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let api: Api<Node> = Api::all(self.client.clone());
        let mut changes = self.node.subscribe();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(7));
        let mut failures = 0;
        let mut next_report = Instant::now();
        let about = node_reference(&self.fixed.config.node_name);
        self.recorder.normal(&about, "Starting", "Starting kubelet.");
        loop {
            let current = changes.borrow_and_update().clone();
            self.problems.mark_unchanged();
            self.pressure.mark_unchanged();
            if *self.addresses.borrow_and_update() != self.fixed.addresses {
                Arc::make_mut(&mut self.fixed).addresses = self.addresses.borrow().clone();
            }
            let done = match &current {
                None => cancel.run_until_cancelled(self.register(&api)).await,
                Some(node) => cancel.run_until_cancelled(self.report(&api, node, &mut next_report)).await,
            };
            let wait = match done {
                None => return,
                Some(Ok(())) => {
                    failures = 0;
                    backoff.reset();
                    retry::jittered(self.fixed.config.kubelet.node_status_update_frequency, JITTER)
                }
                Some(Err(err)) => {
                    failures += 1;
                    let what = if current.is_some() { "send the node's status" } else { "register the node" };
                    tracing::warn!(error = %err, failures, "cannot {what}; trying again");
                    if failures % PATIENCE == 0 {
                        self.connection.reset();
                    }
                    backoff.next()
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
                // Readiness is told at once, and so is what runs short.
                Ok(()) = self.problems.changed() => {}
                Ok(()) = self.pressure.changed() => {}
                Ok(()) = self.addresses.changed() => {}
                // So is that the Node is gone.
                Ok(_) = changes.wait_for(|node| node.is_none() && current.is_some()) => {}
            }
        }
    }

    async fn register(&self, api: &Api<Node>) -> Result<(), RegisterError> {
        let observed = self.observe().await;
        let registered = register::register(api, &self.fixed, &observed).await?;
        let name = &self.fixed.config.node_name;
        tracing::info!(node = %name, uid = registered.node.uid().as_deref(), "registered the node");

        let boot_id = |node: &Node| Some(node.status.as_ref()?.node_info.as_ref()?.boot_id.clone());
        if let Some(before) = registered.found.as_ref().and_then(boot_id)
            && !before.is_empty()
            && before != observed.machine.boot_id
        {
            let message = format!("Node {name} has been rebooted, boot id: {}", observed.machine.boot_id);
            self.recorder.warning(&node_reference(name), "Rebooted", message);
        }
        self.tell_changes(
            registered.found.as_ref().map(conditions).unwrap_or_default(),
            conditions(&registered.node),
        );
        self.node.send_replace(Some(Arc::new(registered.node)));
        Ok(())
    }

    /// Sends the status when something is different, or when it is time.
    async fn report(
        &self,
        api: &Api<Node>,
        current: &Node,
        next_report: &mut Instant,
    ) -> Result<(), RegisterError> {
        let observed = self.observe().await;
        let before = conditions(current);
        let mut wanted = object::status(&self.fixed, &observed, before);
        object::leave_addresses_of_cloud(&mut wanted, &self.fixed, current);
        let patch = patch::patch(current, &object::own_labels(&self.fixed.config), &wanted);
        if !patch.differs && Instant::now() < *next_report {
            return Ok(());
        }
        let name = &self.fixed.config.node_name;
        match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch.body)).await {
            Ok(node) => {
                let period = self.fixed.config.kubelet.node_status_report_frequency;
                // After a change that many nodes may have met together, they part again.
                let factor = if patch.differs { 0.5 + rand::random::<f64>() } else { 1.0 };
                *next_report = Instant::now() + period.mul_f64(factor);
                self.tell_changes(before, wanted.conditions.as_deref().unwrap_or_default());
                self.node.send_replace(Some(Arc::new(node)));
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {
                tracing::warn!(node = %name, "the Node object is gone; registering again");
                self.node.send_replace(None);
                self.register(api).await
            }
            Err(err) => Err(err.into()),
        }
    }

    async fn observe(&self) -> Observed {
        let root_dir = self.fixed.config.root_dir.clone();
        let machine = tokio::task::spawn_blocking(move || Machine::read(&root_dir)).await.unwrap_or_default();
        let mut problems = self.problems.borrow().clone();
        if machine.cpus == 0 || machine.memory == 0 {
            let missing: Vec<_> = [("cpu", machine.cpus), ("memory", machine.memory)]
                .into_iter()
                .filter(|(_, n)| *n == 0)
                .map(|(name, _)| name)
                .collect();
            problems
                .insert("machine", format!("missing node capacity for resources: {}", missing.join(", ")));
        }
        let pressure = *self.pressure.borrow();
        Observed { machine, images: self.runtime.images().await, problems, pressure, now: Timestamp::now() }
    }

    fn tell_changes(&self, before: &[NodeCondition], after: &[NodeCondition]) {
        let name = &self.fixed.config.node_name;
        for reason in conditions::changes(before, after) {
            self.recorder.normal(
                &node_reference(name),
                reason,
                format!("Node {name} status is now: {reason}"),
            );
        }
    }
}

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}
