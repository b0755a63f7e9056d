//! Objects of one kind, or some of them, followed for as long as somebody wants to know.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{ApiResource, Object},
    core::PartialObjectMeta,
    runtime::watcher::{self, Event},
};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::{
    policy::{Labels, Policy},
    world::{NamedPort, PeerPod, PodScope},
};
use crate::{
    collection::watch_collection, explain::explain_watch, pods::sidecar::is_sidecar, retry::Backoff,
};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is followed, until this is dropped.
#[derive(Debug)]
pub(super) struct Followed<T> {
    table: Arc<Mutex<FollowedTable<T>>>,
    _task: AbortOnDropHandle<()>,
}

/// The objects as they were last seen.
#[derive(Clone, Debug)]
pub(super) struct FollowedTable<T> {
    /// What is of interest of them, by `namespace/name`, or by the name of what is in no namespace; `None` before all of them have been read once.
    pub(super) items: Option<Arc<BTreeMap<String, T>>>,
    /// Why they could not be read the last time.
    pub(super) trouble: Option<Trouble>,
}

/// Why objects cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) message: String,
    /// The node has no right to.
    pub(super) is_forbidden: bool,
}

impl<T> Followed<T> {
    pub(super) fn look(&self) -> MutexGuard<'_, FollowedTable<T>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trouble {
    fn of(error: &watcher::Error) -> Self {
        use watcher::Error::{InitialListFailed, WatchFailed, WatchStartFailed};
        let status = match error {
            InitialListFailed(kube::Error::Api(status))
            | WatchStartFailed(kube::Error::Api(status))
            | WatchFailed(kube::Error::Api(status))
            | watcher::Error::WatchError(status) => Some(status),
            _ => None,
        };
        let is_forbidden = status.is_some_and(|status| status.code == 403);
        Self { message: explain_watch(error), is_forbidden }
    }
}

/// Follows a watch, and waits longer and longer when it fails: it begins anew with each try, so that its own back-off would
/// begin anew as well. `read` takes of an object what is of interest, and nothing where it is of none. `changed` is notified
/// when something has become different.
fn follow<K, T>(
    stream: impl Stream<Item = watcher::Result<Event<K>>> + Send + 'static,
    what: String,
    read: impl Fn(&K) -> Option<T> + Send + 'static,
    changed: Arc<Notify>,
) -> Followed<T>
where
    K: Resource + Send + 'static,
    T: Clone + PartialEq + Send + Sync + 'static,
{
    let table = Arc::new(Mutex::new(FollowedTable { items: None, trouble: None }));
    let shared = Arc::clone(&table);
    let task = tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream);
        let (mut listed, mut pauses) = (BTreeMap::new(), Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
        while let Some(event) = stream.next().await {
            let has_failed = event.is_err();
            if matches!(event, Ok(Event::InitDone)) {
                pauses.reset();
            }
            let is_new = {
                let mut table = shared.lock().unwrap_or_else(PoisonError::into_inner);
                table.take(event, &mut listed, &what, &read)
            };
            if is_new {
                changed.notify_one();
            }
            if has_failed {
                tokio::time::sleep(pauses.next()).await;
            }
        }
    });
    Followed { table, _task: AbortOnDropHandle::new(task) }
}

/// How an object is known: `namespace/name`, or the name of what is in no namespace.
fn name_of<K: Resource>(object: &K) -> String {
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    match &meta.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

impl<T: Clone + PartialEq> FollowedTable<T> {
    /// Takes in what a watch says; true when that changes something. `listed` are the objects of a list that is not
    /// complete yet.
    fn take<K: Resource>(
        &mut self,
        event: watcher::Result<Event<K>>,
        listed: &mut BTreeMap<String, T>,
        what: &str,
        read: impl Fn(&K) -> Option<T>,
    ) -> bool {
        match event {
            Ok(Event::Init) => {
                listed.clear();
                false
            }
            Ok(Event::InitApply(object)) => {
                listed.extend(read(&object).map(|item| (name_of(&object), item)));
                false
            }
            Ok(Event::InitDone) => {
                let all = std::mem::take(listed);
                let is_new = self.items.as_deref() != Some(&all) || self.trouble.is_some();
                *self = Self { items: Some(Arc::new(all)), trouble: None };
                is_new
            }
            Ok(Event::Apply(object)) => self.set(name_of(&object), read(&object)),
            Ok(Event::Delete(object)) => self.set(name_of(&object), None),
            Err(error) => {
                let trouble = Trouble::of(&error);
                // Told once; the tries go on.
                if self.trouble.is_none() {
                    tracing::warn!(error = trouble.message, "cannot follow {what}; trying again");
                }
                let is_new = self.trouble.as_ref() != Some(&trouble);
                self.trouble = Some(trouble);
                is_new
            }
        }
    }

    /// Takes note of an object; true when that changes something.
    fn set(&mut self, name: String, item: Option<T>) -> bool {
        self.trouble = None;
        let Some(items) = &mut self.items else { return false };
        if items.get(&name) == item.as_ref() {
            return false;
        }
        let items = Arc::make_mut(items);
        match item {
            Some(item) => items.insert(name, item),
            None => items.remove(&name),
        };
        true
    }
}

/// All NetworkPolicies.
pub(super) fn policies(client: Client, changed: Arc<Notify>) -> Followed<Arc<Policy>> {
    let stream = watch_collection(Api::<NetworkPolicy>::all(client), watcher::Config::default());
    follow(stream, "NetworkPolicies".to_owned(), |policy| Some(Arc::new(Policy::of(policy))), changed)
}

/// The labels of all namespaces.
pub(super) fn namespaces(client: Client, changed: Arc<Notify>) -> Followed<Labels> {
    let api = Api::<PartialObjectMeta<Namespace>>::all(client);
    let stream = watch_collection(api, watcher::Config::default());
    let read = |namespace: &PartialObjectMeta<Namespace>| Some(namespace.labels().clone());
    follow(stream, "namespaces".to_owned(), read, changed)
}

/// A pod, as far as rules ask for it: the rest is not kept, and not even read.
type ApiPeerPod = Object<PeerSpec, PeerStatus>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerSpec {
    #[serde(default)]
    host_network: bool,
    #[serde(default)]
    containers: Vec<PeerContainer>,
    #[serde(default)]
    init_containers: Vec<PeerContainer>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerContainer {
    restart_policy: Option<String>,
    #[serde(default)]
    ports: Vec<PeerPort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerPort {
    name: Option<String>,
    protocol: Option<String>,
    container_port: i32,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PeerStatus {
    phase: Option<String>,
    #[serde(default, rename = "podIPs")]
    pod_ips: Vec<PeerIp>,
}

#[derive(Clone, Debug, Deserialize)]
struct PeerIp {
    ip: Option<String>,
}

/// Pods that rules are about.
pub(super) fn pods(client: Client, scope: &PodScope, changed: Arc<Notify>) -> Followed<PeerPod> {
    let resource = ApiResource::erase::<Pod>(&());
    let api: Api<ApiPeerPod> = match &scope.namespace {
        Some(namespace) => Api::namespaced_with(client, namespace, &resource),
        None => Api::all_with(client, &resource),
    };
    let mut config = watcher::Config::default();
    if !scope.selector.is_empty() {
        config = config.labels(&scope.selector);
    }
    follow(watch_collection(api, config), scope.to_string(), peer, changed)
}

/// `None` for a pod that has no address of its own, or none any more.
fn peer(pod: &ApiPeerPod) -> Option<PeerPod> {
    let status = pod.status.as_ref()?;
    let is_over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if pod.spec.host_network || is_over {
        return None;
    }
    let ips: Vec<IpAddr> = status.pod_ips.iter().filter_map(|ip| ip.ip.as_deref()?.parse().ok()).collect();
    if ips.is_empty() {
        return None;
    }
    let sidecars = pod.spec.init_containers.iter();
    let sidecars = sidecars.filter(|container| is_sidecar(container.restart_policy.as_deref()));
    let ports = pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let ports = ports.filter_map(|port| {
        NamedPort::of(port.name.as_deref(), port.protocol.as_deref(), port.container_port)
    });
    Some(PeerPod { namespace: pod.namespace().unwrap_or_default(), ips, ports: ports.collect() })
}

#[cfg(test)]
mod tests {
    use kubewasm_rules::Protocol;
    use serde_json::{Value, json};

    use super::*;

    fn read(spec: Value, status: Value) -> Option<PeerPod> {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "ns", "name": "p"}, "spec": spec, "status": status,
        });
        peer(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn pods_with_addresses_of_their_own_are_peers() {
        let port = |name: &str, number: i32| json!({"name": name, "containerPort": number});
        let spec = json!({
            "containers": [{"name": "c", "image": "i", "ports": [port("web", 80), {"containerPort": 81}]}],
            "initContainers": [
                {"name": "i", "ports": [port("gone", 1)]},
                {"name": "s", "restartPolicy": "Always", "ports": [{"name": "dns", "containerPort": 53, "protocol": "UDP"}]},
            ],
        });
        let status = json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "podIP": "10.0.0.1"});
        let found = read(spec.clone(), status.clone()).unwrap();
        assert_eq!(found.ips, ["10.0.0.1", "fd00::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
        let named = |name: &str, protocol, number| NamedPort { name: name.to_owned(), protocol, number };
        assert_eq!(found.ports, [named("web", Protocol::Tcp, 80), named("dns", Protocol::Udp, 53)]);
        assert_eq!(found.namespace, "ns");
        for (spec, status) in [
            (spec.clone(), json!({"phase": "Pending"})),
            (spec.clone(), json!({"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.1"}]})),
            (spec.clone(), json!({"phase": "Failed", "podIPs": [{"ip": "10.0.0.1"}]})),
            (json!({"hostNetwork": true, "containers": []}), status),
        ] {
            assert_eq!(read(spec, status), None);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_followed_is_kept_while_it_cannot_be_read() {
        use futures::channel::mpsc;
        let changed = Arc::new(Notify::new());
        let (events, stream) = mpsc::unbounded();
        let read = |pod: &Pod| pod.metadata.labels.as_ref()?.get("a").cloned();
        let followed = follow(stream, "pods".to_owned(), read, Arc::clone(&changed));
        let pod = |name: &str, label: &str| -> Pod {
            serde_json::from_value(
                json!({"metadata": {"namespace": "ns", "name": name, "labels": {"a": label}}}),
            )
            .unwrap()
        };
        let items =
            || followed.look().items.as_deref().cloned().unwrap_or_default().into_iter().collect::<Vec<_>>();
        let forbidden = || {
            let status = kube::core::Status::failure("no", "Forbidden").with_code(403).boxed();
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status)))
        };
        let send = |event| events.unbounded_send(event).unwrap();
        send(forbidden());
        changed.notified().await;
        assert!(followed.look().items.is_none());
        assert!(followed.look().trouble.as_ref().is_some_and(|trouble| trouble.is_forbidden));
        for event in [Event::Init, Event::InitApply(pod("one", "1")), Event::InitDone] {
            send(Ok(event));
        }
        changed.notified().await;
        assert_eq!(
            (items(), followed.look().trouble.clone()),
            (vec![("ns/one".to_owned(), "1".to_owned())], None)
        );
        send(Ok(Event::Apply(pod("two", "2"))));
        changed.notified().await;
        assert_eq!(items().len(), 2);
        send(forbidden());
        changed.notified().await;
        assert_eq!(items().len(), 2, "the last that is known");
        for event in [Event::Init, Event::InitApply(pod("two", "2")), Event::InitDone] {
            send(Ok(event));
        }
        changed.notified().await;
        assert_eq!(items(), [("ns/two".to_owned(), "2".to_owned())]);
        send(Ok(Event::Delete(pod("two", "2"))));
        changed.notified().await;
        assert_eq!(items(), []);
    }

    #[tokio::test]
    async fn what_is_in_no_namespace_is_known_by_its_name() {
        use futures::channel::mpsc;
        let (changed, (events, stream)) = (Arc::new(Notify::new()), mpsc::unbounded());
        let read = |namespace: &Namespace| namespace.metadata.labels.clone();
        let followed = follow(stream, "namespaces".to_owned(), read, Arc::clone(&changed));
        let namespace: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "ns", "labels": {"a": "1"}}})).unwrap();
        for event in [Event::Init, Event::InitApply(namespace), Event::InitDone] {
            events.unbounded_send(Ok(event)).unwrap();
        }
        changed.notified().await;
        assert_eq!(followed.look().items.as_ref().unwrap()["ns"]["a"], "1");
    }
}
