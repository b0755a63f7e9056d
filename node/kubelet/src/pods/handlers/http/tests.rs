use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Request, Response, header::HOST};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use k8s_openapi::{api::core::v1::HTTPHeader, apimachinery::pkg::util::intstr::IntOrString};

use super::*;
use crate::{
    pods::handlers::testing::{Bench, Body, PLENTY, SECOND, Server, closed_port},
    runtime::{ExposedPort, HostPortProtocol},
};

fn get(address: SocketAddr, path: &str) -> HTTPGetAction {
    HTTPGetAction {
        path: Some(path.to_owned()),
        port: IntOrString::Int(address.port().into()),
        ..HTTPGetAction::default()
    }
}

fn https(address: SocketAddr, path: &str) -> HTTPGetAction {
    HTTPGetAction { scheme: Some("HTTPS".to_owned()), ..get(address, path) }
}

fn text(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

fn answer(status: u16, location: Option<&str>, body: &'static str) -> Response<Body> {
    let mut response = Response::builder().status(status);
    if let Some(location) = location {
        response = response.header("Location", location);
    }
    response.body(text(body)).unwrap()
}

fn warning(body: &str) -> ProbeOutcome {
    ProbeOutcome::Success { warning: Some(format!("Probe terminated redirects, Response body: {body}")) }
}

/// Requests that a server has seen: request target and headers.
type Seen = Arc<Mutex<Vec<(String, HeaderMap)>>>;

/// Answers everything with 200.
fn recording(seen: &Seen) -> impl Fn(Request<Incoming>) -> Response<Body> + Clone + Send + Sync + 'static {
    let seen = Arc::clone(seen);
    move |request| {
        seen.lock().unwrap().push((request.uri().to_string(), request.headers().clone()));
        answer(200, None, "ok")
    }
}

#[tokio::test]
async fn the_request_is_that_of_a_kubelet() {
    let (seen, bench) = (Seen::default(), Bench::new());
    let server = Server::http(recording(&seen)).await;
    assert_eq!(
        probe(bench.target(), &get(server.address, "/healthz?deep=1"), PLENTY).await,
        ProbeOutcome::success()
    );
    let (target, headers) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(target, "/healthz?deep=1");
    let expected = [
        ("host", server.address.to_string()),
        ("user-agent", "kube-probe/1.36".to_owned()),
        ("accept", "*/*".to_owned()),
        ("connection", "close".to_owned()),
    ];
    for (name, value) in &expected {
        assert_eq!(headers.get(*name).unwrap(), value, "{name}");
    }
    assert_eq!(headers.len(), expected.len(), "{headers:?}");
}

#[tokio::test]
async fn the_pods_headers_come_before_the_nodes() {
    let (seen, bench) = (Seen::default(), Bench::new());
    let server = Server::http(recording(&seen)).await;
    let header = |name: &str, value: &str| HTTPHeader { name: name.to_owned(), value: value.to_owned() };
    let mut action = get(server.address, "/");
    action.http_headers = Some(vec![
        header("Host", "shop.example"),
        header("User-Agent", "mine"),
        header("Accept", "text/plain"),
        header("X-Twice", "a"),
        header("X-Twice", "b"),
    ]);
    assert_eq!(probe(bench.target(), &action, PLENTY).await, ProbeOutcome::success());
    let (_, headers) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(headers.get(HOST).unwrap(), "shop.example");
    assert_eq!(headers.get(USER_AGENT).unwrap(), "mine");
    assert_eq!(headers.get(ACCEPT).unwrap(), "text/plain");
    assert_eq!(headers.get_all("x-twice").iter().collect::<Vec<_>>(), ["a", "b"]);
}

#[tokio::test]
async fn paths_are_sent_as_they_can_be() {
    let (seen, bench) = (Seen::default(), Bench::new());
    let server = Server::http(recording(&seen)).await;
    let table =
        [("", "/"), ("healthz", "/healthz"), ("?a=b", "/?a=b"), ("/a b/ü", "/a%20b/%C3%BC"), ("//a", "//a")];
    for (path, expected) in table {
        probe(bench.target(), &get(server.address, path), PLENTY).await;
        assert_eq!(seen.lock().unwrap().pop().unwrap().0, expected, "{path:?}");
    }
    // What looks like a user and a host is a path.
    probe(bench.target(), &get(server.address, "@192.0.2.1/"), PLENTY).await;
    assert_eq!(seen.lock().unwrap().pop().unwrap().0, "/@192.0.2.1/");
}

#[tokio::test]
async fn the_status_decides() {
    let bench = Bench::new();
    let server =
        Server::http(|request| answer(request.uri().path()[1..].parse().unwrap(), None, "body")).await;
    let failure = |code: u16| ProbeOutcome::Failure(format!("HTTP probe failed with statuscode: {code}"));
    let table = [
        (200, ProbeOutcome::success()),
        (204, ProbeOutcome::success()),
        (304, warning("")),
        (302, warning("body")),
        (400, failure(400)),
        (500, failure(500)),
        (599, failure(599)),
    ];
    for (status, expected) in table {
        let outcome = probe(bench.target(), &get(server.address, &format!("/{status}")), PLENTY).await;
        assert_eq!(outcome, expected, "{status}");
    }
}

#[tokio::test]
async fn redirects_stay_on_the_pod() {
    let bench = Bench::new();
    let server = Server::http(|request| match request.uri().path() {
        "/here" => answer(302, Some("/there"), ""),
        "/there" => answer(500, None, ""),
        "/away" => answer(302, Some("http://127.0.0.2/"), "see there"),
        // One with a number goes to the next lower one.
        path => match path[1..].parse::<u32>().unwrap() {
            0 => answer(200, None, ""),
            n => answer(307, Some(&format!("/{}", n - 1)), ""),
        },
    })
    .await;
    let failure = |message: &str| ProbeOutcome::Failure(message.to_owned());
    let stopped = format!("Get \"http://{}/11\": stopped after 10 redirects", server.address);
    let table = [
        ("/here", failure("HTTP probe failed with statuscode: 500")),
        ("/away", warning("see there")),
        ("/9", ProbeOutcome::success()),
        ("/11", failure(&stopped)),
    ];
    for (path, expected) in table {
        assert_eq!(probe(bench.target(), &get(server.address, path), PLENTY).await, expected, "{path}");
    }
}

#[tokio::test]
async fn bodies_are_read_up_to_a_limit() {
    let bench = Bench::new();
    // An endless body: without the limit this test does not end before its time.
    let server = Server::http(|_| {
        let chunks = futures::stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[b'x'; 1000]))));
        Response::builder().status(302).body(BodyExt::boxed(StreamBody::new(chunks))).unwrap()
    })
    .await;
    let outcome = probe(bench.target(), &get(server.address, "/"), PLENTY).await;
    assert_eq!(outcome, warning(&"x".repeat(BODY_LIMIT)));
}

#[tokio::test]
async fn each_request_has_its_own_connection() {
    let bench = Bench::new();
    let server = Server::http(|_| answer(200, None, "")).await;
    for count in 1..=3 {
        assert_eq!(probe(bench.target(), &get(server.address, "/"), PLENTY).await, ProbeOutcome::success());
        assert_eq!(server.connections(), count);
    }
}

#[tokio::test]
async fn what_does_not_answer_fails_in_words_that_people_know() {
    let bench = Bench::new();
    let closed = closed_port().await;
    let mute = Server::mute().await;
    let rude = Server::start(|stream| async move { drop(stream) }).await;
    let plain = Server::http(|_| answer(200, None, "")).await;
    let stalled = Server::http(|_| {
        let body =
            StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, std::convert::Infallible>>());
        Response::new(BodyExt::boxed(body))
    })
    .await;
    let table = [
        (
            get(closed, "/x"),
            format!("http://{closed}/x"),
            format!("dial tcp {closed}: connect: connection refused"),
        ),
        (
            get(mute.address, "/"),
            format!("http://{}/", mute.address),
            "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".to_owned(),
        ),
        (
            get(stalled.address, "/"),
            format!("http://{}/", stalled.address),
            "context deadline exceeded (Client.Timeout exceeded while reading body)".to_owned(),
        ),
        (
            https(plain.address, "/"),
            format!("https://{}/", plain.address),
            "http: server gave HTTP response to HTTPS client".to_owned(),
        ),
    ];
    for (action, url, reason) in table {
        let expected = ProbeOutcome::Failure(format!("Get \"{url}\": {reason}"));
        assert_eq!(probe(bench.target(), &action, SECOND).await, expected);
    }
    // Whether the request was sent before the connection was closed is a matter of luck.
    let outcome = probe(bench.target(), &get(rude.address, "/"), PLENTY).await;
    let prefix = format!("Get \"http://{}/\": ", rude.address);
    assert!(matches!(&outcome, ProbeOutcome::Failure(text) if text.starts_with(&prefix)), "{outcome:?}");
}

#[tokio::test]
async fn certificates_are_not_looked_at() {
    let bench = Bench::new();
    let server = Server::https(|_| answer(200, None, "")).await;
    assert_eq!(probe(bench.target(), &https(server.address, "/"), PLENTY).await, ProbeOutcome::success());
}

#[tokio::test]
async fn what_cannot_be_sent_is_an_error() {
    let bench = Bench::new();
    let mut elsewhere = get(([192, 0, 2, 1], 80).into(), "/");
    elsewhere.host = Some("192.0.2.1".to_owned());
    let mut unnamed = get(([192, 0, 2, 1], 80).into(), "/");
    unnamed.port = IntOrString::String("web".to_owned());
    let mut split = get(([192, 0, 2, 1], 80).into(), "/");
    split.http_headers =
        Some(vec![HTTPHeader { name: "X-Key".to_owned(), value: "s3cret\r\nX: y".to_owned() }]);
    let table = [
        (elsewhere, "host \"192.0.2.1\" is not this pod"),
        (unnamed, "port \"web\" is neither a number nor the name"),
        (split, "HTTP header \"X-Key\" has a value that cannot be sent"),
    ];
    for (action, expected) in table {
        let outcome = probe(bench.target(), &action, PLENTY).await;
        let ProbeOutcome::Error(text) = &outcome else { panic!("{outcome:?}") };
        assert!(text.starts_with(expected) && !text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn every_response_to_a_hook_is_a_success() {
    let (seen, bench) = (Seen::default(), Bench::new());
    let record = recording(&seen);
    let server = Server::http(move |request| {
        record(request);
        answer(500, None, "")
    })
    .await;
    assert_eq!(hook(bench.target(), &get(server.address, "/warm"), PLENTY).await, Ok(None));
    let (_, headers) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(headers.get(USER_AGENT).unwrap(), "kube-lifecycle/1.36");
    let secure = Server::https(|_| answer(404, None, "")).await;
    assert_eq!(hook(bench.target(), &https(secure.address, "/"), PLENTY).await, Ok(None));
}

#[tokio::test]
async fn a_hook_without_a_response_fails() {
    let bench = Bench::new();
    let closed = closed_port().await;
    let text = format!(
        "HTTP lifecycle hook (/warm) for Container \"c\" in Pod \"p_ns(u)\" failed - error: Get \"http://{closed}/warm\": \
         dial tcp {closed}: connect: connection refused"
    );
    assert_eq!(hook(bench.target(), &get(closed, "/warm"), PLENTY).await, Err(HookError::Failed(text)));
}

#[tokio::test]
async fn a_hook_falls_back_to_plain_http_without_credentials() {
    let (seen, bench) = (Seen::default(), Bench::new());
    let server = Server::http(recording(&seen)).await;
    let mut action = https(server.address, "/");
    action.http_headers = Some(vec![
        HTTPHeader { name: "Authorization".to_owned(), value: "Bearer t".to_owned() },
        HTTPHeader { name: "X-Kept".to_owned(), value: "yes".to_owned() },
    ]);
    let expected = format!(
        "request to HTTPS lifecycle hook {} got HTTP response, retry with HTTP succeeded",
        server.address
    );
    assert_eq!(hook(bench.target(), &action, PLENTY).await, Ok(Some(expected)));
    let (_, headers) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(headers.get("x-kept").unwrap(), "yes");
    assert_eq!(headers.get(AUTHORIZATION), None);
}

/// In a network that pods share, the port that a redirect leads to may be another's.
#[tokio::test]
async fn redirects_stay_on_a_port_that_is_the_pods() {
    let other = Server::http(|_| answer(200, None, "")).await;
    let to = format!("http://{}/", other.address);
    let first = Server::http(move |_| answer(302, Some(&to), "moved")).await;
    let port = first.address.port();
    let protocol = HostPortProtocol::Tcp;
    let exposed = ExposedPort { protocol, container_port: port, host_ip: None, host_port: port };
    let shared = Bench { exposed: Some(vec![exposed]), ..Bench::new() };
    assert_eq!(probe(shared.target(), &get(first.address, "/"), PLENTY).await, warning("moved"));
    assert_eq!(other.connections(), 0);
    assert_eq!(probe(Bench::new().target(), &get(first.address, "/"), PLENTY).await, ProbeOutcome::success());
    assert_eq!(other.connections(), 1);
}
