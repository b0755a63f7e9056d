//! A control plane on this machine: etcd and Kubernetes' own programs, on loopback ports.
//!
//! [`Cluster::start`] makes certificates ([`pki`]), starts the programs one after the other, each awaited by
//! its own health endpoint, and applies what a node needs to join ([`bootstrap`]). The programs come from
//! `tests/cluster/build.sh` ([`programs`]). Nothing is configured that a production cluster would do
//! otherwise, except that etcd does not sync to disk, that requests for config maps and secrets are noted down
//! ([`audit`]), and that what pods may ask for on clusters that enable it (trust bundles, certificates) is enabled.

pub mod address;
pub mod audit;
pub mod bootstrap;
pub mod kubeconfig;
pub mod pki;
pub mod programs;

use std::{
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{
    Api, Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::sync::Mutex;

use self::{
    bootstrap::Token,
    kubeconfig::Credentials,
    pki::{Pair, Pki},
    programs::Programs,
};
use crate::{
    home::Home,
    ports,
    process::{self, Process},
    progress::Step,
    wait,
};

/// Time for one program to become ready. Seconds on an idle machine.
const READY: Duration = Duration::from_secs(120);

/// Addresses of Services, of both families; the first is that of the API server.
const SERVICE_RANGE: &str = "10.96.0.0/16,fd00:10:96::/112";
const SERVICE_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1));

/// Addresses of pods, of both families; every node gets a part of each.
const POD_RANGE: &str = "10.244.0.0/16,fd00:10:244::/56";

/// What a node may be asked for that API servers do not take by default.
const FEATURES: &str = "ClusterTrustBundle=true,ClusterTrustBundleProjection=true,PodCertificateRequest=true";

/// Ports of one cluster, all on 127.0.0.1.
#[derive(Debug)]
struct Ports {
    etcd: u16,
    etcd_peer: u16,
    apiserver: u16,
    controller_manager: u16,
    scheduler: u16,
}

/// How a control plane differs from the usual one.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    signing_duration: Option<String>,
    verifies_nodes: bool,
}

impl ClusterOptions {
    /// Certificates that it signs are good for so long (`60s`), from when they are signed.
    #[must_use]
    pub fn signing_duration(mut self, duration: &str) -> Self {
        self.signing_duration = Some(duration.to_owned());
        self
    }

    /// Its API server takes no serving certificates of nodes but those that it has signed.
    #[must_use]
    pub fn verifying_nodes(mut self) -> Self {
        self.verifies_nodes = true;
        self
    }
}

/// A running control plane. It goes on when this value is dropped; the end of its [`Home`] ends it.
#[derive(Debug)]
pub struct Cluster {
    programs: Programs,
    pki: Pki,
    ports: Ports,
    folder: PathBuf,
    logs: Logs,
    node_address: IpAddr,
    options: ClusterOptions,
    apiserver: Mutex<Process>,
}

#[derive(Debug)]
struct Logs {
    etcd: PathBuf,
    apiserver: PathBuf,
    controller_manager: PathBuf,
    scheduler: PathBuf,
}

impl Cluster {
    /// Starts a control plane below `home`, and returns when a node could join it.
    ///
    /// # Errors
    /// When a program is not there, or does not become ready; the error shows the end of its log.
    pub async fn start(home: &Home) -> Result<Self> {
        Self::start_with(home, ClusterOptions::default()).await
    }

    /// Starts one that differs from the usual.
    ///
    /// # Errors
    /// See [`Cluster::start`].
    pub async fn start_with(home: &Home, options: ClusterOptions) -> Result<Self> {
        crate::init();
        let programs = Programs::find().await?;
        let step = Step::begin("starting the control plane");
        let folder = home.folder("cluster")?;
        let node_address = address::of_this_machine();
        let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), SERVICE_ADDRESS];
        let pki = pki::make(&home.folder("cluster/pki")?, &addresses)?;
        let ports = Ports {
            etcd: ports::free()?,
            etcd_peer: ports::free()?,
            apiserver: ports::free()?,
            controller_manager: ports::free()?,
            scheduler: ports::free()?,
        };
        let logs = Logs {
            etcd: home.log("etcd"),
            apiserver: home.log("kube-apiserver"),
            controller_manager: home.log("kube-controller-manager"),
            scheduler: home.log("kube-scheduler"),
        };
        start_etcd(&programs, &pki, &ports, &folder, &logs.etcd).await?;
        audit::write_policy(&audit_policy(&folder))?;
        let service = service_endpoint(node_address);
        let site = ApiServerSite {
            programs: &programs,
            pki: &pki,
            folder: &folder,
            options: &options,
            features: "",
        };
        let apiserver = start_apiserver(&site, ports.etcd, ports.apiserver, service, &logs.apiserver).await?;
        let apiserver = Mutex::new(apiserver);
        let cluster = Self { programs, pki, ports, folder, logs, node_address, options, apiserver };
        cluster.write_kubeconfig("admin", cluster.ports.apiserver, cluster.as_admin())?;
        let client = cluster.client().await?;
        cluster.start_controller_manager().await?;
        cluster.start_scheduler().await?;
        let token = Token::random();
        bootstrap::apply(&client, &token).await?;
        cluster.write_kubeconfig(
            "bootstrap",
            cluster.ports.apiserver,
            Credentials::Token(&token.bearer()),
        )?;
        await_default_service_account(&client, "default").await?;
        step.done();
        Ok(cluster)
    }

    /// A client with all rights. It belongs to the Tokio runtime that it is made in.
    ///
    /// # Errors
    /// When the admin's kubeconfig cannot be read.
    pub async fn client(&self) -> Result<Client> {
        let kubeconfig = self.admin_kubeconfig();
        let config = config_of(&kubeconfig).await?;
        Client::try_from(config).with_context(|| format!("{} makes no client", kubeconfig.display()))
    }

    /// Runs kubectl as admin and returns its standard output.
    ///
    /// # Errors
    /// When it exits with anything but 0; the error shows what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let admin = format!("--kubeconfig={}", self.admin_kubeconfig().display());
        let arguments: Vec<&str> = std::iter::once(admin.as_str()).chain(arguments.iter().copied()).collect();
        process::run(&self.kubectl_path(), &arguments).await
    }

    /// The kubectl of the control plane's own version.
    #[must_use]
    pub fn kubectl_path(&self) -> PathBuf {
        self.programs.path("kubectl")
    }

    /// Kubeconfig of a member of `system:masters`.
    #[must_use]
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.folder.join("admin.kubeconfig")
    }

    /// Kubeconfig with the bootstrap token, good for asking for a node's client certificate.
    #[must_use]
    pub fn bootstrap_kubeconfig(&self) -> PathBuf {
        self.folder.join("bootstrap.kubeconfig")
    }

    /// Certificate of the authority that signs the clients of kubelets.
    #[must_use]
    pub fn ca_certificate(&self) -> &Path {
        &self.pki.ca.certificate
    }

    /// Client certificate with which the API server comes to kubelets.
    #[must_use]
    pub fn kubelet_client(&self) -> &Pair {
        &self.pki.kubelet_client
    }

    /// The address that a node on this machine should have.
    #[must_use]
    pub fn node_address(&self) -> IpAddr {
        self.node_address
    }

    /// What nodes have asked the API server for and were granted, of config maps and secrets of `namespace`, oldest
    /// first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn requests_of_nodes(&self, namespace: &str) -> Result<Vec<audit::Request>> {
        audit::requests(&audit_log(&self.folder), namespace)
    }

    /// For which collections the user of a node has asked the API server: pods, services and runtime classes, oldest first.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn collections_of_node(&self, name: &str) -> Result<Vec<audit::CollectionRequest>> {
        audit::collections(&audit_log(&self.folder), &format!("system:node:{name}"))
    }

    /// Takes the API server away, as in an outage.
    ///
    /// # Errors
    /// When it cannot be killed.
    pub async fn stop_apiserver(&self) -> Result<()> {
        self.apiserver.lock().await.kill()
    }

    /// Brings the API server back on the same port, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_apiserver(&self) -> Result<()> {
        let mut apiserver = self.apiserver.lock().await;
        let (port, service) = (self.ports.apiserver, service_endpoint(self.node_address));
        *apiserver = self.start_apiserver_at(port, service, "", &self.logs.apiserver).await?;
        Ok(())
    }

    /// Starts another API server on the same store, which no node and no controller knows of: it sees and
    /// changes what they have, also while [`Cluster::stop_apiserver`] keeps the first one from them. Returns
    /// a client of it with all rights. It ends with the cluster.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_second_apiserver(&self) -> Result<Client> {
        let kubeconfig = self.start_apiserver_beside("2", "").await?;
        let config = config_of(&kubeconfig).await?;
        Client::try_from(config).with_context(|| format!("{} makes no client", kubeconfig.display()))
    }

    /// The same with feature gates of its own (`,Name=false,…`) and the name `name`. Returns a kubeconfig with all rights.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start_apiserver_beside(&self, name: &str, features: &str) -> Result<PathBuf> {
        let port = ports::free()?;
        let log = self.logs.apiserver.with_file_name(format!("kube-apiserver-{name}.log"));
        self.start_apiserver_at(port, None, features, &log).await?;
        self.write_kubeconfig(&format!("admin-{name}"), port, self.as_admin())
    }

    async fn start_apiserver_at(
        &self,
        port: u16,
        service: Option<IpAddr>,
        features: &str,
        log: &Path,
    ) -> Result<Process> {
        let Self { programs, pki, folder, options, .. } = self;
        let site = ApiServerSite { programs, pki, folder, options, features };
        start_apiserver(&site, self.ports.etcd, port, service, log).await
    }

    fn as_admin(&self) -> Credentials<'_> {
        Credentials::Certificate(&self.pki.admin)
    }

    fn write_kubeconfig(&self, name: &str, port: u16, credentials: Credentials<'_>) -> Result<PathBuf> {
        let path = self.folder.join(name).with_extension("kubeconfig");
        let server = local_url(port);
        kubeconfig::write(&path, &server, &self.pki.ca.certificate, credentials)?;
        Ok(path)
    }

    async fn start_controller_manager(&self) -> Result<()> {
        let pair = &self.pki.controller_manager;
        let (port, credentials) = (self.ports.apiserver, Credentials::Certificate(pair));
        let kubeconfig = self.write_kubeconfig("controller-manager", port, credentials)?;
        let mut command = Command::new(self.programs.path("kube-controller-manager"));
        command
            .arg(flag("kubeconfig", kubeconfig.display()))
            .arg(flag("cluster-signing-cert-file", self.pki.ca.certificate.display()))
            .arg(flag("cluster-signing-key-file", self.pki.ca.key.display()))
            .arg(flag("root-ca-file", self.pki.ca.certificate.display()))
            .arg(flag("service-account-private-key-file", self.pki.service_account.key.display()))
            .arg(flag("service-cluster-ip-range", SERVICE_RANGE))
            .arg(flag("cluster-cidr", POD_RANGE))
            .arg(flag("controllers", "*,bootstrapsigner,tokencleaner"))
            .arg(flag("secure-port", self.ports.controller_manager))
            .args(["--bind-address=127.0.0.1", "--leader-elect=false", "--allocate-node-cidrs"])
            // An autoscaler looks every 15 s otherwise, and takes minutes to come down.
            .args([
                "--horizontal-pod-autoscaler-sync-period=3s",
                "--horizontal-pod-autoscaler-initial-readiness-delay=1s",
            ])
            .args(["--horizontal-pod-autoscaler-cpu-initialization-period=1s"])
            .arg("--horizontal-pod-autoscaler-downscale-stabilization=5s")
            .args(["--use-service-account-credentials", "--kube-api-qps=200", "--kube-api-burst=400"]);
        if let Some(duration) = &self.options.signing_duration {
            command.arg(flag("cluster-signing-duration", duration));
        }
        let mut process =
            Process::start("kube-controller-manager", &mut command, &self.logs.controller_manager)?;
        await_healthy(&mut process, self.ports.controller_manager, "/healthz").await
    }

    async fn start_scheduler(&self) -> Result<()> {
        let pair = &self.pki.scheduler;
        let (port, credentials) = (self.ports.apiserver, Credentials::Certificate(pair));
        let kubeconfig = self.write_kubeconfig("scheduler", port, credentials)?;
        let mut command = Command::new(self.programs.path("kube-scheduler"));
        command
            .arg(flag("kubeconfig", kubeconfig.display()))
            .arg(flag("secure-port", self.ports.scheduler))
            .args(["--bind-address=127.0.0.1", "--leader-elect=false"]);
        let mut process = Process::start("kube-scheduler", &mut command, &self.logs.scheduler)?;
        await_healthy(&mut process, self.ports.scheduler, "/healthz").await
    }
}

/// Waits until the controller manager has made the service account that every pod of the namespace needs.
///
/// # Errors
/// When it is not there after two minutes.
pub async fn await_default_service_account(client: &Client, namespace: &str) -> Result<()> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    wait::object(accounts, "default", "the service account", READY, |account| account.is_some()).await?;
    Ok(())
}

/// A client's configuration with the rights of a kubeconfig file.
///
/// # Errors
/// When the file cannot be read or makes no client.
pub async fn config_of(kubeconfig: &Path) -> Result<Config> {
    let read =
        Kubeconfig::read_from(kubeconfig).with_context(|| format!("cannot read {}", kubeconfig.display()))?;
    Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("{} makes no client", kubeconfig.display()))
}

async fn start_etcd(programs: &Programs, pki: &Pki, ports: &Ports, folder: &Path, log: &Path) -> Result<()> {
    let (client, peer) = (local_url(ports.etcd), format!("http://127.0.0.1:{}", ports.etcd_peer));
    let mut command = Command::new(programs.path("etcd"));
    command
        .arg(flag("data-dir", folder.join("etcd").display()))
        .arg(flag("listen-client-urls", &client))
        .arg(flag("advertise-client-urls", &client))
        .arg(flag("listen-peer-urls", &peer))
        .arg(flag("initial-advertise-peer-urls", &peer))
        .arg(flag("initial-cluster", format!("default={peer}")))
        .arg(flag("cert-file", pki.etcd.certificate.display()))
        .arg(flag("key-file", pki.etcd.key.display()))
        .arg(flag("trusted-ca-file", pki.ca.certificate.display()))
        .args(["--client-cert-auth", "--unsafe-no-fsync"]);
    let mut process = Process::start("etcd", &mut command, log)?;
    // Its health is behind client certificates; that it takes connections is enough, because the API server
    // asks again until it gets an answer.
    let port = ports.etcd;
    process
        .await_ready(READY, async || {
            let connection = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
            connection.map(drop).map_err(|error| error.to_string())
        })
        .await
}

/// Where the Service `kubernetes` leads to, on a machine of that address. An endpoint may not be on loopback,
/// and nothing here needs one.
fn service_endpoint(address: IpAddr) -> Option<IpAddr> {
    Some(address).filter(|address| !address.is_loopback())
}

/// What all API servers of a cluster have in common.
struct ApiServerSite<'a> {
    programs: &'a Programs,
    pki: &'a Pki,
    folder: &'a Path,
    options: &'a ClusterOptions,
    /// Feature gates of this one, besides [`FEATURES`]: empty, or each after a comma.
    features: &'a str,
}

async fn start_apiserver(
    site: &ApiServerSite<'_>,
    etcd_port: u16,
    port: u16,
    service: Option<IpAddr>,
    log: &Path,
) -> Result<Process> {
    let ApiServerSite { programs, pki, folder, options, features } = site;
    let mut command = Command::new(programs.path("kube-apiserver"));
    command
        .arg(flag("etcd-servers", local_url(etcd_port)))
        .arg(flag("etcd-cafile", pki.ca.certificate.display()))
        .arg(flag("etcd-certfile", pki.etcd.certificate.display()))
        .arg(flag("etcd-keyfile", pki.etcd.key.display()))
        .arg(flag("secure-port", port))
        .arg(flag("tls-cert-file", pki.apiserver.certificate.display()))
        .arg(flag("tls-private-key-file", pki.apiserver.key.display()))
        .arg(flag("client-ca-file", pki.ca.certificate.display()))
        .arg(flag("kubelet-client-certificate", pki.kubelet_client.certificate.display()))
        .arg(flag("kubelet-client-key", pki.kubelet_client.key.display()))
        .arg(flag("kubelet-preferred-address-types", "InternalIP"))
        .arg(flag("requestheader-client-ca-file", pki.ca.certificate.display()))
        .arg(flag("requestheader-allowed-names", pki::FRONT_PROXY))
        .arg(flag("proxy-client-cert-file", pki.front_proxy.certificate.display()))
        .arg(flag("proxy-client-key-file", pki.front_proxy.key.display()))
        .args([
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
        ])
        .args(["--requestheader-extra-headers-prefix=X-Remote-Extra-", "--enable-aggregator-routing"])
        .arg(flag("service-account-issuer", "https://kubernetes.default.svc.cluster.local"))
        .arg(flag("service-account-key-file", pki.service_account.certificate.display()))
        .arg(flag("service-account-signing-key-file", pki.service_account.key.display()))
        .arg(flag("service-cluster-ip-range", SERVICE_RANGE))
        .arg(flag("audit-policy-file", audit_policy(folder).display()))
        .arg(flag("audit-log-path", audit_log(folder).display()))
        .arg(flag("runtime-config", "certificates.k8s.io/v1beta1=true"))
        .arg(flag("feature-gates", format!("{FEATURES}{features}")))
        .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"])
        .args(["--bind-address=127.0.0.1", "--enable-bootstrap-token-auth", "--allow-privileged"]);
    match service {
        Some(address) => command.arg(flag("advertise-address", address)),
        None => command.arg("--endpoint-reconciler-type=none"),
    };
    if options.verifies_nodes {
        command.arg(flag("kubelet-certificate-authority", pki.ca.certificate.display()));
    }
    let mut process = Process::start("kube-apiserver", &mut command, log)?;
    await_healthy(&mut process, port, "/readyz").await?;
    Ok(process)
}

/// Waits until a program answers `path` with 200 on its own TLS port. Who signed its certificate does not
/// matter here, because no secret is sent and the answer decides nothing but when to go on.
async fn await_healthy(process: &mut Process, port: u16, path: &str) -> Result<()> {
    let mut config = Config::new(local_url(port).parse().context("not a URL")?);
    config.accept_invalid_certs = true;
    let client = Client::try_from(config).context("cannot make a client")?;
    process
        .await_ready(READY, async || {
            let request = http_get(path).map_err(|error| error.to_string())?;
            client.request_text(request).await.map(drop).map_err(|error| error.to_string())
        })
        .await
}

fn audit_policy(folder: &Path) -> PathBuf {
    folder.join("audit-policy.json")
}

fn audit_log(folder: &Path) -> PathBuf {
    folder.join("audit.log")
}

fn http_get(path: &str) -> Result<http::Request<Vec<u8>>> {
    Ok(http::Request::get(path).body(Vec::new())?)
}

fn local_url(port: u16) -> String {
    format!("https://127.0.0.1:{port}")
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
