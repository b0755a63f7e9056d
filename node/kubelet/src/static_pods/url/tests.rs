//! The source against a server on the loopback.

use std::net::SocketAddr;

use http::HeaderName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::*;

const PATIENCE: Duration = Duration::from_secs(30);

/// What the server answers: a status, where else it is, and a text. And what it was asked with.
#[derive(Debug, Default)]
struct Served {
    status: u16,
    location: Option<String>,
    text: String,
    asked: Vec<HeaderMap>,
}

#[derive(Clone, Debug)]
struct Server {
    address: SocketAddr,
    served: watch::Sender<Served>,
}

impl Server {
    async fn start() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let served = watch::Sender::new(Served { status: 200, ..Served::default() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = served.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                // Whoever has gone does not hear it.
                let _ = answer(connection, &answers).await;
            }
        });
        Self { address, served }
    }

    fn says(&self, status: u16, text: &str) {
        self.served.send_modify(|served| (served.status, served.text) = (status, text.to_owned()));
    }

    fn asked(&self) -> Vec<HeaderMap> {
        self.served.borrow().asked.clone()
    }

    fn source(&self, headers: Value) -> UrlSource {
        let config = json!({
            "staticPodURL": format!("http://someone:hush@{}/pods?token=hush", self.address),
            "staticPodURLHeader": headers,
        });
        let config: KubeletConfiguration = serde_json::from_value(config).unwrap();
        UrlSource { period: Duration::from_millis(20), ..UrlSource::new(&config, "edge").unwrap() }
    }
}

/// Answers one request.
async fn answer(mut connection: TcpStream, served: &watch::Sender<Served>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(connection.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let headers = head.lines().skip(1).filter_map(|line| line.split_once(": "));
    let headers = headers
        .map(|(name, value)| (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap()));
    let mut map = HeaderMap::new();
    headers.for_each(|(name, value)| {
        map.append(name, value);
    });
    let answer = {
        served.send_modify(|served| served.asked.push(map));
        let served = served.borrow();
        let Served { status, location, text, .. } = &*served;
        let location = location.as_ref().map(|to| format!("location: {to}\r\n")).unwrap_or_default();
        let size = text.len();
        format!("HTTP/1.1 {status} X\r\nconnection: close\r\n{location}content-length: {size}\r\n\r\n{text}")
    };
    connection.write_all(answer.as_bytes()).await
}

fn list(pods: &[(&str, &str)]) -> String {
    let items = pods.iter().map(|(name, image)| {
        json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": image}]}})
    });
    json!({"apiVersion": "v1", "kind": "PodList", "items": items.collect::<Vec<_>>()}).to_string()
}

/// The next round: `name=image` of the pods that were set, and how many there are in all.
async fn round(updates: &mut mpsc::Receiver<Update>) -> (Vec<String>, usize) {
    let mut set = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE, updates.recv()).await.expect("no update").unwrap() {
            Update::Set(pod) => {
                let source = &pod.metadata.annotations.as_ref().unwrap()["kubernetes.io/config.source"];
                assert_eq!(source, "http");
                let image = pod.spec.unwrap().containers[0].image.clone().unwrap();
                set.push(format!("{}={image}", pod.metadata.name.unwrap()));
            }
            Update::Synced(PodSource::Http, uids) => {
                set.sort();
                return (set, uids.len());
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until the server was asked so often again.
async fn asked_again(server: &Server, times: usize) {
    let mut changes = server.served.subscribe();
    let enough = server.asked().len() + times;
    let again = changes.wait_for(|served| served.asked.len() >= enough);
    tokio::time::timeout(PATIENCE, again).await.expect("it is not asked any more").unwrap();
}

#[tokio::test]
async fn pods_come_change_and_go_and_stay_when_the_answer_is_no_good() {
    let server = Server::start().await;
    server.says(500, "not yet");
    let (sender, mut updates) = mpsc::channel(10);
    tokio::spawn(server.source(json!({"X-Node": ["one", "two"]})).run(sender));
    asked_again(&server, 2).await;
    assert!(updates.try_recv().is_err(), "nothing is known yet, not even that there are none");

    server.says(200, &list(&[("a", "one"), ("b", "one")]));
    assert_eq!(round(&mut updates).await, (vec!["a-edge=one".to_owned(), "b-edge=one".to_owned()], 2));
    server.says(200, &list(&[("a", "two"), ("b", "one")]));
    assert_eq!(round(&mut updates).await, (vec!["a-edge=two".to_owned()], 2), "the other has not changed");

    for (status, text) in [(503, "away"), (200, "kind: ["), (200, &list(&[("c", "one"), ("UP", "one")]))] {
        server.says(status, text);
        asked_again(&server, 2).await;
        assert!(updates.try_recv().is_err(), "{status} {text}");
    }
    let single =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: c, image: three}]}\n";
    server.says(200, single);
    assert_eq!(round(&mut updates).await, (vec!["a-edge=three".to_owned()], 1));
    server.says(200, "");
    assert_eq!(round(&mut updates).await, (vec![], 0), "an empty answer is no pods");

    let headers = server.asked().pop().unwrap();
    assert_eq!(headers.get_all("x-node").iter().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(headers["authorization"], "Basic c29tZW9uZTpodXNo", "whoever is named in the URL");
    drop(updates);
}

#[tokio::test]
async fn headers_go_to_no_other_server() {
    let (server, other) = (Server::start().await, Server::start().await);
    other.says(200, &list(&[("a", "one")]));
    server.says(302, "");
    let location = format!("http://{}/pods", other.address);
    server.served.send_modify(|served| served.location = Some(location));
    let with = server.source(json!({"X-Token": ["hush"]}));
    let error = with.ask(&mut None).await.unwrap_err();
    assert!(error.contains("to another server") && !error.contains("hush"), "{error}");
    assert!(other.asked().is_empty());
    let without = server.source(json!({}));
    assert_eq!(
        without.ask(&mut None).await,
        Ok(list(&[("a", "one")])),
        "it is followed where there is no secret"
    );
}

#[tokio::test]
async fn what_is_too_much_or_away_is_said_without_secrets() {
    let server = Server::start().await;
    let source = server.source(json!({"X-Token": ["hush"]}));
    assert_eq!(source.shown(), format!("http://{}/pods", server.address));
    server.says(404, "hush");
    assert_eq!(source.ask(&mut None).await.unwrap_err(), "it was answered with 404 Not Found");
    server.says(200, &"x".repeat(LIMIT + 1));
    assert!(source.ask(&mut None).await.unwrap_err().contains("too much"));
    let away = UrlSource { url: Url::parse("http://hush:hush@127.0.0.1:1/?hush").unwrap(), ..source };
    let error = away.ask(&mut None).await.unwrap_err();
    assert!(error.contains("refused") && !error.contains("hush"), "{error}");
    assert!(!format!("{away:?}").contains("hush"));
}

#[test]
fn of_pods_that_share_a_name_one_is_left_out() {
    let config: KubeletConfiguration =
        serde_json::from_value(json!({"staticPodURL": "http://pods.example"})).unwrap();
    let source = UrlSource::new(&config, "edge").unwrap();
    let text = list(&[("a", "one"), ("a", "two"), ("b", "one")]);
    let (pods, conflicts) = source.read(&text, &Told::of(PodSource::Http), Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((pods.len(), conflicts.len()), (2, 1), "{conflicts:?}");
}

#[test]
fn urls_are_checked() {
    for (url, expected) in [
        ("", None),
        ("http://pods.example/a", None),
        ("https://pods.example", None),
        ("pods.example", Some("is no URL: relative URL without a base")),
        ("ftp://pods.example", Some("has the scheme \"ftp\"; it must be http or https")),
    ] {
        assert_eq!(check_url(url).err().as_deref(), expected, "{url}");
    }
    assert!(UrlSource::new(&KubeletConfiguration::default(), "edge").is_none());
}
