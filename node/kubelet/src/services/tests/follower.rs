//! The whole way, with an API server that may refuse.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use kube::{Client, client::Body};
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::*;
use crate::mirror::Mirror;

/// Lists one Service and one slice, of which the latter are forbidden until they are not. Nothing happens in a watch.
fn client(is_allowed: Arc<AtomicBool>) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer(&request, is_allowed.load(Ordering::SeqCst));
        async move { Ok::<_, Infallible>(answer) }
    });
    Client::new(service, "ns")
}

fn answer(request: &Request<Body>, is_allowed: bool) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    let query = request.uri().query().unwrap_or_default();
    let of_slices = request.uri().path().ends_with("/endpointslices");
    if of_slices && !is_allowed {
        let status = json!({"kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no"});
        let response = Response::builder().status(403);
        return response.body(Full::from(status.to_string()).boxed_unsync()).unwrap();
    }
    if query.contains("watch=true") {
        let events = futures::stream::pending::<Result<Frame<Bytes>, Infallible>>();
        return Response::new(StreamBody::new(events).boxed_unsync());
    }
    let item = if of_slices {
        assert!(query.contains("headless") && query.contains("service-proxy-name"), "{query}");
        serde_json::to_value(slice(
            "one",
            vec![endpoint("10.0.0.1", "zone=a"), endpoint("10.0.0.2", "zone=b")],
        ))
    } else {
        serde_json::to_value(service(json!({})))
    };
    let list = json!({"metadata": {"resourceVersion": "1"}, "items": [item.unwrap()]});
    Response::new(Full::from(list.to_string()).boxed_unsync())
}

/// Nothing is told before all is known, and a refusal is asked about again; the Node's zone counts as soon as it is there.
#[tokio::test(start_paused = true)]
async fn services_are_told_of_once_they_may_be_read() {
    let is_allowed = Arc::new(AtomicBool::new(false));
    let client = client(Arc::clone(&is_allowed));
    let (mirror, services) = Mirror::new();
    let (node, nodes) = watch::channel(None);
    let parts = FollowerParts { services, node: nodes, node_name: "here".into(), addresses: Vec::new() };
    let (sender, mut told) = mpsc::unbounded_channel();
    let run = Follower::new(parts).run(client.clone(), move |table| sender.send(Arc::clone(table)).unwrap());
    let _running =
        [tokio::spawn(mirror.run(client)), tokio::spawn(run)].map(tokio_util::task::AbortOnDropHandle::new);
    // Time passes by itself when there is nothing else to do.
    tokio::time::sleep(std::time::Duration::from_secs(120)).await;
    assert!(told.try_recv().is_err(), "slices have not been read");

    is_allowed.store(true, Ordering::SeqCst);
    let table = told.recv().await.unwrap();
    assert_eq!(text(&table.services["ns/web"]), ["Tcp 10.96.0.9:80 -> 10.0.0.1:8080 10.0.0.2:8080"]);

    let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "b"}}});
    node.send_replace(Some(Arc::new(serde_json::from_value(labels).unwrap())));
    let table = told.recv().await.unwrap();
    assert_eq!(text(&table.services["ns/web"]), ["Tcp 10.96.0.9:80 -> 10.0.0.2:8080"]);
}
