//! Bytes through commands, many of them, and many commands at once.

use std::{collections::BTreeSet, process::Stdio};

use kube::api::DeleteParams;
use kubewasm_tests::node::{Node, Options};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    crash::remove,
    pods::{Pods, running},
    sessions::{ROUTES, Route, Session, resident_mib, toolbox, tools},
    suite::{SOON, own_node, with_temp_ns},
};

/// Bytes that are sent through a guest: all of them with `KUBEWASM_TEST_SIZE=full`.
fn echoed() -> usize {
    let is_full = std::env::var("KUBEWASM_TEST_SIZE").is_ok_and(|size| size == "full");
    if is_full { 1 << 30 } else { 8 << 20 }
}

/// Most that a node may grow by while bytes go through it, however many, in MiB.
const GROWTH: u64 = 64;

/// What is sent to a command comes back byte by byte, and ends where it is ended; meanwhile the node stays as small as it was.
#[tokio::test]
async fn bytes_go_through_a_command_unchanged() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let node = own_node("flat-node", &Options::default()).await;
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "main", "image": toolbox().await, "args": ["sh"], "stdin": true }],
        });
        pods.create("tools", spec).await;
        pods.until("tools", "running", running).await;
        for route in ROUTES {
            let before = resident_mib(&node);
            let (sent, got, most) = echo(route, ns, &node).await;
            assert!(sent == got, "{route:?}: other bytes came back");
            let grown = most.saturating_sub(before);
            assert!(grown < GROWTH, "{route:?}: the node has grown by {grown} MiB over {before} MiB");
        }
        pods.api().delete("tools", &DeleteParams::default().grace_period(1)).await.unwrap();
        pods.gone("tools").await;
        remove(&client, node).await;
    })
    .await;
}

/// Sends bytes through `cat`: the digests of what was sent and of what came back, and how large the node was at most.
async fn echo(route: Route, ns: &str, node: &Node) -> (Vec<u8>, Vec<u8>, u64) {
    let mut kubectl = route.kubectl(ns, &["exec", "--stdin", "tools", "--", "cat"]).await;
    kubectl.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = kubectl.spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let write = async move {
        let (mut state, mut digest, mut left) = (88_172_645_463_325_252_u64, Sha256::new(), echoed());
        while left > 0 {
            let mut part = Vec::with_capacity(64 << 10);
            while part.len() < (64 << 10).min(left) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                part.extend(state.to_le_bytes());
            }
            digest.update(&part);
            stdin.write_all(&part).await.unwrap();
            left -= part.len().min(left);
        }
        drop(stdin);
        digest.finalize().to_vec()
    };
    let read = async {
        let (mut digest, mut part, mut total, mut most) = (Sha256::new(), vec![0; 256 << 10], 0, 0);
        loop {
            let size = stdout.read(&mut part).await.unwrap();
            if size == 0 {
                assert_eq!(total, echoed(), "bytes came back");
                return (digest.finalize().to_vec(), most);
            }
            digest.update(&part[..size]);
            if total / (1 << 20) != (total + size) / (1 << 20) {
                most = resident_mib(node).max(most);
            }
            total += size;
        }
    };
    // A gigabyte takes minutes in a program that is not optimized.
    let (sent, (got, most)) =
        tokio::time::timeout(20 * SOON, async { tokio::join!(write, read) }).await.expect("an end");
    assert!(child.wait().await.unwrap().success());
    (sent, got, most)
}

/// A hundred commands at once, each connected to its own caller.
#[tokio::test]
async fn a_hundred_commands_at_once() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        tools(&pods, "busy").await;
        let mut sessions = Vec::new();
        for _ in 0..100 {
            let kubectl = Route::WebSocket.kubectl(ns, &["exec", "-i", "busy", "--", "sh"]).await;
            sessions.push(Session::start(kubectl));
        }
        for (number, session) in sessions.iter_mut().enumerate() {
            session.hears("ready").await;
            session.says(&format!("echo {number}")).await;
        }
        // All of them run now, and each has heard what was said to it alone.
        for (number, session) in sessions.iter_mut().enumerate() {
            session.hears(&number.to_string()).await;
            session.closes_input();
        }
        let mut codes = BTreeSet::new();
        for session in sessions {
            let ended = session.ends().await;
            assert_eq!(ended.text(), "end of input\n");
            codes.insert(ended.code);
        }
        assert_eq!(codes, BTreeSet::from([Some(0)]));
    })
    .await;
}
