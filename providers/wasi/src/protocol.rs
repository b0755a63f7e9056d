//! The worker protocol as Rust values: generated types, and the way between them and ours.

mod exposed;
mod http;
mod rules;
mod tables;

use std::{fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use kubewasm_host::{
    CpuShare, DeniedNetworks, EgressEntry, EgressList, ListenPort, ModuleKind, NameFiles, Network,
    PodAddresses, PrivateAuthorities, Stack, Usage,
    exit::{Exit, ExitReason},
};

use crate::{
    instance::{End, Instance, InstanceStats},
    spec::{InstanceSpec, MemoryVolumes, Mount, RootSpec},
};

pub(crate) use rules::OutgoingRules;
pub(crate) use tables::{IncomingUpdate, OutgoingUpdate};

/// What `proto/worker.proto` generates.
#[allow(
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "generated code"
)]
pub(crate) mod wire {
    tonic::include_proto!("kubewasm.worker.v1");
}

/// A range of protocol versions; `proto/worker.proto` says what each brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The oldest.
    pub min: u32,
    /// The newest.
    pub max: u32,
}

impl Versions {
    /// What this program speaks: the newest version, and the two before it.
    pub const OURS: Self = Self { min: 3, max: 5 };
    /// The first version with tables of the network.
    pub(crate) const TABLES: u32 = 4;
    /// The first version in which a worker says who listens.
    pub(crate) const LISTENS: u32 = 5;

    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.max.min(other.max);
        (newest >= self.min.max(other.min)).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.min, self.max)
    }
}

/// A message that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid message: {0}")]
pub struct WireError(&'static str);

impl fmt::Debug for wire::EnvVar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvVar").field("name", &self.name).finish_non_exhaustive()
    }
}

impl From<&InstanceSpec> for wire::InstanceSpec {
    fn from(spec: &InstanceSpec) -> Self {
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let kind = match spec.kind {
            ModuleKind::CoreCommand => wire::Kind::CoreCommand,
            ModuleKind::CliComponent => wire::Kind::CliComponent,
            ModuleKind::CliComponentP3 => wire::Kind::CliComponentP3,
            ModuleKind::HttpComponent => wire::Kind::HttpComponent,
            ModuleKind::HttpComponentP3 => wire::Kind::HttpComponentP3,
        };
        let network = match spec.network {
            Network::Outgoing | Network::Exposed(_) => wire::Network::Outgoing,
            Network::Host => wire::Network::Host,
            Network::Pod(_) => wire::Network::Pod,
            Network::Namespace => wire::Network::Namespace,
        };
        let pod_addresses = match &spec.network {
            Network::Pod(addresses) => Some(addresses.into()),
            Network::Outgoing | Network::Exposed(_) | Network::Namespace | Network::Host => None,
        };
        let exposed = match &spec.network {
            Network::Exposed(exposed) => Some(exposed.into()),
            Network::Outgoing | Network::Pod(_) | Network::Namespace | Network::Host => None,
        };
        let env = spec
            .env
            .iter()
            .map(|(name, value)| wire::EnvVar { name: name.clone(), value: value.clone() })
            .collect();
        Self {
            id: spec.id.clone(),
            pod_uid: spec.pod_uid.clone(),
            name: spec.name.clone(),
            module: path(&spec.module),
            kind: kind.into(),
            argv: spec.argv.clone(),
            env,
            working_dir: spec.working_dir.clone().unwrap_or_default(),
            log_path: path(&spec.log_path),
            network: network.into(),
            memory_limit_bytes: spec.memory_limit_bytes,
            memory_volumes: spec.memory_volumes.guest_paths.clone(),
            pod_memory_limit_bytes: spec.memory_volumes.pod_limit_bytes,
            cpu_limit_millis: spec.cpu.limit_millis,
            cpu_request_millis: spec.cpu.request_millis,
            stop_notice: spec.stop_notice,
            stack_bytes: spec.stack.bytes() as u64,
            not_a_terminal: !spec.terminal,
            denied_networks: spec.denied_networks.networks.iter().map(ToString::to_string).collect(),
            host_denied: spec.denied_networks.host,
            egress: spec.egress.as_ref().map(Into::into),
            authorities: spec
                .authorities
                .iter()
                .flat_map(|authorities| authorities.der())
                .map(<[u8]>::to_vec)
                .collect(),
            listen_ports: spec.listen_ports.iter().map(Into::into).collect(),
            http: spec.http.as_ref().map(ToString::to_string),
            name_files: spec.name_files.as_deref().map(Into::into),
            label: spec.label.clone(),
            pod_addresses,
            exposed,
        }
    }
}

impl From<&EgressList> for wire::EgressList {
    fn from(list: &EgressList) -> Self {
        Self { entries: list.entries().iter().map(ToString::to_string).collect() }
    }
}

impl TryFrom<wire::EgressList> for EgressList {
    type Error = WireError;

    fn try_from(list: wire::EgressList) -> Result<Self, WireError> {
        let entries = list.entries.iter().map(|entry| entry.parse::<EgressEntry>());
        entries.collect::<Result<_, _>>().map_err(|_| WireError("an entry of what may be reached is none"))
    }
}

impl From<&ListenPort> for wire::ListenPort {
    fn from(ListenPort { port, name }: &ListenPort) -> Self {
        Self { port: (*port).into(), name: name.clone() }
    }
}

impl TryFrom<wire::ListenPort> for ListenPort {
    type Error = WireError;

    fn try_from(wire::ListenPort { port, name }: wire::ListenPort) -> Result<Self, WireError> {
        let port = port.try_into().ok().filter(|port| *port > 0);
        Ok(Self { port: port.ok_or(WireError("a port to listen on is none"))?, name })
    }
}

impl From<&NameFiles> for wire::NameFiles {
    fn from(files: &NameFiles) -> Self {
        Self { resolv_conf: files.resolv_conf().to_owned(), hosts: files.hosts().to_owned() }
    }
}

impl From<wire::NameFiles> for NameFiles {
    fn from(files: wire::NameFiles) -> Self {
        Self::new(files.resolv_conf, files.hosts)
    }
}

impl From<&PodAddresses> for wire::PodAddresses {
    fn from(addresses: &PodAddresses) -> Self {
        let PodAddresses { own, loopback, loopback_v6 } = addresses;
        Self {
            own: own.iter().map(ToString::to_string).collect(),
            loopback: loopback.to_string(),
            loopback_v6: loopback_v6.to_string(),
        }
    }
}

impl TryFrom<wire::PodAddresses> for PodAddresses {
    type Error = WireError;

    fn try_from(addresses: wire::PodAddresses) -> Result<Self, WireError> {
        let unreadable = WireError("an address of the pod is none");
        let own = addresses.own.iter().map(|ip| ip.parse()).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            own: own.map_err(|_| unreadable.clone())?,
            loopback: addresses.loopback.parse().map_err(|_| unreadable.clone())?,
            loopback_v6: addresses.loopback_v6.parse().map_err(|_| unreadable)?,
        })
    }
}

/// None at all is no set of them.
fn authorities(der: Vec<Vec<u8>>) -> Result<Option<Arc<PrivateAuthorities>>, WireError> {
    if der.is_empty() {
        return Ok(None);
    }
    let authorities = PrivateAuthorities::from_der(der);
    Ok(Some(Arc::new(authorities.map_err(|_| WireError("a certificate of an authority is none"))?)))
}

impl TryFrom<wire::InstanceSpec> for InstanceSpec {
    type Error = WireError;

    fn try_from(spec: wire::InstanceSpec) -> Result<Self, WireError> {
        let kind = match spec.kind() {
            wire::Kind::CoreCommand => ModuleKind::CoreCommand,
            wire::Kind::CliComponent => ModuleKind::CliComponent,
            wire::Kind::CliComponentP3 => ModuleKind::CliComponentP3,
            wire::Kind::HttpComponent => ModuleKind::HttpComponent,
            wire::Kind::HttpComponentP3 => ModuleKind::HttpComponentP3,
            wire::Kind::Unspecified => {
                return Err(WireError("the kind of module is missing or unknown"));
            }
        };
        let network = match spec.network() {
            wire::Network::Outgoing => match spec.exposed.clone() {
                Some(exposed) => Network::Exposed(exposed.try_into()?),
                None => Network::Outgoing,
            },
            wire::Network::Host => Network::Host,
            wire::Network::Namespace => Network::Namespace,
            wire::Network::Pod => {
                let addresses = spec.pod_addresses.clone();
                Network::Pod(addresses.ok_or(WireError("the addresses of the pod are missing"))?.try_into()?)
            }
            wire::Network::Unspecified => {
                return Err(WireError("the network is missing or unknown"));
            }
        };
        let stack = Stack::of_bytes(spec.stack_bytes).ok_or(WireError("the stack is too large"))?;
        let networks = spec.denied_networks.iter().map(|network| network.parse()).collect::<Result<_, _>>();
        let networks = networks.map_err(|_| WireError("a denied network is none"))?;
        if spec.id.is_empty() {
            return Err(WireError("the id is missing"));
        }
        if spec.argv.is_empty() {
            return Err(WireError("argv is empty"));
        }
        Ok(Self {
            id: spec.id,
            pod_uid: spec.pod_uid,
            name: spec.name,
            module: spec.module.into(),
            kind,
            argv: spec.argv,
            env: spec.env.into_iter().map(|var| (var.name, var.value)).collect(),
            working_dir: Some(spec.working_dir).filter(|dir| !dir.is_empty()),
            // It is handed over, not told of.
            root: RootSpec::default(),
            log_path: spec.log_path.into(),
            network,
            denied_networks: DeniedNetworks { networks, host: spec.host_denied },
            egress: spec.egress.map(TryInto::try_into).transpose()?,
            authorities: authorities(spec.authorities)?,
            listen_ports: spec.listen_ports.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            http: spec
                .http
                .map(|text| text.parse())
                .transpose()
                .map_err(|_| WireError("settings of HTTP are none"))?,
            name_files: spec.name_files.map(|files| Arc::new(files.into())),
            memory_limit_bytes: spec.memory_limit_bytes,
            memory_volumes: MemoryVolumes {
                guest_paths: spec.memory_volumes,
                pod_limit_bytes: spec.pod_memory_limit_bytes,
            },
            cpu: CpuShare { limit_millis: spec.cpu_limit_millis, request_millis: spec.cpu_request_millis },
            stop_notice: spec.stop_notice,
            stack,
            terminal: !spec.not_a_terminal,
            label: spec.label,
        })
    }
}

impl From<&RootSpec> for wire::Root {
    fn from(root: &RootSpec) -> Self {
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
        let mount = |mount: &Mount| wire::Mount {
            host_path: path(&mount.host_path),
            guest_path: mount.guest_path.clone(),
            read_only: mount.read_only,
        };
        Self {
            image: root.image.as_deref().map(path).unwrap_or_default(),
            scratch: root.scratch.as_deref().map(path).unwrap_or_default(),
            read_only: root.read_only,
            mounts: root.mounts.iter().map(mount).collect(),
        }
    }
}

impl From<wire::Root> for RootSpec {
    fn from(root: wire::Root) -> Self {
        let path = |path: String| (!path.is_empty()).then(|| path.into());
        let mount = |mount: wire::Mount| Mount {
            host_path: mount.host_path.into(),
            guest_path: mount.guest_path,
            read_only: mount.read_only,
        };
        Self {
            image: path(root.image),
            scratch: path(root.scratch),
            read_only: root.read_only,
            mounts: root.mounts.into_iter().map(mount).collect(),
        }
    }
}

impl From<&Instance> for wire::Instance {
    fn from(instance: &Instance) -> Self {
        let exit = instance.end.as_ref().map(|End { finished_at, exit }| {
            let reason = match exit.reason {
                ExitReason::Exited => wire::ExitReason::Exited,
                ExitReason::Trapped => wire::ExitReason::Trapped,
                ExitReason::Stopped => wire::ExitReason::Stopped,
                ExitReason::OutOfMemory => wire::ExitReason::OutOfMemory,
                ExitReason::StartFailed => wire::ExitReason::StartFailed,
                ExitReason::Lost => wire::ExitReason::Lost,
            };
            wire::Exit {
                finished_at: nanoseconds(*finished_at),
                code: exit.code,
                reason: reason.into(),
                message: exit.message.clone(),
            }
        });
        Self {
            id: instance.id.clone(),
            pod_uid: instance.pod_uid.clone(),
            revision: instance.revision,
            started_at: nanoseconds(instance.started_at),
            exit,
            label: instance.label.clone(),
        }
    }
}

impl TryFrom<wire::Instance> for Instance {
    type Error = WireError;

    fn try_from(instance: wire::Instance) -> Result<Self, WireError> {
        let end = match instance.exit {
            None => None,
            Some(exit) => {
                let reason = match exit.reason() {
                    wire::ExitReason::Exited => ExitReason::Exited,
                    wire::ExitReason::Trapped => ExitReason::Trapped,
                    wire::ExitReason::Stopped => ExitReason::Stopped,
                    wire::ExitReason::OutOfMemory => ExitReason::OutOfMemory,
                    wire::ExitReason::StartFailed => ExitReason::StartFailed,
                    wire::ExitReason::Lost => ExitReason::Lost,
                    wire::ExitReason::Unspecified => {
                        return Err(WireError("the reason of an exit is missing or unknown"));
                    }
                };
                Some(End {
                    finished_at: timestamp(exit.finished_at)?,
                    exit: Exit::new(exit.code, reason, exit.message),
                })
            }
        };
        Ok(Self {
            id: instance.id,
            pod_uid: instance.pod_uid,
            label: instance.label,
            revision: instance.revision,
            started_at: timestamp(instance.started_at)?,
            end,
        })
    }
}

impl From<&InstanceStats> for wire::InstanceStats {
    fn from(stats: &InstanceStats) -> Self {
        // Of processor time, 64 bits hold centuries.
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            id: stats.id.clone(),
            pod_uid: stats.pod_uid.clone(),
            at: nanoseconds(stats.at),
            cpu_nanos: nanos(stats.usage.cpu),
            throttled_nanos: nanos(stats.usage.throttled),
            memory_bytes: stats.usage.memory_bytes,
            http: stats.http.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<wire::InstanceStats> for InstanceStats {
    type Error = WireError;

    fn try_from(stats: wire::InstanceStats) -> Result<Self, WireError> {
        Ok(Self {
            id: stats.id,
            pod_uid: stats.pod_uid,
            at: timestamp(stats.at)?,
            usage: Usage {
                cpu: Duration::from_nanos(stats.cpu_nanos),
                throttled: Duration::from_nanos(stats.throttled_nanos),
                memory_bytes: stats.memory_bytes,
            },
            http: stats.http.map(Into::into),
        })
    }
}

/// Nanoseconds since 1970; the last one that fits for times after the year 2262.
fn nanoseconds(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn timestamp(nanoseconds: i64) -> Result<Timestamp, WireError> {
    Timestamp::from_nanosecond(nanoseconds.into()).map_err(|_| WireError("a time is out of range"))
}

#[cfg(test)]
mod tests {
    use kubewasm_host::{DeniedNetwork, ExposedPort, ExposedPorts};
    use kubewasm_rules::Protocol;

    use super::*;

    fn authority() -> PrivateAuthorities {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["ca.example".to_owned()]).unwrap();
        PrivateAuthorities::from_der([params.self_signed(&key).unwrap().der().to_vec()]).unwrap()
    }

    fn spec() -> InstanceSpec {
        InstanceSpec {
            id: "1".into(),
            pod_uid: "u".into(),
            name: "ns/pod/c".into(),
            module: "/m".into(),
            kind: ModuleKind::CliComponent,
            argv: vec!["a".into(), "b".into()],
            env: vec![("A".into(), "1".into()), ("B".into(), String::new())],
            working_dir: Some("/srv".into()),
            root: RootSpec::default(),
            log_path: "/l".into(),
            network: Network::Host,
            denied_networks: ["192.0.2.0/24", "node"]
                .iter()
                .map(|text| text.parse::<DeniedNetwork>().unwrap())
                .collect(),
            egress: Some("example.com:443,*.example.org,10.0.0.0/8,[2001:db8::/32]:53".parse().unwrap()),
            authorities: Some(Arc::new(authority())),
            listen_ports: vec![ListenPort { port: 8080, name: "http".into() }],
            http: Some("max-requests=7,access-log=json".parse().unwrap()),
            name_files: Some(Arc::new(NameFiles::new("nameserver 10.96.0.10\n", "127.0.0.1 localhost\n"))),
            stack: Stack::LARGEST,
            terminal: false,
            memory_limit_bytes: 64 << 20,
            memory_volumes: MemoryVolumes {
                guest_paths: vec!["/m/a".into(), "/m/b".into()],
                pod_limit_bytes: 128 << 20,
            },
            cpu: CpuShare { limit_millis: 500, request_millis: 100 },
            stop_notice: true,
            label: "image".into(),
        }
    }

    fn pod_addresses() -> PodAddresses {
        PodAddresses {
            own: ["10.244.1.7", "fd00:10::7"].map(|ip| ip.parse().unwrap()).into(),
            loopback: "127.0.28.0/22".parse().unwrap(),
            loopback_v6: "fd6b::7:1".parse().unwrap(),
        }
    }

    fn exposed() -> ExposedPorts {
        let port = |protocol, host_ip: Option<&str>| ExposedPort {
            protocol,
            container_port: 8080,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
            host_port: 18080,
        };
        ExposedPorts {
            own: ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into(),
            ports: vec![port(Protocol::Tcp, None), port(Protocol::Udp, Some("::"))],
        }
    }

    #[test]
    fn specs_survive_the_wire() {
        for spec in [
            spec(),
            InstanceSpec {
                working_dir: None,
                network: Network::Outgoing,
                denied_networks: DeniedNetworks::default(),
                egress: None,
                authorities: None,
                listen_ports: Vec::new(),
                http: None,
                name_files: None,
                stack: Stack::DEFAULT,
                terminal: true,
                kind: ModuleKind::CoreCommand,
                ..spec()
            },
            InstanceSpec {
                network: Network::Pod(pod_addresses()),
                egress: Some("".parse().unwrap()),
                ..spec()
            },
            InstanceSpec { network: Network::Namespace, ..spec() },
            InstanceSpec { network: Network::Exposed(exposed()), ..spec() },
        ] {
            assert_eq!(InstanceSpec::try_from(wire::InstanceSpec::from(&spec)), Ok(spec));
        }
    }

    #[test]
    fn roots_survive_the_wire() {
        for root in [
            RootSpec::default(),
            RootSpec {
                image: Some("/image".into()),
                scratch: Some("/scratch".into()),
                read_only: true,
                mounts: vec![Mount { host_path: "/h".into(), guest_path: "/g".into(), read_only: true }],
            },
        ] {
            assert_eq!(RootSpec::from(wire::Root::from(&root)), root);
        }
    }

    #[test]
    fn specs_that_make_no_sense_are_refused() {
        let good = wire::InstanceSpec::from(&spec());
        let of_pod = wire::InstanceSpec { network: wire::Network::Pod.into(), ..good.clone() };
        let unreadable = wire::PodAddresses { own: vec!["x".into()], ..(&pod_addresses()).into() };
        let outgoing = wire::InstanceSpec { network: wire::Network::Outgoing.into(), ..good.clone() };
        let exposing = |change: fn(&mut wire::ExposedPorts)| {
            let mut ports = wire::ExposedPorts::from(&exposed());
            change(&mut ports);
            wire::InstanceSpec { exposed: Some(ports), ..outgoing.clone() }
        };
        for (bad, expected) in [
            (wire::InstanceSpec { kind: 99, ..good.clone() }, "the kind of module"),
            (wire::InstanceSpec { network: 0, ..good.clone() }, "the network"),
            (of_pod.clone(), "the addresses of the pod are missing"),
            (wire::InstanceSpec { pod_addresses: Some(unreadable), ..of_pod }, "an address of the pod"),
            (wire::InstanceSpec { stack_bytes: u64::MAX, ..good.clone() }, "the stack"),
            (wire::InstanceSpec { denied_networks: vec!["x".into()], ..good.clone() }, "a denied network"),
            (wire::InstanceSpec { authorities: vec![b"x".to_vec()], ..good.clone() }, "a certificate"),
            (
                wire::InstanceSpec {
                    listen_ports: vec![wire::ListenPort { port: 70_000, name: String::new() }],
                    ..good.clone()
                },
                "a port to listen on",
            ),
            (exposing(|exposed| exposed.own[0] = "x".into()), "an address of the pod"),
            (exposing(|exposed| exposed.ports[0].transport = 0), "what a port carries"),
            (exposing(|exposed| exposed.ports[0].host_ip = "x".into()), "the address of a port"),
            (exposing(|exposed| exposed.ports[0].host_port = 0), "a port of the node"),
            (exposing(|exposed| exposed.ports[0].container_port = 70_000), "a port of the node"),
            (wire::InstanceSpec { http: Some("x".into()), ..good.clone() }, "settings of HTTP"),
            (wire::InstanceSpec { id: String::new(), ..good.clone() }, "the id"),
            (wire::InstanceSpec { argv: Vec::new(), ..good }, "argv"),
        ] {
            let error = InstanceSpec::try_from(bad).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn instances_survive_the_wire() {
        let started_at = Timestamp::new(1_700_000_000, 123_456_789).unwrap();
        let running = Instance {
            id: "1".into(),
            pod_uid: "u".into(),
            label: "image".into(),
            revision: 7,
            started_at,
            end: None,
        };
        assert_eq!(Instance::try_from(wire::Instance::from(&running)), Ok(running.clone()));
        for reason in [
            ExitReason::Exited,
            ExitReason::Trapped,
            ExitReason::Stopped,
            ExitReason::OutOfMemory,
            ExitReason::StartFailed,
            ExitReason::Lost,
        ] {
            let end = End { finished_at: started_at, exit: Exit::new(3, reason, "why") };
            let exited = Instance { end: Some(end), ..running.clone() };
            assert_eq!(Instance::try_from(wire::Instance::from(&exited)), Ok(exited));
        }
    }

    #[test]
    fn stats_survive_the_wire() {
        let stats = InstanceStats {
            id: "1".into(),
            pod_uid: "u".into(),
            at: Timestamp::new(1_700_000_000, 123_456_789).unwrap(),
            usage: Usage {
                cpu: Duration::new(3600, 1),
                throttled: Duration::from_millis(7),
                memory_bytes: 64 << 20,
            },
            http: Some(kubewasm_host::http::HttpStats {
                answers: [0, 3, 0, 1, 2],
                duration: Duration::from_millis(17),
                buckets: [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3],
                in_flight: 1,
                queued: 2,
                instances: 3,
                connections: 4,
                rejected: 5,
                failures: 6,
                timeouts: 7,
            }),
        };
        assert_eq!(InstanceStats::try_from(wire::InstanceStats::from(&stats)), Ok(stats));
    }

    #[test]
    fn values_of_the_environment_stay_out_of_debug_texts() {
        let mut spec = spec();
        spec.env = vec![("PASSWORD".into(), "hunter2".into())];
        let text = format!("{:?}", wire::StartRequest { spec: Some((&spec).into()), session: String::new() });
        assert!(text.contains("PASSWORD") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        let ours = Versions { min: 2, max: 3 };
        for (min, max, expected) in [
            (1, 1, None),
            (1, 2, Some(2)),
            (2, 3, Some(3)),
            (3, 9, Some(3)),
            (4, 9, None),
            (0, 0, None),
            (3, 2, None),
        ] {
            let theirs = Versions { min, max };
            assert_eq!(ours.common(theirs), expected, "{theirs}");
            assert_eq!(theirs.common(ours), expected, "{theirs}");
        }
    }

    #[test]
    fn neighbouring_versions_understand_each_other() {
        let Versions { min, max } = Versions::OURS;
        assert!(min < max, "the version before the newest is spoken too");
        assert_eq!(Versions::OURS.common(Versions { min: max, max: max + 1 }), Some(max));
        assert_eq!(Versions::OURS.common(Versions { min: min.saturating_sub(1), max: min }), Some(min));
    }
}
