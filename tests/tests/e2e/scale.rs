//! Many pods at once.

use std::{env, net::IpAddr};

use futures::{StreamExt as _, future::join_all, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
};
use kubewasm_tests::{cluster, guests, node::Options, progress::say, registry::image::Content, wait};
use serde_json::json;

use crate::{
    addresses::{self, address},
    pods::{Pods, is},
    suite::{SOON, own_node, suite, with_temp_ns},
};

/// Requests that are under way at once.
const AT_ONCE: usize = 50;
/// Addresses of a node with many pods.
const RANGE: &str = "10.216.0.0/16";

/// Fifty pods that are created at once all run and end.
#[tokio::test]
async fn fifty_pods_at_once() {
    with_temp_ns(async |client, ns| {
        let pods = &Pods::new(&client, ns);
        let names: Vec<String> = (0..50).map(|number| format!("one-of-many-{number}")).collect();
        join_all(names.iter().map(async |name| pods.act(name, &["say", name]).await)).await;
        for name in &names {
            pods.phase(name, "Succeeded").await;
        }
        let logs = join_all(names.iter().map(|name| pods.logs(name))).await;
        for (name, log) in names.iter().zip(logs) {
            assert_eq!(log, format!("{name}\n"));
        }
    })
    .await;
}

/// Many pods with addresses of their own, all in one worker and then in ten, are reached at them, and nothing leads there when they
/// are gone. `KUBEWASM_TEST_PODS` says how many.
#[tokio::test]
async fn many_pods_have_addresses_in_one_worker_and_in_ten() {
    if !rustix::process::geteuid().is_root() {
        say("skipped: network namespaces are root's to make");
        return;
    }
    let count = env::var("KUBEWASM_TEST_PODS").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let suite = suite().await;
    let client = suite.cluster.client().await.unwrap();
    let content = Content::program("sockets", guests::guest("sockets-0.2.c").await.unwrap());
    let image = suite.registry.push("sockets:scale", &content).await.unwrap().tagged;
    let options = Options::default()
        .flag("--network=pod")
        .flag(format!("--max-pods={}", count + 10))
        .config("podCIDR", json!(RANGE));
    let node = own_node("many-node", &options).await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let names = join_all((0..10).map(async |_| {
        let namespace = serde_json::from_value(json!({ "metadata": { "generateName": "many-" } })).unwrap();
        let name = namespaces.create(&PostParams::default(), &namespace).await.unwrap().name_any();
        cluster::await_default_service_account(&client, &name).await.unwrap();
        name
    }))
    .await;
    let groups: Vec<Pods> = names.iter().map(|name| Pods::new(&client, name)).collect();
    for workers in [1, groups.len()] {
        let place = |number: usize| &groups[number % workers];
        let spec = json!({
            "nodeSelector": { "kubernetes.io/hostname": node.name() },
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{ "name": "main", "image": image, "args": ["tcp-serve", "0.0.0.0:8080"] }],
        });
        let create = async |number: usize| place(number).create(&format!("pod-{number}"), spec.clone()).await;
        stream::iter(0..count).map(create).buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
        let all = async || {
            let lists =
                groups[..workers].iter().map(async |pods| pods.api().list(&ListParams::default()).await);
            let lists: Result<Vec<_>, _> = join_all(lists).await.into_iter().collect();
            Ok::<Vec<Pod>, String>(lists.map_err(|error| error.to_string())?.into_iter().flatten().collect())
        };
        let pods = wait::until("all pods to be ready", SOON, async || {
            let pods = all().await?;
            let ready = pods.iter().filter(|pod| is(pod, "Ready")).count();
            if ready == count { Ok(pods) } else { Err(format!("{ready} of {count}")) }
        })
        .await
        .unwrap();
        assert_eq!(node.workers().len(), workers);
        let reach = async |ip: IpAddr| {
            // Ready is said when it runs; it listens a moment later.
            let answer = wait::until("an answer", SOON, async || {
                addresses::ask(ip).await.map_err(|error| error.to_string())
            });
            assert!(answer.await.unwrap().starts_with(&format!("{ip}:8080 from ")), "{ip}");
        };
        stream::iter(pods.iter().map(address))
            .map(reach)
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<()>>()
            .await;
        for pods in &groups[..workers] {
            let now = DeleteParams::default().grace_period(1);
            pods.api().delete_collection(&now, &ListParams::default()).await.unwrap();
        }
        wait::until("the end of all pods", SOON, async || match all().await?.len() {
            0 => Ok(()),
            left => Err(format!("{left} are left")),
        })
        .await
        .unwrap();
        assert_eq!(addresses::routes_in(RANGE).await, Vec::<String>::new());
    }
    for name in &names {
        namespaces.delete(name, &DeleteParams::default()).await.unwrap();
    }
    addresses::end(&client, &groups[0], node, &[]).await;
}
