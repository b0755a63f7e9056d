//! The node's lease: the heartbeat that the control plane looks at.
//!
//! See [Node heartbeats](https://kubernetes.io/docs/concepts/architecture/nodes/#node-heartbeats). A lease
//! is renewed by writing the last one back with a new time, without reading it first; it is owned by the
//! Node, so that it goes when the Node goes.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{Api, Client, api::PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    explain::explain,
    identity::Connection,
    retry::{self, Backoff},
};

/// Namespace of all nodes' leases; clusters come with it.
const NAMESPACE: &str = "kube-node-lease";
/// Tries of one renewal that finds the lease changed by someone else.
const TRIES: usize = 5;
/// Failures in a row after which the connections are given up.
const PATIENCE: u32 = 3;
/// How much longer than a quarter of the lease's duration a renewal may wait.
const JITTER: f64 = 0.04;

/// Keeps the lease until cancelled.
pub(super) async fn run(
    client: Client,
    connection: Connection,
    name: String,
    duration_seconds: u32,
    node: watch::Receiver<Option<Arc<Node>>>,
    cancel: CancellationToken,
) {
    let mut renewer = Renewer::new(client, name, duration_seconds);
    let interval = Duration::from_secs(u64::from(duration_seconds)) / 4;
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(7));
    let mut failures = 0;
    loop {
        let owner = node.borrow().as_ref().and_then(|node| node.metadata.uid.clone());
        let renewal = renewer.renew(owner.as_deref(), Timestamp::now());
        let wait = match cancel.run_until_cancelled(renewal).await {
            None => return,
            Some(Ok(())) => {
                if failures > 0 {
                    tracing::info!("the node's lease is renewed again");
                }
                failures = 0;
                backoff.reset();
                retry::jittered(interval, JITTER)
            }
            Some(Err(err)) => {
                failures += 1;
                tracing::warn!(
                    error = explain(&err),
                    failures,
                    "cannot renew the node's lease; trying again"
                );
                if failures % PATIENCE == 0 {
                    connection.reset();
                }
                backoff.next()
            }
        };
        if !retry::sleep(wait, &cancel).await {
            return;
        }
    }
}

struct Renewer {
    api: Api<Lease>,
    name: String,
    duration_seconds: u32,
    last: Option<Lease>,
}

impl Renewer {
    fn new(client: Client, name: String, duration_seconds: u32) -> Self {
        Self { api: Api::namespaced(client, NAMESPACE), name, duration_seconds, last: None }
    }

    /// Renews the lease, makes it where it is not, and gives it its owner once there is one.
    async fn renew(&mut self, owner: Option<&str>, now: Timestamp) -> Result<(), kube::Error> {
        let mut result = Ok(());
        for _ in 0..TRIES {
            let known = match self.last.take() {
                Some(known) => Some(known),
                None => self.api.get_opt(&self.name).await?,
            };
            let params = PostParams::default();
            let lease = self.lease(known.as_ref(), owner, now);
            let written = match known {
                Some(_) => self.api.replace(&self.name, &params, &lease).await,
                None => self.api.create(&params, &lease).await,
            };
            match written {
                Ok(written) => {
                    self.last = Some(written);
                    return Ok(());
                }
                // Changed, removed or made by someone else: look at it again.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    result = Err(kube::Error::Api(status));
                }
                Err(err) => {
                    // It may or may not have been written; the next renewal finds out by its conflict.
                    self.last = Some(lease).filter(|lease| lease.metadata.resource_version.is_some());
                    return Err(err);
                }
            }
        }
        result
    }

    /// The lease to write, on top of the one that is there.
    fn lease(&self, known: Option<&Lease>, owner: Option<&str>, now: Timestamp) -> Lease {
        let mut lease = known.cloned().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                namespace: Some(NAMESPACE.to_owned()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = Some(self.name.clone());
        spec.lease_duration_seconds = i32::try_from(self.duration_seconds).ok();
        spec.renew_time = Some(MicroTime(now));
        if let Some(uid) = owner {
            lease.metadata.owner_references = Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: self.name.clone(),
                uid: uid.to_owned(),
                ..OwnerReference::default()
            }]);
        }
        lease
    }
}

#[cfg(test)]
mod tests {
    use http::{Method, Request, Response};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower_test::mock::{Handle, pair};

    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    type Server = Handle<Request<Body>, Response<Body>>;

    fn renewer() -> (Renewer, Server) {
        let (service, server) = pair();
        (Renewer::new(Client::new(service, "default"), "edge".to_owned(), 40), server)
    }

    /// Answers requests by a script of codes; a written lease comes back with the version `v`. Tells what
    /// was asked.
    async fn play(server: &mut Server, script: &[(Method, u16)]) -> Vec<Value> {
        let mut sent = Vec::new();
        for (version, (method, code)) in script.iter().enumerate() {
            let (request, answer) = server.next_request().await.expect("no request");
            assert_eq!(request.method(), method);
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut lease: Value =
                serde_json::from_slice(&body).unwrap_or_else(|_| json!({ "metadata": { "name": "edge" } }));
            sent.push(lease.clone());
            lease["metadata"]["resourceVersion"] = json!(version.to_string());
            let answered = match code {
                200 | 201 => lease,
                _ => json!({
                    "kind": "Status", "status": "Failure", "code": code, "message": "",
                    "reason": if *code == 404 { "NotFound" } else { "Conflict" },
                }),
            };
            let response =
                Response::builder().status(*code).body(Body::from(serde_json::to_vec(&answered).unwrap()));
            answer.send_response(response.unwrap());
        }
        sent
    }

    #[tokio::test]
    async fn a_lease_is_made_and_then_written_back() {
        let (mut renewer, mut server) = renewer();
        let script = [(Method::GET, 404), (Method::POST, 201), (Method::PUT, 200), (Method::PUT, 200)];
        let renewals = async {
            renewer.renew(None, NOW).await.unwrap();
            renewer.renew(Some("uid-1"), NOW + Duration::from_secs(10)).await.unwrap();
            renewer.renew(Some("uid-1"), NOW + Duration::from_secs(20)).await.unwrap();
        };
        let ((), sent) = tokio::join!(renewals, play(&mut server, &script));
        assert_eq!(
            sent[1]["spec"],
            json!({ "holderIdentity": "edge", "leaseDurationSeconds": 40, "renewTime": "1970-01-01T00:00:00.000000Z" })
        );
        assert_eq!(sent[1]["metadata"].get("ownerReferences"), None);
        let owner = json!([{ "apiVersion": "v1", "kind": "Node", "name": "edge", "uid": "uid-1" }]);
        assert_eq!(sent[2]["metadata"]["ownerReferences"], owner);
        assert_eq!(sent[2]["metadata"]["resourceVersion"], "1");
        assert_eq!(sent[3]["metadata"]["resourceVersion"], "2");
        assert_eq!(sent[3]["spec"]["renewTime"], "1970-01-01T00:00:20.000000Z");
    }

    #[tokio::test]
    async fn a_conflict_reads_it_again_and_a_removed_lease_is_made_anew() {
        let (mut renewer, mut server) = renewer();
        let script = [
            (Method::GET, 200),
            (Method::PUT, 409),
            (Method::GET, 200),
            (Method::PUT, 200),
            (Method::PUT, 404),
            (Method::GET, 404),
            (Method::POST, 201),
        ];
        let renewals = async {
            renewer.renew(Some("uid-1"), NOW).await.unwrap();
            renewer.renew(Some("uid-2"), NOW).await.unwrap();
        };
        let ((), sent) = tokio::join!(renewals, play(&mut server, &script));
        assert_eq!(sent[6]["metadata"]["ownerReferences"][0]["uid"], "uid-2");
        assert_eq!(sent[6]["metadata"].get("resourceVersion"), None);
    }

    #[tokio::test]
    async fn conflicts_without_end_are_an_error_and_not_a_loop() {
        let (mut renewer, mut server) = renewer();
        let script: Vec<_> = (0..TRIES).flat_map(|_| [(Method::GET, 200), (Method::PUT, 409)]).collect();
        let (result, _) = tokio::join!(renewer.renew(None, NOW), play(&mut server, &script));
        assert!(result.is_err());
    }
}
