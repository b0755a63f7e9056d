//! What a request asks of the API server: verb, resource, name, as its authorizers see it. Pure.
//!
//! The rules are those of
//! [RequestInfo](https://kubernetes.io/docs/reference/access-authn-authz/authorization/#request-attributes). What could be read
//! in two ways is refused rather than guessed at.

use std::{borrow::Cow, fmt};

use http::Method;
use percent_encoding::percent_decode_str;

/// Subresources over which other protocols are spoken.
const UPGRADES: [&str; 3] = ["exec", "attach", "portforward"];

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ApiRequest {
    /// Something about objects.
    Resource(ResourceRequest),
    /// Another path: `/version`, `/openapi/v3`, `/apis`. The verb is the method's name in lower case.
    Path { verb: String, path: String },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ResourceRequest {
    pub(crate) verb: String,
    /// Empty for the core group.
    pub(crate) group: String,
    pub(crate) resource: String,
    pub(crate) subresource: String,
    /// Empty where no namespace is named.
    pub(crate) namespace: String,
    /// Empty where no object is named.
    pub(crate) name: String,
}

/// A request that is not understood in one way alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Ambiguous {
    #[error("its path is not UTF-8")]
    Encoding,
    #[error("its path has empty parts")]
    Empty,
    #[error("a part of its path has a slash, a backslash or a control character in it")]
    Slash,
    #[error("it says more than once whether it watches")]
    Watch,
}

impl ApiRequest {
    /// Reads a request for `path`, which is that of the API server, with this query.
    ///
    /// # Errors
    /// [`Ambiguous`].
    pub(crate) fn read(method: &Method, path: &str, query: Option<&str>) -> Result<Self, Ambiguous> {
        let parts = parts(path)?;
        let verb = method.as_str().to_ascii_lowercase();
        let other = || Self::Path { verb: verb.clone(), path: format!("/{}", parts.join("/")) };
        let (group, mut rest) = match parts.iter().map(Cow::as_ref).collect::<Vec<_>>().as_slice() {
            ["api", _version, rest @ ..] if !rest.is_empty() => (String::new(), owned(rest)),
            ["apis", group, _version, rest @ ..] if !rest.is_empty() => ((*group).to_owned(), owned(rest)),
            _ => return Ok(other()),
        };
        let mut verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => return Ok(other()),
        };
        // The old way to say it, which is still understood.
        let mut has_old_verb = false;
        if let Some(old) = rest.first().filter(|first| ["proxy", "watch"].contains(&first.as_str())) {
            verb = if old == "proxy" { "proxy" } else { "watch" };
            has_old_verb = true;
            rest.remove(0);
            if rest.is_empty() {
                return Ok(other());
            }
        }
        let mut namespace = String::new();
        if rest.len() > 1 && rest.first().is_some_and(|first| first == "namespaces") {
            namespace = rest.get(1).cloned().unwrap_or_default();
            // A namespace itself is an object, too: `status` and `finalize` are parts of it.
            let is_inside =
                rest.get(2).is_some_and(|third| !["status", "finalize"].contains(&third.as_str()));
            if is_inside {
                rest.drain(..2);
            }
        }
        let mut rest = rest.into_iter();
        let resource = rest.next().unwrap_or_default();
        let name = rest.next().unwrap_or_default();
        let subresource =
            if has_old_verb && verb == "proxy" { String::new() } else { rest.next().unwrap_or_default() };
        if name.is_empty() && !has_old_verb {
            verb = match verb {
                "get" if is_watch(query)? => "watch",
                "get" => "list",
                "delete" => "deletecollection",
                verb => verb,
            };
        }
        let verb = verb.to_owned();
        Ok(Self::Resource(ResourceRequest { verb, group, resource, subresource, namespace, name }))
    }

    /// The subresource that is spoken to in another protocol than HTTP, if it is one.
    pub(crate) fn upgrade(&self) -> Option<&str> {
        match self {
            Self::Resource(request)
                if request.group.is_empty()
                    && request.resource == "pods"
                    && UPGRADES.contains(&request.subresource.as_str()) =>
            {
                Some(&request.subresource)
            }
            Self::Resource(_) | Self::Path { .. } => None,
        }
    }
}

impl fmt::Display for ApiRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { verb, path } => write!(f, "{verb} {path}"),
            Self::Resource(ResourceRequest { verb, group, resource, subresource, namespace, .. }) => {
                write!(f, "{verb} {resource}")?;
                if !group.is_empty() {
                    write!(f, ".{group}")?;
                }
                if !subresource.is_empty() {
                    write!(f, "/{subresource}")?;
                }
                if namespace.is_empty() { Ok(()) } else { write!(f, " in the namespace {namespace}") }
            }
        }
    }
}

fn owned(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// The parts of a path, as the server decodes them.
fn parts(path: &str) -> Result<Vec<Cow<'_, str>>, Ambiguous> {
    let inner = path.strip_prefix('/').unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    inner
        .split('/')
        .map(|part| {
            let part = percent_decode_str(part).decode_utf8().map_err(|_| Ambiguous::Encoding)?;
            match part.chars().find(|c| matches!(c, '/' | '\\') || c.is_control()) {
                Some(_) => Err(Ambiguous::Slash),
                None if part.is_empty() => Err(Ambiguous::Empty),
                None => Ok(part),
            }
        })
        .collect()
}

/// Whether a query asks for a watch, by the server's rules: `watch` is true unless it is `0` or `false`.
fn is_watch(query: Option<&str>) -> Result<bool, Ambiguous> {
    let mut found = None;
    for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if name == "watch" {
            if found.is_some() {
                return Err(Ambiguous::Watch);
            }
            found = Some(!matches!(value.to_ascii_lowercase().as_str(), "0" | "false"));
        }
    }
    Ok(found.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: &str, target: &str) -> Result<ApiRequest, Ambiguous> {
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        ApiRequest::read(&method.parse().unwrap(), path, query)
    }

    #[test]
    fn requests_are_read_as_authorizers_read_them() {
        for (method, target, expected) in [
            ("GET", "/api/v1/namespaces/ns/pods", "list pods in the namespace ns"),
            ("GET", "/api/v1/namespaces/ns/pods?watch=1", "watch pods in the namespace ns"),
            ("GET", "/api/v1/namespaces/ns/pods?watch", "watch pods in the namespace ns"),
            ("GET", "/api/v1/namespaces/ns/pods?watch=false", "list pods in the namespace ns"),
            ("GET", "/api/v1/namespaces/ns/pods/p?watch=1", "get pods in the namespace ns"),
            ("GET", "/api/v1/watch/pods", "watch pods"),
            ("GET", "/api/v1/namespaces/ns/pods/p/log?follow=1", "get pods/log in the namespace ns"),
            ("GET", "/api/v1/namespaces/ns/%73ecrets/s", "get secrets in the namespace ns"),
            ("GET", "/api/v1/namespaces/ns", "get namespaces in the namespace ns"),
            ("PUT", "/api/v1/namespaces/ns/finalize", "update namespaces/finalize in the namespace ns"),
            ("GET", "/api/v1/namespaces", "list namespaces"),
            (
                "POST",
                "/apis/apps/v1/namespaces/ns/deployments",
                "create deployments.apps in the namespace ns",
            ),
            (
                "PATCH",
                "/apis/apps/v1/namespaces/ns/deployments/d/scale",
                "patch deployments.apps/scale in the namespace ns",
            ),
            ("DELETE", "/api/v1/nodes", "deletecollection nodes"),
            ("DELETE", "/api/v1/nodes/n/", "delete nodes"),
            ("HEAD", "/api/v1/nodes", "list nodes"),
            ("GET", "/version", "get /version"),
            ("GET", "/apis/apps/v1", "get /apis/apps/v1"),
            ("GET", "/", "get /"),
            ("OPTIONS", "/api/v1/nodes", "options /api/v1/nodes"),
        ] {
            assert_eq!(read(method, target).unwrap().to_string(), expected, "{method} {target}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_not_read() {
        for (target, expected) in [
            ("/api/v1//pods", Ambiguous::Empty),
            ("/api/v1/namespaces/a%2Fb/pods", Ambiguous::Slash),
            ("/api/v1/namespaces/a%5cb/pods", Ambiguous::Slash),
            ("/api/v1/%ff", Ambiguous::Encoding),
            ("/api/v1/pods?watch=0&watch=1", Ambiguous::Watch),
            ("/api/v1/pods?watch=0&w%61tch=1", Ambiguous::Watch),
        ] {
            assert_eq!(read("GET", target), Err(expected), "{target}");
        }
    }

    #[test]
    fn other_protocols_are_known_by_their_subresources() {
        for (target, expected) in [
            ("/api/v1/namespaces/ns/pods/p/exec?command=sh", Some("exec")),
            ("/api/v1/namespaces/ns/pods/p/%61ttach", Some("attach")),
            ("/api/v1/namespaces/ns/pods/p/portforward/", Some("portforward")),
            ("/api/v1/namespaces/ns/pods/p/log", None),
            ("/api/v1/namespaces/ns/services/s/proxy/exec", None),
            ("/apis/example.com/v1/namespaces/ns/pods/p/exec", None),
        ] {
            assert_eq!(read("GET", target).unwrap().upgrade(), expected, "{target}");
        }
    }
}
