//! `hostPath` volumes and their types.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixListener},
};

use kubewasm_tests::node::Options;
use serde_json::{Value, json};

use super::{follower, main};
use crate::{
    pods::Pods,
    suite::{own_node, suite, with_temp_ns},
};

/// A path is mounted when it is what the volume's type says, and made where the type says so. What it is instead is
/// told, and the pod goes on when that changes.
#[tokio::test]
async fn paths_of_the_node_are_of_their_types() {
    with_temp_ns(async |client, ns| {
        let (pods, image) = (Pods::new(&client, ns), follower().await);
        let root = suite().await.home.folder("typed-paths").unwrap();
        fs::create_dir(root.join("dir")).unwrap();
        fs::write(root.join("file"), "text").unwrap();
        let _socket = UnixListener::bind(root.join("socket")).unwrap();
        let options = Options::default().flag(format!("--allow-host-path={}", root.display()));
        let node = own_node("typed-paths-node", &options).await;
        let create = async |pod: &str, path: &str, kind: &str, args: &[&str]| {
            let mut container = main(&image, args);
            if path.ends_with("file") {
                container["volumeMounts"][0]["mountPath"] = json!("/file");
            }
            let spec: Value = json!({
                "nodeSelector": { "kubernetes.io/hostname": node.name() },
                "volumes": [{ "name": "v", "hostPath": { "path": root.join(path), "type": kind } }],
                "containers": [container],
            });
            pods.create(pod, spec).await;
        };
        let works: [(&str, &str, &str, &[&str]); 6] = [
            ("any", "dir", "", &["write", "/v/any", "x"]),
            ("directory", "dir", "Directory", &["write", "/v/directory", "x"]),
            ("file", "file", "File", &["until", "/file", "text"]),
            ("made-directory", "made/deep", "DirectoryOrCreate", &["write", "/v/note", "x"]),
            ("made-file", "made-file", "FileOrCreate", &["write", "/file", "x"]),
            ("present-file", "file", "FileOrCreate", &["until", "/file", "text"]),
        ];
        let wrong = [
            ("no-directory", "file", "Directory", "is not a directory"),
            ("no-file", "dir", "File", "is not a file"),
            ("no-new-file", "dir", "FileOrCreate", "is not a file"),
            ("absent", "later", "Directory", "is not a directory"),
        ];
        let refused = [
            ("socket", "socket", "Socket"),
            ("char-device", "dir", "CharDevice"),
            ("block-device", "dir", "BlockDevice"),
        ];
        for (pod, path, kind, args) in works {
            create(pod, path, kind, args).await;
        }
        for (pod, path, kind, _) in wrong {
            create(pod, path, kind, &["write", "/v/came", "x"]).await;
        }
        for (pod, path, kind) in refused {
            create(pod, path, kind, &[]).await;
        }
        for (pod, path, _, part) in wrong {
            let path = root.join(path);
            let expected = format!(
                "MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: {} {part}",
                path.display()
            );
            pods.event(pod, &expected, |event| event.message.as_deref() == Some(&expected)).await;
            assert_eq!(pods.waiting(pod, &["ContainerCreating"]).await.message, None);
        }
        for (pod, _, kind) in refused {
            let message =
                pods.waiting(pod, &["CreateContainerConfigError"]).await.message.unwrap_or_default();
            assert!(message.contains(&format!("a guest cannot use a hostPath of type {kind}")), "{message}");
        }
        for (pod, ..) in works {
            pods.phase(pod, "Succeeded").await;
        }
        let mode = |path: &str| fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("made/deep"), mode("made-file")), (0o755, 0o644));
        assert_eq!(fs::read_to_string(root.join("made-file")).unwrap(), "x");

        fs::create_dir(root.join("later")).unwrap();
        pods.phase("absent", "Succeeded").await;
        assert!(root.join("later/came").exists());
    })
    .await;
}
