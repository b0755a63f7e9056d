//! Many pods of one module that is new to the node: what the registry is asked for, and how long it takes.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use kubewasm_tests::{guests, progress::Step, registry::requests::Request};
use serde::Serialize;

use super::Site;
use crate::pods::Pods;

/// Pods of the module.
pub(crate) const PODS: usize = 100;

/// Time for all of them to run.
const MANY: Duration = Duration::from_secs(180);

/// Name of the measurement, and of the image's repository.
const NAME: &str = "shared";

/// What was measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct SharedImage {
    /// What the registry was asked for.
    pub(crate) asked: Asked,
    /// From the first pod seen bound to the last seen Running, in seconds.
    pub(crate) running_s: f64,
}

/// Requests for one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Asked {
    /// For its manifest, by GET or HEAD.
    pub(crate) manifest: usize,
    /// Blobs that were fetched.
    pub(crate) blobs: usize,
    /// GETs of the blob that was fetched most often.
    pub(crate) gets_of_a_blob: usize,
}

/// Starts the pods at once.
///
/// # Errors
/// When a pod does not come to run, or cannot be removed.
pub(crate) async fn measure(site: Site<'_>) -> Result<SharedImage> {
    let step = Step::begin(&format!("{PODS} pods of one new module at once"));
    let module = guests::guest("actor.c").await?;
    let image = super::push_new(site.registry, &format!("{NAME}:v1"), &module, NAME).await?;
    let before = site.registry.requests()?.len();
    let pods = Pods::new(site.client, &image);
    let mut observer = pods.observe(NAME).await?;
    pods.create_all(NAME, site.node.name(), 0..PODS).await?;
    let seen = observer.running(PODS, MANY).await?;
    pods.remove(NAME, observer).await?;
    step.done();
    let requests = site.registry.requests()?;
    Ok(SharedImage {
        asked: asked(requests.get(before..).unwrap_or_default()),
        running_s: seen.span().context("no pod was seen")?.as_secs_f64(),
    })
}

fn asked(requests: &[Request]) -> Asked {
    let of = |kind: &str| {
        let part = format!("/v2/{NAME}/{kind}/");
        requests.iter().filter(move |request| request.path.starts_with(&part))
    };
    let mut gets: BTreeMap<&str, usize> = BTreeMap::new();
    for request in of("blobs").filter(|request| request.method == "GET") {
        *gets.entry(&request.path).or_default() += 1;
    }
    Asked {
        manifest: of("manifests").count(),
        blobs: gets.len(),
        gets_of_a_blob: gets.values().copied().max().unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_for_the_image_count_and_no_others() {
        let request = |method: &str, path: &str| Request {
            method: method.to_owned(),
            path: path.to_owned(),
            status: 200,
        };
        let found = asked(&[
            request("HEAD", "/v2/shared/manifests/v1"),
            request("GET", "/v2/shared/manifests/sha256:a"),
            request("GET", "/v2/shared/blobs/sha256:b"),
            request("GET", "/v2/shared/blobs/sha256:c"),
            request("GET", "/v2/shared/blobs/sha256:c"),
            request("HEAD", "/v2/shared/blobs/sha256:d"),
            request("GET", "/v2/other/blobs/sha256:e"),
            request("GET", "/v2/"),
        ]);
        assert_eq!(found, Asked { manifest: 2, blobs: 2, gets_of_a_blob: 2 });
        assert_eq!(asked(&[]), Asked { manifest: 0, blobs: 0, gets_of_a_blob: 0 });
    }
}
