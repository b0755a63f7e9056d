//! Pods that come and go while something goes wrong.

use std::{collections::BTreeMap, fs, path::Path};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, ListParams},
};
use kubewasm_tests::{
    cluster::Cluster,
    guests,
    home::Home,
    node::{Node, Options},
    registry::{Registry, image::Content},
    wait,
};
use serde_json::{Value, json};

use crate::{
    history::History,
    pods::{Pods, container, phase, restarts, running, terminated},
    suite::{SOON, await_ready, own_node, suite, with_temp_ns},
};

/// Pods of each kind in the tests below.
const EACH: usize = 10;

/// A name can be used again as fast as its pods are deleted, by force and gracefully by turns: every one of
/// them is a pod of its own, and the last one runs like the first.
#[tokio::test]
async fn one_name_for_twenty_pods() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        for round in 0..20 {
            pods.act("again", &["say", &format!("round {round}"), "sleep", "600"]).await;
            if round % 4 == 0 {
                pods.until("again", "running", running).await;
            }
            let grace = if round % 2 == 0 { Some(0) } else { None };
            let how = DeleteParams { grace_period_seconds: grace, ..DeleteParams::default() };
            pods.api().delete("again", &how).await.unwrap();
            pods.gone("again").await;
        }
        pods.act("again", &["say", "the last"]).await;
        let pod = pods.phase("again", "Succeeded").await;
        assert_eq!((restarts(&pod), pods.logs("again").await.as_str()), (0, "the last\n"));
    })
    .await;
}

/// An agent that is killed again and again while pods come and go starts no pod twice that has finished, and
/// forgets no restart.
#[tokio::test]
async fn an_agent_is_killed_under_churn() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let options =
            Options::default().config("crashLoopBackOff", json!({ "maxContainerRestartPeriod": "1s" }));
        let mut node = own_node("churned-node", &options).await;
        let history = History::of(pods.api());
        let image = &suite().await.actor.tagged;
        for (round, kinds) in [["once", "sleeps"], ["crashes", "once-more"]].iter().enumerate() {
            let created = kinds.iter().flat_map(|kind| (0..EACH).map(move |number| (*kind, number)));
            join_all(created.map(async |(kind, number)| {
                pods.create(&format!("{kind}-{number}"), churned(image, node.name(), kind)).await;
            }))
            .await;
            // Somewhere in the middle of their starts.
            pods.until(&format!("{}-0", kinds[0]), "a start", |pod| container_id(pod).is_some()).await;
            node.kill().unwrap();
            let name = format!("sleeps-{round}");
            pods.api().delete(&name, &DeleteParams::default()).await.unwrap();
            node.start_again().await.unwrap();
            pods.gone(&name).await;
        }
        for kind in ["once", "once-more"] {
            for number in 0..EACH {
                let pod = pods.phase(&format!("{kind}-{number}"), "Succeeded").await;
                assert_ran_once(&node.pod_logs(), &pod);
            }
        }
        for number in 0..EACH {
            pods.until(&format!("crashes-{number}"), "two restarts", |pod| restarts(pod) >= 2).await;
        }
        for number in 2..EACH {
            let pod = pods.until(&format!("sleeps-{number}"), "running", running).await;
            assert_eq!(restarts(&pod), 0, "{:?}", pod.status);
        }
        history.check();
        let name = node.name().to_owned();
        drop(node);
        Api::<NodeObject>::all(client).delete(&name, &DeleteParams::default()).await.unwrap();
    })
    .await;
}

/// While the API server is away, guests that have started end, are restarted by policy and go on as if
/// nothing were; when it is back, it learns all of it, and pods that were deleted before go.
#[tokio::test]
async fn the_api_server_goes_away_under_churn() {
    let home = Home::temporary().unwrap();
    let cluster = Cluster::start(&home).await.unwrap();
    let mut registry = Registry::open(&home, "registry").unwrap();
    registry.start().await.unwrap();
    let module = guests::guest("actor.c").await.unwrap();
    let image = registry.push("actor:v1", &Content::program("actor", module)).await.unwrap().tagged;
    let options = Options::default().config("crashLoopBackOff", json!({ "maxContainerRestartPeriod": "1s" }));
    let node = Node::start(&home, &cluster, "cut-off-node", &options).await.unwrap();
    let client = cluster.client().await.unwrap();
    await_ready(&client, node.name()).await.unwrap();

    let pods = Pods::new(&client, "default");
    let history = History::of(pods.api());
    let kinds = ["once", "sleeps", "crashes"];
    let named = kinds.iter().flat_map(|kind| (0..5).map(move |number| (*kind, format!("{kind}-{number}"))));
    let named: Vec<(&str, String)> = named.collect();
    join_all(named.iter().map(async |(kind, name)| {
        let mut spec = churned(&image, node.name(), kind);
        spec["runtimeClassName"] = Value::Null;
        spec["tolerations"] = json!([{ "operator": "Exists" }]);
        pods.create(name, spec).await;
    }))
    .await;
    for (_, name) in &named {
        pods.until(name, "a start", |pod| container_id(pod).is_some()).await;
    }
    let before = by_name(&pods).await;
    pods.api().delete("sleeps-0", &DeleteParams::default()).await.unwrap();
    cluster.stop_apiserver().await.unwrap();
    let uid = before["crashes-0"].metadata.uid.as_deref().unwrap();
    let logs = node.pod_logs().join(format!("default_crashes-0_{uid}/main"));
    let enough = restarts(&before["crashes-0"]) + 3;
    wait::until("restarts without an API server", SOON, async || match newest_log(&logs) {
        Some(number) if number >= enough => Ok(()),
        other => Err(format!("the newest log is {other:?} of {enough}")),
    })
    .await
    .unwrap();
    cluster.start_apiserver().await.unwrap();
    pods.gone("sleeps-0").await;
    for (kind, name) in named.iter().filter(|(_, name)| name != "sleeps-0") {
        match *kind {
            "once" => assert_ran_once(&node.pod_logs(), &pods.phase(name, "Succeeded").await),
            "crashes" => {
                let more = restarts(&before[name]) + 2;
                pods.until(name, "the restarts meanwhile", |pod| restarts(pod) >= more).await;
            }
            _ => {
                let pod = pods.api().get(name).await.unwrap();
                assert!(running(&pod) && restarts(&pod) == 0, "{name}: {:?}", pod.status);
                assert_eq!(container_id(&pod), container_id(&before[name]), "{name}");
            }
        }
    }
    history.check();
}

/// A pod of one of the kinds above: `once…` ends well after a moment, `crashes` again and again, `sleeps`
/// never.
fn churned(image: &str, node: &str, kind: &str) -> Value {
    let (policy, args) = match kind {
        "crashes" => ("OnFailure", json!(["exit", "1"])),
        "sleeps" => ("Always", json!(["sleep", "600"])),
        _ => ("Never", json!(["sleep", "1", "say", "once"])),
    };
    json!({
        "restartPolicy": policy,
        "nodeSelector": { "kubernetes.io/hostname": node },
        "containers": [{ "name": "main", "image": image, "args": args }],
    })
}

/// The guest of a pod that has succeeded ran once, to its end.
fn assert_ran_once(logs: &Path, pod: &Pod) {
    let (namespace, name, uid) = (pod.namespace().unwrap(), pod.name_any(), pod.uid().unwrap());
    let folder = logs.join(format!("{namespace}_{name}_{uid}/main"));
    let files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(files, ["0.log"], "{name}");
    let log = fs::read_to_string(folder.join("0.log")).unwrap();
    assert!(log.lines().count() == 1 && log.ends_with("stdout F once\n"), "{name}: {log:?}");
    assert_eq!(
        (phase(pod), restarts(pod), terminated(pod).unwrap().exit_code),
        ("Succeeded", 0, 0),
        "{name}"
    );
}

/// The number of the newest log in the folder of a container: that of its newest attempt.
fn newest_log(folder: &Path) -> Option<i32> {
    let names = fs::read_dir(folder).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.strip_suffix(".log")?.parse().ok()).max()
}

fn container_id(pod: &Pod) -> Option<&str> {
    container(pod)?.container_id.as_deref()
}

async fn by_name(pods: &Pods) -> BTreeMap<String, Pod> {
    let all = pods.api().list(&ListParams::default()).await.unwrap().items;
    all.into_iter().map(|pod| (pod.name_any(), pod)).collect()
}
