use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::*;
use crate::runtime::{
    ContainerList, ContainerSpec, Credential, ExecEnd, ExecError, ExecIo, Presence, RuntimeError, StartError,
};

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
        ("https://h/a.wasm", PullPolicy::IfNotPresent),
    ];
    for (image, expected) in table {
        assert_eq!(PullPolicy::of(None, image), expected, "{image}");
        assert_eq!(PullPolicy::of(Some("Never"), image), PullPolicy::Never);
    }
}

/// A provider that has an image without the signature that its policy asks for; a registry may have it.
#[derive(Debug, Default)]
struct Unsigned {
    in_registry: bool,
    pulls: AtomicUsize,
}

const PROBLEM: &str = "it is not signed";

#[async_trait]
impl Runtime for Unsigned {
    fn version(&self) -> String {
        "unsigned://1".to_owned()
    }
    async fn image(&self, _: &str) -> Result<Option<Image>, ImageError> {
        Err(ImageError::SignatureInvalid(PROBLEM.into()))
    }
    async fn pull(&self, image: &str, _: &[Credential]) -> Result<PulledImage, ImageError> {
        self.pulls.fetch_add(1, Ordering::Relaxed);
        match self.in_registry {
            true => Ok(Image { reference: image.to_owned(), ..Image::default() }.into()),
            false => Err(ImageError::SignatureInvalid(PROBLEM.into())),
        }
    }
    async fn images(&self) -> Vec<Image> {
        Vec::new()
    }
    async fn start(&self, spec: &ContainerSpec) -> Result<Timestamp, StartError> {
        Err(StartError::Run(spec.id.clone().into()))
    }
    async fn stop(&self, _: &str, _: Duration) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn remove(&self, _: &str) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn exec(&self, id: &str, _: &[String], _: ExecIo) -> Result<ExecEnd, ExecError> {
        Err(ExecError::NotRunning(id.to_owned()))
    }
    fn observe(&self, _: &str) -> Presence {
        Presence::Absent
    }
    fn containers(&self) -> ContainerList {
        ContainerList { containers: Vec::new(), is_complete: true }
    }
    fn wakeups(&self) -> Option<mpsc::Receiver<String>> {
        None
    }
}

/// A signature that is missing here may be in the registry, which is asked for it where it may be asked.
#[tokio::test]
async fn an_image_whose_signature_is_missing_is_pulled_again_unless_it_must_not_be() {
    for (policy, in_registry, pulls) in [
        (PullPolicy::IfNotPresent, true, 1),
        (PullPolicy::IfNotPresent, false, 1),
        (PullPolicy::Always, false, 1),
        (PullPolicy::Never, true, 0),
    ] {
        let runtime = Unsigned { in_registry, ..Unsigned::default() };
        let notes = Mutex::new(Vec::new());
        let metrics = &NodeMetrics::default();
        let source = ImageSource {
            runtime: &runtime,
            access: None,
            node: &NodeCredentials::default(),
            metrics,
            limit: &PullLimit::default(),
        };
        let tell = |note: Note| notes.lock().unwrap().push(note.message);
        let outcome = source.pull("main", "r.io/app:v1", policy, &PodCredentials::default(), tell).await;
        assert_eq!(runtime.pulls.load(Ordering::Relaxed), pulls, "{policy:?}");
        if in_registry && pulls > 0 {
            assert_eq!(outcome.unwrap().reference, "r.io/app:v1");
            continue;
        }
        let trouble = outcome.unwrap_err();
        assert_eq!(trouble.reason, WaitingReason::SignatureValidationFailed, "{policy:?}");
        let expected =
            "image pull failed for r.io/app:v1 because the signature validation failed: it is not signed";
        assert_eq!(trouble.message, expected);
        let last = notes.lock().unwrap().last().cloned();
        assert_eq!(last.as_deref(), Some("Error: SignatureValidationFailed"));
    }
}

/// `registryPullQPS`: a registry is not asked, and the pull fails in the words of upstream. What is here is used.
#[tokio::test]
async fn pulls_beyond_the_limit_fail() {
    let runtime = Unsigned { in_registry: true, ..Unsigned::default() };
    let (metrics, node) = (NodeMetrics::default(), NodeCredentials::default());
    // Within this test nobody gets a second one.
    let limit = PullLimit::new(Some(1), 1);
    let source =
        ImageSource { runtime: &runtime, access: None, node: &node, metrics: &metrics, limit: &limit };
    let notes = Mutex::new(Vec::new());
    let pull = async || {
        let tell = |note: Note| notes.lock().unwrap().push(note.message);
        source.pull("main", "r.io/app:v1", PullPolicy::Always, &PodCredentials::default(), tell).await
    };
    pull().await.unwrap();
    let trouble = pull().await.unwrap_err();
    assert_eq!(
        (trouble.reason, trouble.message.as_str()),
        (WaitingReason::ErrImagePull, "pull QPS exceeded")
    );
    assert_eq!(runtime.pulls.load(Ordering::Relaxed), 1, "the registry was not asked");
    let notes = notes.into_inner().unwrap();
    let refused = "Failed to pull image \"r.io/app:v1\": pull QPS exceeded".to_owned();
    assert!(notes.contains(&refused), "{notes:?}");
    for none in [PullLimit::default(), PullLimit::new(Some(0), 1), PullLimit::new(None, 1)] {
        assert!((0..100).all(|_| none.allows()), "no limit");
    }
}
