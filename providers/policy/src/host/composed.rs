//! All that policies ask for, by whom there is to ask.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kubewasm_modules::Store;

use super::{
    LocalHost,
    answers::Answers,
    certificates,
    cluster::Cluster,
    images::{ImageCredentials, Images},
};
use crate::{capabilities::Capability, context_aware::KUBERNETES, host_call::HostCapabilities};

/// Answers what takes a cluster and registries too, as far as it was given these.
#[derive(Debug, Default)]
pub struct ComposedHost {
    answers: Arc<Answers>,
    cluster: Option<Cluster>,
    images: Option<Images>,
}

impl ComposedHost {
    /// The same with a cluster. What policies may see of it is what this client may, and of that what they are granted.
    #[must_use]
    pub fn with_cluster(self, client: kube::Client) -> Self {
        let cluster = Some(Cluster::new(client, Arc::clone(&self.answers)));
        Self { cluster, ..self }
    }

    /// The same with registries, which are reached as this store reaches them. It keeps nothing of what is asked.
    #[must_use]
    pub fn with_images(self, store: Store, credentials: Arc<dyn ImageCredentials>) -> Self {
        let images = Some(Images::new(store, credentials, Arc::clone(&self.answers)));
        Self { images, ..self }
    }
}

#[async_trait]
impl HostCapabilities for ComposedHost {
    async fn call(&self, capability: Capability<'_>, payload: Bytes) -> Result<Vec<u8>, String> {
        let operation = capability.operation;
        match (capability.namespace, &self.cluster, &self.images) {
            (KUBERNETES, Some(cluster), _) => cluster.call(operation, &payload).await,
            (KUBERNETES, None, _) => {
                Err(format!("the host capability '{capability}' is not there: there is no cluster to ask"))
            }
            ("oci", _, Some(images)) => images.call(operation, &payload).await,
            ("oci", _, None) => {
                Err(format!("the host capability '{capability}' is not there: there is no registry to ask"))
            }
            ("crypto", ..) => certificates::call(operation, payload).await,
            ("tracing" | "net", ..) => LocalHost.call(capability, payload).await,
            (other, ..) => Err(format!("unknown namespace: {other}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_there_is_named() {
        let host = ComposedHost::default();
        for (namespace, operation, expected) in [
            ("kubernetes", "can_i", "'kubernetes/can_i' is not there: there is no cluster"),
            ("oci", "v1/verify", "'oci/v1/verify' is not there: there is no registry"),
            ("crypto", "v2/x", "unknown operation: v2/x"),
            ("other", "x", "unknown namespace: other"),
        ] {
            let error = host.call(Capability { namespace, operation }, "{}".into()).await.unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let log = host.call(Capability { namespace: "tracing", operation: "log" }, "{}".into()).await;
        assert_eq!(log, Ok(Vec::new()));
    }
}
