//! What Services cost that nobody uses: the memory of an agent and of a worker that know them.

use anyhow::Result;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use kubewasm_tests::progress::Step;
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    guest::{Guest, Site},
    memory,
};

/// Services that there are.
pub(crate) const SERVICES: usize = 2_000;
/// Endpoints of each.
pub(crate) const ENDPOINTS: usize = 3;
/// Requests that are under way at once.
const CREATES: usize = 50;
const LABEL: &str = "kubewasm.dev/bench=tables";

/// What one costs, in bytes.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct TableCost {
    /// In the agent.
    pub(crate) agent_bytes: f64,
    /// In each worker.
    pub(crate) worker_bytes: f64,
}

/// Measures it.
pub(super) async fn measure(site: Site<'_>) -> Result<TableCost> {
    let guest = Guest::start(site, "knows-services", &["tcp-serve", "0.0.0.0:8080"], false).await?;
    let step = Step::begin(&format!("memory with {SERVICES} Services"));
    let before = memory::look(site.node, 1).await?;
    let services = Api::<Service>::default_namespaced(site.client.clone());
    let slices = Api::<EndpointSlice>::default_namespaced(site.client.clone());
    stream::iter(0..SERVICES)
        .map(async |number| {
            let (service, slice) = objects(number);
            services.create(&PostParams::default(), &serde_json::from_value(service)?).await?;
            slices.create(&PostParams::default(), &serde_json::from_value(slice)?).await?;
            Ok::<_, anyhow::Error>(())
        })
        .buffer_unordered(CREATES)
        .try_collect::<()>()
        .await?;
    let after = memory::look(site.node, 1).await?;
    step.done();
    let (all, now) = (ListParams::default().labels(LABEL), DeleteParams::default());
    slices.delete_collection(&now, &all).await?;
    services.delete_collection(&now, &all).await?;
    guest.end().await?;
    let each = |before: u64, after: u64| after.saturating_sub(before) as f64 * 1024.0 / SERVICES as f64;
    let workers = after.worker_processes.max(1) as f64;
    Ok(TableCost {
        agent_bytes: each(before.agent.rss_kib, after.agent.rss_kib),
        worker_bytes: each(before.workers.rss_kib, after.workers.rss_kib) / workers,
    })
}

fn objects(number: usize) -> (Value, Value) {
    let name = format!("table-{number}");
    let (high, low) = (number / 250, number % 250 + 1);
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|n| json!({ "addresses": [format!("10.{}.{high}.{low}", 240 + n)], "conditions": { "ready": true } }))
        .collect();
    let service = json!({
        "metadata": { "name": name, "labels": { "kubewasm.dev/bench": "tables" } },
        "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    let slice = json!({
        "metadata": {
            "name": name,
            "labels": { "kubewasm.dev/bench": "tables", "kubernetes.io/service-name": name },
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
    });
    (service, slice)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn endpoints_are_addresses_and_differ() {
        let all: BTreeSet<String> = (0..SERVICES)
            .flat_map(|number| {
                let slice: EndpointSlice = serde_json::from_value(objects(number).1).unwrap();
                slice.endpoints.into_iter().flatten().map(|endpoint| endpoint.addresses[0].clone())
            })
            .collect();
        assert_eq!(all.len(), SERVICES * ENDPOINTS);
        assert!(all.iter().all(|address| address.parse::<std::net::Ipv4Addr>().is_ok()));
    }
}
