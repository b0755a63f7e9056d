//! Pods that are described by files on the node, and the mirrors by which the cluster sees them.

use std::{fs, net::SocketAddr, path::PathBuf};

use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, LogParams},
};
use kubewasm_tests::{
    cluster::Cluster,
    home::Home,
    node::{Node, Options},
    wait,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    pods::{Pods, container, restarts, running},
    suite::{SOON, await_ready, own_node, start_registry, suite, with_temp_ns},
};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// A static pod is seen in the API: a mirror that its Node owns shows its status, and its log is read there.
/// Deleting the mirror brings another one and does nothing to the pod.
#[tokio::test]
async fn a_mirror_shows_the_pod_and_cannot_end_it() {
    with_temp_ns(async |client, ns| {
        let files = Files::new(&suite().await.home, "mirrored");
        files.write(
            "web.yaml",
            &pod("web", ns, &suite().await.actor.tagged, &["say", "hello", "sleep", "600"]),
        );
        let node = files.node("mirrored-node").await;
        let pods = Pods::new(&client, ns);
        let name = "web-mirrored-node";
        let first = pods.until(name, "running", running).await;
        let owner = &first.metadata.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.name.as_str()), ("Node", node.name()));
        let hash = mirrored(&first).unwrap();
        assert_ne!(first.metadata.uid.as_ref(), Some(&hash));
        assert!(node.pod_logs().join(format!("{ns}_{name}_{hash}/main/0.log")).is_file());
        assert_eq!(pods.logs(name).await, "hello\n");

        pods.api().delete(name, &DeleteParams::default()).await.unwrap();
        let again = pods
            .until(name, "another mirror", |pod| pod.metadata.uid != first.metadata.uid && running(pod))
            .await;
        assert_eq!(mirrored(&again), Some(hash));
        assert_eq!(container(&again).unwrap().container_id, container(&first).unwrap().container_id);
        assert_eq!(restarts(&again), 0);
        assert_eq!(pods.logs(name).await, "hello\n");
        remove(&client, node).await;
    })
    .await;
}

/// A static pod goes by its file: another content is another pod, which starts when the old one has ended; a
/// broken file changes nothing, and hurts no other; without its file it ends, and its mirror with it.
#[tokio::test]
async fn a_static_pod_goes_by_its_file() {
    with_temp_ns(async |client, ns| {
        let files = Files::new(&suite().await.home, "followed");
        let image = &suite().await.actor.tagged;
        files.write("web.yaml", &pod("web", ns, image, &["say", "one", "sleep", "600"]));
        let node = files.node("followed-node").await;
        let pods = Pods::new(&client, ns);
        let name = "web-followed-node";
        let one = pods.until(name, "running", running).await;

        files.write_text("web.yaml", "apiVersion: v1\nkind: Pod\nspec: [");
        files.write("other.json", &pod("other", ns, image, &["sleep", "600"]));
        pods.until("other-followed-node", "running", running).await;
        let still = pods.api().get(name).await.unwrap();
        assert_eq!((still.metadata.uid.as_ref(), running(&still)), (one.metadata.uid.as_ref(), true));

        files.write("web.yaml", &pod("web", ns, image, &["say", "two", "sleep", "600"]));
        let two = pods
            .until(name, "the second version", |pod| mirrored(pod) != mirrored(&one) && running(pod))
            .await;
        assert_eq!(pods.logs(name).await, "two\n");
        let old = node.pod_logs().join(format!("{ns}_{name}_{}", mirrored(&one).unwrap()));
        assert!(!old.exists(), "the old pod is not quite gone: {two:?}");

        files.remove("web.yaml");
        pods.gone(name).await;
        assert!(running(&pods.api().get("other-followed-node").await.unwrap()));
        remove(&client, node).await;
    })
    .await;
}

/// A static pod has the volumes that need no API server; one that refers to an object of it is refused, and says which
/// kind in the node's log.
#[tokio::test]
async fn a_static_pod_has_volumes_of_its_node() {
    with_temp_ns(async |client, ns| {
        let home = &suite().await.home;
        let files = Files::new(home, "with-volumes");
        let shared = home.folder("static-host-path").unwrap();
        fs::write(shared.join("note"), "of the node").unwrap();
        let image = &suite().await.actor.tagged;
        let args = [
            "write",
            "/disk/a",
            "x",
            "same",
            "/pod/namespace",
            ns,
            "stat",
            "/image/actor",
            "same",
            "/host/note",
            "of the node",
            "say",
            "well",
            "sleep",
            "600",
        ];
        let mut web = pod("web", ns, image, &args);
        web["spec"]["volumes"] = json!([
            { "name": "disk", "emptyDir": {} },
            { "name": "pod", "downwardAPI": { "items": [
                { "path": "namespace", "fieldRef": { "fieldPath": "metadata.namespace" } },
            ] } },
            { "name": "image", "image": { "reference": image } },
            { "name": "host", "hostPath": { "path": shared } },
        ]);
        web["spec"]["containers"][0]["volumeMounts"] = ["disk", "pod", "image", "host"]
            .map(|name| json!({ "name": name, "mountPath": format!("/{name}") }))
            .into_iter()
            .collect();
        files.write("web.yaml", &web);
        let mut refers = pod("refers", ns, image, &["say", "never"]);
        refers["spec"]["volumes"] = json!([{ "name": "v", "configMap": { "name": "c" } }]);
        files.write("refers.yaml", &refers);
        let options = files.options().flag(format!("--allow-host-path={}", shared.display()));
        let node = own_node("with-volumes-node", &options).await;
        let pods = Pods::new(&client, ns);
        let name = "web-with-volumes-node";
        pods.until(name, "running", running).await;
        let said = async || match pods.logs(name).await {
            log if log.ends_with("well\n") => Ok(()),
            log => Err(log),
        };
        wait::until("what the static pod says", SOON, said).await.unwrap();
        let log = fs::read_to_string(home.log(node.name())).unwrap();
        let refused =
            log.lines().find(|line| line.contains("refers.yaml")).unwrap_or_else(|| panic!("{log}"));
        assert!(refused.contains("configmaps (via configmap volumes)"), "{refused}");
        remove(&client, node).await;
    })
    .await;
}

/// The pods of a URL are static pods as those of files are: they come, change and go with its answer, and an answer that is
/// none changes nothing. The headers that it is asked with are shown to nobody.
#[tokio::test]
async fn a_static_pod_goes_by_its_url() {
    with_temp_ns(async |client, ns| {
        let image = &suite().await.actor.tagged;
        let manifests = Manifests::serve("s3cret").await;
        let list =
            |pods: &[Value]| json!({ "apiVersion": "v1", "kind": "PodList", "items": pods }).to_string();
        let web = |says: &str| pod("web", ns, image, &["say", says, "sleep", "600"]);
        manifests.say(&list(&[web("one"), pod("other", ns, image, &["sleep", "600"])]));
        let options = Options::default()
            .config("staticPodURL", json!(format!("http://{}/pods", manifests.address)))
            .config("httpCheckFrequency", json!("1s"))
            .flag("--manifest-url-header=X-Token:s3cret".to_owned());
        let node = own_node("url-node", &options).await;
        let pods = Pods::new(&client, ns);
        let name = "web-url-node";
        let one = pods.until(name, "running", running).await;
        let source = one.metadata.annotations.as_ref().unwrap()["kubernetes.io/config.source"].clone();
        assert_eq!(source, "http");
        let other = pods.until("other-url-node", "running", running).await;

        manifests.say("kind: [");
        manifests.is_asked_again().await;
        manifests.say(&list(&[web("two"), pod("other", ns, image, &["sleep", "600"])]));
        let is_second = |pod: &Pod| mirrored(pod) != mirrored(&one) && running(pod);
        pods.until(name, "the second version", is_second).await;
        let still = pods.api().get("other-url-node").await.unwrap();
        assert_eq!(container(&still).unwrap().container_id, container(&other).unwrap().container_id);

        let raw = |what: &str| format!("/api/v1/nodes/{}/proxy/{what}", node.name());
        for what in ["configz", "flagz"] {
            let shown = suite().await.cluster.kubectl(&["get", "--raw", &raw(what)]).await.unwrap();
            assert!(shown.contains("<masked>") && !shown.contains("s3cret"), "{shown}");
        }
        manifests.say("");
        for gone in [name, "other-url-node"] {
            pods.gone(gone).await;
        }
        let log = fs::read_to_string(suite().await.home.log(node.name())).unwrap();
        assert!(log.contains("static pods stay as they are") && !log.contains("s3cret"), "{log}");
        remove(&client, node).await;
    })
    .await;
}

/// A mirror whose file was removed while the node was down goes when the node is back; a pod whose file is
/// still there has gone on meanwhile.
#[tokio::test]
async fn mirrors_are_set_right_after_a_restart() {
    with_temp_ns(async |client, ns| {
        let files = Files::new(&suite().await.home, "restarted-files");
        let image = &suite().await.actor.tagged;
        for name in ["left", "stays"] {
            files.write(&format!("{name}.yaml"), &pod(name, ns, image, &["sleep", "600"]));
        }
        let mut node = files.node("static-restarted-node").await;
        let pods = Pods::new(&client, ns);
        pods.until("left-static-restarted-node", "running", running).await;
        let before = pods.until("stays-static-restarted-node", "running", running).await;
        assert!(node.stop().await.unwrap().success());
        files.remove("left.yaml");
        node.start_again().await.unwrap();
        pods.gone("left-static-restarted-node").await;
        let after = pods.api().get("stays-static-restarted-node").await.unwrap();
        assert_eq!(after.metadata.uid, before.metadata.uid);
        assert_eq!(container(&after).unwrap().container_id, container(&before).unwrap().container_id);
        assert_eq!(restarts(&after), 0);
        remove(&client, node).await;
    })
    .await;
}

/// Static pods start, and go on over a restart of the node, while there is no API server; when it is back,
/// their mirrors show them.
#[tokio::test]
async fn no_api_server_is_needed() {
    let home = Home::temporary().unwrap();
    let cluster = Cluster::start(&home).await.unwrap();
    let (_registry, actor) = start_registry(&home).await.unwrap();
    let image = &actor.tagged;
    let files = Files::new(&home, "files");
    let mut node = Node::start(&home, &cluster, "alone-node", &files.options()).await.unwrap();
    let client = cluster.client().await.unwrap();
    await_ready(&client, node.name()).await.unwrap();

    cluster.stop_apiserver().await.unwrap();
    files.write("early.yaml", &pod("early", "default", image, &["say", "early", "sleep", "600"]));
    await_log(&node, "early").await;
    assert!(node.stop().await.unwrap().success());
    node.start_again().await.unwrap();
    files.write("late.yaml", &pod("late", "default", image, &["say", "late", "sleep", "600"]));
    await_log(&node, "late").await;

    cluster.start_apiserver().await.unwrap();
    let pods: Api<Pod> = Api::default_namespaced(client);
    for name in ["early", "late"] {
        let mirror = format!("{name}-alone-node");
        let shown = wait::object(pods.clone(), &mirror, "running", SOON, |pod| pod.is_some_and(running));
        assert_eq!(restarts(&shown.await.unwrap().unwrap()), 0, "{name}");
        let log = pods.logs(&mirror, &LogParams::default()).await.unwrap();
        assert_eq!(log, format!("{name}\n"));
    }
}

/// Waits until the static pod of that name has said its name.
async fn await_log(node: &Node, name: &str) {
    let said = || -> Option<String> {
        let folders = fs::read_dir(node.pod_logs()).ok()?.flatten();
        let prefix = format!("default_{name}-{}_", node.name());
        let mut own = folders.filter(|folder| folder.file_name().to_string_lossy().starts_with(&prefix));
        fs::read_to_string(own.next()?.path().join("main/0.log")).ok()
    };
    wait::until(&format!("the log of {name}"), SOON, async || match said() {
        Some(log) if log.contains(name) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
}

/// The hash of the static pod that a mirror shows.
fn mirrored(pod: &Pod) -> Option<String> {
    pod.metadata.annotations.as_ref()?.get(MIRROR).cloned()
}

/// A pod of one container that runs the actor guest.
fn pod(name: &str, namespace: &str, image: &str, args: &[&str]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "containers": [{ "name": "main", "image": image, "args": args }] },
    })
}

/// A server whose answer describes static pods, for those who show its token.
struct Manifests {
    address: SocketAddr,
    text: watch::Sender<String>,
    asked: watch::Receiver<usize>,
    _server: AbortOnDropHandle<()>,
}

impl Manifests {
    async fn serve(token: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (text, said) = watch::channel(String::new());
        let (count, asked) = watch::channel(0);
        let server = tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match connection.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => break,
                    }
                }
                let may =
                    String::from_utf8_lossy(&head).lines().any(|line| line == format!("x-token: {token}"));
                let text = if may { said.borrow().clone() } else { "who is there?".to_owned() };
                let status = if may { "200 OK" } else { "401 Unauthorized" };
                let answer = format!(
                    "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{text}",
                    text.len()
                );
                // Whoever has gone does not hear it.
                let _ = connection.write_all(answer.as_bytes()).await;
                count.send_modify(|count| *count += 1);
            }
        });
        Self { address, text, asked, _server: AbortOnDropHandle::new(server) }
    }

    fn say(&self, text: &str) {
        self.text.send_replace(text.to_owned());
    }

    /// Waits until what is said now was heard.
    async fn is_asked_again(&self) {
        let mut asked = self.asked.clone();
        let before = *asked.borrow();
        let again = asked.wait_for(|count| *count >= before + 2);
        tokio::time::timeout(SOON, again).await.expect("nobody asks").unwrap();
    }
}

/// A node's folder of static pods.
struct Files(PathBuf);

impl Files {
    fn new(home: &Home, name: &str) -> Self {
        Self(home.folder(name).unwrap())
    }

    fn options(&self) -> Options {
        Options::default().config("staticPodPath", json!(self.0))
    }

    async fn node(&self, name: &str) -> Node {
        own_node(name, &self.options()).await
    }

    fn write(&self, name: &str, pod: &Value) {
        let text = if name.ends_with(".json") {
            serde_json::to_string_pretty(pod).unwrap()
        } else {
            serde_yaml_ng::to_string(pod).unwrap()
        };
        self.write_text(name, &text);
    }

    fn write_text(&self, name: &str, text: &str) {
        fs::write(self.0.join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.0.join(name)).unwrap();
    }
}

/// Ends the node first: it would register again. Its mirrors go with it.
async fn remove(client: &Client, node: Node) {
    let name = node.name().to_owned();
    drop(node);
    Api::<NodeObject>::all(client.clone()).delete(&name, &DeleteParams::default()).await.unwrap();
}
