//! Objects that let a new node join with a bootstrap token, and the API server talk to kubelets.
//!
//! The same as kubeadm makes: a token whose user may ask for a client certificate, the rights by which the
//! controller manager approves that request and its later renewals, and the API server's rights on kubelets.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/>.

use anyhow::{Context as _, Result};
use k8s_openapi::api::{core::v1::Secret, rbac::v1::ClusterRoleBinding};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams, PostParams},
};
use rand::RngExt as _;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::pki::KUBELET_CLIENT;

/// Group of those who join with our token.
const GROUP: &str = "system:bootstrappers:kubewasm";

/// Lets a node read what kube-proxies read, and returns the name of the binding that does.
///
/// # Errors
/// When the API server refuses it, or the node has such a binding.
pub async fn let_follow_services(client: &Client, node: &str) -> Result<String> {
    let name = format!("services-of-{node}");
    let binding = json!({
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:node-proxier" },
        "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("system:node:{node}") }],
    });
    let bindings = Api::<ClusterRoleBinding>::all(client.clone());
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    Ok(name)
}

/// A bootstrap token, `id.secret`.
pub struct Token {
    id: String,
    secret: String,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Token {
    /// A new random token.
    #[must_use]
    pub fn random() -> Self {
        Self { id: random(6), secret: random(16) }
    }

    /// The token as a client sends it.
    #[must_use]
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

fn random(length: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// Applies the token and the role bindings. Safe to repeat.
///
/// # Errors
/// When the API server refuses one of them.
pub async fn apply(client: &Client, token: &Token) -> Result<()> {
    let name = format!("bootstrap-token-{}", token.id);
    let secret = json!({
        "metadata": { "name": name },
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": token.id,
            "token-secret": token.secret,
            "usage-bootstrap-authentication": "true",
            "auth-extra-groups": GROUP,
        },
    });
    put(&Api::<Secret>::namespaced(client.clone(), "kube-system"), secret).await?;
    let approver = "system:certificates.k8s.io:certificatesigningrequests";
    for (name, role, kind, subject) in [
        ("kubewasm:bootstrap", "system:node-bootstrapper", "Group", GROUP),
        ("kubewasm:approve-bootstrap", &format!("{approver}:nodeclient"), "Group", GROUP),
        ("kubewasm:approve-renewal", &format!("{approver}:selfnodeclient"), "Group", "system:nodes"),
        ("kubewasm:apiserver-to-kubelet", "system:kubelet-api-admin", "User", KUBELET_CLIENT),
    ] {
        let binding = json!({
            "metadata": { "name": name },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": subject }],
        });
        put(&Api::<ClusterRoleBinding>::all(client.clone()), binding).await?;
    }
    Ok(())
}

async fn put<K>(api: &Api<K>, object: Value) -> Result<()>
where
    K: Clone + std::fmt::Debug + Serialize + DeserializeOwned + Resource<DynamicType = ()>,
{
    let object: K = serde_json::from_value(object).context("not an object of its kind")?;
    let name = object.name_any();
    api.patch(&name, &PatchParams::apply("kubewasm-tests").force(), &Patch::Apply(&object))
        .await
        .with_context(|| format!("cannot apply {} {name}", K::kind(&())))?;
    Ok(())
}
