//! What can be done with the objects of one kind.

use std::{io::Read, marker::PhantomData, time::Duration};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    client::{self, Client},
    error::Result,
    path::{ResourcePath, with_query},
    transport::{Method, Request},
    watch::{Identity, Watcher},
};

/// Objects of a page, as many as kubectl asks for at a time.
const PAGE: u32 = 500;
/// Objects without their contents.
const METADATA: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
/// How long the logs of a container may say nothing.
const QUIET_LOGS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Objects of one kind, in one namespace or in all. Made by a [`Client`].
#[derive(Clone, Debug)]
pub struct Api<K> {
    pub(crate) client: Client,
    pub(crate) path: ResourcePath,
    pub(crate) kind: PhantomData<fn() -> K>,
}

/// Which objects are listed or watched: all, unless something is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// `app=web,tier!=db`
    pub labels: String,
    /// `metadata.name=web`
    pub fields: String,
}

/// Objects, and the version of the cluster's state that they are.
#[derive(Clone, Debug, PartialEq)]
pub struct List<K> {
    /// In the API server's order: by namespace and name.
    pub items: Vec<K>,
    /// Where a watch can go on from.
    pub resource_version: String,
}

/// What a change is: a part of an object, in one of the forms that the API server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// JSON Merge Patch: fields replace fields, `null` removes, lists are replaced.
    Merge,
    /// As merge, where lists have keys: containers by their name. Not for custom resources.
    Strategic,
    /// JSON Patch: a list of operations.
    Json,
}

impl PatchKind {
    fn content_type(self) -> &'static str {
        match self {
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Json => "application/json-patch+json",
        }
    }
}

/// Which lines of a container's logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The container; needed where a pod has several.
    pub container: String,
    /// New lines as they are written, until the container ends.
    pub follow: bool,
    /// Of the attempt before this one.
    pub previous: bool,
    /// With the time in front.
    pub timestamps: bool,
    /// This many lines, the last ones.
    pub tail: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<K> {
    #[serde(default)]
    metadata: PageMetadata,
    // Without a default of its own: `Option` has one for any K
    items: Option<Vec<K>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

#[derive(Deserialize)]
struct Named {
    metadata: Identity,
}

impl<K> Api<K> {
    /// The names of all objects, for completions: nothing else of them is sent.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn names(&self) -> Result<Vec<String>> {
        let api = self.client.resource::<Named>(self.path.clone());
        let listed = api.list_as(&ListOptions::default(), METADATA)?;
        Ok(listed.items.into_iter().map(|object| object.metadata.name).collect())
    }

    /// Follows what happens to the objects: first those that there are, then every change, across all ends of connections, and of
    /// the API server.
    #[must_use]
    pub fn watch(&self, options: &ListOptions) -> Watcher<K> {
        Watcher::new(self.client.resource(self.path.clone()), options.clone())
    }
}

impl<K: DeserializeOwned> Api<K> {
    /// One object.
    ///
    /// # Errors
    /// When there is none of that name ([`Error::is_not_found`](crate::Error::is_not_found)), or it cannot be had.
    pub fn get(&self, name: &str) -> Result<K> {
        self.client.fetch(Request::new(Method::Get, self.path.object(name)?), "object")
    }

    /// All objects, page by page. Where a page is asked for too late, they are listed anew, as a whole.
    ///
    /// # Errors
    /// When one of the pages cannot be had.
    pub fn list(&self, options: &ListOptions) -> Result<List<K>> {
        self.list_as(options, "application/json")
    }

    fn list_as(&self, options: &ListOptions, accept: &str) -> Result<List<K>> {
        match self.pages(options, Some(PAGE), accept) {
            Err(error) if error.is_expired() => self.pages(options, None, accept),
            other => other,
        }
    }

    fn pages(&self, options: &ListOptions, limit: Option<u32>, accept: &str) -> Result<List<K>> {
        let limit = limit.map(|limit| limit.to_string()).unwrap_or_default();
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let query = [
                ("labelSelector", options.labels.as_str()),
                ("fieldSelector", &options.fields),
                ("limit", &limit),
                ("continue", &next),
            ];
            let path = with_query(self.path.collection()?, &query);
            let mut request = Request::new(Method::Get, path);
            request.headers = vec![("accept", accept.to_owned())];
            let page: Page<K> = self.client.fetch(request, "list")?;
            items.extend(page.items.unwrap_or_default());
            next = page.metadata.next;
            if next.is_empty() {
                return Ok(List { items, resource_version: page.metadata.resource_version });
            }
        }
    }

    /// Changes an object, and returns what it is then.
    ///
    /// # Errors
    /// When there is none, or the API server does not take the change.
    pub fn patch<P: Serialize>(&self, name: &str, kind: PatchKind, patch: &P) -> Result<K> {
        let request = Request::new(Method::Patch, self.path.object(name)?);
        self.client.fetch(request.with_body(kind.content_type(), client::body(patch)?), "object")
    }

    /// Removes an object, in the background together with what belongs to it. It may be there for a while yet.
    ///
    /// # Errors
    /// When there is none, or it cannot be removed.
    pub fn delete(&self, name: &str) -> Result<()> {
        let path = with_query(self.path.object(name)?, &[("propagationPolicy", "Background")]);
        self.client.send(Request::new(Method::Delete, path)).map(drop)
    }

    /// Reads the logs of a pod's container, which [`std::io::BufReader`] makes lines of.
    ///
    /// # Errors
    /// When there is no such container, or it has none yet.
    pub fn logs(&self, pod: &str, options: &LogOptions) -> Result<Box<dyn Read>> {
        let flag = |set: bool| if set { "true" } else { "" };
        let tail = options.tail.map(|lines| lines.to_string()).unwrap_or_default();
        let query = [
            ("container", options.container.as_str()),
            ("follow", flag(options.follow)),
            ("previous", flag(options.previous)),
            ("timestamps", flag(options.timestamps)),
            ("tailLines", &tail),
        ];
        let mut request = Request::new(Method::Get, with_query(self.path.object(pod)? + "/log", &query));
        request.headers = vec![("accept", "*/*".to_owned())];
        if options.follow {
            request.patience = QUIET_LOGS;
        }
        Ok(self.client.send(request)?.body)
    }
}

impl<K: Serialize + DeserializeOwned> Api<K> {
    /// Makes an object, and returns it as the API server has completed it.
    ///
    /// # Errors
    /// When there is one of its name, or the API server does not take it.
    pub fn create(&self, object: &K) -> Result<K> {
        let request = Request::new(Method::Post, self.path.collection()?);
        self.client.fetch(request.with_body("application/json", client::body(object)?), "object")
    }

    /// Replaces an object by one that was read, and changed: somebody else's change between the two is a conflict.
    ///
    /// # Errors
    /// When there is none, when it has changed, or the API server does not take it.
    pub fn replace(&self, name: &str, object: &K) -> Result<K> {
        let request = Request::new(Method::Put, self.path.object(name)?);
        self.client.fetch(request.with_body("application/json", client::body(object)?), "object")
    }

    /// Server-side apply: makes the object, or sets the fields that are in this one, and owns them as `manager`. `force` takes them
    /// from whoever owns them.
    ///
    /// # Errors
    /// When others own some of the fields (a conflict), or the API server does not take it.
    pub fn apply(&self, name: &str, object: &K, manager: &str, force: bool) -> Result<K> {
        let query = [("fieldManager", manager), ("force", if force { "true" } else { "" })];
        let request = Request::new(Method::Patch, with_query(self.path.object(name)?, &query));
        // JSON is YAML.
        self.client.fetch(request.with_body("application/apply-patch+yaml", client::body(object)?), "object")
    }
}

#[cfg(test)]
mod tests;
