//! Where what pods send to the addresses of a Service goes, after upstream's `pkg/proxy/serviceport.go` and the rules of its
//! nftables mode for packets of pods. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};

use super::{
    Viewpoint,
    endpoints::{self, Endpoints},
    slices::{ServiceSlices, transport},
};
use crate::runtime::{ServiceRoute, ServiceRoutes};

/// Label of a Service that somebody else than kube-proxy serves.
const PROXY_NAME: &str = "service.kubernetes.io/service-proxy-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds`, where it is not set.
const AFFINITY: Duration = Duration::from_secs(10_800);

/// The routes of a Service; `None` for one that has no address of its own, or is somebody else's to serve.
pub(super) fn of(
    service: &Service,
    slices: Option<&ServiceSlices>,
    here: &Viewpoint,
) -> Option<ServiceRoutes> {
    let spec = service.spec.as_ref()?;
    let is_anothers = service.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(PROXY_NAME));
    if is_anothers || spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let cluster_ips = cluster_ips(spec);
    if cluster_ips.is_empty() {
        return None;
    }
    let ingress = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = ingress.and_then(|load_balancer| load_balancer.ingress.as_deref()).unwrap_or_default();
    let balancers: Vec<IpAddr> = ingress.iter().filter_map(vip).collect();
    let mut routes = Vec::new();
    for cluster_ip in &cluster_ips {
        let family = Family { spec, cluster_ip: *cluster_ip, balancers: &balancers, here };
        for port in spec.ports.iter().flatten() {
            family.add(port, slices, &mut routes);
        }
    }
    Some(ServiceRoutes { cluster_ips, routes })
}

/// One, or one of each family; none for a headless Service.
fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = spec.cluster_ips.as_deref().filter(|all| !all.is_empty());
    let all = all.unwrap_or(spec.cluster_ip.as_slice());
    let mut found: Vec<IpAddr> = Vec::new();
    for ip in all.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()) {
        if found.iter().all(|known| known.is_ipv4() != ip.is_ipv4()) {
            found.push(ip);
        }
    }
    found
}

/// The address of a load balancer, if what is sent there may be answered without it.
fn vip(ingress: &LoadBalancerIngress) -> Option<IpAddr> {
    let is_vip = ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP");
    ingress.ip.as_deref().filter(|_| is_vip)?.parse().ok()
}

/// A Service in one family of addresses.
struct Family<'a> {
    spec: &'a ServiceSpec,
    cluster_ip: IpAddr,
    balancers: &'a [IpAddr],
    here: &'a Viewpoint,
}

impl Family<'_> {
    fn has(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.cluster_ip.is_ipv4()
    }

    /// Adds the routes of a port.
    fn add(&self, port: &ServicePort, slices: Option<&ServiceSlices>, routes: &mut Vec<ServiceRoute>) {
        let Some(transport) = transport(port.protocol.as_deref()) else { return };
        let Some(number) = u16::try_from(port.port).ok().filter(|number| *number > 0) else { return };
        let name = port.name.as_deref().unwrap_or_default();
        let endpoints = slices.map_or_else(Endpoints::new, |slices| {
            slices.endpoints(name, transport, self.cluster_ip.is_ipv4())
        });
        let of_cluster = endpoints::of_cluster(&endpoints, self.here);
        let is_internal_local = self.spec.internal_traffic_policy.as_deref() == Some("Local");
        let route = |at: Vec<SocketAddr>, endpoints: Vec<SocketAddr>| ServiceRoute {
            transport,
            at,
            endpoints,
            node_only: false,
            affinity: affinity(self.spec),
            sources: Vec::new(),
        };
        let mut internal = vec![SocketAddr::new(self.cluster_ip, number)];
        let external = self.external(number, port.node_port);
        if is_internal_local {
            // With nobody anywhere it is refused, and lost where there is somebody else.
            let node_only = endpoints::are_there(&endpoints);
            let of_node = endpoints::of_node(&endpoints, self.here);
            routes.push(ServiceRoute { node_only, ..route(internal, of_node) });
            if !external.is_empty() {
                routes.push(route(external, of_cluster.clone()));
            }
        } else {
            internal.extend(external);
            routes.push(route(internal, of_cluster.clone()));
        }
        let balancers = self.balancers.iter().filter(|ip| self.has(**ip));
        let balancers: Vec<SocketAddr> = balancers.map(|ip| SocketAddr::new(*ip, number)).collect();
        if !balancers.is_empty() {
            routes.push(ServiceRoute { sources: self.sources(), ..route(balancers, of_cluster) });
        }
    }

    /// The addresses of a port besides the ClusterIP and those of load balancers. What a pod sends there goes anywhere in the
    /// cluster, whatever `externalTrafficPolicy` says: that is for what comes from beyond it.
    fn external(&self, port: u16, node_port: Option<i32>) -> Vec<SocketAddr> {
        let named = self.spec.external_ips.iter().flatten().filter_map(|ip| ip.parse().ok());
        let named = named.filter(|ip| self.has(*ip)).map(|ip| SocketAddr::new(ip, port));
        let node_port = node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        let nodes = self.here.addresses.iter().filter(|ip| self.has(**ip));
        let nodes = nodes.filter_map(|ip| Some(SocketAddr::new(*ip, node_port?)));
        named.chain(nodes).collect()
    }

    /// Who may send to load balancers; empty for everybody.
    fn sources(&self) -> Vec<IpNet> {
        let all = self.spec.load_balancer_source_ranges.iter().flatten();
        let all = all.filter_map(|range| range.trim().parse::<IpNet>().ok());
        let all: Vec<IpNet> = all.filter(|range| self.has(range.addr())).collect();
        if all.iter().any(|range| range.prefix_len() == 0) { Vec::new() } else { all }
    }
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).and_then(|s| u64::try_from(s).ok());
    Some(seconds.map_or(AFFINITY, Duration::from_secs))
}
