//! Which references across namespaces are allowed: [`ReferenceGrant`]s of the Gateway API.
//!
//! Whoever owns a Secret allows, in the Secret's namespace, that extensions of another namespace read it. Without the Gateway API's
//! definitions nobody can allow it, and nothing is read across namespaces.
//!
//! [`ReferenceGrant`]: https://gateway-api.sigs.k8s.io/api-types/referencegrant/

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use futures::StreamExt as _;
use kube::{
    Api, Client, ResourceExt as _,
    core::{ApiResource, DynamicObject},
    runtime::{WatchStreamExt as _, watcher},
};
use kubewasm_control::explain::explain_watch;
use serde::Deserialize;
use tokio::sync::watch;

use super::references::ObjectName;
use crate::wasm_extension::{GROUP, KIND};

/// What a grant says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ReferenceGrant {
    from: Vec<GrantFrom>,
    to: Vec<GrantTo>,
}

/// Who may refer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct GrantFrom {
    group: String,
    kind: String,
    namespace: String,
}

/// To what.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct GrantTo {
    group: String,
    kind: String,
    name: Option<String>,
}

/// The grants of the cluster: by namespace and name.
pub type Grants = BTreeMap<(String, String), ReferenceGrant>;

/// What is known of grants.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum GrantState {
    /// Nothing yet.
    #[default]
    Unknown,
    /// The cluster has no such resource.
    NotInstalled,
    /// They cannot be read, for this reason.
    Unreadable(String),
    /// All of them.
    Known(Arc<Grants>),
}

/// Why a reference is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ungranted {
    /// It is not known yet whether it is allowed.
    Unknown,
    /// Nobody allows it; in a sentence, with what to do.
    Refused(String),
}

impl GrantState {
    /// Whether extensions of this namespace may refer to the object.
    ///
    /// # Errors
    /// [`Ungranted`].
    pub fn permits(&self, namespace: &str, object: &ObjectName) -> Result<(), Ungranted> {
        if namespace == object.namespace {
            return Ok(());
        }
        let grants = match self {
            Self::Unknown => return Err(Ungranted::Unknown),
            Self::NotInstalled => {
                return Err(Ungranted::Refused(format!(
                    "{object} is in another namespace, and this cluster has no ReferenceGrants to allow it: have its \
                     administrator install the definitions of the Gateway API, or copy the object to {namespace}"
                )));
            }
            Self::Unreadable(why) => {
                return Err(Ungranted::Refused(format!(
                    "{object} is in another namespace, and the ReferenceGrants there cannot be read: {why}"
                )));
            }
            Self::Known(grants) => grants,
        };
        let of_namespace = grants.iter().filter(|((there, _), _)| *there == object.namespace);
        if of_namespace.into_iter().any(|(_, grant)| grant.permits(namespace, object)) {
            return Ok(());
        }
        Err(Ungranted::Refused(format!(
            "{object} is in another namespace, and no ReferenceGrant there allows it: from group {GROUP}, kind {KIND}, namespace \
             {namespace}, to group \"\", kind {}",
            object.kind
        )))
    }
}

impl ReferenceGrant {
    fn read(object: &DynamicObject) -> Option<Self> {
        serde_json::from_value(object.data.get("spec")?.clone()).ok()
    }

    fn permits(&self, namespace: &str, object: &ObjectName) -> bool {
        let is_from =
            |from: &GrantFrom| from.group == GROUP && from.kind == KIND && from.namespace == namespace;
        let is_to = |to: &GrantTo| {
            let is_named = to.name.as_ref().is_none_or(|name| name.is_empty() || *name == object.name);
            to.group.is_empty() && to.kind == object.kind.as_str() && is_named
        };
        self.from.iter().any(is_from) && self.to.iter().any(is_to)
    }
}

fn resource() -> ApiResource {
    let (group, version) = ("gateway.networking.k8s.io".to_owned(), "v1beta1".to_owned());
    ApiResource {
        api_version: format!("{group}/{version}"),
        group,
        version,
        kind: "ReferenceGrant".to_owned(),
        plural: "referencegrants".to_owned(),
    }
}

/// Follows the grants of the cluster for ever. Where it has no such resource, it is asked again and again, with growing pauses:
/// somebody may install it.
pub async fn follow(client: Client, state: &watch::Sender<GrantState>) {
    let api: Api<DynamicObject> = Api::all_with(client, &resource());
    let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
    let (mut known, mut listed) = (Grants::new(), Grants::new());
    while let Some(event) = events.next().await {
        let key = |grant: &DynamicObject| (grant.namespace().unwrap_or_default(), grant.name_any());
        match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(grant)) => {
                listed.extend(ReferenceGrant::read(&grant).map(|read| (key(&grant), read)));
                continue;
            }
            Ok(watcher::Event::InitDone) => known = std::mem::take(&mut listed),
            Ok(watcher::Event::Apply(grant)) => match ReferenceGrant::read(&grant) {
                Some(read) => drop(known.insert(key(&grant), read)),
                None => drop(known.remove(&key(&grant))),
            },
            Ok(watcher::Event::Delete(grant)) => drop(known.remove(&key(&grant))),
            Err(error) => {
                interrupted(&error, state);
                continue;
            }
        }
        state.send_replace(GrantState::Known(Arc::new(known.clone())));
    }
}

/// What was known stays so while the API server does not answer; what it refuses is not taken for allowed.
fn interrupted(error: &watcher::Error, state: &watch::Sender<GrantState>) {
    let status = match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    };
    let new = match status {
        Some(404) => GrantState::NotInstalled,
        Some(401 | 403) => GrantState::Unreadable(explain_watch(error)),
        _ => {
            tracing::debug!("the watch of ReferenceGrants was interrupted: {}", explain_watch(error));
            return;
        }
    };
    state.send_if_modified(|state| {
        let is_new = *state != new;
        if is_new {
            match &new {
                GrantState::NotInstalled => {
                    tracing::info!(
                        "this cluster has no ReferenceGrants: references across namespaces are refused"
                    )
                }
                _ => tracing::warn!("ReferenceGrants cannot be read: {}", explain_watch(error)),
            }
            *state = new;
        }
        is_new
    });
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cluster::references::ObjectKind;

    fn state(to: serde_json::Value) -> GrantState {
        let grant = json!({
            "from": [
                { "group": "other.dev", "kind": KIND, "namespace": "team" },
                { "group": GROUP, "kind": KIND, "namespace": "team" },
            ],
            "to": to,
        });
        let grants = [(("vault".to_owned(), "g".to_owned()), serde_json::from_value(grant).unwrap())];
        GrantState::Known(Arc::new(grants.into()))
    }

    fn object(kind: ObjectKind, namespace: &str, name: &str) -> ObjectName {
        ObjectName { kind, namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn what_is_in_another_namespace_needs_a_grant_there() {
        let all = state(json!([{ "group": "", "kind": "Secret" }]));
        let one = state(
            json!([{ "group": "", "kind": "Secret", "name": "a" }, { "group": "", "kind": "ConfigMap" }]),
        );
        let none = state(json!([{ "group": "apps", "kind": "Secret" }, { "group": "", "kind": "Service" }]));
        for (state, namespace, object, expected) in [
            (&all, "team", object(ObjectKind::Secret, "vault", "a"), true),
            (&all, "team", object(ObjectKind::ConfigMap, "vault", "a"), false),
            (&all, "other", object(ObjectKind::Secret, "vault", "a"), false),
            (&all, "team", object(ObjectKind::Secret, "elsewhere", "a"), false),
            (&one, "team", object(ObjectKind::Secret, "vault", "a"), true),
            (&one, "team", object(ObjectKind::Secret, "vault", "b"), false),
            (&one, "team", object(ObjectKind::ConfigMap, "vault", "b"), true),
            (&none, "team", object(ObjectKind::Secret, "vault", "a"), false),
            // Its own namespace needs none.
            (&none, "vault", object(ObjectKind::Secret, "vault", "a"), true),
            (&GrantState::NotInstalled, "vault", object(ObjectKind::Secret, "vault", "a"), true),
        ] {
            assert_eq!(state.permits(namespace, &object).is_ok(), expected, "{namespace} {object}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        let secret = object(ObjectKind::Secret, "vault", "a");
        let said = |state: GrantState| match state.permits("team", &secret) {
            Err(Ungranted::Refused(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(said(GrantState::NotInstalled).contains("install the definitions of the Gateway API"));
        assert!(said(GrantState::Unreadable("forbidden".into())).ends_with("forbidden"));
        let missing = said(GrantState::Known(Arc::default()));
        assert!(
            missing.contains("from group wasmxds.tetrate.io, kind WasmExtension, namespace team"),
            "{missing}"
        );
        assert_eq!(GrantState::Unknown.permits("team", &secret), Err(Ungranted::Unknown));
    }
}
