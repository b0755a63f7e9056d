//! metrics-server, behind the API server's aggregation layer: what `kubectl top` and autoscalers ask.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    cluster::{Cluster, programs},
    home::Home,
    ports,
    process::Process,
};

/// Time for the API server to take it for available.
const READY: Duration = Duration::from_secs(120);
/// Where its objects are, on disk and in the cluster.
const NAME: &str = "metrics-server";

/// The program. It ends with its home; its objects stay, and with them namespaces that cannot be deleted while it is gone:
/// it belongs to a cluster of one test.
#[derive(Debug)]
pub struct MetricsServer {
    _process: Process,
}

impl MetricsServer {
    /// Starts it, tells the API server of it, and waits until that has its answers. It asks nodes every ten seconds, the least
    /// that it allows.
    ///
    /// # Errors
    /// When it cannot be built or does not become available; and on a machine without an address that an Endpoint may have.
    pub async fn start(home: &Home, cluster: &Cluster) -> Result<Self> {
        let folder = programs::build("tools/metrics-server/build.sh").await?;
        let files = home.folder(NAME)?;
        let (address, port) = (cluster.node_address(), ports::free()?);
        if address.is_loopback() {
            bail!(
                "an API server does not reach another one on the loopback; this machine has no other address"
            );
        }
        let kubeconfig = cluster.admin_kubeconfig();
        let mut command = Command::new(folder.join(NAME));
        for name in ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"] {
            command.arg(format!("--{name}={}", kubeconfig.display()));
        }
        command
            .arg(format!("--bind-address={address}"))
            .arg(format!("--secure-port={port}"))
            .arg(format!("--cert-dir={}", files.display()))
            .args(["--metric-resolution=10s", "--kubelet-request-timeout=5s"])
            .arg("--kubelet-preferred-address-types=InternalIP")
            // Several nodes share this machine, each with a port of its own.
            .arg("--kubelet-use-node-status-port")
            // Nodes have signed their serving certificates themselves.
            .arg("--kubelet-insecure-tls");
        let process = Process::start(NAME, &mut command, &home.log(NAME))?;
        register(&files, cluster, SocketAddr::new(address, port)).await?;
        let wait = ["wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io"];
        let timeout = format!("--timeout={}s", READY.as_secs());
        cluster
            .kubectl(&[wait[0], wait[1], wait[2], &timeout])
            .await
            .with_context(|| format!("metrics-server does not answer (see {})", home.log(NAME).display()))?;
        Ok(Self { _process: process })
    }
}

/// The Service, where it leads to, and the API that is behind it.
async fn register(files: &std::path::Path, cluster: &Cluster, address: SocketAddr) -> Result<()> {
    let family = match address.ip() {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    };
    let (ip, port) = (address.ip(), address.port());
    let manifest = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {NAME}, namespace: kube-system}}
spec:
  ports: [{{name: https, port: 443, targetPort: {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {NAME}
  namespace: kube-system
  labels: {{kubernetes.io/service-name: {NAME}}}
addressType: {family}
endpoints: [{{addresses: ['{ip}'], conditions: {{ready: true}}}}]
ports: [{{name: https, port: {port}, protocol: TCP}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {{name: v1beta1.metrics.k8s.io}}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {{name: {NAME}, namespace: kube-system}}
"
    );
    let path: PathBuf = files.join("objects.yaml");
    std::fs::write(&path, manifest).with_context(|| format!("cannot write {}", path.display()))?;
    cluster.kubectl(&["apply", "-f", &path.to_string_lossy()]).await?;
    Ok(())
}
