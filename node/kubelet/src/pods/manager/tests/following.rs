//! Objects that the provider wants to know of while a container runs.

use std::collections::VecDeque;

use k8s_openapi::api::core::v1::Secret;

use super::*;
use crate::{
    pods::objects::{Known, ObjectFollower, Subscription},
    runtime::{ObjectNames, ObjectUpdate, UpdateError},
};

/// The annotation that names a Secret to the provider of these tests.
const ANNOTATION: &str = "secret";

/// What a provider was told of objects, and how it answers.
#[derive(Debug)]
pub(super) struct Told {
    updates: watch::Sender<Vec<ObjectUpdate>>,
    answers: Mutex<VecDeque<UpdateError>>,
}

impl Default for Told {
    fn default() -> Self {
        Self { updates: watch::Sender::new(Vec::new()), answers: Mutex::default() }
    }
}

impl Told {
    pub(super) fn names(annotations: &BTreeMap<String, String>) -> ObjectNames {
        ObjectNames {
            secrets: annotations.get(ANNOTATION).cloned().into_iter().collect(),
            ..ObjectNames::default()
        }
    }

    pub(super) fn take(&self, update: &ObjectUpdate) -> Result<(), UpdateError> {
        self.updates.send_modify(|updates| updates.push(update.clone()));
        self.answers.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    /// Waits until it was told for the so-manieth time; returns what the Secret held.
    async fn nth(&self, count: usize) -> Vec<u8> {
        let mut updates = self.updates.subscribe();
        let is_told = tokio::time::timeout(PATIENCE, updates.wait_for(|updates| updates.len() >= count));
        let updates = is_told.await.expect("it is told").unwrap();
        assert_eq!(updates.len(), count, "{updates:?}");
        let ObjectUpdate { id, container, objects, .. } = &updates[count - 1];
        assert_eq!((id.as_str(), container.as_str()), (container_id("u", "c", 0).as_str(), "c"));
        objects.secrets["s"].data["key"].clone()
    }
}

/// The only Secret that there is.
#[derive(Debug)]
pub(super) struct OneSecret(watch::Sender<Known<Secret>>);

impl Default for OneSecret {
    fn default() -> Self {
        Self(watch::Sender::new(Known::Unread))
    }
}

impl OneSecret {
    pub(super) fn follow(&self, references: &References) -> ObjectFollower {
        let subscribe = |name: &String| (name.clone(), Subscription::alone(self.0.subscribe()));
        ObjectFollower::of_secrets(references.secrets.iter().map(subscribe))
    }

    fn set(&self, value: &str) {
        let secret = json!({"data": {"key": k8s_openapi::ByteString(value.into())}});
        self.0.send_replace(Known::Present(Arc::new(serde_json::from_value(secret).unwrap())));
    }
}

/// It is told of what there is when a container is taken up that runs already, of each change, once more where it could not be
/// reached, and of nothing when the container has ended.
#[tokio::test]
async fn a_provider_is_told_of_objects_while_their_container_runs() {
    let mut world = World::with(&["u"]);
    let (runtime, api) = (Arc::clone(&world.runtime), Arc::clone(&world.api));
    let told = &runtime.told;
    let mut running = pod("p", "u", json!({ANNOTATION: "s"}));
    running["status"] = json!({"phase": "Running", "containerStatuses": [{
        "name": "c", "image": "i:v1", "imageID": "", "ready": true, "restartCount": 0, "containerID": "fake://x",
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
    }]});
    world.set(running.clone()).await;
    api.secret.set("first");
    assert_eq!(told.nth(1).await, b"first");

    told.answers.lock().unwrap().push_back(UpdateError::Invalid("the secret \"s\" is wrong".to_owned()));
    api.secret.set("second");
    assert_eq!(told.nth(2).await, b"second");
    let message = world.event("p", "FailedUpdate").await;
    assert_eq!(message, "the secret \"s\" is wrong; the container goes on with what it was given before");

    // Another annotation is told of as well, and what is wrong with the Secret not once more.
    told.answers.lock().unwrap().push_back(UpdateError::Invalid("the secret \"s\" is wrong".to_owned()));
    running["metadata"]["annotations"]["other"] = "x".into();
    world.set(running.clone()).await;
    assert_eq!(told.nth(3).await, b"second");
    assert_eq!(told.updates.borrow()[2].annotations["other"], "x");

    told.answers.lock().unwrap().push_back(UpdateError::Runtime(RuntimeError("it is away".into())));
    api.secret.set("third");
    assert_eq!(told.nth(5).await, b"third");
    api.secret.0.send_replace(Known::Absent);
    let message = world.event("p", "FailedUpdate").await;
    assert_eq!(message, "secret \"s\" not found; the container goes on with what it was given before");
    api.secret.set("fourth");
    assert_eq!(told.nth(6).await, b"fourth");

    world.delete(running).await;
    world.let_end("u").await;
    let is_left = tokio::time::timeout(PATIENCE, api.secret.0.closed()).await;
    assert!(is_left.is_ok(), "nobody follows it any more");
}
