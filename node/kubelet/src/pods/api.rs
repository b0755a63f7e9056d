//! What pod tasks ask of the cluster they belong to.
//!
//! There are two: [`Cluster`], an API server, and [`Alone`], none at all.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::future::{try_join, try_join_all};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Pod, PodStatus, Secret, Service},
    node::v1::RuntimeClass,
};
use kube::{
    Client, Resource as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::Request,
    runtime::reflector::ObjectRef,
};

use tokio::sync::watch;

pub use super::{
    api_error::ApiError,
    objects::{LocalObjects, ObjectFollower},
};
use super::{
    environment::References,
    objects::{ClusterObjects, ObjectSource},
    status_patch,
};
use crate::{mirror::Mirrored, traces::requests::carrying};

/// The cluster as a pod task sees it.
#[async_trait]
pub trait PodApi: std::fmt::Debug + Send + Sync + 'static {
    /// Writes the status of a pod, and returns the pod as it is after that.
    ///
    /// # Errors
    /// [`ApiError::Gone`] when there is no pod of this UID any more, [`ApiError::Later`] when trying again
    /// may help.
    async fn publish(&self, pod: &Pod, status: &PodStatus) -> Result<Pod, ApiError>;

    /// Lets go of a pod that was to be deleted and of which nothing runs any more.
    ///
    /// # Errors
    /// As for [`PodApi::publish`].
    async fn finalize(&self, pod: &Pod) -> Result<(), ApiError>;

    /// What a container's environment refers to, as it is now. What does not exist is left out.
    ///
    /// # Errors
    /// [`ApiError::Later`] when an object could not be read.
    async fn objects(&self, namespace: &str, references: &References) -> Result<Objects, ApiError>;

    /// Follows such objects; `None` where there is nobody who has any.
    fn follow(&self, namespace: &str, references: &References) -> Option<ObjectFollower> {
        let _ = (namespace, references);
        None
    }

    /// All services of the cluster, or `None` before they have been read once.
    fn services(&self) -> Option<Vec<Arc<Service>>>;

    /// The handler of a RuntimeClass; the default one where there is no cluster, and so no classes.
    ///
    /// # Errors
    /// Says that there is no such class, in the words of the API server, or that classes have not been read
    /// yet.
    fn runtime_handler(&self, class: &str) -> Result<String, String> {
        let _ = class;
        Ok(String::new())
    }
}

/// Objects of a pod's namespace, by name.
#[derive(Clone, Default)]
pub struct Objects {
    /// Config maps.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets.
    pub secrets: BTreeMap<String, Arc<Secret>>,
}

// Contents of secrets stay out of logs.
impl std::fmt::Debug for Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Objects")
            .field("config_maps", &self.config_maps.keys())
            .field("secrets", &self.secrets.keys())
            .finish()
    }
}

/// A cluster with an API server.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    objects: Arc<ClusterObjects>,
    services: Mirrored<Service>,
    runtime_classes: Mirrored<RuntimeClass>,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

impl Cluster {
    /// A cluster, with mirrors of all its services and runtime classes.
    #[must_use]
    pub fn new(client: Client, services: Mirrored<Service>, runtime_classes: Mirrored<RuntimeClass>) -> Self {
        let objects = Arc::new(ClusterObjects::new(client.clone()));
        Self { client, objects, services, runtime_classes }
    }

    /// The objects that pods refer to: one watch of each for all who ask here.
    pub(super) fn object_source(&self) -> Arc<dyn ObjectSource> {
        Arc::clone(&self.objects) as Arc<dyn ObjectSource>
    }
}

/// What requests about the pods of a pod's namespace begin with, and its name.
fn pods_of(pod: &Pod) -> (Request, String) {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    (Request::new(Pod::url_path(&(), Some(namespace))), pod.metadata.name.clone().unwrap_or_default())
}

#[async_trait]
impl PodApi for Cluster {
    async fn publish(&self, pod: &Pod, status: &PodStatus) -> Result<Pod, ApiError> {
        let (pods, name) = pods_of(pod);
        let patch = status_patch::of(pod, status).map_err(|error| ApiError::Later(error.to_string()))?;
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        let request = pods.patch_subresource("status", &name, &params, &patch);
        Ok(self.client.request(carrying(request.map_err(kube::Error::BuildRequest)?)).await?)
    }

    async fn finalize(&self, pod: &Pod) -> Result<(), ApiError> {
        let (pods, name) = pods_of(pod);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        let request = pods.delete(&name, &params).map_err(kube::Error::BuildRequest)?;
        self.client.request_status::<Pod>(carrying(request)).await?;
        Ok(())
    }

    async fn objects(&self, namespace: &str, references: &References) -> Result<Objects, ApiError> {
        // All at once: the first of a pod's containers to be started asks for each of them for the first time.
        let config_maps = references.config_maps.iter().map(async |name| {
            let object = self.objects.config_map(namespace, name).answer("configmap").await?;
            Ok::<_, ApiError>(object.map(|object| (name.clone(), object)))
        });
        let secrets = references.secrets.iter().map(async |name| {
            let object = self.objects.secret(namespace, name).answer("secret").await?;
            Ok::<_, ApiError>(object.map(|object| (name.clone(), object)))
        });
        let (config_maps, secrets) = try_join(try_join_all(config_maps), try_join_all(secrets)).await?;
        Ok(Objects {
            config_maps: config_maps.into_iter().flatten().collect(),
            secrets: secrets.into_iter().flatten().collect(),
        })
    }

    fn follow(&self, namespace: &str, references: &References) -> Option<ObjectFollower> {
        Some(ObjectFollower::new(self.objects.as_ref(), namespace, references))
    }

    fn services(&self) -> Option<Vec<Arc<Service>>> {
        self.services.store().map(|services| services.state())
    }

    fn runtime_handler(&self, class: &str) -> Result<String, String> {
        let Some(classes) = self.runtime_classes.store() else {
            return Err("runtime classes have not yet been read at least once".to_owned());
        };
        let found = classes.get(&ObjectRef::new(class));
        let missing = || format!("runtimeclass.node.k8s.io \"{class}\" not found");
        found.map(|class| class.handler.clone()).ok_or_else(missing)
    }
}

/// No cluster: a pod that runs by itself. Statuses go to whoever watches.
#[derive(Debug)]
pub struct Alone {
    statuses: watch::Sender<PodStatus>,
    objects: LocalObjects,
}

impl Alone {
    /// A pod's surroundings, with the objects that it may refer to. Also returns a receiver of the newest status.
    #[must_use]
    pub fn new(objects: LocalObjects) -> (Self, watch::Receiver<PodStatus>) {
        let (statuses, receiver) = watch::channel(PodStatus::default());
        (Self { statuses, objects }, receiver)
    }
}

#[async_trait]
impl PodApi for Alone {
    async fn publish(&self, pod: &Pod, status: &PodStatus) -> Result<Pod, ApiError> {
        self.statuses.send_replace(status.clone());
        Ok(Pod { status: Some(status.clone()), ..pod.clone() })
    }

    async fn finalize(&self, _: &Pod) -> Result<(), ApiError> {
        Ok(())
    }

    async fn objects(&self, _: &str, references: &References) -> Result<Objects, ApiError> {
        Ok(self.objects.of(references))
    }

    fn services(&self) -> Option<Vec<Arc<Service>>> {
        Some(Vec::new())
    }
}
