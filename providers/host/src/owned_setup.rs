//! What makes several instances: a [`Setup`], to be kept.

use std::sync::Arc;

use crate::{
    account::Account,
    lookup::NameFiles,
    network::{DeniedNetworks, EgressList, Firewall, Network, PodPorts, SocketRules},
    outgoing::{HttpConnections, HttpProxy, HttpRule, HttpSender, PrivateAuthorities},
    output::Output,
    setup::{GuestExtension, Input, Preopen, Setup},
};

/// What makes each instance: [`Setup`], to be kept.
#[derive(Debug)]
pub(crate) struct OwnedSetup {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    working_dir: Option<String>,
    preopens: Vec<Preopen>,
    has_volumes: bool,
    network: Network,
    pod_ports: Option<Arc<PodPorts>>,
    denied_networks: DeniedNetworks,
    firewall: Option<Arc<Firewall>>,
    egress: Option<EgressList>,
    socket_rules: SocketRules,
    name_files: Option<Arc<NameFiles>>,
    http_connections: Option<Arc<HttpConnections>>,
    authorities: Option<Arc<PrivateAuthorities>>,
    http_proxy: Option<Arc<HttpProxy>>,
    http_sender: Option<Arc<dyn HttpSender>>,
    http_rule: Option<Arc<dyn HttpRule>>,
    pub(crate) output: Arc<dyn Output>,
    terminal: bool,
    pub(crate) account: Arc<Account>,
    extension: Option<Arc<dyn GuestExtension>>,
}

impl From<&Setup<'_>> for OwnedSetup {
    fn from(setup: &Setup<'_>) -> Self {
        Self {
            argv: setup.argv.to_vec(),
            env: setup.env.to_vec(),
            working_dir: setup.working_dir.map(str::to_owned),
            preopens: setup.preopens.to_vec(),
            has_volumes: setup.has_volumes,
            network: setup.network.clone(),
            pod_ports: setup.pod_ports.cloned(),
            denied_networks: setup.denied_networks.clone(),
            firewall: setup.firewall.cloned(),
            egress: setup.egress.cloned(),
            socket_rules: setup.socket_rules.clone(),
            name_files: setup.name_files.cloned(),
            http_connections: setup.http_connections.cloned(),
            authorities: setup.authorities.cloned(),
            http_proxy: setup.http_proxy.cloned(),
            http_sender: setup.http_sender.cloned(),
            http_rule: setup.http_rule.cloned(),
            output: Arc::clone(setup.output),
            terminal: setup.terminal,
            account: Arc::clone(setup.account),
            extension: setup.extension.cloned(),
        }
    }
}

impl OwnedSetup {
    /// For one more instance, which does not listen, and is told nothing of its end.
    pub(crate) fn borrowed(&self) -> Setup<'_> {
        Setup {
            argv: &self.argv,
            env: &self.env,
            working_dir: self.working_dir.as_deref(),
            preopens: &self.preopens,
            has_volumes: self.has_volumes,
            network: &self.network,
            pod_ports: self.pod_ports.as_ref(),
            denied_networks: &self.denied_networks,
            firewall: self.firewall.as_ref(),
            egress: self.egress.as_ref(),
            socket_rules: &self.socket_rules,
            name_files: self.name_files.as_ref(),
            http_connections: self.http_connections.as_ref(),
            authorities: self.authorities.as_ref(),
            http_proxy: self.http_proxy.as_ref(),
            http_sender: self.http_sender.as_ref(),
            http_rule: self.http_rule.as_ref(),
            listen_ports: &[],
            output: &self.output,
            terminal: self.terminal,
            input: Input::Nothing,
            account: &self.account,
            extension: self.extension.as_ref(),
            notice: None,
        }
    }
}
