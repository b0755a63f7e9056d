//! A client of the API server, with Kubernetes' types.

use std::{fmt, io::Read, marker::PhantomData, rc::Rc};

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope, Resource};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::Api,
    error::{self, Error, Result},
    path::ResourcePath,
    transport::{Request, Response, Transport},
};

/// The largest answer that is read as a whole. A page of 500 of the largest objects would be larger; they are not.
const LARGEST_ANSWER: u64 = 128 << 20;
/// What is read of an answer that says that it failed.
const LARGEST_STATUS: u64 = 1 << 20;

/// Sends requests to the API server of the user's context. Clones share what they send by.
#[derive(Clone)]
pub struct Client {
    transport: Rc<dyn Transport>,
    agent: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("agent", &self.agent).finish_non_exhaustive()
    }
}

impl Client {
    /// A client that says that it is `agent`, which audit logs then have.
    #[must_use]
    pub fn new(transport: Rc<dyn Transport>, agent: impl Into<String>) -> Self {
        Self { transport, agent: agent.into() }
    }

    /// Objects of a namespace.
    #[must_use]
    pub fn namespaced<K: Resource<Scope = NamespaceResourceScope>>(&self, namespace: &str) -> Api<K> {
        self.resource(ResourcePath::of::<K>(Some(namespace)))
    }

    /// Objects of all namespaces: to list and to watch.
    #[must_use]
    pub fn everywhere<K: Resource<Scope = NamespaceResourceScope>>(&self) -> Api<K> {
        self.resource(ResourcePath::of::<K>(None))
    }

    /// Objects of one namespace, or of all of them.
    #[must_use]
    pub fn within<K: Resource<Scope = NamespaceResourceScope>>(&self, namespace: Option<&str>) -> Api<K> {
        self.resource(ResourcePath::of::<K>(namespace))
    }

    /// Objects that are in no namespace: nodes, namespaces.
    #[must_use]
    pub fn of_cluster<K: Resource<Scope = ClusterResourceScope>>(&self) -> Api<K> {
        self.resource(ResourcePath::of::<K>(None))
    }

    /// Any kind of objects, with any type that can be read from them: custom resources, or a type with the few fields that a
    /// plugin looks at, which takes less time and memory.
    #[must_use]
    pub fn resource<K>(&self, path: ResourcePath) -> Api<K> {
        Api { client: self.clone(), path, kind: PhantomData }
    }

    /// Sends any request, and returns the answer if it is one of success.
    ///
    /// # Errors
    /// [`Error::Transport`] without an answer, [`Error::Api`] with another one.
    pub fn send(&self, mut request: Request) -> Result<Response> {
        request.headers.push(("user-agent", self.agent.clone()));
        let response = self.transport.send(&request)?;
        if (200..300).contains(&response.status) {
            return Ok(response);
        }
        let mut body = Vec::new();
        // Of what breaks off, that which came counts.
        let _ = response.body.take(LARGEST_STATUS).read_to_end(&mut body);
        Err(Error::Api(Box::new(error::status(response.status, response.retry_after, &body))))
    }

    /// Sends a request and reads what comes back.
    pub(crate) fn fetch<T: DeserializeOwned>(&self, request: Request, what: &'static str) -> Result<T> {
        let response = self.send(request)?;
        let mut body = Vec::new();
        let read = response.body.take(LARGEST_ANSWER + 1).read_to_end(&mut body);
        read.map_err(|error| Error::Answer(what, error.to_string()))?;
        if body.len() as u64 > LARGEST_ANSWER {
            return Err(Error::Answer(what, format!("it has more than {} MiB", LARGEST_ANSWER >> 20)));
        }
        serde_json::from_slice(&body).map_err(|error| Error::Answer(what, error.to_string()))
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &*self.transport
    }
}

/// An object as the body of a request.
pub(crate) fn body<K: Serialize>(object: &K) -> Result<Vec<u8>> {
    serde_json::to_vec(object).map_err(|error| Error::failed(format!("an object that is no JSON: {error}")))
}
