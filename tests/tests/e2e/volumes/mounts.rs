//! What a container mounts where: parts of volumes, volumes inside others, and one twice.

use kubewasm_tests::registry::image::Content;
use serde_json::{Value, json};

use super::{change_config_map, create_config_map, create_secret, follower, logs_of, main};
use crate::{
    pods::{Pods, container, running},
    suite::{suite, with_temp_ns},
};

/// Mounts inside others, one volume at several places, and what may only be read.
#[tokio::test]
async fn mounts_are_nested_and_repeated() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let args = [
            "write", "/data/x", "1", "same", "/again/x", "1", "try", "write", "/again/x", "2",
            "write", "/data/inner/y", "3", "same", "/data/inner/y", "3",
            "write", "/data/inner/deep/z", "4", "same", "/data/sub/z", "4", "same", "/again/sub/z", "4",
            "try", "mkdir", "/data/inner/closed/d", "ls", "/data", "ls", "/data/inner",
        ];
        let spec = json!({
            "volumes": [{ "name": "a", "emptyDir": {} }, { "name": "b", "emptyDir": {} }],
            "containers": [{
                "name": "main", "image": suite().await.actor.tagged, "args": args,
                // The outer ones are not the first ones here.
                "volumeMounts": [
                    { "name": "a", "mountPath": "/data/inner/deep", "subPath": "sub" },
                    { "name": "b", "mountPath": "/data/inner/closed", "subPath": "closed", "readOnly": true },
                    { "name": "b", "mountPath": "/data/inner" },
                    { "name": "a", "mountPath": "/data", "mountPropagation": "HostToContainer" },
                    { "name": "a", "mountPath": "/again", "readOnly": true, "recursiveReadOnly": "IfPossible" },
                ],
            }],
        });
        pods.create("nested", spec).await;
        pods.phase("nested", "Succeeded").await;
        assert_eq!(
            pods.logs("nested").await,
            "cannot open /again/x: Read-only file system\n\
             cannot mkdir /data/inner/closed/d: Read-only file system\n\
             inner\nsub\nx\nclosed\ndeep\ny\n"
        );
    })
    .await;
}

/// Volumes inside those that may only be read: a Secret in a ConfigMap, beside its files and among them, and a Secret
/// and a file of it in an emptyDir. They stay when the ConfigMap changes.
#[tokio::test]
async fn mounts_inside_volumes_that_are_read_only() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        create_config_map(&client, ns, "app", json!({ "state": "a", "part": "first" })).await;
        create_secret(&client, ns, "keys", json!({ "key": "geheim" })).await;
        let items = json!([{ "key": "state", "path": "state" }, { "key": "part", "path": "conf.d/part" }]);
        let secret = |path: &str| json!({ "name": "keys", "mountPath": path, "readOnly": true });
        let reads =
            |paths: [&str; 4]| paths.iter().flat_map(|path| ["print", path]).map(String::from).collect();
        let paths = ["/etc/app/tls/key", "/etc/app/conf.d/tls/key", "/empty/tls/key", "/empty/key"];
        let mut args: Vec<String> = reads(paths);
        args.extend(
            ["until", "/etc/app/state", "b", "until", "/etc/app/conf.d/part", "second"].map(String::from),
        );
        args.extend(reads(paths));
        let spec = json!({
            "volumes": [
                { "name": "app", "configMap": { "name": "app", "items": items } },
                { "name": "keys", "secret": { "secretName": "keys" } },
                { "name": "empty", "emptyDir": {} },
            ],
            "containers": [{
                "name": "main", "image": image.tagged, "args": args,
                "volumeMounts": [
                    { "name": "app", "mountPath": "/etc/app" },
                    secret("/etc/app/tls"),
                    secret("/etc/app/conf.d/tls"),
                    { "name": "empty", "mountPath": "/empty", "readOnly": true },
                    secret("/empty/tls"),
                    { "name": "keys", "mountPath": "/empty/key", "subPath": "key" },
                ],
            }],
        });
        pods.create("nested", spec).await;
        pods.until("nested", "running", running).await;
        change_config_map(&client, ns, "app", json!({ "state": "b", "part": "second" })).await;
        pods.phase("nested", "Succeeded").await;
        assert_eq!(logs_of(&pods, "nested", "main").await, "geheim".repeat(8));
    })
    .await;
}

/// Sub-paths that cannot be: the container says which, and what is wrong with it.
#[tokio::test]
async fn hostile_sub_paths_are_refused() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let actor = &suite().await.actor;
        let table = [
            ("absolute", "$(ROOT)", "error SubPath `/etc` must not be an absolute path"),
            ("parent", "a/$(UP)/b", "unable to provision SubPath `a/../b`: must not contain '..'"),
            ("missing", "$(NONE)/a", "missing value for NONE"),
            (
                "through-a-file",
                "file/a",
                "failed to prepare subPath for volumeMount \"v\" of container \"main\"",
            ),
            (
                "dangling",
                "dangling/a",
                "failed to prepare subPath for volumeMount \"v\" of container \"main\"",
            ),
            (
                "to-the-root",
                "root/etc",
                "failed to prepare subPath for volumeMount \"v\" of container \"main\"",
            ),
        ];
        for (name, expression, _) in table {
            let mut container = main(actor, &["say", "never"]);
            container["env"] = json!([{ "name": "ROOT", "value": "/etc" }, { "name": "UP", "value": ".." }]);
            container["volumeMounts"][0]["subPathExpr"] = json!(expression);
            let mut first = main(
                actor,
                &[
                    "write",
                    "/v/file",
                    "x",
                    "symlink",
                    "nowhere",
                    "/v/dangling",
                    "symlink",
                    "../../../../../../..",
                    "/v/root",
                ],
            );
            first["name"] = json!("first");
            let spec = json!({
                "volumes": [{ "name": "v", "emptyDir": {} }],
                "initContainers": [first], "containers": [container],
            });
            pods.create(name, spec).await;
        }
        for (name, _, message) in table {
            let state = pods.waiting(name, &["CreateContainerConfigError"]).await;
            assert_eq!(state.message.as_deref(), Some(message), "{name}");
        }
    })
    .await;
}

/// `recursiveReadOnly: Enabled` is a promise about what is mounted inside a volume, which this node cannot make.
#[tokio::test]
async fn a_promise_to_be_recursively_read_only_is_not_made() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let mut container = main(&suite().await.actor, &["say", "never"]);
        container["volumeMounts"][0]["readOnly"] = json!(true);
        container["volumeMounts"][0]["recursiveReadOnly"] = json!("Enabled");
        let spec = json!({ "volumes": [{ "name": "v", "emptyDir": {} }], "containers": [container] });
        pods.create("promised", spec).await;
        let message =
            pods.waiting("promised", &["CreateContainerConfigError"]).await.message.unwrap_or_default();
        assert!(message.starts_with("volumeMounts.recursiveReadOnly cannot be honoured"), "{message}");
    })
    .await;
}

/// An image of files alone is a volume like any other, and so is a part of it; a module alone has no files.
#[tokio::test]
async fn an_image_without_a_module_is_mounted() {
    with_temp_ns(async |client, ns| {
        let (pods, suite) = (Pods::new(&client, ns), suite().await);
        let files = Content::Image {
            files: vec![
                ("words/en".to_owned(), b"yes".to_vec()),
                ("words/de".to_owned(), b"ja".to_vec()),
                ("note".to_owned(), b"of the image".to_vec()),
            ],
            entrypoint: Vec::new(),
            cmd: Vec::new(),
            env: Vec::new(),
        };
        let files = suite.registry.push("words:v1", &files).await.unwrap();
        let module = kubewasm_tests::guests::guest("actor.c").await.unwrap();
        let module = suite.registry.push("module-alone:v1", &Content::Artifact(module)).await.unwrap();
        let spec = |reference: &str, mounts: Value| {
            let mut container = main(&suite.actor, &["cat", "/v/note", "cat", "/part/de", "ls", "/part", "try", "write", "/part/fr", "oui"]);
            container["volumeMounts"] = mounts;
            json!({
                "volumes": [{ "name": "v", "image": { "reference": reference, "pullPolicy": "IfNotPresent" } }],
                "containers": [container],
            })
        };
        let both = json!([
            { "name": "v", "mountPath": "/v" },
            { "name": "v", "mountPath": "/part", "subPath": "words" },
        ]);
        pods.create("reads", spec(&files.tagged, both)).await;
        let absent = json!([{ "name": "v", "mountPath": "/part", "subPath": "none" }]);
        pods.create("absent", spec(&files.tagged, absent)).await;
        pods.create("alone", spec(&module.tagged, json!([{ "name": "v", "mountPath": "/v" }]))).await;
        let reads = pods.phase("reads", "Succeeded").await;
        assert!(container(&reads).is_some());
        assert_eq!(
            pods.logs("reads").await,
            "of the imagejade\nen\ncannot open /part/fr: Read-only file system\n"
        );
        for (name, part) in [
            ("absent", "failed to prepare subPath for volumeMount \"v\" of container \"main\""),
            ("alone", "has no files to mount: it is a module alone"),
        ] {
            let message = pods.waiting(name, &["CreateContainerConfigError"]).await.message.unwrap_or_default();
            assert!(message.contains(part), "{name}: {message}");
        }
    })
    .await;
}
