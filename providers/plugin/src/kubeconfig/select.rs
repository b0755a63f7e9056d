//! The context that counts, and what it names. Pure.

use super::{
    arguments::KubeconfigOverrides,
    error::KubeconfigError,
    merge::Kubeconfig,
    model::{ClusterEntry, UserEntry},
};

/// The namespace of whoever names none.
pub(crate) const DEFAULT_NAMESPACE: &str = "default";

/// A cluster, a user and a namespace, as they are to be used. Names are for messages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SelectedContext {
    pub(crate) cluster_name: String,
    pub(crate) cluster: ClusterEntry,
    pub(crate) user_name: String,
    pub(crate) user: UserEntry,
}

impl Kubeconfig {
    /// The cluster and the user that these overrides choose, with what they say of impersonation in the user.
    ///
    /// # Errors
    /// [`KubeconfigError`], where something that is named is not there.
    pub(crate) fn select(&self, overrides: &KubeconfigOverrides) -> Result<SelectedContext, KubeconfigError> {
        if self.is_empty() {
            return Err(KubeconfigError::Missing);
        }
        let context_name = given(&overrides.context).or(self.current_context.as_deref());
        let context = match context_name {
            Some(name) => Some(self.contexts.get(name).ok_or_else(|| KubeconfigError::Unknown {
                kind: "context",
                name: name.to_owned(),
                of: None,
            })?),
            None => None,
        };
        let named = |flag: Option<&str>, entry: Option<&String>| match flag {
            Some(name) => (Some(name.to_owned()), None),
            None => (entry.filter(|name| !name.is_empty()).cloned(), context_name.map(str::to_owned)),
        };
        let entry = context.and_then(|context| context.cluster.as_ref());
        let (cluster_name, of) = named(given(&overrides.cluster), entry);
        let cluster_name = cluster_name.ok_or(KubeconfigError::NoContext)?;
        let cluster = self.clusters.get(&cluster_name).cloned();
        let unknown = |kind, name: &str, of| KubeconfigError::Unknown { kind, name: name.to_owned(), of };
        let cluster = cluster.ok_or_else(|| unknown("cluster", &cluster_name, of))?;
        let entry = context.and_then(|context| context.user.as_ref());
        let (user_name, of) = named(given(&overrides.user), entry);
        // A context without a user is that of a cluster that lets everybody in.
        let mut user = match &user_name {
            Some(name) => self.users.get(name).cloned().ok_or_else(|| unknown("user", name, of))?,
            None => UserEntry::default(),
        };
        overrides.apply_to(&mut user);
        Ok(SelectedContext { cluster_name, cluster, user_name: user_name.unwrap_or_default(), user })
    }

    /// The namespace that these overrides choose, or that of the context, or `default`.
    pub(crate) fn namespace(&self, overrides: &KubeconfigOverrides) -> String {
        let context = given(&overrides.context).or(self.current_context.as_deref());
        let of_context = || self.contexts.get(context?)?.namespace.as_deref().filter(|name| !name.is_empty());
        given(&overrides.namespace).or_else(of_context).unwrap_or(DEFAULT_NAMESPACE).to_owned()
    }
}

impl KubeconfigOverrides {
    /// Each of them alone, as client-go does: `--as` leaves the groups that the kubeconfig has.
    fn apply_to(&self, user: &mut UserEntry) {
        if let Some(impersonate) = given(&self.impersonate) {
            user.impersonate = Some(impersonate.to_owned());
        }
        if let Some(uid) = given(&self.impersonate_uid) {
            user.as_uid = Some(uid.to_owned());
        }
        if !self.impersonate_groups.is_empty() {
            user.as_groups.clone_from(&self.impersonate_groups);
        }
    }
}

fn given(flag: &Option<String>) -> Option<&str> {
    flag.as_deref().filter(|value| !value.is_empty())
}

/// The entry of the cluster that a pod is in.
pub(crate) fn in_cluster(server: String, certificate_authority: std::path::PathBuf) -> ClusterEntry {
    ClusterEntry {
        server: Some(server),
        certificate_authority: Some(certificate_authority),
        ..ClusterEntry::default()
    }
}
