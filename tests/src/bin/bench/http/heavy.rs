//! A guest that is heavy: Python, an interpreter and its library in one component. With a fresh instance for each request, and
//! with instances that are kept.

use anyhow::Result;
use kubewasm_tests::{
    ports,
    progress::Step,
    registry::{Registry, image::Content},
};
use serde::Serialize;
use serde_json::json;

use super::{REUSE, Served, better, look, loopback, worker};
use crate::guest::{Guest, Site};

/// Connections that it is asked on.
const CONNECTIONS: [usize; 2] = [1, 8];
/// Instances at a time: what each holds is tens of megabytes.
const INSTANCES: usize = 8;
const ROUNDS: usize = 2;

/// How it is served.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Heavy {
    /// Of the component.
    pub(crate) bytes: usize,
    /// A fresh instance for each request.
    pub(crate) fresh: Vec<Served>,
    /// Instances that are kept.
    pub(crate) kept: Vec<Served>,
}

/// The image of the guest, and its size.
pub(super) async fn push(registry: &Registry) -> Result<(String, usize)> {
    let component = kubewasm_tests::guests::guest("http_guest.py").await?;
    let bytes = component.len();
    let content = Content::program("http-guest", component);
    Ok((registry.push("http-guest:bench", &content).await?.tagged, bytes))
}

pub(super) async fn measure(site: Site<'_>, bytes: usize) -> Result<Heavy> {
    let step = Step::begin(&format!("HTTP, a guest of {} MB", bytes / 1_000_000));
    let (fresh, kept) = (served(site, 1).await?, served(site, REUSE).await?);
    step.done();
    Ok(Heavy { bytes, fresh, kept })
}

async fn served(site: Site<'_>, reuse: usize) -> Result<Vec<Served>> {
    let port = ports::free()?;
    let settings = format!("max-requests={reuse},max-instances={INSTANCES},keep-alive-requests=1000000000");
    let container = json!({
        "ports": [{ "containerPort": port }],
        "resources": { "limits": { "memory": "1Gi" } },
    });
    let annotations = json!({ "http.kubewasm.dev/main": settings });
    let pod = Guest::start_with(site, &format!("heavy-{reuse}"), true, container, annotations).await?;
    let mut all = Vec::new();
    for connections in CONNECTIONS {
        let mut best = None;
        for _ in 0..ROUNDS {
            better(&mut best, look(loopback(port), worker(site, port)?, connections).await?);
        }
        all.extend(best);
    }
    pod.end().await?;
    Ok(all)
}
