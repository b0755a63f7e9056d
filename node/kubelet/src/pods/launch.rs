//! From a container as the pod describes it to one that runs.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use tokio_util::sync::CancellationToken;

use super::{
    api::PodApi,
    container_id::container_id,
    container_resources::ContainerResources,
    environment::{self, EnvironmentSources, NodeFacts, References},
    files::{self, PodFiles, names::Names, resolv_conf::Dns},
    host_ports,
    lifecycle::{Note, Trouble, spec::is_static},
    provider_objects,
    reason::{EventReason, WaitingReason},
    records::Records,
    refusal, termination,
    volumes::{self, VolumePlaces, Volumes, plan, source},
};
use crate::{
    logs,
    policies::Policies,
    runtime::{ContainerSpec, Image, Mount, NameFiles, ObjectContents, Runtime, TcpPort},
};

/// The node's own table of host names.
const NODE_HOSTS: &str = "/etc/hosts";

/// What a launch needs besides the pod.
#[derive(Clone, Copy, Debug)]
pub(super) struct Launch<'a> {
    pub(super) runtime: &'a dyn Runtime,
    pub(super) api: &'a dyn PodApi,
    /// Addresses of the pod.
    pub(super) addresses: &'a [IpAddr],
    /// See [`ContainerSpec::network_slot`].
    pub(super) network_slot: Option<u32>,
    pub(super) policies: &'a Policies,
    pub(super) node: &'a NodeFacts,
    pub(super) logs_dir: &'a Path,
    pub(super) records: &'a Records,
}

fn config_error(message: impl Into<String>) -> Trouble {
    Trouble { reason: WaitingReason::CreateContainerConfigError, message: message.into() }
}

/// Waiting reason of containers whose pod sandbox cannot be created, as upstream has it; the Event says why.
const SANDBOX_REASON: WaitingReason = WaitingReason::ContainerCreating;

fn sandbox_trouble(message: String) -> Trouble {
    Trouble { reason: SANDBOX_REASON, message }
}

/// The Event about a start that failed.
pub(super) fn note(container: &str, trouble: &Trouble) -> Note {
    let Trouble { reason, message } = trouble;
    if *reason == SANDBOX_REASON {
        let message = format!("Failed to create pod sandbox: {message}");
        return Note { container: None, warning: true, reason: EventReason::FailedCreatePodSandBox, message };
    }
    let container = Some(container.to_owned());
    if *reason == WaitingReason::PolicyViolation {
        let (reason, message) = (EventReason::PolicyViolation, message.clone());
        return Note { container, warning: true, reason, message };
    }
    Note { container, warning: true, reason: EventReason::Failed, message: format!("Error: {message}") }
}

/// Files of variables, by volume and path.
type EnvFiles = BTreeMap<(String, String), Option<String>>;

impl Launch<'_> {
    /// Makes everything ready and starts the attempt; returns when it was started. One that has run and whose
    /// process is gone before it could say so was started, too. The pod's volumes are at
    /// `places`. The provider is not asked any more once the start is called off.
    pub(super) async fn start(
        &self,
        pod: &Pod,
        container: &Container,
        image: &Image,
        attempt: u32,
        volumes: (&Volumes, &VolumePlaces),
        called_off: &CancellationToken,
    ) -> Result<Timestamp, Trouble> {
        let runtime_handler = self.runtime_handler(pod)?;
        let (of_node, places) = volumes;
        let allowed = &of_node.settings().allowed_host_paths;
        if let Some(message) = source::refusal(pod, container, allowed, of_node.has_cluster()) {
            return Err(config_error(message));
        }
        let files = volumes::env_files(References::of(container).files, places)?;
        let mut spec = self.spec(pod, container, image, attempt, &files).await?;
        spec.runtime_handler = runtime_handler;
        spec.mounts = volumes::mounts(container, &spec.env, places, self.runtime).await?;
        spec.memory_volumes = of_node.memory_paths(pod, &spec.mounts);
        let (own, name_files) = self
            .own_files(pod, container, attempt, of_node)
            .map_err(|message| Trouble { reason: WaitingReason::CreateContainerError, message })?;
        spec.mounts.extend(own);
        spec.name_files = Some(name_files);
        volumes::make_mount_points(&spec.mounts, |path| of_node.is_own(self.records, &spec.pod_uid, path));
        if let Some(dir) = spec.log_path.parent() {
            std::fs::create_dir_all(dir).map_err(|error| Trouble {
                reason: WaitingReason::CreateContainerError,
                message: format!("cannot make the log directory {}: {error}", dir.display()),
            })?;
        }
        drop_old_logs(&spec.log_path, attempt);
        let had_log = spec.log_path.exists();
        // A static pod does not wait for an API server: its rules hold from when they are known.
        if spec.network_slot.is_some() && !spec.host_network && !is_static(pod) {
            let settled = called_off.run_until_cancelled(self.policies.settled(&spec.pod_uid)).await;
            settled.unwrap_or(Ok(())).map_err(sandbox_trouble)?;
        }
        if called_off.is_cancelled() {
            return Err(Trouble {
                reason: WaitingReason::RunContainerError,
                message: "the pod has ended before the container was started".to_owned(),
            });
        }
        match self.runtime.start(&spec).await {
            Ok(started_at) => Ok(started_at),
            Err(error) if !had_log && spec.log_path.exists() => {
                // Counted as started: the provider does not know it, so the next observation records it as lost.
                tracing::warn!(container = %spec.id, %error, "a container may have run before its start failed");
                Ok(Timestamp::now())
            }
            Err(error) => {
                Err(Trouble { reason: WaitingReason::of_start(&error), message: error.to_string() })
            }
        }
    }

    /// The handler that the pod's RuntimeClass names, if the provider knows it.
    fn runtime_handler(&self, pod: &Pod) -> Result<String, Trouble> {
        let class = pod.spec.as_ref().and_then(|s| s.runtime_class_name.as_deref()).filter(|c| !c.is_empty());
        let Some(class) = class else { return Ok(String::new()) };
        let handler = self.api.runtime_handler(class).map_err(sandbox_trouble)?;
        if self.runtime.handlers().contains(&handler) {
            return Ok(handler);
        }
        Err(sandbox_trouble(format!(
            "no runtime for \"{handler}\" is configured (the handler of RuntimeClass {class}; this node has: {})",
            self.runtime.handlers().into_iter().filter(|h| !h.is_empty()).collect::<Vec<_>>().join(", ")
        )))
    }

    /// Writes the files that the node makes for a container, and returns where they are to be seen, and what those of
    /// names say. What the container mounts itself is left to it.
    fn own_files(
        &self,
        pod: &Pod,
        container: &Container,
        attempt: u32,
        of_node: &Volumes,
    ) -> Result<(Vec<Mount>, NameFiles), String> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let message = self.records.termination_message(uid, &container.name, attempt);
        let make = || {
            if let Some(dir) = message.parent() {
                std::fs::create_dir_all(dir)?;
            }
            termination::make_file(&message)
        };
        make().map_err(|error| format!("cannot make the file {}: {error}", message.display()))?;

        let names = Names::of(pod, &self.node.hostname, &self.node.cluster_domain)?;
        let (dns, _) = Dns::of(pod, &of_node.settings().dns, &of_node.node_dns()?);
        let pod_dir = self.records.dir(uid);
        let node_hosts = Path::new(NODE_HOSTS);
        let sources = files::PodFileSources { names: &names, pod_ips: self.addresses, node_hosts, dns: &dns };
        let texts = PodFiles::of(pod, sources)?;
        texts.write(&pod_dir)?;

        let read_only = is_root_read_only(container);
        let mount = |guest_path: &str, host_path: PathBuf, read_only| {
            let mount = Mount { host_path, guest_path: guest_path.to_owned(), read_only };
            (!plan::is_taken(container, guest_path)).then_some(mount)
        };
        let shared = files::mounts(&pod_dir).into_iter();
        let shared = shared.filter_map(|(guest, path)| mount(guest, path, read_only));
        let mounts = shared.chain(mount(&termination::guest_path(container), message, false)).collect();
        Ok((mounts, NameFiles { resolv_conf: texts.resolv_conf, hosts: texts.hosts }))
    }

    /// The container as the provider gets it, but for its mounts and its runtime handler.
    async fn spec(
        &self,
        pod: &Pod,
        container: &Container,
        image: &Image,
        attempt: u32,
        files: &EnvFiles,
    ) -> Result<ContainerSpec, Trouble> {
        let meta = &pod.metadata;
        let (namespace, name) =
            (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
        let uid = meta.uid.clone().unwrap_or_default();
        if let Some(message) = refusal::of(pod, container) {
            return Err(config_error(message));
        }
        let objects = self
            .api
            .objects(&namespace, &References::of(container))
            .await
            .map_err(|error| config_error(error.to_string()))?;
        // A static pod does not wait for an API server to tell of its services.
        let services = self.api.services().or_else(|| is_static(pod).then(Vec::new)).ok_or_else(|| {
            config_error("services have not yet been read at least once, cannot construct envvars")
        })?;
        let sources = EnvironmentSources {
            pod,
            addresses: self.addresses,
            node: self.node,
            services: &services,
            config_maps: &objects.config_maps,
            secrets: &objects.secrets,
            files,
            image: &image.env,
        };
        let annotations = meta.annotations.clone().unwrap_or_default();
        let provided = self.provider_objects(&namespace, container, &annotations).await?;
        let mut env = environment::variables(container, sources).map_err(|error| config_error(error.0))?;
        let argv = environment::argv(container, image, &env).ok_or_else(|| Trouble {
            reason: WaitingReason::CreateContainerError,
            message: format!(
                "no command specified: image \"{}\" has no entry point; name the module in the container's `command`",
                image.reference
            ),
        })?;
        let working_dir = container
            .working_dir
            .clone()
            .filter(|dir| !dir.is_empty())
            .or_else(|| image.working_dir.clone().filter(|dir| !dir.is_empty()));
        if let Some(dir) = &working_dir
            && !env.iter().any(|(name, _)| name == "PWD")
        {
            env.push(("PWD".to_owned(), dir.clone()));
        }
        let spec = pod.spec.as_ref();
        let limits = ContainerResources::of(pod, container).limits;
        Ok(ContainerSpec {
            id: container_id(&uid, &container.name, attempt),
            log_path: logs::file(self.logs_dir, &namespace, &name, &uid, &container.name, attempt),
            scratch: self.records.scratch(&uid, &container.name, attempt),
            pod_uid: uid,
            pod_namespace: namespace,
            pod_name: name,
            name: container.name.clone(),
            runtime_handler: String::new(),
            pod_memory_limit_bytes: limits.pod_memory_limit_bytes,
            image: image.reference.clone(),
            argv,
            env,
            labels: meta.labels.clone().unwrap_or_default(),
            service_account: spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
            annotations,
            pod_containers: container_names(pod),
            objects: provided,
            working_dir,
            read_only_root: is_root_read_only(container),
            mounts: Vec::new(),
            memory_volumes: Vec::new(),
            pod_ips: self.addresses.to_vec(),
            network_slot: self.network_slot,
            host_network: spec.and_then(|s| s.host_network).unwrap_or(false),
            tcp_ports: tcp_ports(container),
            exposed_ports: host_ports::exposed(pod),
            name_files: None,
            stdin: container.stdin.unwrap_or(false),
            stdin_once: container.stdin_once.unwrap_or(false),
            tty: container.tty.unwrap_or(false),
            memory_limit_bytes: limits.memory_limit_bytes,
            cpu_limit_millis: limits.cpu_limit_millis,
            cpu_request_millis: limits.cpu_request_millis,
        })
    }
}

impl Launch<'_> {
    /// What is in the objects that the provider needs for a container.
    async fn provider_objects(
        &self,
        namespace: &str,
        container: &Container,
        annotations: &BTreeMap<String, String>,
    ) -> Result<ObjectContents, Trouble> {
        let names = self.runtime.objects(&container.name, annotations);
        let references = provider_objects::references(&names);
        let objects = self.api.objects(namespace, &references).await;
        let objects =
            objects.map_err(|error| config_error(provider_objects::unreadable(error.to_string())))?;
        provider_objects::contents(&names, &objects).map_err(config_error)
    }
}

/// Of all of a pod's containers, whichever part they play.
fn container_names(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| &container.name);
    let all = spec.init_containers.iter().flatten().chain(&spec.containers).map(|container| &container.name);
    all.chain(ephemeral).cloned().collect()
}

/// Removes the logs of attempts before the last one, which `kubectl logs --previous` shows. What cannot be
/// removed goes with the pod.
fn drop_old_logs(newest: &Path, attempt: u32) {
    let Some(entries) = newest.parent().and_then(|dir| std::fs::read_dir(dir).ok()) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let number = name.to_str().and_then(|n| n.split('.').next()).and_then(|n| n.parse::<u32>().ok());
        if number.is_some_and(|number| number.saturating_add(1) < attempt) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The ports of TCP of a container, each once: one that is named twice has its first name.
fn tcp_ports(container: &Container) -> Vec<TcpPort> {
    let mut found: Vec<TcpPort> = Vec::new();
    for port in container.ports.iter().flatten() {
        let is_tcp = port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        // What the API server let through is a port.
        let Some(number) = u16::try_from(port.container_port).ok().filter(|number| is_tcp && *number > 0)
        else {
            continue;
        };
        if !found.iter().any(|known| known.port == number) {
            found.push(TcpPort { port: number, name: port.name.clone().unwrap_or_default() });
        }
    }
    found
}

/// `securityContext.readOnlyRootFilesystem`.
fn is_root_read_only(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|s| s.read_only_root_filesystem) == Some(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_the_last_attempt_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["0.log", "1.log", "1.log.20260101-000000", "2.log", "2.log.20260101-000000", "other"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        drop_old_logs(&dir.path().join("3.log"), 3);
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["2.log", "2.log.20260101-000000", "other"]);
    }

    #[test]
    fn ports_of_tcp_are_told_of_once() {
        let container: Container = serde_json::from_value(serde_json::json!({
            "name": "c",
            "ports": [
                {"containerPort": 8080, "name": "http"},
                {"containerPort": 53, "protocol": "UDP"},
                {"containerPort": 9090, "protocol": "TCP"},
                {"containerPort": 8080, "name": "again"},
                {"containerPort": 7, "protocol": "SCTP"},
            ],
        }))
        .unwrap();
        let port = |port, name: &str| TcpPort { port, name: name.to_owned() };
        assert_eq!(tcp_ports(&container), [port(8080, "http"), port(9090, "")]);
    }

    #[test]
    fn a_failed_sandbox_is_an_event_of_the_pod_and_others_of_their_container() {
        let sandbox = note("c", &sandbox_trouble("runtimeclass.node.k8s.io \"x\" not found".to_owned()));
        assert_eq!((sandbox.container, sandbox.reason), (None, EventReason::FailedCreatePodSandBox));
        assert_eq!(sandbox.message, "Failed to create pod sandbox: runtimeclass.node.k8s.io \"x\" not found");
        let other = note("c", &config_error("secret \"s\" not found"));
        assert_eq!((other.container.as_deref(), other.reason), (Some("c"), EventReason::Failed));
        assert_eq!(other.message, "Error: secret \"s\" not found");
    }
}
