//! The file system that a guest sees, as far as pods say it.

use kubewasm_tests::{guests, registry::image::Content};
use serde_json::json;

use crate::{
    pods::Pods,
    suite::{suite, with_temp_ns},
};

/// An image with files beside the program, and a working directory that it does not have.
async fn image() -> String {
    let module = guests::guest("actor.c").await.unwrap();
    let text = |text: &str| text.as_bytes().to_vec();
    let image = Content::Image {
        files: vec![
            ("actor".to_owned(), module),
            ("etc/motd".to_owned(), text("welcome")),
            ("srv/data/list".to_owned(), text("one two")),
        ],
        entrypoint: vec!["/actor".to_owned()],
        cmd: Vec::new(),
        env: Vec::new(),
    };
    suite().await.registry.push("files:v1", &image).await.unwrap().tagged
}

/// A guest reads the files of its image, and what it writes over them is its own: the next container of the
/// image, and the next attempt of the same, begin anew.
#[tokio::test]
async fn containers_write_over_their_image() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let image = image().await;
        let argv = [
            "same",
            "/etc/motd",
            "welcome",
            "write",
            "/etc/motd",
            "changed",
            "rename",
            "/srv/data",
            "/srv/moved",
            "cat",
            "/srv/moved/list",
            "write",
            "/tmp/scratch",
            "x",
            "ls",
            "/",
        ];
        for name in ["first", "second"] {
            pods.run(name, &image, &argv).await;
            pods.phase(name, "Succeeded").await;
            let logs = pods.logs(name).await;
            assert!(logs.starts_with("one two"), "{logs}");
            for entry in ["actor", "srv", "tmp"] {
                assert!(logs.contains(entry), "{logs}");
            }
        }
        // Each attempt finds the file as the image has it, or would end with 1 instead.
        let script = ["same", "/etc/motd", "welcome", "write", "/etc/motd", "changed", "exit", "3"];
        let spec = json!({
            "restartPolicy": "OnFailure",
            "containers": [{ "name": "main", "image": image, "args": script }],
        });
        pods.create("restarts", spec).await;
        let pod = pods
            .until("restarts", "a second attempt that ended", |pod| {
                let status =
                    pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()?.first().cloned());
                // It may wait for its third attempt by the time that anybody looks.
                status.is_some_and(|status| {
                    let running = status.state.and_then(|state| state.running).is_some();
                    status.restart_count >= 1 && !running
                })
            })
            .await;
        let status = pod.status.unwrap().container_statuses.unwrap()[0].clone();
        let ended = status.state.unwrap().terminated.or(status.last_state.unwrap().terminated);
        assert_eq!(ended.unwrap().exit_code, 3);
    })
    .await;
}

/// `readOnlyRootFilesystem` is held, and the guest is told what it is.
#[tokio::test]
async fn a_read_only_root() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let argv = ["cat", "/etc/motd", "say", "", "try", "write", "/etc/motd", "x", "try", "mkdir", "/new"];
        let spec = json!({
            "restartPolicy": "Never",
            "containers": [{
                "name": "main",
                "image": image().await,
                "args": argv,
                "securityContext": { "readOnlyRootFilesystem": true },
            }],
        });
        pods.create("read-only", spec).await;
        pods.phase("read-only", "Succeeded").await;
        assert_eq!(
            pods.logs("read-only").await,
            "welcome\ncannot open /etc/motd: Read-only file system\ncannot mkdir /new: Read-only file system\n"
        );
    })
    .await;
}

/// The working directory is made when the image has none of the name, and relative names begin there.
#[tokio::test]
async fn the_working_directory_is_made() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let spec = json!({
            "restartPolicy": "Never",
            "containers": [{
                "name": "main",
                "image": image().await,
                "workingDir": "/job/here",
                "args": ["stat", "/job/here", "cd", "/job/here", "write", "file", "x", "cat", "/job/here/file"],
            }],
        });
        pods.create("working", spec).await;
        pods.phase("working", "Succeeded").await;
        assert_eq!(pods.logs("working").await, "directory\nx");
    })
    .await;
}
