//! The carrying out of what the lifecycle asks for: each action is spawned, and comes back as an [`TaskOutcome`].

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{ImageVolumeSource, Pod};

use tokio_util::sync::CancellationToken;

use super::{PodTask, TaskOutcome, outcome::panicked};
use crate::{
    pods::{
        clock,
        container_id::container_id,
        ephemeral,
        handlers::Attempt,
        launch::{self, Launch},
        lifecycle::{Action, Note, ProbeKind, Trouble},
        log_files::LinkedLog,
        panics::caught,
        pull::{ImageSource, PullPolicy},
        reason::{EventReason, WaitingReason},
        shared::tell,
    },
    retry::Backoff,
    runtime::Presence,
    traces::{Span, SpanKind, within},
};

impl PodTask {
    /// Removes an attempt that has ended, and what it has written outside its mounts. What cannot be removed
    /// goes with the pod.
    pub(super) fn forget(&mut self, container: String, attempt: u32) {
        let shared = Arc::clone(&self.shared);
        let uid = self.name.uid.clone();
        self.spawn("the removal of an ended container", |_| TaskOutcome::Done, async move {
            let id = container_id(&uid, &container, attempt);
            let removal = shared.runtime.remove(&id);
            if let Err(error) = shared.metrics.operation("remove_container", removal).await {
                tracing::debug!(container = id, %error, "an ended container could not be removed");
                return TaskOutcome::Done;
            }
            let remove = move || shared.records.remove_attempt(&uid, &container, attempt);
            match tokio::task::spawn_blocking(remove).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(container = id, %error, "files of an ended container could not be removed"),
                Err(error) => tracing::error!(container = id, %error, "the removal of a container's files has panicked"),
            }
            TaskOutcome::Done
        });
    }

    /// Removes an attempt of which nothing is known but that it has ended.
    pub(super) fn remove_stray(&mut self, id: String) {
        let shared = Arc::clone(&self.shared);
        self.spawn("the removal of an ended container", |_| TaskOutcome::Done, async move {
            let removal = shared.runtime.remove(&id);
            if let Err(error) = shared.metrics.operation("remove_container", removal).await {
                tracing::debug!(container = id, %error, "an ended container could not be removed");
            }
            TaskOutcome::Done
        });
    }

    pub(super) fn act(&mut self, action: Action) {
        match action {
            Action::Event(note) => self.tell(&note),
            Action::Pull { container, image } => self.pull(container, image),
            Action::AbortPull { container } => {
                if let Some(handle) = self.pulls.remove(&container) {
                    handle.abort();
                }
            }
            Action::Start { container, attempt } => self.start(container, attempt),
            Action::PostStart { container } => self.post_start(container),
            Action::PreStop { container, within } => self.pre_stop(container, within),
            Action::Probe { container, kind } => self.probe(container, kind),
            Action::Resize { container, attempt, wanted } => self.resize(container, attempt, wanted),
            Action::Stop { container, attempt, grace } => self.stop(&container, attempt, grace),
        }
    }

    fn tell(&self, note: &Note) {
        tell(&self.shared.recorder, &self.reference, &self.spec, note);
    }

    fn pull(&mut self, container: String, image: String) {
        let (shared, reference, spec) = (Arc::clone(&self.shared), self.reference.clone(), self.spec.clone());
        let pod = Arc::clone(&self.pod);
        let policy = self.container(&container).and_then(|c| c.image_pull_policy);
        let policy = PullPolicy::of(policy.as_deref(), &image);
        let (name, places) = (container.clone(), self.places());
        let trace = self.trace.place(&self.name);
        let failed = {
            let container = container.clone();
            let begun = Instant::now();
            move |panic| TaskOutcome::Pulled { container, result: Err(panicked(panic)), begun }
        };
        let handle = self.spawn("a pull", failed, async move {
            // Nothing of a pod begins before its volumes are there, as upstream has it.
            places.await;
            let begun = Instant::now();
            let note = |note: Note| tell(&shared.recorder, &reference, &spec, &note);
            let source = ImageSource {
                runtime: shared.runtime.as_ref(),
                access: shared.image_access.as_ref(),
                node: &shared.node_credentials,
                metrics: &shared.metrics,
                limit: &shared.pull_limit,
            };
            let pulls = async {
                for (image, policy) in volume_images(&pod, &container) {
                    let credentials = shared.credentials(&pod, &image, note).await;
                    source.pull(&container, &image, policy, &credentials, note).await?;
                }
                let credentials = shared.credentials(&pod, &image, note).await;
                source.pull(&container, &image, policy, &credentials, note).await
            };
            let result = within(trace, Box::pin(pulls)).await;
            TaskOutcome::Pulled { container, result, begun }
        });
        self.pulls.insert(name, handle);
    }

    fn start(&mut self, name: String, attempt: u32) {
        let image = self.state.container(&name).image.clone();
        let (Some(container), Some(image)) = (self.container(&name), image) else {
            // The lifecycle asks for what the spec has, once its image is there; if it ever does not, that is
            // said, and tried again.
            let trouble = Trouble {
                reason: WaitingReason::CreateContainerError,
                message: format!("container {name} has no specification or no image"),
            };
            self.state.record_start(&self.spec, &name, Err(trouble), clock::now());
            return;
        };
        let (shared, pod) = (Arc::clone(&self.shared), Arc::clone(&self.pod));
        let (reference, spec) = (self.reference.clone(), self.spec.clone());
        let places = self.places();
        let addresses = self.state.addresses.clone();
        let network_slot = self.network_slot();
        let failed = {
            let container = name.clone();
            move |panic| TaskOutcome::StartPanicked { container, attempt, trouble: panicked(panic) }
        };
        let called_off = CancellationToken::new();
        self.starting.insert(name.clone(), called_off.clone());
        let (id, pod_name) = (container_id(&self.name.uid, &name, attempt), self.name.clone());
        let kind = self.container_type(&name);
        let trace = self.trace.place(&self.name);
        self.spawn("a start", failed, async move {
            let mut span =
                trace.map_or_else(Span::none, |trace| trace.child("startContainer", SpanKind::Internal));
            span.set("k8s.container.name", name.as_str());
            span.set("k8s.container.restart_count", i64::from(attempt));
            let node = shared.node.borrow().clone();
            let launch = Launch {
                runtime: shared.runtime.as_ref(),
                api: shared.api.as_ref(),
                addresses: &addresses,
                network_slot,
                policies: &shared.policies,
                node: &node,
                logs_dir: &shared.logs_dir,
                records: &shared.records,
            };
            let volumes = (shared.volumes.as_ref(), &places.await);
            let start = launch.start(&pod, &container, &image, attempt, volumes, &called_off);
            let start = within(span.place(), Box::pin(start));
            let mut start = pin!(shared.metrics.operation("start_container", start));
            let result = tokio::select! {
                biased;
                result = &mut start => result,
                () = called_off.cancelled() => {
                    shared.runtime.call_off(&id);
                    start.await
                }
            };
            span.note(&result.as_ref().map(drop).map_err(|trouble| &trouble.message));
            drop(span);
            let note = |reason, message: &str| {
                let (container, message) = (Some(name.clone()), message.to_owned());
                let note = Note { container, warning: false, reason, message };
                tell(&shared.recorder, &reference, &spec, &note);
            };
            if result.is_ok() || !called_off.is_cancelled() {
                let code = result.as_ref().map(drop).map_err(|trouble| trouble.reason.to_string());
                shared.metrics.container_started(kind, code);
            }
            match &result {
                Ok(_) => {
                    shared.log_links.add(&LinkedLog {
                        namespace: &pod_name.namespace,
                        pod: &pod_name.name,
                        uid: &pod_name.uid,
                        container: &name,
                        attempt,
                    });
                    note(EventReason::Created, "Container created");
                    note(EventReason::Started, "Container started");
                }
                // Nobody misses it.
                Err(_) if called_off.is_cancelled() => {}
                Err(trouble) => tell(&shared.recorder, &reference, &spec, &launch::note(&name, trouble)),
            }
            TaskOutcome::Started { container: name, result }
        });
    }

    /// The running attempt of a container, for its probes and hooks.
    fn attempt(&mut self, name: &str) -> Attempt {
        let container = self.container(name).unwrap_or_default();
        let record = self.state.container(name);
        let number = record.newest_attempt();
        let id = container_id(&self.name.uid, name, number);
        let (recorder, reference, spec) =
            (self.shared.recorder.clone(), self.reference.clone(), self.spec.clone());
        let metrics = self.shared.metrics.clone();
        Attempt {
            runtime: Arc::clone(&self.shared.runtime),
            addresses: self.state.addresses.clone(),
            exposed: self.exposed_ports(),
            pod: Arc::clone(&self.pod),
            name: self.name.clone(),
            container,
            number,
            id,
            tell: Box::new(move |note| {
                if note.reason == EventReason::LifecycleHTTPFallback {
                    metrics.hook_fell_back();
                }
                tell(&recorder, &reference, &spec, &note);
            }),
        }
    }

    fn post_start(&mut self, container: String) {
        let attempt = self.attempt(&container);
        let (id, number) = (attempt.id.clone(), attempt.number);
        let failed = {
            let container = container.clone();
            move |panic| {
                let trouble = Trouble { reason: WaitingReason::PostStartHookError, ..panicked(panic) };
                TaskOutcome::PostStarted { container, attempt: number, result: Err(trouble) }
            }
        };
        let handle = self.spawn("a postStart hook", failed, async move {
            TaskOutcome::PostStarted { container, attempt: number, result: attempt.post_start().await }
        });
        self.ongoing.hook(&id, handle);
    }

    fn pre_stop(&mut self, container: String, within: Duration) {
        let attempt = self.attempt(&container);
        let (id, number) = (attempt.id.clone(), attempt.number);
        let failed = {
            let container = container.clone();
            move |_| TaskOutcome::PreStopped { container, attempt: number }
        };
        let handle = self.spawn("a preStop hook", failed, async move {
            attempt.pre_stop(within).await;
            TaskOutcome::PreStopped { container, attempt: number }
        });
        self.ongoing.hook(&id, handle);
    }

    fn probe(&mut self, container: String, kind: ProbeKind) {
        let attempt = self.attempt(&container);
        let failed = {
            let (container, attempt) = (container.clone(), attempt.number);
            move |_| TaskOutcome::Probed { container, attempt, kind, success: None, took: Duration::ZERO }
        };
        self.spawn("a probe", failed, async move {
            let begun = Instant::now();
            let success = attempt.probe(kind).await;
            TaskOutcome::Probed { container, attempt: attempt.number, kind, success, took: begun.elapsed() }
        });
    }

    fn stop(&mut self, container: &str, attempt: u32, grace: Duration) {
        self.stop_container(container_id(&self.name.uid, container, attempt), grace);
    }

    /// Asks the provider to stop a container, until it is asked.
    pub(super) fn stop_container(&mut self, id: String, grace: Duration) {
        let shared = Arc::clone(&self.shared);
        let (pod, spec, reference) = (self.name.clone(), self.spec.clone(), self.reference.clone());
        self.spawn("a stop", |_| TaskOutcome::Done, async move {
            let mut waits = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
            // A provider that cannot be reached either comes back or is found to be gone, and its
            // containers with it; this task is then ended with its pod.
            let stop = || async {
                let stopping = shared.runtime.stop(&id, grace);
                match caught(shared.metrics.operation("stop_container", stopping)).await {
                    Ok(stopped) => stopped.map_err(|error| error.to_string()),
                    Err(panic) => Err(panic),
                }
            };
            while let Err(error) = stop().await {
                tracing::warn!(%pod, container = id, error, "cannot stop a container; trying again");
                let message = format!("error killing pod: {error}");
                let note =
                    Note { container: None, warning: true, reason: EventReason::FailedKillPod, message };
                tell(&shared.recorder, &reference, &spec, &note);
                tokio::time::sleep(waits.next()).await;
                if shared.runtime.observe(&id) == Presence::Absent {
                    break;
                }
            }
            TaskOutcome::Done
        });
    }
}

/// The images whose files a container mounts, and how they are pulled.
fn volume_images(pod: &Pod, container: &str) -> Vec<(String, PullPolicy)> {
    let Some(container) = ephemeral::container(pod, container) else { return Vec::new() };
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    let is_mounted = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    let images = volumes.iter().filter(|v| is_mounted(&v.name)).filter_map(|volume| volume.image.as_ref());
    let image = |source: &ImageVolumeSource| {
        let image = source.reference.clone().filter(|reference| !reference.is_empty())?;
        let policy = PullPolicy::of(source.pull_policy.as_deref(), &image);
        Some((image, policy))
    };
    images.filter_map(image).collect()
}
