//! Where things are in the API: paths and queries. Pure.

use std::fmt::Write as _;

use k8s_openapi::Resource;

use crate::error::{Error, Result};

/// A kind of objects in the API, in one namespace or in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResourcePath {
    /// The API group, empty for the core.
    pub group: String,
    /// Its version: `v1`
    pub version: String,
    /// The name of the kind in paths: `pods`
    pub plural: String,
    /// The namespace; `None` for all of them, and for what is in none.
    pub namespace: Option<String>,
}

impl ResourcePath {
    /// Of a type of Kubernetes.
    #[must_use]
    pub fn of<K: Resource>(namespace: Option<&str>) -> Self {
        Self {
            group: K::GROUP.to_owned(),
            version: K::VERSION.to_owned(),
            plural: K::URL_PATH_SEGMENT.to_owned(),
            namespace: namespace.map(str::to_owned),
        }
    }

    /// The path of all objects.
    ///
    /// # Errors
    /// When the namespace cannot be one.
    pub(crate) fn collection(&self) -> Result<String> {
        let mut path = match self.group.as_str() {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if let Some(namespace) = &self.namespace {
            path.push_str("/namespaces/");
            path.push_str(segment("namespace", namespace)?);
        }
        path.push('/');
        path.push_str(&self.plural);
        Ok(path)
    }

    /// The path of one object.
    ///
    /// # Errors
    /// When the name cannot be one.
    pub(crate) fn object(&self, name: &str) -> Result<String> {
        Ok(format!("{}/{}", self.collection()?, segment("resource name", name)?))
    }
}

/// A name that can be a part of a path as it is. Those of objects can: anything else would be a request for something else.
fn segment<'a>(what: &str, name: &'a str) -> Result<&'a str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@$".contains(&byte);
    match name {
        "" => Err(Error::failed(format!("{what} may not be empty"))),
        "." | ".." => Err(Error::failed(format!("invalid {what} {name:?}"))),
        name if name.bytes().all(is_plain) => Ok(name),
        name => Err(Error::failed(format!("invalid {what} {name:?}"))),
    }
}

/// Adds what is not empty to a path, encoded.
pub(crate) fn with_query(mut path: String, parameters: &[(&str, &str)]) -> String {
    let mut mark = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        path.push(mark);
        mark = '&';
        path.push_str(name);
        path.push('=');
        for byte in value.bytes() {
            match byte {
                b'-' | b'.' | b'_' | b'~' => path.push(char::from(byte)),
                byte if byte.is_ascii_alphanumeric() => path.push(char::from(byte)),
                // Writing to a string does not fail.
                byte => drop(write!(path, "%{byte:02X}")),
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};

    use super::*;

    #[test]
    fn types_know_their_paths() {
        let deployments = ResourcePath::of::<Deployment>(Some("shop"));
        assert_eq!(deployments.collection().unwrap(), "/apis/apps/v1/namespaces/shop/deployments");
        assert_eq!(deployments.object("web").unwrap(), "/apis/apps/v1/namespaces/shop/deployments/web");
        assert_eq!(ResourcePath::of::<Node>(None).object("n1").unwrap(), "/api/v1/nodes/n1");
    }

    #[test]
    fn a_name_is_not_a_way_to_something_else() {
        let nodes = ResourcePath::of::<Node>(None);
        for name in ["", ".", "..", "a/b", "a?b", "a%2fb", "a b", "ä", "a#b"] {
            assert!(nodes.object(name).is_err(), "{name:?}");
        }
        let error = nodes.object("").unwrap_err().to_string();
        assert_eq!(error, "error: resource name may not be empty");
        assert!(ResourcePath::of::<Deployment>(Some("a/b")).collection().is_err());
    }

    #[test]
    fn queries_are_encoded_and_what_is_empty_is_left_out() {
        let path =
            with_query("/x".to_owned(), &[("limit", ""), ("labelSelector", "a in (b,ä)"), ("watch", "1")]);
        assert_eq!(path, "/x?labelSelector=a%20in%20%28b%2C%C3%A4%29&watch=1");
        assert_eq!(with_query("/x".to_owned(), &[]), "/x");
    }
}
