//! What the components of one workload have in common, and what each of them is given.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kubewasm_host::{
    Account, CpuShare, DeniedNetworks, EgressList, GuestExtension, GuestLimits, HttpConnections, HttpRule,
    Network, Output, PodPorts, Preopen, Setup, SocketRules, http::HttpSettings,
};

use crate::{
    call::{CallSettings, Slot},
    egress::EgressRules,
    engine::Engine,
    error::WorkloadError,
    host_interface::{HostInterface, WorkloadIdentity},
    loopback::Loopback,
    output::Outputs,
    volumes::Volumes,
    workload::{Component, LocalResources},
};

/// The name of the service among the components.
pub(crate) const SERVICE: &str = "service";
/// Calls of a component at a time, and instances, where it says nothing.
const DEFAULT_CONCURRENCY: u32 = 64;
/// The most that a component can say of either.
const MOST_CONCURRENCY: i32 = 10_000;

/// What a host has for all its workloads.
#[derive(Clone)]
pub(crate) struct HostShare {
    pub(crate) engine: Engine,
    pub(crate) plugins: Arc<[Arc<dyn HostInterface>]>,
    pub(crate) outputs: Arc<dyn Outputs>,
    pub(crate) denied_networks: Arc<DeniedNetworks>,
    /// For a call of a component, and for a request.
    pub(crate) deadline: Duration,
}

/// What one workload has.
pub(crate) struct Ground {
    pub(crate) host: HostShare,
    pub(crate) identity: Arc<WorkloadIdentity>,
    network: Network,
    ports: Arc<PodPorts>,
    http_connections: Arc<HttpConnections>,
    slots: Mutex<HashMap<Arc<str>, Arc<Slot>>>,
    _loopback: Loopback,
}

/// What one version of a component has.
pub(crate) struct ComponentGround {
    pub(crate) name: Arc<str>,
    pub(crate) account: Arc<Account>,
    pub(crate) output: Arc<dyn Output>,
    argv: Vec<String>,
    env: Vec<(String, String)>,
    preopens: Vec<Preopen>,
    /// For as long as anything of it runs.
    _volumes: Arc<Volumes>,
    network: Network,
    ports: Arc<PodPorts>,
    denied_networks: Arc<DeniedNetworks>,
    egress: Option<EgressList>,
    rules: SocketRules,
    http_rule: Arc<dyn HttpRule>,
    http_connections: Arc<HttpConnections>,
}

impl fmt::Debug for Ground {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ground").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl fmt::Debug for ComponentGround {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComponentGround").field("name", &self.name).finish_non_exhaustive()
    }
}

pub(crate) fn invalid(what: impl Into<String>, reason: impl Into<String>) -> WorkloadError {
    WorkloadError::Invalid { what: what.into(), reason: reason.into() }
}

impl Ground {
    pub(crate) fn new(
        host: HostShare,
        identity: Arc<WorkloadIdentity>,
        loopback: Loopback,
    ) -> Result<Self, WorkloadError> {
        let network = loopback.addresses().map(Network::Pod);
        let network = network.ok_or_else(|| invalid("the workload", "it has no loopback"))?;
        Ok(Self {
            host,
            identity,
            network,
            ports: Arc::default(),
            http_connections: Arc::default(),
            slots: Mutex::default(),
            _loopback: loopback,
        })
    }

    /// Where a component is found by those who call it; the same for all its versions.
    pub(crate) fn slot(&self, name: &Arc<str>) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(slots.entry(Arc::clone(name)).or_insert_with(|| Slot::new(Arc::clone(name))))
    }

    /// All that there have been.
    pub(crate) fn slots(&self) -> Vec<Arc<Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).values().map(Arc::clone).collect()
    }

    /// What a component is given. `listens`: it is the service.
    pub(crate) fn component(
        &self,
        name: &Arc<str>,
        resources: &LocalResources,
        volumes: &Arc<Volumes>,
        listens: bool,
    ) -> Result<ComponentGround, WorkloadError> {
        let LocalResources { memory_limit_mb, cpu_limit, environment, volume_mounts, .. } = resources;
        let what = |field: &str| format!("component `{name}`: {field}");
        let rules = EgressRules::parse(&resources.allowed_hosts);
        let rules = rules.map_err(|error| invalid(what("allowed hosts"), error.to_string()))?;
        let egress = rules.list(&resources.allowed_ip_name_lookups);
        let egress = egress.map_err(|error| invalid(what("allowed IP name lookups"), error.to_string()))?;
        let cpu = u64::try_from(*cpu_limit).unwrap_or(0);
        let limits = GuestLimits {
            memory_bytes: u64::try_from(*memory_limit_mb).unwrap_or(0) << 20,
            cpu: CpuShare { limit_millis: cpu, request_millis: cpu },
        };
        let mut env: Vec<_> = environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        env.sort_unstable();
        let preopens = volumes.preopens(name, volume_mounts, &self.host.engine.empty_root())?;
        Ok(ComponentGround {
            name: Arc::clone(name),
            account: self.host.engine.host().account(limits),
            output: self.host.outputs.open(&self.identity, name),
            argv: std::iter::once(name.to_string()).chain(resources.arguments.iter().cloned()).collect(),
            env,
            preopens,
            _volumes: Arc::clone(volumes),
            network: self.network.clone(),
            ports: Arc::clone(&self.ports),
            denied_networks: Arc::clone(&self.host.denied_networks),
            egress,
            rules: SocketRules {
                connects_only: !listens,
                loopback_ports: resources.allowed_loopback_ports.clone(),
            },
            http_rule: Arc::new(rules),
            http_connections: Arc::clone(&self.http_connections),
        })
    }
}

impl ComponentGround {
    /// What its instances are made with.
    pub(crate) fn setup<'a>(&'a self, extension: &'a Arc<dyn GuestExtension>) -> Setup<'a> {
        Setup {
            argv: &self.argv,
            env: &self.env,
            preopens: &self.preopens,
            has_volumes: !self.preopens.is_empty(),
            network: &self.network,
            pod_ports: Some(&self.ports),
            denied_networks: &self.denied_networks,
            egress: self.egress.as_ref(),
            socket_rules: &self.rules,
            http_rule: Some(&self.http_rule),
            http_connections: Some(&self.http_connections),
            extension: Some(extension),
            ..Setup::isolated(&self.output, &self.account)
        }
    }
}

fn concurrency(component: &Component) -> u32 {
    let wanted = component.max_concurrency.min(MOST_CONCURRENCY);
    u32::try_from(wanted).ok().filter(|wanted| *wanted > 0).unwrap_or(DEFAULT_CONCURRENCY)
}

fn pool_size(component: &Component) -> u32 {
    u32::try_from(component.pool_size.min(MOST_CONCURRENCY)).unwrap_or(0)
}

/// Calls of one instance: one where none is kept.
fn invocations(component: &Component) -> u32 {
    match (pool_size(component), u32::try_from(component.max_invocations).unwrap_or(0)) {
        (0, _) => 1,
        (_, 0) => u32::MAX,
        (_, most) => most,
    }
}

/// How a component is called.
pub(crate) fn call_settings(component: &Component, deadline: Duration) -> CallSettings {
    CallSettings {
        pool_size: pool_size(component) as usize,
        max_invocations: invocations(component).into(),
        max_concurrency: concurrency(component) as usize,
        deadline,
        has_own_turns: component.local_resources.cpu_limit > 0,
        is_single: false,
    }
}

/// How its requests are answered.
pub(crate) fn http_settings(component: &Component, deadline: Duration) -> HttpSettings {
    HttpSettings {
        max_requests: invocations(component),
        max_instances: concurrency(component),
        request_timeout: deadline,
        ..HttpSettings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_say_nothing_are_the_defaults() {
        for (pool_size, max_invocations, max_concurrency, expected) in [
            (0, 0, 0, (0, 1, 64)),
            (-1, -1, -1, (0, 1, 64)),
            (0, 100, 0, (0, 1, 64)),
            (2, 0, 3, (2, u64::from(u32::MAX), 3)),
            (2, 100, i32::MAX, (2, 100, 10_000)),
        ] {
            let component = Component { pool_size, max_invocations, max_concurrency, ..Component::default() };
            let found = call_settings(&component, Duration::from_secs(1));
            assert_eq!((found.pool_size, found.max_invocations, found.max_concurrency), expected);
        }
    }
}
