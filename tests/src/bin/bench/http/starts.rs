//! Many pods that serve HTTP at once: how long they take to run, and to answer their first request.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, api::ListParams};
use kubewasm_tests::progress::Step;
use serde::Serialize;

use super::load;
use crate::{
    guest::Site,
    network,
    pods::{Pods, selector},
    quantiles::Quantiles,
    starts::{self, Burst},
};

/// Where guests listen that are told nothing else.
const PORT: u16 = 8080;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HttpStarts {
    /// All pods at once.
    pub(crate) burst: Burst,
    /// The first request of each pod, one after the other, where pods have addresses of their own.
    pub(crate) first_ms: Option<Quantiles>,
}

/// Starts so many, asks each once, and removes them.
pub(super) async fn measure(site: Site<'_>, pods: &Pods, count: usize) -> Result<HttpStarts> {
    let step = Step::begin(&format!("{count} pods at once that serve HTTP"));
    let name = "http-starts";
    let mut observer = pods.observe(name).await?;
    let created = pods.create_all(name, site.node.name(), 0..count).await?;
    let seen = observer.running(count, starts::MANY).await?;
    let each = Quantiles::of(seen.durations()).context("no pod was measured")?;
    let burst = Burst::new(created, seen.span().context("no pod was seen")?, each);
    let first_ms = if network::is_possible() { Some(first_answers(site, name).await?) } else { None };
    pods.remove(name, observer).await?;
    step.done();
    Ok(HttpStarts { burst, first_ms })
}

async fn first_answers(site: Site<'_>, name: &str) -> Result<Quantiles> {
    let pods = Api::<Pod>::default_namespaced(site.client.clone());
    let mut sample = Vec::new();
    for pod in pods.list(&ListParams::default().labels(&selector(name))).await? {
        let ip = pod.status.and_then(|status| status.pod_ip).context("a pod that runs has no address")?;
        let began = Instant::now();
        let to = SocketAddr::new(ip.parse().context("a pod's address is none")?, PORT);
        load::one(to).await.with_context(|| format!("a pod does not answer at {to}"))?;
        sample.push(began.elapsed());
    }
    Quantiles::of(sample).context("no pod was asked")
}
