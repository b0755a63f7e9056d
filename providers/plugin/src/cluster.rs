//! The cluster that a plugin speaks to, and as whom: what a kubeconfig or a pod's service account comes to.

use std::path::{Path, PathBuf};

use http::HeaderMap;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use url::Url;

use crate::{
    api_server::ApiServer,
    credentials::{Credentials, decode, impersonation},
    kubeconfig::{
        Kubeconfig, KubeconfigError, KubeconfigOverrides, KubeconfigSources, SelectedContext, UserEntry,
    },
};

/// Where pods find their service account.
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What this process knows of kubeconfigs besides its arguments.
#[derive(Clone, Debug, Default)]
pub struct ClusterEnvironment {
    /// `KUBECONFIG`
    pub kubeconfig: Option<std::ffi::OsString>,
    /// `HOME`
    pub home: Option<PathBuf>,
    /// `KUBERNETES_SERVICE_HOST`, in a pod
    pub service_host: Option<String>,
    /// `KUBERNETES_SERVICE_PORT`, in a pod
    pub service_port: Option<String>,
}

impl ClusterEnvironment {
    /// That of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            kubeconfig: std::env::var_os("KUBECONFIG"),
            home: std::env::home_dir(),
            service_host: text("KUBERNETES_SERVICE_HOST"),
            service_port: text("KUBERNETES_SERVICE_PORT"),
        }
    }
}

/// A cluster, as a plugin is let to it. Nothing of it is for the plugin but the namespace.
#[derive(Debug)]
pub(crate) struct ClusterAccess {
    pub(crate) server: ApiServer,
    pub(crate) trust: Trust,
    /// Name that the server's certificate is checked against, and that is sent for it.
    pub(crate) server_name: ServerName<'static>,
    /// A proxy that the kubeconfig names; without one, those of the environment count.
    pub(crate) proxy: Option<Url>,
    pub(crate) credentials: Credentials,
    /// Headers by which it is somebody else who asks.
    pub(crate) impersonation: HeaderMap,
}

/// Whose certificates the API server may have.
#[derive(Debug)]
pub(crate) enum Trust {
    /// Those that these authorities have signed.
    Authorities(Vec<CertificateDer<'static>>),
    /// Those that this machine trusts.
    System,
    /// Any: `insecure-skip-tls-verify`.
    Anyone,
}

/// What is known of a user's cluster before anything is asked of it.
#[derive(Debug)]
pub struct ClusterChoice {
    /// The namespace that counts.
    pub namespace: String,
    /// How to get to the cluster, or why nobody can.
    pub(crate) access: Result<ClusterAccess, KubeconfigError>,
}

impl ClusterChoice {
    /// Reads what a plugin with these arguments is to speak to. Fails only when it is used: there are plugins that ask nothing.
    #[must_use]
    pub fn read(overrides: &KubeconfigOverrides, environment: &ClusterEnvironment) -> Self {
        let sources = KubeconfigSources::find(
            overrides.kubeconfig.as_deref(),
            environment.kubeconfig.as_deref(),
            environment.home.as_deref(),
        );
        let kubeconfig = match sources.read() {
            Ok(kubeconfig) => kubeconfig,
            Err(error) => {
                let namespace = Kubeconfig::default().namespace(overrides);
                return Self { namespace, access: Err(error) };
            }
        };
        if kubeconfig.is_empty()
            && let Some(choice) = in_pod(overrides, environment, Path::new(SERVICE_ACCOUNT))
        {
            return choice;
        }
        let namespace = kubeconfig.namespace(overrides);
        Self { namespace, access: kubeconfig.select(overrides).and_then(ClusterAccess::new) }
    }
}

/// The cluster that this process is a pod of, if it is one.
fn in_pod(
    overrides: &KubeconfigOverrides,
    environment: &ClusterEnvironment,
    account: &Path,
) -> Option<ClusterChoice> {
    let (host, port) = environment.service_host.as_ref().zip(environment.service_port.as_ref())?;
    let token = account.join("token");
    if !token.is_file() {
        return None;
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let own = std::fs::read_to_string(account.join("namespace")).unwrap_or_default();
    let namespace = overrides.namespace.clone().filter(|name| !name.is_empty());
    let namespace = namespace.or_else(|| Some(own.trim().to_owned()).filter(|own| !own.is_empty()));
    let selected = SelectedContext {
        cluster_name: "in-cluster".to_owned(),
        cluster: crate::kubeconfig::in_cluster(format!("https://{host}:{port}"), account.join("ca.crt")),
        user_name: "service account".to_owned(),
        user: UserEntry { token_file: Some(token), ..UserEntry::default() },
    };
    Some(ClusterChoice {
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        access: ClusterAccess::new(selected),
    })
}

impl ClusterAccess {
    /// Reads the files that a context names, but for those that are read again at each request.
    pub(crate) fn new(selected: SelectedContext) -> Result<Self, KubeconfigError> {
        let SelectedContext { cluster_name, cluster, user_name, user } = selected;
        let of_cluster = |reason: String| KubeconfigError::Unusable {
            entry: "cluster",
            name: cluster_name.clone(),
            reason,
        };
        let of_user =
            |reason: String| KubeconfigError::Unusable { entry: "user", name: user_name.clone(), reason };
        let server = cluster.server.as_deref().unwrap_or_default();
        let server: ApiServer = server.parse().map_err(|error| of_cluster(format!("its server: {error}")))?;
        let named = cluster.tls_server_name.as_deref().filter(|name| !name.is_empty());
        let server_name = named.unwrap_or(server.host());
        let server_name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| of_cluster(format!("{server_name:?} is no name that a certificate can be for")))?;
        let proxy = cluster.proxy_url.as_deref().filter(|url| !url.is_empty());
        // What is wrong with it is not told with the text: there may be a password in it.
        let proxy = proxy
            .map(Url::parse)
            .transpose()
            .map_err(|error| of_cluster(format!("its proxy-url is no URL: {error}")))?;
        let trust = trust(&cluster).map_err(of_cluster)?;
        let impersonation = impersonation(&user).map_err(of_user)?;
        let credentials = Credentials::new(user, &cluster, &server).map_err(of_user)?;
        Ok(Self { server, trust, server_name, proxy, credentials, impersonation })
    }
}

/// Whom the cluster's entry trusts.
fn trust(cluster: &crate::kubeconfig::ClusterEntry) -> Result<Trust, String> {
    if cluster.insecure_skip_tls_verify {
        return Ok(Trust::Anyone);
    }
    let data = cluster.certificate_authority_data.as_deref().filter(|data| !data.is_empty());
    let pem = match (data, &cluster.certificate_authority) {
        (Some(data), _) => decode("certificate-authority-data", data)?,
        (None, Some(path)) => std::fs::read(path).map_err(|error| {
            format!("its certificate-authority {} cannot be read: {error}", path.display())
        })?,
        (None, None) => return Ok(Trust::System),
    };
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    let certificates =
        certificates.map_err(|error| format!("its certificate authority is not PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("its certificate authority has no certificate in it".to_owned());
    }
    Ok(Trust::Authorities(certificates))
}
