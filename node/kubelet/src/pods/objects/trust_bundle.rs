//! The trust anchors of one signer or purpose, as a projected volume needs them.

use std::collections::BTreeMap;

use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;
use kube::ResourceExt as _;

/// What is used of a ClusterTrustBundle.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::pods) struct TrustBundle {
    pub(in crate::pods) name: String,
    pub(in crate::pods) labels: BTreeMap<String, String>,
    /// Empty when it belongs to no signer.
    pub(in crate::pods) signer: String,
    /// Certificates, PEM.
    pub(in crate::pods) pem: String,
}

impl From<ClusterTrustBundle> for TrustBundle {
    fn from(object: ClusterTrustBundle) -> Self {
        Self {
            name: object.name_any(),
            labels: object.labels().clone(),
            signer: object.spec.signer_name.unwrap_or_default(),
            pem: object.spec.trust_bundle,
        }
    }
}
