//! Getting the image of a container, by its pull policy.

use std::time::Instant;

use super::{
    lifecycle::{Note, Trouble},
    reason::{EventReason, WaitingReason},
};
use crate::{
    duration,
    runtime::{Credential, Image, ImageError, Runtime},
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
            _ => {
                let name = image.rsplit('/').next().unwrap_or(image);
                let tag = name.rsplit_once(':').map(|(_, tag)| tag);
                let latest = !image.contains('@') && tag.is_none_or(|tag| tag == "latest");
                if latest { Self::Always } else { Self::IfNotPresent }
            }
        }
    }
}

/// Looks the image up or fetches it. `tell` is given what people should know, as it happens.
pub(super) async fn pull(
    runtime: &dyn Runtime,
    container: &str,
    image: &str,
    policy: PullPolicy,
    credentials: &[Credential],
    tell: impl Fn(Note),
) -> Result<Image, Trouble> {
    let note = |warning, reason, message| {
        tell(Note { container: Some(container.to_owned()), warning, reason, message })
    };
    if policy != PullPolicy::Always {
        match runtime.image(image).await {
            Ok(Some(found)) => {
                let message = format!(
                    "Container image \"{image}\" already present on machine and can be accessed by the pod"
                );
                note(false, EventReason::Pulled, message);
                return Ok(found);
            }
            Ok(None) if policy == PullPolicy::Never => {
                let message = format!("Container image \"{image}\" is not present with pull policy of Never");
                note(true, EventReason::ErrImageNeverPull, message.clone());
                note(true, EventReason::Failed, "Error: ErrImageNeverPull".to_owned());
                return Err(Trouble { reason: WaitingReason::ErrImageNeverPull, message });
            }
            Ok(None) => {}
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
    match runtime.pull(image, credentials).await {
        Ok(pulled) => {
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
                ImageError::InvalidName(message) => note(true, EventReason::InspectFailed, message.clone()),
                _ => note(true, EventReason::Failed, format!("Failed to pull image \"{image}\": {error}")),
            }
            note(true, EventReason::Failed, format!("Error: {}", trouble.reason));
            Err(trouble)
        }
    }
}

fn trouble(image: &str, error: &ImageError) -> Trouble {
    let message = match error {
        ImageError::RegistryUnavailable(message) => {
            format!("image pull failed for {image} because the registry is unavailable: {message}")
        }
        ImageError::InvalidName(message) | ImageError::Pull(message) | ImageError::Store(message) => {
            message.clone()
        }
    };
    Trouble { reason: WaitingReason::of_image(error), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_policy_depends_on_the_tag() {
        let table = [
            ("a", PullPolicy::Always),
            ("a:latest", PullPolicy::Always),
            ("a:v1", PullPolicy::IfNotPresent),
            ("127.0.0.1:5000/a", PullPolicy::Always),
            ("127.0.0.1:5000/a:v1", PullPolicy::IfNotPresent),
            ("a@sha256:00", PullPolicy::IfNotPresent),
            ("a:latest@sha256:00", PullPolicy::IfNotPresent),
        ];
        for (image, expected) in table {
            assert_eq!(PullPolicy::of(None, image), expected, "{image}");
            assert_eq!(PullPolicy::of(Some("Never"), image), PullPolicy::Never);
        }
    }
}
