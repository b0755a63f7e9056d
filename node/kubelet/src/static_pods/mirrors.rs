//! Keeps the mirrors of static pods in the API.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams, Preconditions},
};
use tokio::{sync::watch, time::Instant};

use super::plan::{MirrorAction, plan};
use crate::{
    explain::explain,
    pods::board::{Board, FullName, HASH_ANNOTATION, MIRROR_ANNOTATION, annotation},
    retry::Backoff,
};

/// Requests that are under way at once.
const CONCURRENCY: usize = 8;

/// How long the effect of a request may take to be seen before it is made again.
const EFFECT: Duration = Duration::from_secs(10);

/// Waits between tries.
const FIRST_DELAY: Duration = Duration::from_secs(1);
const LONGEST_DELAY: Duration = Duration::from_mins(1);

/// Creates and deletes mirrors.
pub struct Mirrors {
    client: Client,
    board: watch::Receiver<Board>,
    node: watch::Receiver<Option<Arc<Node>>>,
    tries: BTreeMap<MirrorKey, Try>,
}

impl std::fmt::Debug for Mirrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirrors").finish_non_exhaustive()
    }
}

/// Which request it is: the name, and the UID of the static pod or of the mirror.
type MirrorKey = (FullName, String);

/// A request that was made.
struct Try {
    backoff: Backoff,
    again_at: Instant,
    failure: Option<String>,
}

impl Mirrors {
    /// `board` is the manager's; `node` is the Node as the API server has it, which owns the mirrors. There
    /// are none while it is `None`.
    #[must_use]
    pub fn new(
        client: Client,
        board: watch::Receiver<Board>,
        node: watch::Receiver<Option<Arc<Node>>>,
    ) -> Self {
        Self { client, board, node, tries: BTreeMap::new() }
    }

    /// Runs until the manager or the node's agent has ended.
    pub async fn run(mut self) {
        loop {
            let wake_at = self.round().await;
            let changed = tokio::select! {
                changed = self.board.changed() => changed,
                changed = self.node.changed() => changed,
                () = tokio::time::sleep_until(wake_at) => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    }

    /// Makes the requests that are due, and returns when the next one is.
    async fn round(&mut self) -> Instant {
        let node = self.node.borrow_and_update().clone();
        let mut actions: BTreeMap<MirrorKey, MirrorAction> =
            plan(&self.board.borrow_and_update()).into_iter().map(|action| (key(&action), action)).collect();
        // Whoever is owned by a Node that is gone is removed; so nothing is made for one that goes.
        let node = node.filter(|node| node.metadata.deletion_timestamp.is_none());
        actions.retain(|_, action| node.is_some() || matches!(action, MirrorAction::Delete(_)));
        self.tries.retain(|key, _| actions.contains_key(key));

        let now = Instant::now();
        let due =
            actions.into_iter().filter(|(key, _)| self.tries.get(key).is_none_or(|t| t.again_at <= now));
        let (client, node) = (&self.client, node.as_deref());
        let requests = due.map(|(key, action)| async move { (key, perform(client, node, &action).await) });
        let outcomes: Vec<_> =
            futures::stream::iter(requests.collect::<Vec<_>>()).buffer_unordered(CONCURRENCY).collect().await;
        for (key, outcome) in outcomes {
            self.note(key, outcome.err());
        }
        let next = self.tries.values().map(|t| t.again_at).min();
        next.unwrap_or_else(|| Instant::now() + LONGEST_DELAY)
    }

    /// Remembers how a request went. What is wrong is told when it is news.
    fn note(&mut self, key: MirrorKey, failure: Option<String>) {
        let now = Instant::now();
        let entry = self.tries.entry(key).or_insert_with(|| Try {
            backoff: Backoff::new(FIRST_DELAY, LONGEST_DELAY),
            again_at: now,
            failure: None,
        });
        match &failure {
            Some(message) => {
                if entry.failure != failure {
                    tracing::warn!("{message}");
                }
                entry.again_at = now + entry.backoff.next();
            }
            None => {
                entry.backoff.reset();
                entry.again_at = now + EFFECT;
            }
        }
        entry.failure = failure;
    }
}

fn key(action: &MirrorAction) -> MirrorKey {
    let (MirrorAction::Create(pod) | MirrorAction::Delete(pod)) = action;
    (FullName::of(pod), pod.metadata.uid.clone().unwrap_or_default())
}

/// Makes one request. The error is a sentence for the log.
async fn perform(client: &Client, node: Option<&Node>, action: &MirrorAction) -> Result<(), String> {
    let (MirrorAction::Create(pod) | MirrorAction::Delete(pod)) = action;
    let name = FullName::of(pod);
    let api: Api<Pod> = Api::namespaced(client.clone(), &name.namespace);
    match action {
        MirrorAction::Create(pod) => {
            let Some(node) = node else { return Ok(()) };
            match api.create(&PostParams::default(), &mirror(pod, node)).await {
                Ok(_) => {
                    tracing::info!("made the mirror of the static pod {name}");
                    Ok(())
                }
                Err(kube::Error::Api(status)) if status.code == 409 => Err(format!(
                    "the static pod {name} runs, but there is another pod of its name in the API, so that it cannot be \
                     seen there; delete that pod, or rename this one"
                )),
                Err(error) => Err(format!(
                    "the static pod {name} runs, but cannot be shown in the API: {}; trying again",
                    explain(&error)
                )),
            }
        }
        MirrorAction::Delete(mirror) => {
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions {
                    uid: mirror.metadata.uid.clone(),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            match api.delete(&name.name, &params).await {
                Ok(_) => {
                    tracing::info!("deleted the mirror {name}");
                    Ok(())
                }
                // It is gone already, or another has taken its name.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
                Err(error) => {
                    Err(format!("cannot delete the mirror {name}: {}; trying again", explain(&error)))
                }
            }
        }
    }
}

/// The mirror of a static pod on this Node, as the admission plugin `NodeRestriction` wants it.
fn mirror(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    let hash = annotation(pod, HASH_ANNOTATION).unwrap_or_default().to_owned();
    mirror.metadata.uid = None;
    mirror.metadata.annotations.get_or_insert_default().insert(MIRROR_ANNOTATION.to_owned(), hash);
    mirror.metadata.owner_references = Some(vec![OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    mirror.status = None;
    mirror
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock::{Handle, pair};

    use super::*;

    type Server = Handle<Request<Body>, Response<Body>>;

    struct World {
        server: Server,
        board: watch::Sender<Board>,
        node: watch::Sender<Option<Arc<Node>>>,
    }

    fn world() -> (World, Mirrors) {
        let (service, server) = pair();
        let (board, watched) = watch::channel(Board::default());
        board.send_modify(Board::set_complete);
        let (node, own) = watch::channel(Some(Arc::new(node("node-1"))));
        let mirrors = Mirrors::new(Client::new(service, "default"), watched, own);
        (World { server, board, node }, mirrors)
    }

    fn node(uid: &str) -> Node {
        serde_json::from_value(json!({"metadata": {"name": "edge", "uid": uid}})).unwrap()
    }

    fn pod(version: &str) -> Arc<Pod> {
        let pod = json!({
            "metadata": {
                "name": "web-edge", "namespace": "shop", "uid": version, "labels": {"app": "web"},
                "annotations": {"kubernetes.io/config.hash": version, "kubernetes.io/config.source": "file"},
            },
            "spec": {"nodeName": "edge", "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Pending"},
        });
        Arc::new(serde_json::from_value(pod).unwrap())
    }

    /// The pod that the API server makes of a request to create a mirror.
    fn made(mut body: Value, uid: &str) -> Arc<Pod> {
        body["metadata"]["uid"] = json!(uid);
        Arc::new(serde_json::from_value(body).unwrap())
    }

    impl World {
        /// Answers the next request; tells method, path and body.
        async fn answer(&mut self, code: u16, message: &str) -> (Method, String, Value) {
            let (request, answer) = self.server.next_request().await.expect("no request");
            let (head, body) = request.into_parts();
            let sent: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
            let body = match code {
                200 | 201 if head.method == Method::DELETE => json!({"kind": "Status", "status": "Success"}),
                200 | 201 => sent.clone(),
                _ => {
                    json!({"kind": "Status", "status": "Failure", "code": code, "message": message, "reason": ""})
                }
            };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            answer.send_response(Response::builder().status(code).body(body).unwrap());
            (head.method, head.uri.path().to_owned(), sent)
        }
    }

    #[tokio::test]
    async fn a_mirror_is_made_as_node_restriction_wants_it() {
        let (mut world, mut mirrors) = world();
        world.board.send_modify(|board| board.put_pod(pod("v1")));
        let (_, (method, path, sent)) = tokio::join!(mirrors.round(), world.answer(201, ""));
        assert_eq!((method, path.as_str()), (Method::POST, "/api/v1/namespaces/shop/pods"));
        assert_eq!(
            sent["metadata"],
            json!({
                "name": "web-edge", "namespace": "shop", "labels": {"app": "web"},
                "annotations": {
                    "kubernetes.io/config.hash": "v1",
                    "kubernetes.io/config.mirror": "v1",
                    "kubernetes.io/config.source": "file",
                },
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": "edge", "uid": "node-1", "controller": true},
                ],
            })
        );
        assert_eq!(sent["spec"]["nodeName"], "edge");
        assert_eq!(sent.get("status"), None);
        // Until the watch shows it, it is not made once more.
        assert!(mirrors.round().await > Instant::now());
        world.board.send_modify(|board| board.put_mirror(made(sent, "m1")));
        mirrors.round().await;
        assert!(mirrors.tries.is_empty());
    }

    #[tokio::test]
    async fn an_old_mirror_is_deleted_by_its_uid_before_the_new_one_is_made() {
        let (mut world, mut mirrors) = world();
        let old = made(serde_json::to_value(mirror(&pod("v1"), &node("node-1"))).unwrap(), "m1");
        world.board.send_modify(|board| {
            board.put_mirror(Arc::clone(&old));
            board.put_pod(pod("v2"));
        });
        let (_, (method, path, sent)) = tokio::join!(mirrors.round(), world.answer(200, ""));
        assert_eq!((method, path.as_str()), (Method::DELETE, "/api/v1/namespaces/shop/pods/web-edge"));
        assert_eq!(sent["gracePeriodSeconds"], 0);
        assert_eq!(sent["preconditions"], json!({"uid": "m1"}));
        world.board.send_modify(|board| {
            board.retain_mirrors(|uid| uid != "m1");
        });
        let (_, (method, _, sent)) = tokio::join!(mirrors.round(), world.answer(201, ""));
        assert_eq!(method, Method::POST);
        assert_eq!(sent["metadata"]["annotations"]["kubernetes.io/config.mirror"], "v2");
    }

    #[tokio::test]
    async fn without_a_node_mirrors_are_deleted_and_none_is_made() {
        let (mut world, mut mirrors) = world();
        let stray = made(serde_json::to_value(mirror(&pod("v1"), &node("node-1"))).unwrap(), "m1");
        world.node.send_replace(None);
        world.board.send_modify(|board| board.put_mirror(stray));
        let (_, (method, ..)) = tokio::join!(mirrors.round(), world.answer(404, "not found"));
        assert_eq!(method, Method::DELETE);
        world.board.send_modify(|board| {
            board.retain_mirrors(|_| false);
            board.put_pod(pod("v1"));
        });
        mirrors.round().await;
        assert!(mirrors.tries.is_empty(), "nothing was asked for");
        world.node.send_replace(Some(Arc::new(node("node-2"))));
        let (_, (_, _, sent)) = tokio::join!(mirrors.round(), world.answer(201, ""));
        assert_eq!(sent["metadata"]["ownerReferences"][0]["uid"], "node-2");
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_again_later_and_explained() {
        let (mut world, mirrors) = world();
        world.board.send_modify(|board| board.put_pod(pod("v1")));
        let running = tokio::spawn(mirrors.run());
        let mut times = Vec::new();
        for (code, message) in [(403, "forbidden"), (403, "forbidden"), (409, "already exists"), (201, "")] {
            world.answer(code, message).await;
            times.push(Instant::now());
        }
        let waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        for (wait, least) in waits.iter().zip([1000, 2000, 4000]) {
            assert!((least..=least * 5 / 4).contains(wait), "{waits:?}");
        }
        drop(world);
        running.await.unwrap();
    }

    #[tokio::test]
    async fn messages_say_what_what_to_and_what_then() {
        for (code, expected) in [
            (
                403,
                "the static pod shop/web-edge runs, but cannot be shown in the API: because (403); trying again",
            ),
            (409, "another pod of its name in the API"),
        ] {
            let (mut world, mirrors) = world();
            let (own, create) = (node("node-1"), MirrorAction::Create(pod("v1")));
            let (outcome, _) =
                tokio::join!(perform(&mirrors.client, Some(&own), &create), world.answer(code, "because"));
            let message = outcome.unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
