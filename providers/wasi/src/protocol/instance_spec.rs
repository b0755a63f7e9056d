//! What makes an instance, on the wire.

use std::sync::Arc;

use kubewasm_host::{
    CpuShare, DeniedNetworks, EgressEntry, EgressList, HttpProxy, ListenPort, ModuleKind, NameFiles, Network,
    PodAddresses, PrivateAuthorities, Stack,
};

use super::{WireError, wire};
use crate::spec::{InstanceSpec, MemoryVolumes, Mount, RootSpec};

impl From<&InstanceSpec> for wire::InstanceSpec {
    fn from(spec: &InstanceSpec) -> Self {
        let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
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
            kind: wire::Kind::from(spec.kind).into(),
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
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
            denied_networks: spec.denied_networks.networks.iter().map(ToString::to_string).collect(),
            host_denied: spec.denied_networks.host,
            egress: spec.egress.as_ref().map(Into::into),
            authorities: spec
                .authorities
                .iter()
                .flat_map(|authorities| authorities.der())
                .map(<[u8]>::to_vec)
                .collect(),
            http_proxy: spec.http_proxy.as_deref().map(Into::into),
            listen_ports: spec.listen_ports.iter().map(Into::into).collect(),
            http: spec.http.as_ref().map(ToString::to_string),
            tls: spec.tls.as_deref().map(Into::into),
            name_files: spec.name_files.as_deref().map(Into::into),
            label: spec.label.clone(),
            pod_addresses,
            exposed,
        }
    }
}

impl From<ModuleKind> for wire::Kind {
    fn from(kind: ModuleKind) -> Self {
        match kind {
            ModuleKind::CoreCommand => Self::CoreCommand,
            ModuleKind::CliComponent => Self::CliComponent,
            ModuleKind::CliComponentP3 => Self::CliComponentP3,
            ModuleKind::HttpComponent => Self::HttpComponent,
            ModuleKind::HttpComponentP3 => Self::HttpComponentP3,
            // No container is one, and a worker refuses it.
            ModuleKind::EmbeddedCore | ModuleKind::EmbeddedComponent => Self::Unspecified,
        }
    }
}

impl TryFrom<wire::Kind> for ModuleKind {
    type Error = WireError;

    fn try_from(kind: wire::Kind) -> Result<Self, WireError> {
        Ok(match kind {
            wire::Kind::CoreCommand => Self::CoreCommand,
            wire::Kind::CliComponent => Self::CliComponent,
            wire::Kind::CliComponentP3 => Self::CliComponentP3,
            wire::Kind::HttpComponent => Self::HttpComponent,
            wire::Kind::HttpComponentP3 => Self::HttpComponentP3,
            wire::Kind::Unspecified => return Err(WireError("the kind of module is missing or unknown")),
        })
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

impl From<&HttpProxy> for wire::HttpProxy {
    fn from(proxy: &HttpProxy) -> Self {
        Self {
            url: proxy.url(),
            credentials: proxy.credentials().map(|credentials| credentials.secret().to_owned()),
            past: proxy.past().iter().map(ToString::to_string).collect(),
        }
    }
}

impl TryFrom<wire::HttpProxy> for HttpProxy {
    type Error = WireError;

    fn try_from(proxy: wire::HttpProxy) -> Result<Self, WireError> {
        // What is wrong may be a secret.
        let invalid = |_| WireError("the proxy for HTTP is none");
        let credentials = proxy.credentials.map(|text| text.parse()).transpose().map_err(invalid)?;
        let past = proxy.past.iter().map(|entry| entry.parse()).collect::<Result<_, _>>();
        Self::new(&proxy.url, credentials, past.map_err(invalid)?).map_err(invalid)
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
        let kind = spec.kind().try_into()?;
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
            http_proxy: spec.http_proxy.map(TryInto::try_into).transpose()?.map(Arc::new),
            listen_ports: spec.listen_ports.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            http: spec
                .http
                .map(|text| text.parse())
                .transpose()
                .map_err(|_| WireError("settings of HTTP are none"))?,
            tls: spec.tls.map(TryInto::try_into).transpose()?.map(Arc::new),
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
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            tty: spec.tty,
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

#[cfg(test)]
mod tests;
