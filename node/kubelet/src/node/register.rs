//! Making sure that there is a Node object, and that it is ours.

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};

use super::{
    object::{self, Fixed, Observed},
    patch,
};
use crate::explain::explain;

/// Why there is no Node yet. All of these are worth another try.
#[derive(Debug, thiserror::Error)]
pub(super) enum RegisterError {
    /// The API server refused, or did not answer.
    #[error("{}", explain(.0))]
    Api(#[from] kube::Error),
    /// Someone else lives under this name.
    #[error(
        "a node of this name is there already and runs {theirs}: two kubelets under one name would take each other's \
         pods. Give this one another name with --hostname-override, or delete that Node if it is gone for good"
    )]
    Taken {
        /// Their `containerRuntimeVersion`.
        theirs: String,
    },
    /// `registerNode` is false, and nobody has made the Node.
    #[error(
        "registerNode is false and there is no Node of this name yet: create it, or let this node register itself"
    )]
    Missing,
}

/// A Node that is now there.
#[derive(Debug)]
pub(super) struct Registered {
    pub(super) node: Node,
    /// The node as it was found, when it was there before.
    pub(super) found: Option<Node>,
}

/// Creates the Node; where it exists, corrects what is ours on it. A credential that may not create, but
/// whose Node an administrator has made, is fine.
pub(super) async fn register(
    api: &Api<Node>,
    fixed: &Fixed,
    observed: &Observed,
) -> Result<Registered, RegisterError> {
    let name = &fixed.config.node_name;
    let mut refusal = None;
    if fixed.config.kubelet.register_node {
        match api.create(&PostParams::default(), &object::node(fixed, observed)).await {
            Ok(node) => return Ok(Registered { node, found: None }),
            Err(kube::Error::Api(status)) if status.code == 409 || status.code == 403 => {
                refusal = Some(kube::Error::Api(status));
            }
            Err(err) => return Err(err.into()),
        }
    }
    let Some(found) = api.get_opt(name).await? else {
        return Err(refusal.map_or(RegisterError::Missing, RegisterError::Api));
    };
    if let Some(theirs) = other_runtime(&found, &fixed.runtime_version) {
        return Err(RegisterError::Taken { theirs });
    }
    let before = found.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let mut wanted = object::status(fixed, observed, before);
    object::leave_addresses_of_cloud(&mut wanted, fixed, &found);
    let patch = patch::patch(&found, &object::own_labels(&fixed.config), &wanted);
    let node = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch.body)).await?;
    Ok(Registered { node, found: Some(found) })
}

/// The runtime of a node that is not ours: one of another type. A node that never said is anybody's.
fn other_runtime(found: &Node, ours: &str) -> Option<String> {
    let scheme = |version: &str| version.split("://").next().unwrap_or_default().to_owned();
    let theirs = &found.status.as_ref()?.node_info.as_ref()?.container_runtime_version;
    (!theirs.is_empty() && scheme(theirs) != scheme(ours)).then(|| theirs.clone())
}
