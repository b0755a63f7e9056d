//! Pods that come and go while something goes wrong.

use std::{fs, path::Path};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::{Api, ResourceExt as _, api::DeleteParams};
use kubewasm_tests::node::Options;
use serde_json::{Value, json};

use crate::{
    history::History,
    pods::{Pods, container, phase, restarts, running, terminated},
    suite::{own_node, suite, with_temp_ns},
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
pub(crate) fn assert_ran_once(logs: &Path, pod: &Pod) {
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

fn container_id(pod: &Pod) -> Option<&str> {
    container(pod)?.container_id.as_deref()
}
