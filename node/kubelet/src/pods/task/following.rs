//! Objects that a provider wants to know of while a container runs: each such container has a task that follows them, and
//! says what is in them. The first word is about what they are now, which an agent that has taken up the container does not
//! know to have been told.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::PodTask;
use crate::{
    pods::{
        api::Objects,
        container_id::container_id,
        lifecycle::{Note, Spec},
        objects::ObjectFollower,
        provider_objects,
        reason::EventReason,
        shared::{Shared, tell},
    },
    retry::Backoff,
    runtime::{ObjectNames, ObjectUpdate, UpdateError},
};

/// How soon a provider that could not be reached is told again, at first and at last.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// Those who follow objects, by container. They end with this.
#[derive(Debug, Default)]
pub(super) struct Following(HashMap<String, Followed>);

#[derive(Debug)]
struct Followed {
    id: String,
    names: ObjectNames,
    /// The pod's: who follows is told of them, and goes on.
    annotations: watch::Sender<BTreeMap<String, String>>,
    _task: AbortOnDropHandle<()>,
}

impl PodTask {
    /// Has the objects of each container followed that runs, and of no other.
    pub(super) fn follow_objects(&mut self) {
        let annotations = self.pod.metadata.annotations.clone().unwrap_or_default();
        if annotations.is_empty() && self.following.0.is_empty() {
            return;
        }
        let mut wanted = HashMap::new();
        for (name, record) in &self.state.containers {
            let names = self.shared.runtime.followed_objects(name, &annotations);
            if record.running().is_some() && !names.is_empty() {
                wanted.insert(name, (container_id(&self.name.uid, name, record.newest_attempt()), names));
            }
        }
        let following = &mut self.following.0;
        following.retain(|name, followed| {
            wanted.get(name).is_some_and(|(id, names)| followed.id == *id && followed.names == *names)
        });
        for (name, (id, names)) in wanted {
            if let Some(followed) = following.get(name) {
                followed.annotations.send_if_modified(|known| {
                    let is_new = *known != annotations;
                    known.clone_from(&annotations);
                    is_new
                });
                continue;
            }
            let namespace = &self.name.namespace;
            let references = provider_objects::references(&names);
            let Some(objects) = self.shared.api.follow(namespace, &references) else { continue };
            let update = ObjectUpdate {
                id: id.clone(),
                container: name.clone(),
                annotations: annotations.clone(),
                objects: Default::default(),
            };
            let (annotations, of_pod) = watch::channel(annotations.clone());
            let follower = Follower {
                shared: Arc::clone(&self.shared),
                pod: Arc::clone(&self.pod),
                reference: self.reference.clone(),
                names: names.clone(),
                annotations: of_pod,
                update,
                told: None,
            };
            let _task = AbortOnDropHandle::new(tokio::spawn(follower.run(objects)));
            following.insert(name.clone(), Followed { id, names, annotations, _task });
        }
    }
}

/// Follows the objects of one container.
struct Follower {
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    reference: ObjectReference,
    names: ObjectNames,
    annotations: watch::Receiver<BTreeMap<String, String>>,
    update: ObjectUpdate,
    /// What is wrong, as it was told.
    told: Option<String>,
}

impl Follower {
    async fn run(mut self, mut objects: ObjectFollower) {
        let mut backoff = Backoff::new(FIRST_RETRY, LONGEST_RETRY);
        let mut newest = objects.next().await;
        loop {
            self.update.annotations.clone_from(&self.annotations.borrow_and_update());
            let retry = match self.hand_on(&newest).await {
                Ok(()) => {
                    backoff.reset();
                    None
                }
                Err(error) => {
                    tracing::warn!(
                        container = self.update.id,
                        error,
                        "a container is not up to date with its objects; trying again"
                    );
                    Some(backoff.next())
                }
            };
            tokio::select! {
                changed = objects.next() => newest = changed,
                // Their sender goes with this task.
                Ok(()) = self.annotations.changed() => {}
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
        }
    }

    /// Says what is in the objects. Errs when nobody could be told.
    async fn hand_on(&mut self, objects: &Objects) -> Result<(), String> {
        match provider_objects::contents(&self.names, objects) {
            Ok(contents) => self.update.objects = contents,
            Err(missing) => {
                self.warn(missing);
                return Ok(());
            }
        }
        match self.shared.runtime.update_objects(&self.update).await {
            Ok(()) => self.told = None,
            Err(UpdateError::Invalid(message)) => self.warn(message),
            Err(UpdateError::Runtime(error)) => return Err(error.to_string()),
        }
        Ok(())
    }

    /// Tells of what is wrong, once.
    fn warn(&mut self, trouble: String) {
        if self.told.as_ref() == Some(&trouble) {
            return;
        }
        let message = format!("{trouble}; the container goes on with what it was given before");
        let reason = EventReason::FailedUpdate;
        let note = Note { container: Some(self.update.container.clone()), warning: true, reason, message };
        tell(&self.shared.recorder, &self.reference, &Spec::of(&self.pod), &note);
        self.told = Some(trouble);
    }
}
