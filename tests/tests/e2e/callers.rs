//! Callers of the HTTPS port who want to keep others out of it.

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kubewasm_tests::{node::Options, wait};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    access::{admin_of, get},
    pods::{Pods, running},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// Connections at once, where this process may have so many.
const CONNECTIONS: u64 = 10_000;
/// Followers that read nothing of what they asked for.
const FOLLOWERS: usize = 100;

/// Ten thousand connections, some of which begin a handshake that they never end, and a hundred who follow a log that has
/// no end and never read it: others' logs, health and the lease of the node are as without them.
#[tokio::test]
async fn hostile_callers_keep_nobody_out() {
    with_temp_ns(async |client, ns| {
        let (suite, pods) = (suite().await, Pods::new(&client, ns));
        let node = own_node("besieged-node", &Options::default()).await;
        let on_node = |args: &[&str]| {
            json!({
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "containers": [{ "name": "main", "image": suite.actor.tagged, "args": args }],
            })
        };
        pods.create("quiet", on_node(&["say", "still here", "sleep", "3600"])).await;
        pods.create("loud", on_node(&["print", "400000", "sleep", "3600"])).await;
        pods.until("quiet", "running", running).await;
        pods.until("loud", "running", running).await;

        let path = format!("/containerLogs/{ns}/loud/main?follow=true");
        let mut followers = Vec::new();
        for _ in 0..FOLLOWERS {
            let follower = admin_of(&node.url()).await;
            let request = http::Request::get(&path).body(Vec::new()).unwrap();
            followers.push((follower.request_stream(request).await.unwrap(), follower));
        }

        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
        let count = maximum.unwrap_or(u64::MAX).saturating_sub(2_000).clamp(100, CONNECTIONS);
        let address = node.url().trim_start_matches("https://").to_owned();
        let hostile: Vec<TcpStream> = stream::iter(0..count)
            .map(|number| {
                let address = &address;
                async move {
                    let mut stream = TcpStream::connect(address).await.unwrap();
                    if number % 4 == 0 {
                        // The beginning of a greeting. It may have been shown out already.
                        let _ = stream.write_all(&[22, 3, 1]).await;
                    }
                    stream
                }
            })
            .buffer_unordered(64)
            .collect()
            .await;
        let besieged = Timestamp::now();

        for _ in 0..3 {
            let logs = ["--namespace", ns, "logs", "quiet"];
            let text = tokio::time::timeout(SOON, suite.cluster.kubectl(&logs)).await.expect("an answer");
            assert_eq!(text.unwrap(), "still here\n");
        }
        assert_eq!(get(&admin_of(&node.url()).await, "/healthz").await.as_deref(), Ok("ok"));
        let leases: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
        wait::object(leases, node.name(), "a renewal since", SOON, |lease| {
            let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref());
            renewed.is_some_and(|time| time.0 > besieged)
        })
        .await
        .unwrap();
        assert_eq!(hostile.len() as u64, count);
        drop((hostile, followers));
    })
    .await;
}
