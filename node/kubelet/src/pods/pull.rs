//! Getting the image of a container, by its pull policy.

use std::time::Instant;

use super::{
    credentials::{PodCredentials, PullCredential},
    image_access::ImageAccess,
    lifecycle::{Note, Trouble},
    reason::{EventReason, WaitingReason},
};
use crate::{
    duration,
    node_metrics::NodeMetrics,
    rate::TokenBucket,
    registry_auth::NodeCredentials,
    runtime::{Image, ImageError, PulledImage, Runtime},
    traces::{self, SpanKind},
};

/// `imagePullPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullPolicy {
    /// The registry is asked each time.
    Always,
    /// The registry is asked when the image is not there.
    IfNotPresent,
    /// The registry is never asked.
    Never,
}

impl PullPolicy {
    /// The policy of a container; where it names none, the API server's default for its image: `Always`
    /// for `latest`, which is also what no tag means.
    #[must_use]
    pub(crate) fn of(policy: Option<&str>, image: &str) -> Self {
        match policy {
            Some("Always") => Self::Always,
            Some("Never") => Self::Never,
            Some("IfNotPresent") => Self::IfNotPresent,
            // What is no reference has no tag `latest`, for the API server.
            _ if image.contains("://") => Self::IfNotPresent,
            _ => {
                let name = image.rsplit('/').next().unwrap_or(image);
                let tag = name.rsplit_once(':').map(|(_, tag)| tag);
                let latest = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
                if latest { Self::Always } else { Self::IfNotPresent }
            }
        }
    }
}

/// Where images come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct ImageSource<'a> {
    pub(super) runtime: &'a dyn Runtime,
    /// With what images were pulled; `None` lets every pod use what is here.
    pub(super) access: Option<&'a ImageAccess>,
    /// What the node itself has; asked when a registry is.
    pub(super) node: &'a NodeCredentials,
    pub(super) metrics: &'a NodeMetrics,
    pub(super) limit: &'a PullLimit,
}

/// How often registries are asked: `registryPullQPS` and `registryBurst`. The default is as often as it is needed.
#[derive(Debug, Default)]
pub struct PullLimit(Option<TokenBucket>);

impl PullLimit {
    /// So many pulls a second, and so many at once; without the first, or with 0, there is no limit.
    #[must_use]
    pub fn new(per_second: Option<u32>, burst: u32) -> Self {
        Self(TokenBucket::new(per_second.unwrap_or(0), burst))
    }

    /// Does not wait, as upstream: a pull that is refused is tried again like one that failed.
    fn allows(&self) -> bool {
        self.0.as_ref().is_none_or(|bucket| bucket.try_take(Instant::now()))
    }
}

impl ImageSource<'_> {
    /// Looks the image up or fetches it. One that is here and that these credentials are not known to be good for is
    /// asked for again with them, or, if that is not allowed, not here. `tell` is given what people should know, as it
    /// happens.
    pub(super) async fn pull(
        &self,
        container: &str,
        image: &str,
        policy: PullPolicy,
        credentials: &PodCredentials,
        tell: impl Fn(Note),
    ) -> Result<Image, Trouble> {
        let note = |warning, reason, message| {
            tell(Note { container: Some(container.to_owned()), warning, reason, message })
        };
        if policy != PullPolicy::Always {
            match self.present(image, &credentials.found).await {
                Ok(Some(found)) => {
                    let message = format!(
                        "Container image \"{image}\" already present on machine and can be accessed by the pod"
                    );
                    note(false, EventReason::Pulled, message);
                    return Ok(found);
                }
                Ok(None) if policy == PullPolicy::Never => {
                    let message =
                        format!("Container image \"{image}\" is not present with pull policy of Never");
                    note(true, EventReason::ErrImageNeverPull, message.clone());
                    note(true, EventReason::Failed, "Error: ErrImageNeverPull".to_owned());
                    return Err(Trouble { reason: WaitingReason::ErrImageNeverPull, message });
                }
                Ok(None) => {}
                // The registry may have the signature that is missing here.
                Err(ImageError::SignatureInvalid(_)) if policy == PullPolicy::IfNotPresent => {}
                Err(error) => {
                    let trouble = trouble(image, &error);
                    let reason = if trouble.reason == WaitingReason::InvalidImageName {
                        EventReason::InspectFailed
                    } else {
                        EventReason::Failed
                    };
                    note(true, reason, trouble.message.clone());
                    note(true, EventReason::Failed, format!("Error: {}", trouble.reason));
                    return Err(trouble);
                }
            }
        }
        note(false, EventReason::Pulling, format!("Pulling image \"{image}\""));
        let begun = Instant::now();
        match self.metrics.operation("pull_image", self.fetch_traced(container, image, credentials)).await {
            Ok(pulled) => {
                self.metrics.image_pulled(pulled.size_bytes, begun.elapsed());
                let took = duration::format_millis(begun.elapsed());
                let message = format!(
                    "Successfully pulled image \"{image}\" in {took} ({took} including waiting). Image size: {} bytes.",
                    pulled.size_bytes
                );
                note(false, EventReason::Pulled, message);
                Ok(pulled)
            }
            Err(error) => {
                let trouble = trouble(image, &error);
                match &error {
                    ImageError::InvalidName(cause) => {
                        note(true, EventReason::InspectFailed, cause.to_string())
                    }
                    _ => {
                        note(true, EventReason::Failed, format!("Failed to pull image \"{image}\": {error}"))
                    }
                }
                note(true, EventReason::Failed, format!("Error: {}", trouble.reason));
                Err(trouble)
            }
        }
    }

    /// The image, if it is here and the pod may use it.
    async fn present(
        &self,
        image: &str,
        credentials: &[PullCredential],
    ) -> Result<Option<Image>, ImageError> {
        let Some(found) = self.runtime.image(image).await? else { return Ok(None) };
        Ok(match self.access {
            Some(access) if !access.permits(image, &found, credentials).await => None,
            _ => Some(found),
        })
    }

    /// [`Self::fetch`], with its time on record.
    async fn fetch_traced(
        &self,
        container: &str,
        image: &str,
        pod: &PodCredentials,
    ) -> Result<Image, ImageError> {
        let mut span = traces::child("pullImage", SpanKind::Internal);
        span.set("k8s.container.name", container);
        span.set("container.image.name", image);
        let pulled = traces::within(span.place(), self.fetch(image, pod)).await;
        span.note(&pulled);
        if let Ok(image) = &pulled {
            span.set("container.image.id", image.id.as_str());
        }
        pulled
    }

    /// Has the registry asked for the image, and records with what it has given it.
    ///
    /// A pull secret that is there and cannot be used is an error and no reason to try without: what is missing then
    /// would be reported as something else.
    async fn fetch(&self, image: &str, pod: &PodCredentials) -> Result<Image, ImageError> {
        if !self.limit.allows() {
            return Err(ImageError::Pull("pull QPS exceeded".into()));
        }
        if let Some(problem) = pod.problems.first() {
            return Err(ImageError::Pull(problem.clone().into()));
        }
        let node = self.node.for_image(image).await;
        let of_node = |credential| PullCredential { credential, secret: None };
        let credentials: Vec<_> =
            pod.found.iter().cloned().chain(node.credentials.into_iter().map(of_node)).collect();
        let intent = match self.access {
            Some(access) => Some(access.begin(image).await.map_err(|error| {
                ImageError::Store(format!("cannot note down the pull of image \"{image}\": {error}").into())
            })?),
            None => None,
        };
        let plain: Vec<_> = credentials.iter().map(|of| of.credential.clone()).collect();
        let pulled = self.runtime.pull(image, &plain).await;
        let PulledImage { image, credential } = pulled.map_err(|error| explained(error, &node.troubles))?;
        if let Some(intent) = intent {
            intent.succeeded(&image.id, credential.and_then(|position| credentials.get(position))).await;
        }
        Ok(image)
    }
}

/// A refusal of the registry, with what may be behind it.
fn explained(error: ImageError, troubles: &[String]) -> ImageError {
    match error {
        ImageError::Pull(cause) if !troubles.is_empty() => ImageError::Pull(
            format!("{cause}; it was tried without some of the node's credentials: {}", troubles.join("; "))
                .into(),
        ),
        other => other,
    }
}

fn trouble(image: &str, error: &ImageError) -> Trouble {
    let message = match error {
        ImageError::RegistryUnavailable(cause) => {
            format!("image pull failed for {image} because the registry is unavailable: {cause}")
        }
        ImageError::SignatureInvalid(cause) => {
            format!("image pull failed for {image} because the signature validation failed: {cause}")
        }
        ImageError::InvalidName(_) | ImageError::Pull(_) | ImageError::Store(_) => error.to_string(),
    };
    Trouble { reason: WaitingReason::of_image(error), message }
}

#[cfg(test)]
mod tests;
