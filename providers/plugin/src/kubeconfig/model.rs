//! Kubeconfig files as they are written: <https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>.
//!
//! Everything is optional, and `null` is as good as absent, as for client-go. Secrets do not show themselves.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// One file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct KubeconfigFile {
    pub(crate) current_context: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) clusters: Vec<NamedCluster>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) users: Vec<NamedUser>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) contexts: Vec<NamedContext>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NamedCluster {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) cluster: ClusterEntry,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NamedUser {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) user: UserEntry,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct NamedContext {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) context: ContextEntry,
}

/// How to reach a cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct ClusterEntry {
    pub(crate) server: Option<String>,
    pub(crate) tls_server_name: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) insecure_skip_tls_verify: bool,
    pub(crate) certificate_authority: Option<PathBuf>,
    pub(crate) certificate_authority_data: Option<String>,
    pub(crate) proxy_url: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) disable_compression: bool,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) extensions: Vec<NamedExtension>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct NamedExtension {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) extension: Value,
}

/// Who somebody is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(crate) struct UserEntry {
    pub(crate) client_certificate: Option<PathBuf>,
    pub(crate) client_certificate_data: Option<String>,
    pub(crate) client_key: Option<PathBuf>,
    pub(crate) client_key_data: Option<Secret>,
    pub(crate) token: Option<Secret>,
    #[serde(rename = "tokenFile")]
    pub(crate) token_file: Option<PathBuf>,
    #[serde(rename = "as")]
    pub(crate) impersonate: Option<String>,
    pub(crate) as_uid: Option<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) as_groups: Vec<String>,
    #[serde(deserialize_with = "null_is_default")]
    pub(crate) as_user_extra: BTreeMap<String, Vec<String>>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) auth_provider: Option<AuthProvider>,
    pub(crate) exec: Option<ExecEntry>,
}

/// What was there before exec plugins; only its name is told.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct AuthProvider {
    #[serde(default)]
    pub(crate) name: String,
}

/// A program that knows credentials.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecEntry {
    #[serde(default)]
    pub(crate) api_version: String,
    pub(crate) command: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) args: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) env: Vec<ExecVariable>,
    #[serde(default)]
    pub(crate) install_hint: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(crate) provide_cluster_info: bool,
    #[serde(default)]
    pub(crate) interactive_mode: Option<InteractiveMode>,
}

/// A variable of such a program; it may be a secret.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct ExecVariable {
    pub(crate) name: String,
    pub(crate) value: Secret,
}

/// Whether such a program may ask its user something at standard input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum InteractiveMode {
    Never,
    IfAvailable,
    Always,
}

/// A cluster, a user and a namespace.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ContextEntry {
    pub(crate) cluster: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) namespace: Option<String>,
}

/// A text that does not show itself.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text itself, for those who use it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
