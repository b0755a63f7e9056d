//! One pod that does something which is measured from outside.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::{node::Node, wait};
use serde_json::{Value, json};

/// Time for a pod to run, or to be gone. A large module is compiled before, which has what others leave of the processors.
const SOON: Duration = Duration::from_secs(600);

/// Where it is measured.
#[derive(Clone, Copy)]
pub(crate) struct Site<'a> {
    /// The API server.
    pub(crate) client: &'a Client,
    /// The node.
    pub(crate) node: &'a Node,
    /// The guest's image.
    pub(crate) image: &'a str,
}

/// A pod that runs.
pub(crate) struct Guest {
    pods: Api<Pod>,
    name: String,
    /// The first address that its pod has.
    pub(crate) address: IpAddr,
}

impl Guest {
    /// Starts one with these arguments. With `host_network` it has the machine's network.
    ///
    /// # Errors
    /// When it does not come to run.
    pub(crate) async fn start(site: Site<'_>, name: &str, args: &[&str], host_network: bool) -> Result<Self> {
        Self::start_with(site, name, host_network, json!({ "args": args }), json!({})).await
    }

    /// Starts one of whose container this is said, and that has these annotations.
    ///
    /// # Errors
    /// When it does not come to run.
    pub(crate) async fn start_with(
        site: Site<'_>,
        name: &str,
        host_network: bool,
        mut container: Value,
        annotations: Value,
    ) -> Result<Self> {
        let pods = Api::<Pod>::default_namespaced(site.client.clone());
        container["name"] = json!("main");
        container["image"] = json!(site.image);
        let pod = json!({
            "metadata": { "name": name, "annotations": annotations },
            "spec": {
                "nodeName": site.node.name(),
                "hostNetwork": host_network,
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{ "operator": "Exists" }],
                "containers": [container],
            },
        });
        pods.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
        let runs = |pod: Option<&Pod>| phase(pod) == Some("Running");
        let pod = wait::object(pods.clone(), name, "running", SOON, runs).await?;
        let ip = pod.and_then(|pod| pod.status?.pod_ip).context("a pod that runs has no address")?;
        Ok(Self { pods, name: name.to_owned(), address: ip.parse().context("a pod's address is none")? })
    }

    /// Ends it, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not go.
    pub(crate) async fn end(self) -> Result<()> {
        self.pods.delete(&self.name, &DeleteParams::default().grace_period(1)).await?;
        wait::object(self.pods, &self.name, "gone", SOON, |pod| pod.is_none()).await?;
        Ok(())
    }
}

fn phase(pod: Option<&Pod>) -> Option<&str> {
    pod?.status.as_ref()?.phase.as_deref()
}
