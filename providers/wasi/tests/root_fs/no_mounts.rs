//! A host that allows no mounts.

use std::fs;

use kubewasm_wasi::{spec::RootSpec, supervisor::SupervisorError};

use crate::world::{World, mount, mounts, ok, read_only};

/// Directories are preopened each for itself; what may not be written cannot be.
#[tokio::test]
async fn directories_are_preopened() {
    let world = World::without_mounts().await;
    let (data, image) = (world.tree("data", &[("in", "x")]), world.tree("image", &[("etc/motd", "hello")]));
    let root = RootSpec {
        image: Some(image.clone()),
        ..mounts(vec![mount(&data, "/data"), read_only(&data, "/data/ro")])
    };
    let argv = [
        "cat",
        "/etc/motd",
        "cat",
        "/data/in",
        "write",
        "/etc/motd",
        "changed",
        "write",
        "/data/out",
        "y",
        "cat",
        "/data/ro/out",
        "say",
        "",
        "try",
        "write",
        "/data/ro/out",
        "z",
        "write",
        "/tmp/file",
        "t",
        "ls",
        "/",
    ];
    let ran = world.run(root, &argv).await;
    assert_eq!(ran, ok("helloxy\ncannot open /data/ro/out: Operation not permitted\ndata\netc\ntmp\n"));
    assert_eq!(fs::read_to_string(image.join("etc/motd")).unwrap(), "hello");
    assert_eq!(fs::read_to_string(data.join("out")).unwrap(), "y");
}

/// Single files in the root are linked, or copied when they may not be written.
#[tokio::test]
async fn single_files_are_linked_or_copied() {
    let world = World::without_mounts().await;
    let files = world.tree("files", &[("log", ""), ("hosts", "localhost\n")]);
    let root = mounts(vec![
        mount(&files.join("log"), "/dev/termination-log"),
        read_only(&files.join("hosts"), "/etc/hosts"),
    ]);
    let argv =
        ["cat", "/etc/hosts", "write", "/dev/termination-log", "done", "try", "write", "/etc/hosts", "x"];
    assert_eq!(world.run(root, &argv).await.code, 0);
    assert_eq!(fs::read_to_string(files.join("log")).unwrap(), "done");
    assert_eq!(fs::read_to_string(files.join("hosts")).unwrap(), "localhost\n");
}

/// What cannot be shown is refused by name.
#[tokio::test]
async fn what_cannot_be_shown_is_refused_by_name() {
    let world = World::without_mounts().await;
    let data = world.tree("data", &[("file", "x")]);
    let root = mounts(vec![mount(&data, "/data"), mount(&data.join("file"), "/data/sub")]);
    let error = world.refusal(root, "a file in a mount").await;
    assert!(
        matches!(&error, SupervisorError::Config(text)
        if text.contains("single file") && text.contains("at /data/sub: it is inside another mount")),
        "{error}"
    );
    // Another file system, so that it cannot be linked.
    let other = tempfile::tempdir_in("/dev/shm").unwrap();
    fs::write(other.path().join("file"), "x").unwrap();
    let error = world.refusal(mounts(vec![mount(&other.path().join("file"), "/file")]), "another disk").await;
    assert!(
        matches!(&error, SupervisorError::Config(text)
        if text.contains("at /file: it cannot be linked there")),
        "{error}"
    );
}
