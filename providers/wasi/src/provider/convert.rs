//! Between the values of the kubelet, of the module store and of this crate. Pure.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::Timestamp;
use kubewasm_host::{
    CpuShare, ExposedPort, ExposedPorts, ListenPort, ModuleKind, NameFiles, Network, PodAddresses,
    TrafficUsage, Usage, exit, http::DURATION_BUCKETS_MILLIS,
};
use kubewasm_kubelet::runtime::{
    ContainerFileIo, ContainerLimits, ContainerSpec, ContainerState, ContainerStats, ContainerTraffic,
    Credential, ExecEnd, ExecError, Exit, ExitReason, HostPort, HostPortProtocol, HttpContainerStats, Image,
    ImageError, ImageUse, Presence, ResizeError, RuntimeError, StartError, TcpPort,
};
use kubewasm_modules::{ModuleError, PrecompileError, PullError, PullFailure, StoreError};
use kubewasm_network::{self as network, Loopback};
use kubewasm_rules::Protocol;

use crate::{
    instance::{End, Instance, InstanceStats},
    spec::{InstanceLimits, InstanceSpec, MemoryVolumes, Mount, RootSpec},
    supervisor::{self, ResizeFailure, Sighting, SupervisorError},
};

/// Environment variable by which a container asks to be told when it is to end.
const STOP_NOTICE: &str = "KUBEWASM_STOP_NOTICE";

pub(super) fn image(image: kubewasm_modules::Image) -> Image {
    Image {
        id: image.id(),
        reference: image.reference.to_string(),
        size_bytes: image.size_bytes,
        names: image.names,
        entrypoint: image.entrypoint,
        cmd: image.cmd,
        env: image.env,
        working_dir: image.working_dir,
    }
}

pub(super) fn host_port(port: &HostPort) -> network::HostPort {
    let protocol = match port.protocol {
        HostPortProtocol::Tcp => network::Protocol::Tcp,
        HostPortProtocol::Udp => network::Protocol::Udp,
        HostPortProtocol::Sctp => network::Protocol::Sctp,
    };
    network::HostPort {
        node: port.host_ip,
        port: port.host_port,
        protocol,
        pod: port.pod_ip,
        pod_port: port.container_port,
    }
}

pub(super) fn image_use(used: kubewasm_modules::ImageUse) -> ImageUse {
    let timestamp = |time: SystemTime| Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
    ImageUse {
        arrived_at: timestamp(used.arrived_at),
        last_used_at: timestamp(used.last_used_at),
        in_use: used.held,
        image: image(used.image),
    }
}

pub(super) fn credential(credential: &Credential) -> kubewasm_modules::Credential {
    kubewasm_modules::Credential {
        username: credential.username.clone(),
        password: credential.password.clone(),
    }
}

/// Whether a container wants to be told when it is to end: its environment says how.
pub(super) fn stop_notice(spec: &ContainerSpec) -> Result<bool, StartError> {
    match spec.env.iter().find(|(name, _)| name == STOP_NOTICE).map(|(_, value)| value.as_str()) {
        None | Some("") => Ok(false),
        Some("stdin") => Ok(true),
        // The value may come from a Secret: it is not repeated.
        Some(_) => {
            let error = format!(
                "the environment variable {STOP_NOTICE} has a value that is not known; \"stdin\" is, and none at all"
            );
            Err(StartError::Config(error.into()))
        }
    }
}

/// A container as its worker is told of it.
pub(super) fn instance_spec(
    spec: &ContainerSpec,
    module: PathBuf,
    kind: ModuleKind,
    image: Option<PathBuf>,
    stop_notice: bool,
) -> InstanceSpec {
    let mut env = spec.env.clone();
    if let Some(dir) = &spec.working_dir
        && !env.iter().any(|(name, _)| name == "PWD")
    {
        // Guests of WASI 0.1 have no other way to learn it, and Go's look here.
        env.push(("PWD".to_owned(), dir.clone()));
    }
    InstanceSpec {
        pod_uid: spec.pod_uid.clone(),
        name: format!("{}/{}/{}", spec.pod_namespace, spec.pod_name, spec.name),
        argv: spec.argv.clone(),
        env,
        working_dir: spec.working_dir.clone(),
        root: RootSpec {
            image,
            scratch: Some(spec.scratch.clone()),
            read_only: spec.read_only_root,
            mounts: spec.mounts.iter().map(mount).collect(),
        },
        network: network(spec),
        listen_ports: spec
            .tcp_ports
            .iter()
            .map(|TcpPort { port, name }| ListenPort { port: *port, name: name.clone() })
            .collect(),
        name_files: spec.name_files.as_ref().map(|files| {
            let kubewasm_kubelet::runtime::NameFiles { resolv_conf, hosts } = files;
            Arc::new(NameFiles::new(resolv_conf.as_str(), hosts.as_str()))
        }),
        memory_limit_bytes: spec.memory_limit_bytes,
        memory_volumes: MemoryVolumes {
            guest_paths: spec.memory_volumes.clone(),
            pod_limit_bytes: spec.pod_memory_limit_bytes,
        },
        cpu: CpuShare { limit_millis: spec.cpu_limit_millis, request_millis: spec.cpu_request_millis },
        terminal: is_terminal(kind, spec.tty),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        stop_notice,
        ..InstanceSpec::new(&spec.id, module, kind, spec.log_path.clone())
    }
}

/// Whether a container's output streams say that they are terminals. Programs in C of WASI 0.1 and 0.2 hold back their lines
/// otherwise; those of 0.3 write them when they have them, and a terminal is what the pod asks for with `tty`.
fn is_terminal(kind: ModuleKind, tty: bool) -> bool {
    match kind {
        ModuleKind::CoreCommand
        | ModuleKind::CliComponent
        | ModuleKind::HttpComponent
        | ModuleKind::EmbeddedCore
        | ModuleKind::EmbeddedComponent => true,
        ModuleKind::CliComponentP3 | ModuleKind::HttpComponentP3 => tty,
    }
}

/// What a container may do with sockets.
fn network(spec: &ContainerSpec) -> Network {
    match spec.network_slot.and_then(Loopback::of) {
        _ if spec.host_network => Network::Host,
        Some(Loopback { block, v6 }) => {
            Network::Pod(PodAddresses { own: spec.pod_ips.clone(), loopback: block, loopback_v6: v6 })
        }
        None if spec.exposed_ports.is_empty() => Network::Outgoing,
        None => Network::Exposed(ExposedPorts {
            own: spec.pod_ips.clone(),
            ports: spec.exposed_ports.iter().filter_map(exposed_port).collect(),
        }),
    }
}

/// A port of the node that is a container's; `None` for those that guests have no sockets for.
fn exposed_port(port: &kubewasm_kubelet::runtime::ExposedPort) -> Option<ExposedPort> {
    let protocol = match port.protocol {
        HostPortProtocol::Tcp => Protocol::Tcp,
        HostPortProtocol::Udp => Protocol::Udp,
        HostPortProtocol::Sctp => return None,
    };
    let kubewasm_kubelet::runtime::ExposedPort { container_port, host_ip, host_port, .. } = *port;
    Some(ExposedPort { protocol, container_port, host_ip, host_port })
}

fn mount(mount: &kubewasm_kubelet::runtime::Mount) -> Mount {
    Mount {
        host_path: mount.host_path.clone(),
        guest_path: mount.guest_path.clone(),
        read_only: mount.read_only,
    }
}

pub(super) fn presence(sighting: Sighting) -> Presence {
    match sighting {
        Sighting::Known(instance) => Presence::Known(container_state(instance)),
        Sighting::Starting => Presence::Known(ContainerState::Starting),
        Sighting::Absent => Presence::Absent,
        Sighting::CannotTell => Presence::CannotTell,
    }
}

fn container_state(instance: Instance) -> ContainerState {
    let started_at = instance.started_at;
    match instance.end {
        None => ContainerState::Running { started_at },
        Some(End { finished_at, exit: exit::Exit { code, reason, message } }) => {
            let reason = match reason {
                exit::ExitReason::Exited => ExitReason::Exited,
                exit::ExitReason::Trapped => ExitReason::Trapped,
                exit::ExitReason::Stopped => ExitReason::Stopped,
                exit::ExitReason::OutOfMemory => ExitReason::OutOfMemory,
                exit::ExitReason::StartFailed => ExitReason::StartFailed,
                exit::ExitReason::Lost => ExitReason::Lost,
            };
            ContainerState::Exited(Exit { started_at, finished_at, exit_code: code, reason, message })
        }
    }
}

pub(super) fn container_stats(stats: InstanceStats) -> ContainerStats {
    let InstanceStats { id, pod_uid, at, usage, .. } = stats;
    let Usage { cpu, throttled, yields, memory_bytes, traffic, files } = usage;
    let TrafficUsage { received_bytes, sent_bytes, has_uncounted, .. } = traffic;
    let traffic = ContainerTraffic { received_bytes, sent_bytes, has_uncounted };
    let files = ContainerFileIo {
        read_bytes: files.received_bytes,
        written_bytes: files.sent_bytes,
        reads: files.reads,
        writes: files.writes,
        has_uncounted: files.has_uncounted,
    };
    ContainerStats { id, pod_uid, at, cpu, throttled, yields, memory_bytes, traffic, files }
}

/// What a container has answered, if it serves HTTP.
pub(super) fn http_stats(stats: InstanceStats) -> Option<HttpContainerStats> {
    let InstanceStats { id, pod_uid, http, .. } = stats;
    let http = http?;
    let bounds = DURATION_BUCKETS_MILLIS.into_iter().map(Duration::from_millis);
    Some(HttpContainerStats {
        id,
        pod_uid,
        answers: http.answers,
        duration: http.duration,
        buckets: bounds.zip(http.buckets).collect(),
        in_flight: http.in_flight,
        queued: http.queued,
        instances: http.instances,
        connections: http.connections,
        rejected: http.rejected,
        failures: http.failures,
        timeouts: http.timeouts,
        handshake_failures: http.handshake_failures,
    })
}

pub(super) fn exec_end(output: supervisor::ExecOutput) -> ExecEnd {
    let supervisor::ExecOutput { exit_code, output } = output;
    ExecEnd { exit_code, output }
}

pub(super) fn exec_error(id: &str, error: SupervisorError) -> ExecError {
    match error {
        SupervisorError::NotRunning(_) => ExecError::NotRunning(id.to_owned()),
        error => ExecError::Failed(error.into()),
    }
}

pub(super) fn instance_limits(limits: ContainerLimits) -> InstanceLimits {
    InstanceLimits {
        memory_limit_bytes: limits.memory_limit_bytes,
        pod_memory_limit_bytes: limits.pod_memory_limit_bytes,
        cpu: CpuShare { limit_millis: limits.cpu_limit_millis, request_millis: limits.cpu_request_millis },
    }
}

pub(super) fn resize_error(container: &str, failure: ResizeFailure) -> ResizeError {
    match failure {
        ResizeFailure::BelowUse { of_pod, limit, used } => {
            ResizeError::BelowUse { container: (!of_pod).then(|| container.to_owned()), limit, used }
        }
        ResizeFailure::Old => ResizeError::Unsupported(failure.to_string()),
        ResizeFailure::Supervisor(error) => ResizeError::Runtime(RuntimeError(error.into())),
    }
}

pub(super) fn pull_error(error: PullError) -> ImageError {
    match error.reason {
        PullFailure::Unavailable(_) => ImageError::RegistryUnavailable(error.into()),
        PullFailure::SignatureInvalid(_) => ImageError::SignatureInvalid(error.into()),
        PullFailure::Store(_) => ImageError::Store(error.into()),
        PullFailure::Denied(_)
        | PullFailure::NotFound(_)
        | PullFailure::Mismatch(_)
        | PullFailure::Unsupported(_)
        | PullFailure::TooLarge(_)
        | PullFailure::EmptyLayer(_)
        | PullFailure::Configuration(_)
        | PullFailure::Malformed(_) => ImageError::Pull(error.into()),
    }
}

/// Of an image that was looked up.
pub(super) fn lookup_error(error: StoreError) -> ImageError {
    match error {
        StoreError::SignatureInvalid { .. } => ImageError::SignatureInvalid(error.into()),
        StoreError::Unusable { .. }
        | StoreError::Io { .. }
        | StoreError::InUse { .. }
        | StoreError::Absent { .. }
        | StoreError::TooLarge { .. }
        | StoreError::Import(_) => ImageError::Store(error.into()),
    }
}

pub(super) fn module_error(error: ModuleError) -> StartError {
    match error {
        ModuleError::Store { .. } => StartError::Run(error.into()),
        ModuleError::NotFound { .. }
        | ModuleError::NoFile { .. }
        | ModuleError::NotWasm { .. }
        | ModuleError::Empty { .. } => StartError::Create(error.into()),
    }
}

pub(super) fn compile_error(error: PrecompileError) -> StartError {
    match error {
        PrecompileError::Invalid(_) => StartError::Create(error.into()),
        PrecompileError::Failed(_) | PrecompileError::NotRun(_) | PrecompileError::Store(_) => {
            StartError::Run(error.into())
        }
    }
}

pub(super) fn start_error(error: SupervisorError) -> StartError {
    match error {
        SupervisorError::Module(_) => StartError::Create(error.into()),
        SupervisorError::Config(_) => StartError::Config(error.into()),
        SupervisorError::Worker(_)
        | SupervisorError::Network(_)
        | SupervisorError::Claim(_)
        | SupervisorError::GivenUp
        | SupervisorError::NotRunning(_)
        | SupervisorError::OldWorker
        | SupervisorError::Connection(_)
        | SupervisorError::CannotTell(_)
        | SupervisorError::Confinement(_)
        | SupervisorError::Dir { .. } => StartError::Run(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(env: &[(&str, &str)], working_dir: Option<&str>) -> ContainerSpec {
        ContainerSpec {
            id: "1".into(),
            pod_uid: "u".into(),
            pod_namespace: "default".into(),
            pod_name: "web".into(),
            name: "main".into(),
            runtime_handler: String::new(),
            image: "r.io/web:v1".into(),
            argv: vec!["web".into()],
            env: env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            labels: Default::default(),
            service_account: String::new(),
            annotations: Default::default(),
            pod_containers: Vec::new(),
            objects: Default::default(),
            working_dir: working_dir.map(Into::into),
            scratch: "/s".into(),
            read_only_root: false,
            mounts: Vec::new(),
            log_path: "/l".into(),
            pod_ips: Vec::new(),
            network_slot: None,
            host_network: false,
            tcp_ports: Vec::new(),
            exposed_ports: Vec::new(),
            name_files: None,
            stdin: false,
            stdin_once: false,
            tty: false,
            memory_limit_bytes: 1,
            memory_volumes: Vec::new(),
            pod_memory_limit_bytes: 0,
            cpu_limit_millis: 0,
            cpu_request_millis: 0,
        }
    }

    #[test]
    fn a_program_of_0_3_has_a_terminal_if_the_pod_asks_for_one() {
        for (kind, tty, expected) in [
            (ModuleKind::CoreCommand, false, true),
            (ModuleKind::CliComponent, false, true),
            (ModuleKind::CliComponentP3, false, false),
            (ModuleKind::CliComponentP3, true, true),
        ] {
            assert_eq!(is_terminal(kind, tty), expected, "{kind} {tty}");
        }
    }

    #[test]
    fn the_working_directory_is_in_the_environment_unless_something_is() {
        for (env, dir, expected) in [
            (&[("A", "1")][..], None, &[("A", "1")][..]),
            (&[("A", "1")], Some("/srv"), &[("A", "1"), ("PWD", "/srv")]),
            (&[("PWD", "/other")], Some("/srv"), &[("PWD", "/other")]),
        ] {
            let spec = instance_spec(&spec(env, dir), "/m".into(), ModuleKind::CoreCommand, None, false);
            let found: Vec<_> =
                spec.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_container_asks_for_the_notice_by_its_environment() {
        for (env, expected) in [
            (&[("A", "1")][..], Some(false)),
            (&[(STOP_NOTICE, "")], Some(false)),
            (&[(STOP_NOTICE, "stdin")], Some(true)),
            (&[(STOP_NOTICE, "hunter2")], None),
        ] {
            match (stop_notice(&spec(env, None)), expected) {
                (Ok(found), Some(expected)) => assert_eq!(found, expected, "{env:?}"),
                (Err(error @ StartError::Config(_)), None) => {
                    let message = error.to_string();
                    assert!(message.contains(STOP_NOTICE) && !message.contains("hunter2"), "{message}");
                }
                (found, _) => panic!("{env:?} gives {found:?}"),
            }
        }
    }

    #[test]
    fn the_hosts_network_is_for_pods_that_share_it() {
        let outgoing = spec(&[], None);
        let host = ContainerSpec { host_network: true, ..outgoing.clone() };
        let network = |spec: &ContainerSpec| {
            instance_spec(spec, "/m".into(), ModuleKind::CoreCommand, None, false).network
        };
        assert_eq!((network(&outgoing), network(&host)), (Network::Outgoing, Network::Host));
        let own: Vec<std::net::IpAddr> = vec!["10.244.1.7".parse().unwrap()];
        let pod = ContainerSpec { network_slot: Some(7), pod_ips: own.clone(), ..outgoing.clone() };
        let addresses = PodAddresses {
            own,
            loopback: "127.0.28.0/22".parse().unwrap(),
            loopback_v6: "fd6b:7761:736d::7:1".parse().unwrap(),
        };
        assert_eq!(network(&pod), Network::Pod(addresses));
        assert_eq!(network(&ContainerSpec { host_network: true, ..pod.clone() }), Network::Host);
        let port = |protocol| kubewasm_kubelet::runtime::ExposedPort {
            protocol,
            container_port: 80,
            host_ip: None,
            host_port: 8080,
        };
        let exposed_ports = vec![port(HostPortProtocol::Tcp), port(HostPortProtocol::Sctp)];
        let exposing = ContainerSpec { exposed_ports, ..outgoing.clone() };
        let tcp = ExposedPort { protocol: Protocol::Tcp, container_port: 80, host_ip: None, host_port: 8080 };
        let exposed = ExposedPorts { own: Vec::new(), ports: vec![tcp] };
        assert_eq!(network(&exposing), Network::Exposed(exposed));
        assert_eq!(network(&ContainerSpec { host_network: true, ..exposing.clone() }), Network::Host);
        let own = ContainerSpec { exposed_ports: exposing.exposed_ports, ..pod.clone() };
        assert_eq!(network(&own), network(&pod), "ports lead to its addresses");
        assert_eq!(
            instance_spec(&host, "/m".into(), ModuleKind::CoreCommand, None, false).name,
            "default/web/main"
        );
    }

    #[test]
    fn the_root_is_made_of_what_the_kubelet_says() {
        let mount = kubewasm_kubelet::runtime::Mount {
            host_path: "/h".into(),
            guest_path: "/g".into(),
            read_only: true,
        };
        let spec = ContainerSpec { read_only_root: true, mounts: vec![mount], ..spec(&[], None) };
        let root =
            instance_spec(&spec, "/m".into(), ModuleKind::CoreCommand, Some("/image".into()), false).root;
        let mount = Mount { host_path: "/h".into(), guest_path: "/g".into(), read_only: true };
        let (image, scratch) = (Some("/image".into()), Some("/s".into()));
        assert_eq!(root, RootSpec { image, scratch, read_only: true, mounts: vec![mount] });
    }

    #[test]
    fn failed_pulls_are_told_apart() {
        let error = |reason| pull_error(PullError { image: "r.io/web:v1".into(), reason });
        assert!(matches!(error(PullFailure::Unavailable("x".into())), ImageError::RegistryUnavailable(_)));
        assert!(matches!(error(PullFailure::Denied("x".into())), ImageError::Pull(_)));
        let unsigned = || PullFailure::SignatureInvalid("it is not signed".into());
        assert!(matches!(error(unsigned()), ImageError::SignatureInvalid(_)));
        let kept = StoreError::SignatureInvalid { image: "r.io/web:v1".into(), detail: "x".into() };
        assert!(matches!(lookup_error(kept), ImageError::SignatureInvalid(_)));
        let absent = StoreError::Absent { image: "r.io/web:v1".into() };
        assert!(matches!(lookup_error(absent), ImageError::Store(_)));
        let text = error(PullFailure::NotFound("x".into())).to_string();
        assert!(text.contains("r.io/web:v1") && text.contains("not found"), "{text}");
    }
}
