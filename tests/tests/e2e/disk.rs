//! The node's disk: guests that take more than they may, and what happens when it is full.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use kubewasm_tests::{
    guests,
    node::{Node, Options},
    progress::say,
    registry::{Pushed, image::Content},
    wait,
};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::{
    hostile::lease_age,
    pods::{Pods, is, running},
    pressure::{await_node_event, await_pressure, evicted, is_target},
    suite::{NODE, SOON, own_node, suite, with_temp_ns},
};

/// A node whose root directory is a file system of so many MiB. `None`, and it is said why, where none can be made.
async fn node_with_disk(name: &str, mebibytes: u32, options: &Options) -> Option<Node> {
    let root = suite().await.home.folder(name).unwrap();
    let size = format!("size={mebibytes}m,mode=0700");
    if let Err(error) = mount(
        Some("tmpfs"),
        &root,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(size.as_str()),
    ) {
        say(&format!("skipped: a small file system cannot be mounted here ({error}); run the tests as root"));
        return None;
    }
    Some(own_node(name, options).await)
}

/// A guest that writes until there is no room, again and again, loses its place; the node tells of it while it
/// lasts, and takes nobody. The pod beside it loses no line, the lease stays young, and all is as before afterwards.
#[tokio::test]
async fn a_guest_that_fills_the_disk_goes_and_nobody_else() {
    with_temp_ns(async |client, ns| {
        let options = Options::default()
            .config("evictionHard", json!({ "nodefs.available": "10%", "nodefs.inodesFree": "5%" }))
            .config("evictionPressureTransitionPeriod", json!("10s"))
            .config("nodeLeaseDurationSeconds", json!(8));
        let Some(node) = node_with_disk("small-disk-node", 64, &options).await else { return };
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let bound = |args: &[&str]| {
            json!({
                "nodeName": node.name(),
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "containers": [{ "name": "main", "image": image, "args": args }],
            })
        };
        pods.create("behaves", bound(&["tick", "100"])).await;
        pods.until("behaves", "running", running).await;

        let flood: Vec<String> =
            (0..1000).flat_map(|n| ["try", "flood", &format!("/{n}"), "1000"].map(str::to_owned)).collect();
        pods.create("fills", bound(&flood.iter().map(String::as_str).collect::<Vec<_>>())).await;
        await_pressure(&client, node.name(), "Disk", "True").await;
        pods.create("late", bound(&["say", "hello"])).await;

        let pod = pods.phase("fills", "Failed").await;
        let told = evicted(&pod);
        assert!(
            told.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "),
            "{told}"
        );
        assert!(
            told.contains("Container main was using ") && told.contains(", request is 0, has larger"),
            "{told}"
        );
        is_target(&pod, told);
        pods.event("fills", "eviction", |event| event.reason.as_deref() == Some("Evicted")).await;
        let pod = pods.phase("late", "Failed").await;
        assert_eq!(evicted(&pod), "Pod was rejected: The node had condition: [DiskPressure]. ");
        await_node_event(
            &client,
            node.name(),
            "EvictionThresholdMet",
            "Attempting to reclaim ephemeral-storage",
        )
        .await;

        let lines = pods.logs("behaves").await.lines().count();
        let log = wait::until("more lines of the pod that behaves", SOON, async || {
            let log = pods.logs("behaves").await;
            if log.lines().count() > lines + 5 { Ok(log) } else { Err(log) }
        });
        let log = log.await.unwrap();
        for (number, line) in log.lines().enumerate() {
            assert_eq!(line, format!("tick {}", number + 1), "a line was lost:\n{log}");
        }
        let age = lease_age(&client, node.name()).await;
        assert!(age < Duration::from_secs(8), "the lease is {age:?} old");

        await_pressure(&client, node.name(), "Disk", "False").await;
        pods.create("after", bound(&["write", "/file", "x", "say", "hello"])).await;
        pods.phase("after", "Succeeded").await;
        assert!(running(&pods.api().get("behaves").await.unwrap()), "the pod that behaves is still there");
    })
    .await;
}

/// `limits.ephemeral-storage` holds for what a container writes and for its logs, and for all containers and volumes of
/// a pod together.
#[tokio::test]
async fn a_pod_beyond_its_limit_of_storage_goes() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = &suite().await.actor.tagged;
        let container = |name: &str, limit: Option<&str>, args: &[&str]| {
            let limits: Value = limit.map_or(json!({}), |limit| json!({ "ephemeral-storage": limit }));
            json!({
                "name": name, "image": image, "args": args, "resources": { "limits": limits },
                "volumeMounts": [{ "name": "v", "mountPath": "/v" }],
            })
        };
        let pod = async |name: &str, containers: Vec<Value>| {
            let volumes = json!([{ "name": "v", "emptyDir": {} }]);
            pods.create(name, json!({ "containers": containers, "volumes": volumes })).await;
        };
        let small = Some("4Mi");
        pod("behaves", vec![container("main", Some("100Mi"), &["flood", "/file", "6", "tick", "100"])]).await;
        pod("root", vec![container("main", small, &["flood", "/file", "6", "sleep", "600"])]).await;
        pod("volume", vec![container("main", small, &["flood", "/v/file", "6", "sleep", "600"])]).await;
        pod("log", vec![container("main", small, &["print", "200000", "sleep", "600"])]).await;
        let roomy = container("roomy", Some("1Gi"), &["sleep", "600"]);
        pod("one", vec![roomy, container("main", small, &["flood", "/file", "6", "sleep", "600"])]).await;

        let of_pod = "Pod ephemeral local storage usage exceeds the total limit of containers 4Mi. ";
        let of_container = "Container main exceeded its local ephemeral storage limit \"4Mi\". ";
        for (name, expected) in [("root", of_pod), ("volume", of_pod), ("log", of_pod), ("one", of_container)]
        {
            let pod = pods.phase(name, "Failed").await;
            assert_eq!(evicted(&pod), expected, "{name}");
            assert!(!is(&pod, "DisruptionTarget"), "it was its own doing: {name}");
        }
        assert!(running(&pods.api().get("behaves").await.unwrap()));

        let asks = json!({ "requests": { "ephemeral-storage": "900Ti" } });
        let main = json!({ "name": "main", "image": image, "resources": asks });
        pods.create("asks", json!({ "nodeName": NODE, "containers": [main] })).await;
        let pod = pods.phase("asks", "Failed").await;
        assert_eq!(pod.status.unwrap().reason.as_deref(), Some("OutOfephemeral-storage"));
    })
    .await;
}

/// Above the high threshold, images that nobody uses are removed, the least recently used first. Those of containers
/// that run stay, and those that are mounted, also when the agent is another one since.
#[tokio::test]
async fn images_that_nobody_uses_are_removed() {
    with_temp_ns(async |client, ns| {
        let options = Options::default()
            .config("imageGCHighThresholdPercent", json!(50))
            .config("imageGCLowThresholdPercent", json!(30))
            .config("imageMinimumGCAge", json!("1s"));
        let Some(mut node) = node_with_disk("few-images-node", 64, &options).await else { return };
        let (pods, name) = (Pods::new(&client, ns), node.name().to_owned());
        // Packed and unpacked, each takes some 8 MiB.
        let [unused, used, mounted, last] =
            [filler("unused").await, filler("used").await, filler("mounted").await, filler("last").await];
        let spec = |image: &str, policy: &str, args: &[&str]| {
            json!({
                "nodeSelector": { "kubernetes.io/hostname": name },
                "containers": [{ "name": "main", "image": image, "imagePullPolicy": policy, "args": args }],
            })
        };
        let often = "IfNotPresent";
        pods.create("unused", spec(&unused.tagged, often, &["say", "hello"])).await;
        pods.phase("unused", "Succeeded").await;
        pods.create("used", spec(&used.tagged, often, &["tick", "1000"])).await;
        let mut with_volume = spec(&suite().await.actor.tagged, often, &["tick", "1000"]);
        let volume = json!({ "reference": mounted.tagged, "pullPolicy": often });
        with_volume["volumes"] = json!([{ "name": "v", "image": volume }]);
        with_volume["containers"][0]["volumeMounts"] = json!([{ "name": "v", "mountPath": "/v" }]);
        pods.create("mounts", with_volume).await;
        for name in ["used", "mounts"] {
            pods.until(name, "running", running).await;
        }
        node.kill().unwrap();
        node.start_again().await.unwrap();

        pods.create("last", spec(&last.tagged, often, &["tick", "1000"])).await;
        pods.until("last", "running", running).await;
        let nodes: Api<NodeObject> = Api::all(client.clone());
        let lists = |node: &NodeObject, image: &Pushed| {
            let images = node.status.iter().flat_map(|status| status.images.iter().flatten());
            images.flat_map(|image| image.names.iter().flatten()).any(|name| *name == image.tagged)
        };
        let gone = |node: &NodeObject| !lists(node, &unused) && lists(node, &last);
        let object =
            wait::object(nodes, node.name(), "fewer images", SOON, |node| node.is_some_and(gone)).await;
        let object = object.unwrap().unwrap();
        assert!(lists(&object, &used) && lists(&object, &mounted), "{:?}", object.status.unwrap().images);

        // What is left is in use, and more than the low threshold allows.
        let message = "Failed to garbage collect required amount of images. Attempted to free ";
        await_node_event(&client, node.name(), "FreeDiskSpaceFailed", message).await;

        let never = |image: &Pushed| spec(&image.tagged, "Never", &["cat", "/name"]);
        for (name, image) in [("again-used", &used), ("again-mounted", &mounted)] {
            pods.create(name, never(image)).await;
            pods.phase(name, "Succeeded").await;
        }
        pods.create("again-unused", never(&unused)).await;
        pods.waiting("again-unused", &["ErrImageNeverPull"]).await;
    })
    .await;
}

/// An image of 4 MiB that do not compress, and the actor.
async fn filler(name: &str) -> Pushed {
    let fill: Vec<u8> = std::iter::repeat_with(rand::random::<u8>).take(4 << 20).collect();
    let files = vec![
        ("actor".to_owned(), guests::guest("actor.c").await.unwrap()),
        ("fill".to_owned(), fill),
        ("name".to_owned(), name.as_bytes().to_vec()),
    ];
    let content =
        Content::Image { files, entrypoint: vec!["/actor".to_owned()], cmd: Vec::new(), env: Vec::new() };
    suite().await.registry.push(&format!("filler-{name}:v1"), &content).await.unwrap()
}
