use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::*;

/// How an API server takes a request for a streaming list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Streams {
    Well,
    /// With this code.
    Refused(u16),
    /// As a watch like any other.
    Unknown,
    /// It ends before all has come.
    Cut,
    /// All has come; then what it would go on from is forgotten.
    Forgotten,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An API server with one ConfigMap. What it was asked for is noted.
#[derive(Clone)]
struct ApiServer {
    /// What it does with each request for a streaming list; the last one for ever.
    streams: Arc<Mutex<Vec<Streams>>>,
    asked: Arc<Mutex<Vec<&'static str>>>,
}

fn object() -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "c", "resourceVersion": "5" } })
}

/// Events of a watch; it goes on then, or ends.
fn watch(events: &[Value], goes_on: bool) -> Answer {
    let lines: Vec<_> = events.iter().map(|event| format!("{event}\n")).collect();
    let frames = stream::iter(lines).map(|line| Ok(Frame::data(Bytes::from(line))));
    let rest = if goes_on { stream::pending().left_stream() } else { stream::empty().right_stream() };
    Response::new(StreamBody::new(frames.chain(rest)).boxed_unsync())
}

fn whole(code: u16, body: &Value) -> Answer {
    Response::builder().status(code).body(Full::new(Bytes::from(body.to_string())).boxed_unsync()).unwrap()
}

impl ApiServer {
    fn new(streams: &[Streams]) -> Self {
        let streams = streams.iter().rev().copied().collect();
        Self { streams: Arc::new(Mutex::new(streams)), asked: Arc::default() }
    }

    fn answer(&self, request: &Request<Body>) -> Answer {
        let query = request.uri().query().unwrap_or_default();
        let note = |what| self.asked.lock().unwrap().push(what);
        if query.contains("sendInitialEvents=true") {
            note("stream");
            let mut streams = self.streams.lock().unwrap();
            let taken = if streams.len() > 1 { streams.pop() } else { streams.last().copied() };
            let added = json!({ "type": "ADDED", "object": object() });
            let metadata =
                json!({ "resourceVersion": "7", "annotations": { "k8s.io/initial-events-end": "true" } });
            let end = json!({ "type": "BOOKMARK", "object": {
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
            } });
            return match taken.unwrap() {
                Streams::Well => watch(&[added, end], true),
                Streams::Unknown => watch(&[added], true),
                Streams::Cut => watch(&[added], false),
                Streams::Forgotten => {
                    let status = json!({ "kind": "Status", "status": "Failure", "message": "too old", "reason": "Expired", "code": 410 });
                    watch(&[added, end, json!({ "type": "ERROR", "object": status })], true)
                }
                Streams::Refused(code) => {
                    whole(code, &json!({ "status": "Failure", "message": "no", "reason": "", "code": code }))
                }
            };
        }
        if query.contains("watch=true") {
            return watch(&[], true);
        }
        note("list");
        whole(200, &json!({ "metadata": { "resourceVersion": "7" }, "items": [object()] }))
    }

    /// What is told until all objects have come, and what was asked for.
    async fn follow(&self) -> (Vec<&'static str>, Vec<&'static str>) {
        self.follow_for(1).await
    }

    /// The same, until all objects have come so often.
    async fn follow_for(&self, times: usize) -> (Vec<&'static str>, Vec<&'static str>) {
        let server = self.clone();
        let answer = move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(&request)) }
        };
        let api = Api::<ConfigMap>::all(Client::new(tower::service_fn(answer), "default"));
        let mut events = std::pin::pin!(watch_collection(api, watcher::Config::default()));
        let mut told = Vec::new();
        loop {
            told.push(match events.next().await.unwrap() {
                Ok(Event::Init) => "init",
                Ok(Event::InitApply(_)) => "object",
                Ok(Event::InitDone) => {
                    told.push("done");
                    if told.iter().filter(|what| **what == "done").count() < times {
                        continue;
                    }
                    return (told, self.asked.lock().unwrap().clone());
                }
                Ok(_) => "change",
                Err(_) => "error",
            });
        }
    }
}

#[tokio::test]
async fn objects_come_in_a_streaming_list_and_nobody_asks_for_a_list() {
    let (told, asked) = ApiServer::new(&[Streams::Well]).follow().await;
    assert_eq!((told, asked), (vec!["init", "object", "done"], vec!["stream"]));
}

/// Where streaming lists are turned off, or are not known, lists are asked for, and that is no error.
#[tokio::test(start_paused = true)]
async fn an_api_server_that_has_none_is_asked_for_lists() {
    for (streams, expected) in [
        (Streams::Refused(422), vec!["init", "object", "done"]),
        (Streams::Refused(400), vec!["init", "object", "done"]),
        (Streams::Unknown, vec!["init", "object", "init", "object", "done"]),
        (Streams::Cut, vec!["init", "object", "init", "object", "done"]),
    ] {
        let (told, asked) = ApiServer::new(&[streams]).follow().await;
        assert_eq!(told, expected, "{streams:?}");
        assert_eq!(asked.last(), Some(&"list"), "{streams:?}: {asked:?}");
    }
}

#[tokio::test]
async fn what_goes_wrong_otherwise_is_told_and_the_same_is_asked_again() {
    for code in [403, 429, 500] {
        let (told, asked) = ApiServer::new(&[Streams::Refused(code), Streams::Well]).follow().await;
        assert_eq!((told, asked), (vec!["error", "init", "object", "done"], vec!["stream"; 2]), "{code}");
    }
}

#[test]
fn a_streaming_list_says_how_things_are_now() {
    let asked = |uri: &str| consistent(Request::get(uri).body(()).unwrap()).uri().to_string();
    let streaming = "/api/v1/pods?&watch=true&fieldSelector=spec.nodeName%3Dn&sendInitialEvents=true\
                     &resourceVersionMatch=NotOlderThan&resourceVersion=0";
    assert_eq!(asked(streaming), streaming.strip_suffix("&resourceVersion=0").unwrap());
    for other in
        ["/api/v1/pods", "/api/v1/pods?watch=true&resourceVersion=0", "/api/v1/pods?resourceVersion=0"]
    {
        assert_eq!(asked(other), other);
    }
}

#[tokio::test]
async fn a_watch_begins_anew_at_once_when_what_it_goes_on_from_is_forgotten() {
    let (told, asked) = ApiServer::new(&[Streams::Forgotten, Streams::Well]).follow_for(2).await;
    assert_eq!(told, ["init", "object", "done", "init", "object", "done"], "nobody has to back off");
    assert_eq!(asked, ["stream", "stream"]);
    let forgets = ApiServer::new(&[Streams::Forgotten, Streams::Forgotten, Streams::Well]);
    let (told, _) = forgets.follow_for(3).await;
    assert_eq!(
        told.iter().filter(|what| **what == "error").count(),
        1,
        "again and again is trouble: {told:?}"
    );
}
