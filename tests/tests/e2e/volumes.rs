//! Volumes, as guests see them and as they are on the node.

mod host_paths;
mod leftovers;
mod missing;
mod mounts;
mod projected;
mod tokens;
mod watches;

use std::{
    fs,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use kubewasm_tests::{
    guests,
    node::{Node, Options},
    registry::{Pushed, image::Content},
    wait,
};
use serde_json::{Value, json};

use crate::{
    pods::{Pods, container, restarts, running, terminated},
    suite::{NODE, SOON, own_node, suite, with_temp_ns},
};

/// `tests/guests/follower.c` as an image, with a file of its own beside the program.
pub(crate) async fn follower() -> Pushed {
    let module = guests::guest("follower.c").await.unwrap();
    let image = Content::Image {
        files: vec![("follower".to_owned(), module), ("data/note".to_owned(), b"from the image".to_vec())],
        entrypoint: vec!["/follower".to_owned()],
        cmd: Vec::new(),
        env: Vec::new(),
    };
    suite().await.registry.push("follower:v1", &image).await.unwrap()
}

/// A container named `main` that runs `image` with `args` and mounts the volume `v` at `/v`.
pub(crate) fn main(image: &Pushed, args: &[&str]) -> Value {
    let mount = json!({ "name": "v", "mountPath": "/v" });
    json!({ "name": "main", "image": image.tagged, "args": args, "volumeMounts": [mount] })
}

/// A container that does nothing, so that its pod and its volumes stay. Its status comes after that of `main`.
pub(crate) async fn holds() -> Value {
    json!({ "name": "waits", "image": suite().await.actor.tagged, "args": ["sleep", "600"] })
}

pub(crate) async fn create_config_map(client: &Client, ns: &str, name: &str, data: Value) {
    let object = serde_json::from_value(json!({ "metadata": { "name": name }, "data": data })).unwrap();
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
    config_maps.create(&PostParams::default(), &object).await.unwrap();
}

pub(crate) async fn create_secret(client: &Client, ns: &str, name: &str, data: Value) {
    let object = serde_json::from_value(json!({ "metadata": { "name": name }, "stringData": data })).unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), ns);
    secrets.create(&PostParams::default(), &object).await.unwrap();
}

pub(crate) async fn change_config_map(client: &Client, ns: &str, name: &str, data: Value) {
    let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
    let patch = Patch::Merge(json!({ "data": data }));
    config_maps.patch(name, &PatchParams::default(), &patch).await.unwrap();
}

/// The files of a ConfigMap change with it, while a reader never misses one and never sees half of one; a
/// sub-path keeps what it was.
#[tokio::test]
async fn a_config_map_is_followed() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        let letters = |letter: &str| json!({ "key": letter.repeat(50_000), "state": letter });
        create_config_map(&client, ns, "cm", letters("a")).await;
        let config_map = json!({ "name": "cm" });
        let spec = json!({
            "volumes": [{ "name": "v", "configMap": config_map }],
            "containers": [
                main(&image, &["steady", "/v/key", "10000", "until", "/v/state", "c"]),
                {
                    "name": "part", "image": image.tagged,
                    "args": ["until", "/v/state", "c", "print", "/part"],
                    "volumeMounts": [
                        { "name": "v", "mountPath": "/part", "subPath": "state" },
                        { "name": "v", "mountPath": "/v" },
                    ],
                },
            ],
        });
        pods.create("reader", spec).await;
        // Both of them: what a subPath shows is settled when its container starts.
        let both_run = |pod: &Pod| {
            let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
            statuses.filter(|status| status.started == Some(true)).count() == 2
        };
        pods.until("reader", "running", both_run).await;
        // Each change as soon as the one before is there: the reader meets them at every moment.
        let folder = folder(&pods.api().get("reader").await.unwrap(), "configmap", "v").await;
        let mut changes = 0;
        let change = async |letter: &str| {
            change_config_map(&client, ns, "cm", letters(letter)).await;
            holds_text(&folder.join("state"), letter).await;
        };
        let has_read = async || logs_of(&pods, "reader", "main").await.contains("reads");
        while changes < 20 || !has_read().await {
            change(["b", "a"][changes % 2]).await;
            changes += 1;
        }
        // The last one ends the pod, and with it its volumes.
        change_config_map(&client, ns, "cm", letters("c")).await;
        pods.phase("reader", "Succeeded").await;
        let log = logs_of(&pods, "reader", "main").await;
        assert_eq!(log, "10000 reads, some changes\n", "after {changes} changes");
        assert_eq!(logs_of(&pods, "reader", "part").await, "a");
    })
    .await;
}

pub(crate) async fn logs_of(pods: &Pods, pod: &str, container: &str) -> String {
    let params =
        kube::api::LogParams { container: Some(container.to_owned()), ..kube::api::LogParams::default() };
    pods.api().logs(pod, &params).await.unwrap()
}

/// A pod waits for an object that is missing, says so, and goes on when it is there; what is optional is
/// not waited for, and comes and goes.
#[tokio::test]
async fn a_missing_config_map_is_waited_for() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        let volume = |name: &str, optional: bool| {
            json!([{ "name": "v", "configMap": { "name": name, "optional": optional } }])
        };
        let args = ["until", "/v/key", "there"];
        pods.create("wants", json!({ "volumes": volume("late", false), "containers": [main(&image, &args)] }))
            .await;
        pods.event("wants", "FailedMount", |event| {
            event.reason.as_deref() == Some("FailedMount")
                && event.message.as_deref()
                    == Some("MountVolume.SetUp failed for volume \"v\" : configmap \"late\" not found")
        })
        .await;
        let state = pods.waiting("wants", &["ContainerCreating"]).await;
        assert_eq!(state.message, None);

        let args = ["until", "/v/key", "there", "say", "seen", "gone", "/v/key"];
        let spec = json!({ "volumes": volume("maybe", true), "containers": [main(&image, &args)] });
        pods.create("takes", spec).await;
        pods.until("takes", "running", running).await;
        create_config_map(&client, ns, "late", json!({ "key": "there" })).await;
        create_config_map(&client, ns, "maybe", json!({ "key": "there" })).await;
        pods.phase("wants", "Succeeded").await;
        let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), ns);
        // The guest has to have seen it before it goes.
        let has_seen = async || match pods.logs("takes").await.as_str() {
            "seen\n" => Ok(()),
            log => Err(format!("its log is {log:?}")),
        };
        wait::until("what the guest has seen", SOON, has_seen).await.unwrap();
        config_maps.delete("maybe", &DeleteParams::default()).await.unwrap();
        pods.phase("takes", "Succeeded").await;
    })
    .await;
}

/// The token that every pod gets is one that the API server knows as the pod's service account.
#[tokio::test]
async fn the_api_token_works() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
        let [token, namespace, ca] = ["token", "namespace", "ca.crt"].map(|name| format!("{folder}/{name}"));
        pods.run("asks", &image.tagged, &["print", &token, "until", &namespace, ns]).await;
        pods.run("trusts", &image.tagged, &["print", &ca]).await;
        pods.phase("asks", "Succeeded").await;
        let token = pods.logs("asks").await;
        let review = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": { "token": token } });
        let reviews: Api<k8s_openapi::api::authentication::v1::TokenReview> = Api::all(client.clone());
        let review = serde_json::from_value(review).unwrap();
        let answer = reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap();
        // The pod is over, and with it the token that was bound to it may be; its user is told all the same
        // as long as the pod is there.
        assert_eq!(answer.error, None);
        let user = answer.user.unwrap();
        assert_eq!(user.username, Some(format!("system:serviceaccount:{ns}:default")));
        assert_eq!(
            user.extra.unwrap()["authentication.kubernetes.io/pod-name"],
            ["asks".to_owned()]
        );
        pods.phase("trusts", "Succeeded").await;
        assert!(pods.logs("trusts").await.starts_with("-----BEGIN CERTIFICATE-----"));
    })
    .await;
}

/// Two containers share an emptyDir, in memory or on disk, and what is in it is still there after a restart.
#[tokio::test]
async fn an_empty_dir_is_shared_and_survives_restarts() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        let mount = json!([{ "name": "v", "mountPath": "/v" }]);
        for (name, source) in [("disk", json!({})), ("memory", json!({ "medium": "Memory" }))] {
            let spec = json!({
                "restartPolicy": "OnFailure",
                "volumes": [{ "name": "v", "emptyDir": source }],
                "containers": [
                    {
                        "name": "main", "image": suite().await.actor.tagged, "volumeMounts": mount,
                        "args": ["append", "/v/count", "x", "same", "/v/count", "xx"],
                    },
                    {
                        "name": "other", "image": image.tagged, "volumeMounts": mount,
                        "args": ["until", "/v/count", "xx"],
                    },
                ],
            });
            pods.create(name, spec).await;
            let pod = pods.phase(name, "Succeeded").await;
            assert_eq!(restarts(&pod), 1, "{name}");
        }
    })
    .await;
}

/// An emptyDir that grows beyond its limit costs its pod its life, and hardly any of its grace is left to it.
#[tokio::test]
async fn an_empty_dir_beyond_its_limit_is_evicted() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut greedy = main(&suite().await.actor, &["flood", "/v/file", "1", "sleep", "600"]);
        greedy["lifecycle"] = json!({ "preStop": { "sleep": { "seconds": 600 } } });
        let spec = json!({
            "terminationGracePeriodSeconds": 600,
            "volumes": [{ "name": "v", "emptyDir": { "sizeLimit": "64Ki" } }],
            "containers": [greedy],
        });
        pods.create("greedy", spec).await;
        let pod = pods.phase("greedy", "Failed").await;
        let status = pod.status.unwrap();
        assert_eq!(status.reason.as_deref(), Some("Evicted"));
        assert_eq!(
            status.message.as_deref(),
            Some("Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". ")
        );
    })
    .await;
}

/// A path of the node is refused unless the node's administrator has allowed it.
#[tokio::test]
async fn a_path_of_the_node_is_for_those_who_may() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        let folder = suite().await.home.folder("host-path").unwrap();
        fs::write(folder.join("note"), "of the node").unwrap();
        let spec = |node: &str| {
            json!({
                "nodeSelector": { "kubernetes.io/hostname": node },
                "volumes": [{ "name": "v", "hostPath": { "path": folder, "type": "Directory" } }],
                "containers": [main(&image, &["until", "/v/note", "of the node", "write", "/v/answer", "of the guest"])],
            })
        };
        pods.create("refused", spec(NODE)).await;
        let state = pods.waiting("refused", &["CreateContainerConfigError"]).await;
        let message = state.message.unwrap_or_default();
        assert!(message.contains("volume \"v\"") && message.contains("--allow-host-path"), "{message}");

        let options = Options::default().flag(format!("--allow-host-path={}", folder.display()));
        let node = own_node("host-path-node", &options).await;
        pods.create("allowed", spec(node.name())).await;
        pods.phase("allowed", "Succeeded").await;
        assert_eq!(fs::read_to_string(folder.join("answer")).unwrap(), "of the guest");
    })
    .await;
}

/// Claims that are bound to a local volume of the node, or to one of its folders, are mounted, and outlive their
/// pods. What an administrator has made a volume needs no other permission.
#[tokio::test]
async fn a_claim_is_mounted() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        for (kind, source) in [("local", json!({})), ("hostPath", json!({ "type": "DirectoryOrCreate" }))] {
            let folder = suite().await.home.folder("volumes").unwrap().join(kind);
            if kind == "local" {
                fs::create_dir(&folder).unwrap();
            }
            claim_and_mount(&client, ns, &pods, &image, (kind, source, &folder)).await;
        }
    })
    .await;
}

async fn claim_and_mount(
    client: &Client,
    ns: &str,
    pods: &Pods,
    image: &Pushed,
    (kind, mut source, folder): (&str, Value, &Path),
) {
    let name = kind.to_lowercase();
    source["path"] = json!(folder);
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = json!({
        "metadata": { "name": format!("{ns}-{name}") },
        "spec": {
            "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            kind: source,
            "claimRef": { "namespace": ns, "name": name },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [
                { "key": "kubernetes.io/hostname", "operator": "In", "values": [NODE] },
            ] }] } },
        },
    });
    let volume =
        volumes.create(&PostParams::default(), &serde_json::from_value(volume).unwrap()).await.unwrap();
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), ns);
    let claim = json!({
        "metadata": { "name": name },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "",
            "volumeName": volume.metadata.name, "resources": { "requests": { "storage": "1Gi" } },
        },
    });
    claims.create(&PostParams::default(), &serde_json::from_value(claim).unwrap()).await.unwrap();
    for (verb, args) in [("writes", ["write", "/v/kept", "yes"]), ("reads", ["until", "/v/kept", "yes"])] {
        let pod = format!("{name}-{verb}");
        let spec = json!({
            "volumes": [{ "name": "v", "persistentVolumeClaim": { "claimName": name } }],
            "containers": [main(image, &args)],
        });
        pods.create(&pod, spec).await;
        pods.phase(&pod, "Succeeded").await;
    }
    assert_eq!(fs::read_to_string(folder.join("kept")).unwrap(), "yes");
    volumes.delete(&volume.metadata.name.unwrap(), &DeleteParams::default()).await.unwrap();
}

/// The files of an image are mounted read-only.
#[tokio::test]
async fn the_files_of_an_image_are_mounted() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        let spec = json!({
            "volumes": [{ "name": "v", "image": { "reference": image.tagged, "pullPolicy": "IfNotPresent" } }],
            "containers": [main(&image, &["until", "/v/data/note", "from the image", "write", "/v/data/note", "x"])],
        });
        pods.create("reads", spec).await;
        let pod = pods.phase("reads", "Failed").await;
        assert_eq!(terminated(&pod).unwrap().exit_code, 1);
        assert!(pods.logs("reads").await.contains("/v/data/note: cannot be written"));
    })
    .await;
}

/// A sub-path of a volume leads nowhere else, whatever links a container has made there.
#[tokio::test]
async fn sub_paths_stay_in_their_volume() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let actor = &suite().await.actor;
        let spec = |link: &str, sub_path: Value| {
            let mut mount = json!({ "name": "v", "mountPath": "/part" });
            mount.as_object_mut().unwrap().extend(sub_path.as_object().unwrap().clone());
            json!({
                "volumes": [{ "name": "v", "emptyDir": {} }],
                "initContainers": [{
                    "name": "first", "image": actor.tagged,
                    "args": ["mkdir", "/v/inner", "symlink", link, "/v/link"],
                    "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
                }],
                "containers": [{
                    "name": "main", "image": actor.tagged, "args": ["write", "/part/note", "text", "stat", "/part/note"],
                    "env": [{ "name": "WHICH", "value": "link" }],
                    "volumeMounts": [mount],
                }],
            })
        };
        pods.create("inside", spec("inner", json!({ "subPath": "link" }))).await;
        pods.create("made", spec("inner", json!({ "subPathExpr": "new/$(WHICH)" }))).await;
        pods.create("outside", spec("../../../../../../../../../etc", json!({ "subPathExpr": "$(WHICH)" }))).await;
        for name in ["inside", "made"] {
            pods.phase(name, "Succeeded").await;
            assert_eq!(pods.logs(name).await, "file 4\n");
        }
        let state = pods.waiting("outside", &["CreateContainerConfigError"]).await;
        assert_eq!(
            state.message.as_deref(),
            Some("failed to prepare subPath for volumeMount \"v\" of container \"main\"")
        );
    })
    .await;
}

/// Nothing of a pod's volumes is left when it has ended, though its object is still there.
#[tokio::test]
async fn volumes_go_with_their_pod() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        let spec = json!({
            "volumes": [{ "name": "v", "emptyDir": {} }],
            "containers": [main(&image, &["write", "/v/note", "text"])],
        });
        pods.create("short", spec).await;
        let pod = pods.phase("short", "Succeeded").await;
        assert!(container(&pod).is_some());
        for folder in folders(&pod).await {
            has_gone(&folder).await;
        }
    })
    .await;
}

/// The folder of a volume on the shared node.
pub(crate) async fn folder(pod: &Pod, plugin: &str, name: &str) -> PathBuf {
    of_volume(&folders(pod).await, plugin, name)
}

/// The folder of a volume in one of these folders of its pod: on disk or in memory.
pub(crate) fn of_volume(folders: &[PathBuf; 2], plugin: &str, name: &str) -> PathBuf {
    let found = folders.iter().map(|folder| folder.join(format!("kubernetes.io~{plugin}")).join(name));
    found.into_iter().find(|folder| folder.is_dir()).unwrap_or_else(|| panic!("no {name} in {folders:?}"))
}

/// Waits until a file of the node holds this text.
pub(crate) async fn holds_text(path: &Path, text: &str) {
    wait::until(&format!("the text of {}", path.display()), SOON, async || match fs::read_to_string(path) {
        Ok(found) if found == text => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await
    .unwrap();
}

/// Waits until there is no such file on the node any more.
pub(crate) async fn has_gone(path: &Path) {
    wait::until(&format!("the end of {}", path.display()), SOON, async || match path.exists() {
        true => Err("it is still there".to_owned()),
        false => Ok(()),
    })
    .await
    .unwrap();
}

/// Where the shared node keeps the volumes of a pod.
pub(crate) async fn folders(pod: &Pod) -> [PathBuf; 2] {
    folders_of(&suite().await.node, pod)
}

/// Where a node keeps the volumes of a pod.
pub(crate) fn folders_of(node: &Node, pod: &Pod) -> [PathBuf; 2] {
    let uid = pod.metadata.uid.as_deref().unwrap();
    [node.root().join("pods").join(uid).join("volumes"), node.root().join("memory").join(uid)]
}
