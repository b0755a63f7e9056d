use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use prost::Message;

use super::*;
use crate::pods::handlers::testing::{Body, PLENTY, SECOND, Server, closed_port};

/// A gRPC response: at most one message, then the status.
fn reply(status: Option<i32>, code: u8, message: &'static str) -> Response<Body> {
    let mut frames = Vec::new();
    if let Some(status) = status {
        let encoded = HealthCheckResponse { status }.encode_to_vec();
        let mut data = BytesMut::from(&[0, 0, 0, 0, u8::try_from(encoded.len()).unwrap()][..]);
        data.extend_from_slice(&encoded);
        frames.push(Ok(Frame::data(data.freeze())));
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    frames.push(Ok(Frame::trailers(trailers)));
    let body = BodyExt::boxed(StreamBody::new(futures::stream::iter(frames)));
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[tokio::test]
async fn answers_become_results_in_the_words_of_upstream() {
    let table = [
        (Some(1), 0, "", None),
        (Some(2), 0, "", Some("service unhealthy (responded with \"NOT_SERVING\")")),
        (Some(0), 0, "", Some("service unhealthy (responded with \"UNKNOWN\")")),
        (Some(3), 0, "", Some("service unhealthy (responded with \"SERVICE_UNKNOWN\")")),
        (Some(7), 0, "", Some("service unhealthy (responded with \"7\")")),
        (
            None,
            12,
            "no such method",
            Some(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): no such method",
            ),
        ),
        (
            None,
            5,
            "unknown service",
            Some("error: health rpc probe failed: rpc error: code = NotFound desc = unknown service"),
        ),
        (None, 1, "gone", Some("error: health rpc probe failed: rpc error: code = Canceled desc = gone")),
        (None, 4, "", Some("timeout: health rpc did not complete within 30s")),
    ];
    for (status, code, message, failure) in table {
        let server = Server::http(move |_| reply(status, code, message)).await;
        let expected =
            failure.map_or_else(ProbeOutcome::success, |text| ProbeOutcome::Failure(text.to_owned()));
        assert_eq!(probe(server.address, "", PLENTY).await, expected, "{status:?} {code}");
    }
}

#[tokio::test]
async fn the_request_names_the_service() {
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel::<Request<Incoming>>();
    // Answers once the test has read the request.
    let (served, gate) = tokio::sync::watch::channel(false);
    let server = Server::http(move |request| {
        sender.send(request).unwrap();
        let mut gate = gate.clone();
        let ready = futures::stream::once(async move { gate.wait_for(|open| *open).await.is_ok() });
        let (parts, body) = reply(Some(SERVING), 0, "").into_parts();
        let frames =
            ready.flat_map(move |_| futures::stream::empty()).chain(http_body_util::BodyStream::new(body));
        Response::from_parts(parts, BodyExt::boxed(StreamBody::new(Box::pin(frames))))
    })
    .await;
    let address = server.address;
    let probing = tokio::spawn(async move { probe(address, "shop.Cart", PLENTY).await });
    let request = requests.recv().await.unwrap();
    assert_eq!(request.uri().path(), CHECK);
    let agent = request.headers().get("user-agent").unwrap().to_str().unwrap().to_owned();
    assert!(agent.starts_with("kube-probe/1.36"), "{agent}");
    let body: Bytes = request.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(HealthCheckRequest::decode(&body[5..]).unwrap().service, "shop.Cart");
    served.send_replace(true);
    assert_eq!(probing.await.unwrap(), ProbeOutcome::success());
}

#[tokio::test]
async fn who_does_not_answer_is_not_well() {
    let mute = Server::mute().await;
    let expected = "timeout: health rpc did not complete within 1s".to_owned();
    assert_eq!(probe(mute.address, "", SECOND).await, ProbeOutcome::Failure(expected));
    let closed = closed_port().await;
    let expected = format!(
        "error: failed to connect service at \"{closed}\": dial tcp {closed}: connect: connection refused"
    );
    assert_eq!(probe(closed, "", SECOND).await, ProbeOutcome::Failure(expected));
    // Hangs up on whoever speaks HTTP/2.
    let other = Server::start(|stream| async move { drop(stream) }).await;
    let outcome = probe(other.address, "", PLENTY).await;
    assert!(matches!(&outcome, ProbeOutcome::Failure(text) if text.starts_with("error: ")), "{outcome:?}");
}
