//! The node's own admission: policies of its operator judge pods before anything of them is pulled, and modules before they are
//! started.

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use kubewasm_tests::{
    guests,
    home::Home,
    node::{self, Node, Options},
    registry::image::Content,
};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    pods::{Pods, phase, restarts, running},
    status::{self, says},
    suite::{SOON, own_node, start_registry, suite, with_temp_ns},
};

/// The condition by which a pod tells what the node's policies have made of it.
const ADMITTED: &str = "kubewasm.dev/AdmittedByPolicies";
const REFUSED: &str = "PolicyViolation";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// A folder of policies and of the file that names them.
struct Policies(PathBuf);

impl Policies {
    /// With the policies `annotations.wasm` (of Go) and `moody.wasm`.
    async fn new(home: &Home, name: &str, file: &Value) -> Self {
        let policies = Self(home.folder(name).unwrap());
        policies.add("annotations", &guests::guest("policy.go").await.unwrap()).await;
        policies.add("moody", &guests::guest("moody-policy.wat").await.unwrap()).await;
        policies.write(file);
        policies
    }

    /// A policy that says of itself that it is one.
    async fn add(&self, name: &str, module: &[u8]) {
        let plain = self.0.join(format!("{name}.plain.wasm"));
        fs::write(&plain, module).unwrap();
        let metadata = self.0.join("metadata.yml");
        let rules = "[{ apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE] }]";
        fs::write(&metadata, format!("executionMode: wasi\nrules: {rules}\n")).unwrap();
        let mut command = Command::new(node::program().unwrap());
        command
            .args(["policy", "annotate", "-m"])
            .arg(&metadata)
            .arg("-o")
            .arg(self.module(name))
            .arg(&plain);
        let output = command.output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn module(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.wasm"))
    }

    fn file(&self) -> PathBuf {
        self.0.join("policies.yml")
    }

    /// Writes the file; a module that is a bare word is one of this folder.
    fn write(&self, file: &Value) {
        let mut file = file.clone();
        for policy in file.as_object_mut().unwrap().values_mut() {
            if let Some(name) = policy["module"].as_str().filter(|name| self.module(name).is_file()) {
                policy["module"] = json!(format!("file://{}", self.module(name).display()));
            }
        }
        fs::write(self.file(), serde_yaml_ng::to_string(&file).unwrap()).unwrap();
    }

    fn options(&self) -> Options {
        Options::default().flag(format!("--admission-policies={}", self.file().display()))
    }

    async fn node(&self, name: &str) -> Node {
        own_node(name, &self.options()).await
    }
}

/// A pod for a node, with one annotation besides.
fn pod(name: &str, node: &Node, image: &str, args: &[&str], annotation: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "annotations": { annotation: "yes" } },
        "spec": {
            "nodeName": node.name(),
            "runtimeClassName": "wasm",
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "main", "image": image, "args": args }],
        },
    })
}

async fn create(pods: &Pods, pod: &Value) {
    let pod: Pod = serde_json::from_value(pod.clone()).unwrap();
    pods.api().create(&PostParams::default(), &pod).await.unwrap();
}

/// Waits until a pod was refused with a text that has this in it, and nothing of it has run.
async fn refused(pods: &Pods, name: &str, part: &str) -> Pod {
    let pod = pods.phase(name, "Failed").await;
    let status = pod.status.as_ref().unwrap();
    assert_eq!(status.reason.as_deref(), Some(REFUSED), "{status:?}");
    let message = status.message.as_deref().unwrap_or_default();
    assert!(message.starts_with("Pod was rejected: ") && message.contains(part), "{message}");
    assert_eq!(status::condition(&pod, ADMITTED), ("False", REFUSED, message));
    assert_eq!(status::of(&pod, "main").and_then(|main| main.container_id.as_deref()), None);
    pods.event(name, "the refusal", |event| says(event, REFUSED, part)).await;
    pod
}

/// The node's counters of verdicts.
async fn verdicts(node: &Node) -> String {
    let path = format!("/api/v1/nodes/{}/proxy/metrics", node.name());
    let text = suite().await.cluster.kubectl(&["get", "--raw", &path]).await.unwrap();
    text.lines().filter(|line| line.starts_with("kubewasm_admission_verdicts")).collect::<Vec<_>>().join("\n")
}

/// A pod that a policy refuses fails at once, with the policy's message in its status and an Event, and its image is not asked
/// for. What only watches refuses nothing. A policy that traps, never ends or says nothing that could be understood refuses.
#[tokio::test]
async fn pods_are_judged_before_anything_of_them_is_pulled() {
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let pods = Pods::new(&client, ns);
        let file = json!({
            "annotations": { "module": "annotations", "settings": { "forbiddenAnnotations": ["forbidden"] } },
            "moody": { "module": "moody", "timeoutEvalSeconds": 1 },
            "told": {
                "module": "annotations", "settings": { "forbiddenAnnotations": ["told"] }, "message": "ask us",
            },
            "watching": {
                "module": "annotations", "settings": { "forbiddenAnnotations": ["watched"] },
                "policyMode": "monitor",
            },
        });
        let policies = Policies::new(&suite.home, "admitting", &file).await;
        let node = policies.node("admitting-node").await;
        let never = Content::program("actor", guests::guest("actor.c").await.unwrap());
        let never = suite.registry.push("never-pulled:v1", &never).await.unwrap().tagged;

        create(&pods, &pod("welcome", &node, &suite.actor.tagged, &["sleep", "600"], "watched")).await;
        let welcome = pods.until("welcome", "running", running).await;
        assert_eq!(status::condition(&welcome, ADMITTED), ("True", "", ""));

        let no_verdict = "policy \"moody\" came to no verdict on the pod, which is refused for that: ";
        for (name, annotation, part) in [
            ("forbidden", "forbidden", "policy \"annotations\" refused the pod: forbidden annotation forbidden"),
            ("told", "told", "policy \"told\" refused the pod: ask us"),
            ("refused", "please-refuse", "policy \"moody\" refused the pod: as you please"),
            ("trapping", "please-trap", &format!("{no_verdict}wasm trap: ")),
            ("spinning", "please-spin", &format!("{no_verdict}the policy came to no answer within 1 s")),
            ("babbling", "please-babble", &format!("{no_verdict}internal server error: Cannot deserialize")),
        ] {
            create(&pods, &pod(name, &node, &never, &["sleep", "600"], annotation)).await;
            refused(&pods, name, part).await;
        }
        let asked = suite.registry.requests().unwrap();
        let asked: Vec<_> = asked.iter().filter(|r| r.path.contains("never-pulled") && r.method == "GET").collect();
        // Who pushed it has asked for its digest.
        assert!(asked.iter().all(|request| request.path.ends_with("/manifests/v1")) && asked.len() <= 1, "{asked:?}");

        let counted = verdicts(&node).await;
        for line in [
            r#"policy="annotations",mode="protect",verdict="refused"} 1"#,
            r#"policy="watching",mode="monitor",verdict="refused"} 1"#,
            r#"policy="moody",mode="protect",verdict="failed"} 3"#,
        ] {
            assert!(counted.contains(line), "{line}: {counted}");
        }
        pods.api().delete("welcome", &DeleteParams::default()).await.unwrap();
        pods.gone("welcome").await;
    })
    .await;
}

/// A pod that was let in stays, whatever the policies of the next agent say; they are asked about the next pod.
#[tokio::test]
async fn a_restarted_agent_does_not_judge_again() {
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let pods = Pods::new(&client, ns);
        let policies = Policies::new(
            &suite.home,
            "judging-once",
            &json!({
                "annotations": { "module": "annotations", "settings": { "forbiddenAnnotations": ["other"] } },
            }),
        )
        .await;
        let mut node = policies.node("judging-once-node").await;
        let args = ["sleep", "600"];
        create(&pods, &pod("first", &node, &suite.actor.tagged, &args, "some")).await;
        let first = pods.until("first", "running", running).await;
        create(&pods, &pod("refused", &node, &suite.actor.tagged, &args, "other")).await;
        refused(&pods, "refused", "forbidden annotation other").await;

        node.kill().unwrap();
        policies.write(&json!({
            "annotations": { "module": "annotations", "settings": { "forbiddenAnnotations": ["some"] } },
        }));
        node.start_again().await.unwrap();
        create(&pods, &pod("second", &node, &suite.actor.tagged, &args, "some")).await;
        refused(&pods, "second", "forbidden annotation some").await;
        // It was taken up before the other one came.
        let still = pods.api().get("first").await.unwrap();
        assert!(running(&still) && restarts(&still) == 0, "{:?}", still.status);
        assert_eq!(status::condition(&still, ADMITTED).0, "True");
        assert_eq!(still.status.unwrap().start_time, first.status.unwrap().start_time);
        let counted = verdicts(&node).await;
        assert!(counted.contains(r#"verdict="refused"} 1"#) && !counted.contains("accepted"), "{counted}");
        let refused = pods.api().get("refused").await.unwrap();
        assert_eq!((phase(&refused), status::condition(&refused, ADMITTED).1), ("Failed", REFUSED));
    })
    .await;
}

/// Modules are refused for what they import, components and core modules alike, and by policies that are asked about modules;
/// the container says so, and its pod fails.
#[tokio::test]
async fn modules_are_judged_by_what_they_import() {
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let pods = Pods::new(&client, ns);
        let policies = Policies::new(&suite.home, "importing", &json!({
            "moody": { "module": "moody", "judges": ["modules"] },
            "no-sockets": { "deniedImports": ["wasi:sockets/*", "wasi_snapshot_preview1::sock_*"] },
        }))
        .await;
        let node = policies.node("importing-node").await;
        let push = async |name: &str, guest: &str| {
            let module = Content::Artifact(guests::guest(guest).await.unwrap());
            suite.registry.push(&format!("{name}:v1"), &module).await.unwrap().tagged
        };
        let listener = push("importing-core", "listener.c").await;
        for (name, image, annotation, part) in [
            (
                "component",
                push("importing-component", "sockets-0.2.c").await,
                "some",
                "policy \"no-sockets\" refused the module of container \"main\": it imports wasi:sockets/",
            ),
            (
                "core",
                listener.clone(),
                "some",
                "policy \"no-sockets\" refused the module of container \"main\": it imports wasi_snapshot_preview1::sock_accept",
            ),
            (
                "asked",
                suite.actor.tagged.clone(),
                "please-refuse",
                "policy \"moody\" refused the module of container \"main\": as you please",
            ),
        ] {
            create(&pods, &pod(name, &node, &image, &["sleep", "600"], annotation)).await;
            let pod = refused(&pods, name, part).await;
            assert_eq!(status::waiting_reason(&pod, "main"), REFUSED);
        }
        let hello = push("importing-nothing", "hello-0.2.wat").await;
        let mut harmless = pod("harmless", &node, &hello, &[], "some");
        harmless["spec"]["restartPolicy"] = json!("Never");
        create(&pods, &harmless).await;
        pods.phase("harmless", "Succeeded").await;

        // Somebody who looks into a pod with it does not end the pod.
        create(&pods, &pod("debugged", &node, &suite.actor.tagged, &["sleep", "600"], "some")).await;
        pods.until("debugged", "running", running).await;
        let debug = ["--namespace", ns, "debug", "debugged", "--profile=baseline", "--container=look"];
        let image = format!("--image={listener}");
        suite.cluster.kubectl(&[&debug[..], &[&image, "--arguments-only", "--", "x"]].concat()).await.unwrap();
        let is_refused = |pod: &Pod| {
            let statuses = pod.status.iter().flat_map(|s| s.ephemeral_container_statuses.iter().flatten());
            statuses.into_iter().any(|s| {
                let waiting = s.state.as_ref().and_then(|state| state.waiting.as_ref());
                waiting.is_some_and(|waiting| waiting.reason.as_deref() == Some(REFUSED))
            })
        };
        let debugged = pods.until("debugged", "its ephemeral container refused", is_refused).await;
        assert!(running(&debugged) && phase(&debugged) == "Running", "{:?}", debugged.status);

        // It is judged once, however often it starts.
        let mut crashing = pod("crashing", &node, &suite.actor.tagged, &["exit", "3"], "some");
        crashing["spec"]["restartPolicy"] = json!("Always");
        create(&pods, &crashing).await;
        pods.until("crashing", "a restart", |pod| restarts(pod) > 0).await;
        let counted = verdicts(&node).await;
        let crashing = pods.api().get("crashing").await.unwrap();
        let count = |policy: &str| {
            let line = format!(r#"policy="{policy}",mode="protect",verdict="accepted"}} "#);
            counted.lines().find_map(|text| text.split_once(&line)?.1.parse::<usize>().ok())
        };
        // Those of harmless, debugged and crashing.
        assert_eq!(count("no-sockets"), Some(3), "{:?}: {counted}", crashing.status);
    })
    .await;
}

/// A static pod is judged as any other, and its mirror says so.
#[tokio::test]
async fn static_pods_are_judged() {
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let policies = Policies::new(&suite.home, "judging-static", &json!({
            "annotations": { "module": "annotations", "settings": { "forbiddenAnnotations": ["forbidden"] } },
        }))
        .await;
        let folder = suite.home.folder("judged-static-pods").unwrap();
        let write = |name: &str, annotation: &str| {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": name, "namespace": ns, "annotations": { annotation: "yes" } },
                "spec": { "containers": [{
                    "name": "main", "image": suite.actor.tagged, "args": ["sleep", "600"],
                }] },
            });
            fs::write(folder.join(format!("{name}.json")), pod.to_string()).unwrap();
        };
        write("refused", "forbidden");
        write("taken", "some");
        let options = policies.options().config("staticPodPath", json!(folder));
        let node = own_node("judging-static-node", &options).await;
        let pods = Pods::new(&client, ns);
        let part = "policy \"annotations\" refused the pod: forbidden annotation forbidden";
        let refused = pods.phase("refused-judging-static-node", "Failed").await;
        assert!(refused.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR)));
        let status = refused.status.as_ref().unwrap();
        assert_eq!(status.reason.as_deref(), Some(REFUSED));
        assert!(status.message.as_deref().is_some_and(|message| message.ends_with(part)), "{status:?}");
        let taken = pods.until("taken-judging-static-node", "running", running).await;
        assert_eq!(status::condition(&taken, ADMITTED).0, "True");
        remove(&client, node).await;
    })
    .await;
}

/// Ends the node first: it would register again. Its mirrors go with it.
async fn remove(client: &Client, node: Node) {
    let name = node.name().to_owned();
    drop(node);
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    nodes.delete(&name, &DeleteParams::default()).await.unwrap();
}

/// As long as the registry of a policy does not answer, pods wait, and say for what; once it does, they run.
#[tokio::test]
async fn pods_wait_for_a_policy_that_is_not_there() {
    with_temp_ns(async |client, ns| {
        let suite = suite().await;
        let home = Home::temporary().unwrap();
        let (mut registry, _) = start_registry(&home).await.unwrap();
        let policies = Policies::new(&suite.home, "waiting", &json!({})).await;
        let module = Content::Artifact(fs::read(policies.module("moody")).unwrap());
        let image = registry.push("moody:v1", &module).await.unwrap().by_digest;
        policies.write(&json!({ "moody": { "module": format!("registry://{image}") } }));
        registry.stop().unwrap();
        let node = policies.node("waiting-node").await;
        let pods = Pods::new(&client, ns);
        create(&pods, &pod("waiting", &node, &suite.actor.tagged, &["sleep", "600"], "some")).await;
        create(&pods, &pod("refused", &node, &suite.actor.tagged, &["sleep", "600"], "please-refuse")).await;
        let waits = |pod: &Pod| status::condition(pod, ADMITTED).1 == "PoliciesNotReady";
        let waiting = pods.until("waiting", "told what it waits for", waits).await;
        let (status, _, message) = status::condition(&waiting, ADMITTED);
        assert_eq!((phase(&waiting), status), ("Pending", "False"));
        assert!(message.contains("policy \"moody\"") && message.contains(&image), "{message}");
        // One that nobody wants any more waits for nothing.
        create(&pods, &pod("unwanted", &node, &suite.actor.tagged, &["sleep", "600"], "some")).await;
        pods.until("unwanted", "told what it waits for", waits).await;
        pods.api().delete("unwanted", &DeleteParams::default()).await.unwrap();
        pods.gone("unwanted").await;

        registry.start().await.unwrap();
        pods.until("waiting", "running", running).await;
        refused(&pods, "refused", "policy \"moody\" refused the pod: as you please").await;
    })
    .await;
}

/// The file is read when the node starts: what is wrong with it, or with a policy that it names, is an error that names both.
#[tokio::test]
async fn a_broken_file_is_an_error_that_names_it() {
    let home = Home::temporary().unwrap();
    let policies = Policies::new(&home, "broken", &json!({})).await;
    let manifest = policies.0.join("pod.yaml");
    fs::write(&manifest, json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p", "annotations": { "forbidden": "yes" } },
        "spec": { "restartPolicy": "Never", "containers": [{
            "name": "main", "image": "./actor.wasm", "args": ["say", "hello"],
        }] },
    }).to_string())
    .unwrap();
    fs::write(policies.0.join("actor.wasm"), guests::guest("actor.c").await.unwrap()).unwrap();
    let settings = json!({ "forbiddenAnnotations": ["a"], "requiredAnnotations": { "a": "b" } });
    for (file, expected) in [
        (json!({}), "names no policy"),
        (json!({ "p": { "modul": "moody" } }), "p.modul: "),
        (json!({ "p": { "module": "./nowhere.wasm" } }), "p: "),
        (json!({ "p": { "module": "file:///nowhere.wasm" } }), "p: "),
        (
            json!({ "p": { "module": "annotations", "settings": settings } }),
            "p: Policy settings are invalid: annotation a is required and forbidden",
        ),
        (
            json!({ "p": { "module": format!("file://{}", policies.0.join("moody.plain.wasm").display()) } }),
            "it does not say how it is called; write it into the module with `kubewasm policy annotate`",
        ),
    ] {
        policies.write(&file);
        let (code, said) = run(&policies, &manifest).await;
        assert_eq!(code, Some(1), "{file}: {said}");
        let names = said.contains(&format!("--admission-policies {}", policies.file().display()));
        assert!(names && said.contains(expected), "{file}: {said}");
    }
    // The same flag, for a single pod.
    policies.write(&json!({
        "annotations": { "module": "annotations", "settings": { "forbiddenAnnotations": ["forbidden"] } },
    }));
    let (code, said) = run(&policies, &manifest).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("policy \"annotations\" refused the pod: forbidden annotation forbidden"),
        "{said}"
    );
    policies.write(&json!({ "moody": { "module": "moody" } }));
    let (code, said) = run(&policies, &manifest).await;
    assert_eq!((code, said.lines().last()), (Some(0), Some("hello")), "{said}");

    let suite = suite().await;
    policies.write(&json!({ "p": { "module": "moody", "judges": ["nodes"] } }));
    let failed = Node::start(&suite.home, &suite.cluster, "broken-policies", &policies.options()).await;
    let error = format!("{:#}", failed.unwrap_err());
    let expected = format!("--admission-policies {}: p.judges: ", policies.file().display());
    assert!(error.contains(&expected), "{error}");
}

/// The end of `kubewasm run` under these policies: its exit code, and all that it has said.
async fn run(policies: &Policies, manifest: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(node::program().unwrap());
    command.arg("run").arg(manifest).arg("--admission-policies").arg(policies.file());
    command.arg("--root-dir").arg(policies.0.join("root")).kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await.expect("an end").unwrap();
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    (output.status.code(), said.into_owned())
}
