//! Pods of the guest that does things with sockets.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::wait;
use serde_json::json;

use super::Site;

/// Time for a pod to run, or to be gone.
const SOON: Duration = Duration::from_secs(60);

/// A pod that runs.
pub(super) struct Guest {
    pods: Api<Pod>,
    name: String,
    /// The first address that its pod has.
    pub(super) address: IpAddr,
}

impl Guest {
    /// Starts one. With `host_network` it has the machine's network.
    pub(super) async fn start(site: Site<'_>, name: &str, args: &[&str], host_network: bool) -> Result<Self> {
        let pods = Api::<Pod>::default_namespaced(site.client.clone());
        let pod = json!({
            "metadata": { "name": name },
            "spec": {
                "nodeName": site.node.name(),
                "hostNetwork": host_network,
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{ "operator": "Exists" }],
                "containers": [{ "name": "main", "image": site.image, "args": args }],
            },
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let runs = |pod: Option<&Pod>| phase(pod) == Some("Running");
        let pod = wait::object(pods.clone(), name, "running", SOON, runs).await?;
        let ip = pod.and_then(|pod| pod.status?.pod_ip).context("a pod that runs has no address")?;
        Ok(Self { pods, name: name.to_owned(), address: ip.parse().context("a pod's address is none")? })
    }

    /// Ends it, and waits until it is gone.
    pub(super) async fn end(self) -> Result<()> {
        self.pods.delete(&self.name, &DeleteParams::default().grace_period(1)).await?;
        wait::object(self.pods, &self.name, "gone", SOON, |pod| pod.is_none()).await?;
        Ok(())
    }
}

fn phase(pod: Option<&Pod>) -> Option<&str> {
    pod?.status.as_ref()?.phase.as_deref()
}
