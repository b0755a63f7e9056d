//! Requests, by host.

use std::time::Duration;

use kubewasm_workload::types::{Component, Workload};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::world::{World, component, guest, http, workload};

/// A workload with a component that answers requests, with this host and these aliases.
async fn serving(name: &str, of_guest: &str, host: &str, aliases: &str) -> Workload {
    let component = component("web", &guest(of_guest).await);
    Workload { host_interfaces: vec![http(host, aliases)], ..workload(name, vec![component]) }
}

const P2: &str = "http-0.2.c";
const P3: &str = "http-0.3.wat";

#[tokio::test]
async fn requests_are_routed_by_their_host() {
    let world = World::new().await;
    assert_eq!(world.get("a.example", "/").await.0, 404, "nobody is there");
    world.start(serving("a", P2, "a.example", "b.example, c.example").await).await.unwrap();
    world.start(serving("p3", P3, "p3.example", "").await).await.unwrap();
    for (host, path, status, body) in [
        ("a.example", "/scheme", 200, "http"),
        ("A.example:8080", "/scheme", 200, "http"),
        ("b.example", "/scheme", 200, "http"),
        ("c.example", "/scheme", 200, "http"),
        ("p3.example", "/scheme", 200, "0"),
        ("d.example", "/", 404, "no workload has this host"),
    ] {
        let (found, text) = world.get(host, path).await;
        assert!(found == status && text.contains(body), "{host}: {found} {text}");
    }
    let (status, _) = world.ask("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(status, 400, "without a host");
    let (status, _) =
        world.ask("GET / HTTP/1.1\r\nhost: a.example\r\nhost: b.example\r\nconnection: close\r\n\r\n").await;
    assert_eq!(status, 400, "with two");
}

#[tokio::test]
async fn any_host_is_for_whoever_names_none() {
    let world = World::new().await;
    let component = component("web", &guest(P2).await);
    world.start(workload("any", vec![component])).await.unwrap();
    world.start(serving("p3", P3, "p3.example", "").await).await.unwrap();
    assert!(world.get("whatever.example", "/scheme").await.1.contains("http"));
    assert!(world.get("p3.example", "/scheme").await.1.contains('0'));
}

#[tokio::test]
async fn two_workloads_with_one_host_both_serve_until_one_is_gone() {
    let world = World::new().await;
    world.start(serving("a", P2, "a.example", "alias.example").await).await.unwrap();
    world.start(serving("b", P3, "a.example", "").await).await.unwrap();
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(world.get("a.example", "/scheme").await.1.contains("http"));
    }
    assert_eq!(answers.iter().filter(|is_p2| **is_p2).count(), 2, "{answers:?}");
    world.stop("a").await.unwrap();
    assert_eq!(world.get("alias.example", "/").await.0, 404, "its alias is gone with it");
    assert!(!world.get("a.example", "/scheme").await.1.contains("http"));
    world.stop("b").await.unwrap();
    assert_eq!(world.get("a.example", "/").await.0, 404);
}

#[tokio::test]
async fn a_host_that_is_none_is_refused() {
    let world = World::new().await;
    let error = world.start(serving("a", P2, "no host", "").await).await.unwrap_err().to_string();
    assert!(error.contains("wasi-http") && error.contains("\"no host\""), "{error}");
}

#[tokio::test]
async fn a_handler_that_loops_is_given_up_and_its_neighbours_answer() {
    let world = World::with(|builder| builder.with_deadline(Duration::from_millis(500))).await;
    for (name, guest) in [("p2", P2), ("p3", P3)] {
        world.start(serving(name, guest, name, "").await).await.unwrap();
    }
    world.start(serving("neighbour", P2, "neighbour", "").await).await.unwrap();
    for name in ["p2", "p3"] {
        let looping = async { futures::join!(world.get(name, "/loop"), world.get(name, "/loop")) };
        let neighbour = async {
            for _ in 0..20 {
                assert_eq!(world.get("neighbour", "/scheme").await.0, 200);
            }
        };
        let ((one, other), ()) = futures::join!(looping, neighbour);
        assert_eq!((one.0, other.0), (504, 504), "{name}");
        assert_eq!(world.get(name, "/scheme").await.0, 200, "{name}: another instance answers");
    }
}

#[tokio::test]
async fn who_fails_answers_with_500() {
    let world = World::new().await;
    world.start(serving("a", P2, "a", "").await).await.unwrap();
    assert_eq!(world.get("a", "/trap").await.0, 500);
    assert_eq!(world.get("a", "/nothing").await.0, 500);
    assert_eq!(world.get("a", "/scheme").await.0, 200);
}

/// One is answered, 256 wait, and the others are sent away.
#[tokio::test]
async fn who_has_no_room_for_more_answers_with_503() {
    let world = World::with(|builder| builder.with_deadline(Duration::from_secs(2))).await;
    let mut one = serving("a", P2, "a", "").await;
    one.components =
        one.components.into_iter().map(|component| Component { max_concurrency: 1, ..component }).collect();
    world.start(one).await.unwrap();
    let answers = futures::future::join_all((0..300).map(|_| world.get("a", "/loop"))).await;
    let with = |status| answers.iter().filter(|(found, _)| *found == status).count();
    assert!(with(503) > 0 && with(503) + with(504) == 300, "{} and {}", with(503), with(504));
    assert_eq!(world.get("a", "/scheme").await.0, 200);
}

#[tokio::test]
async fn instances_are_fresh_for_each_request_or_kept() {
    let world = World::new().await;
    world.start(serving("fresh", P2, "fresh", "").await).await.unwrap();
    let mut kept = serving("kept", P2, "kept", "").await;
    kept.components =
        kept.components.into_iter().map(|component| Component { pool_size: 1, ..component }).collect();
    world.start(kept).await.unwrap();
    let mut counts = Vec::new();
    for name in ["fresh", "fresh", "kept", "kept", "kept"] {
        let (_, body) = world.get(name, "/count").await;
        counts.push(body);
    }
    assert_eq!(counts, ["1", "1", "1", "2", "3"]);
}

#[tokio::test]
async fn bodies_are_streamed_in_both_directions() {
    let world = World::new().await;
    world.start(serving("a", P2, "a", "").await).await.unwrap();
    let body = "x".repeat(300_000);
    let request = format!(
        "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, answer) = world.ask(&request).await;
    let echoed = answer.chars().filter(|c| *c == 'x').count();
    assert_eq!((status, echoed), (200, body.len()));
    let (status, answer) = world.get("a", "/bytes?1000000").await;
    assert_eq!(status, 200);
    assert_eq!(answer.len(), 1_000_000);
}

#[tokio::test]
async fn what_is_under_way_when_a_workload_is_stopped_comes_to_its_end() {
    let world = World::new().await;
    world.start(serving("a", P2, "a", "").await).await.unwrap();
    let mut slow = TcpStream::connect(world.address()).await.unwrap();
    slow.write_all(b"GET /drip?20 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    // The guest sends piece by piece: when the head is here, most of the body is still to come.
    let mut begun = [0; 12];
    slow.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    let mut rest = String::new();
    let (stopped, read) = futures::join!(world.stop("a"), slow.read_to_string(&mut rest));
    stopped.unwrap();
    read.unwrap();
    assert_eq!(rest.matches("drip").count(), 20);
}
