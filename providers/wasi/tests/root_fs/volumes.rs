//! Mounts: directories and single files, nested, twice, read-only.

use std::fs;

use kubewasm_wasi::spec::RootSpec;

use crate::world::{World, mount, mounts, ok, read_only};

/// What a guest writes into a volume is on the host, and what the host writes is in the guest.
#[tokio::test]
async fn a_directory_is_shared_with_the_host() {
    let world = World::new().await;
    let data = world.tree("data", &[("in", "from the host")]);
    let root = mounts(vec![mount(&data, "/var/lib/data")]);
    let argv = ["cat", "/var/lib/data/in", "write", "/var/lib/data/out", "from the guest", "ls", "/var/lib"];
    assert_eq!(world.run(root, &argv).await, ok("from the hostdata\n"));
    assert_eq!(fs::read_to_string(data.join("out")).unwrap(), "from the guest");
}

/// A single file is mounted over the image's, or where there was none; the image does not change.
#[tokio::test]
async fn single_files_have_their_places() {
    let world = World::new().await;
    let files = world.tree("files", &[("hosts", "1.2.3.4 pod\n"), ("log", "")]);
    let image = world.tree("image", &[("etc/hosts", "of the image")]);
    let root = RootSpec {
        image: Some(image.clone()),
        read_only: true,
        ..mounts(vec![
            mount(&files.join("hosts"), "/etc/hosts"),
            mount(&files.join("log"), "/dev/termination-log"),
        ])
    };
    let argv =
        ["cat", "/etc/hosts", "write", "/dev/termination-log", "done", "try", "rm", "/dev/termination-log"];
    let ran = world.run(root, &argv).await;
    assert_eq!(ran, ok("1.2.3.4 pod\ncannot rm /dev/termination-log: Read-only file system\n"));
    assert_eq!(fs::read_to_string(files.join("log")).unwrap(), "done");
    assert_eq!(fs::read_to_string(image.join("etc/hosts")).unwrap(), "of the image");
}

/// What is mounted read-only cannot be changed, whatever is around it.
#[tokio::test]
async fn read_only_mounts_cannot_be_changed() {
    let world = World::new().await;
    let data = world.tree("data", &[("file", "x"), ("dir/file", "y")]);
    let root = mounts(vec![read_only(&data, "/data"), read_only(&data.join("file"), "/file")]);
    let argv = [
        "try",
        "write",
        "/data/file",
        "z",
        "try",
        "append",
        "/file",
        "z",
        "try",
        "mkdir",
        "/data/new",
        "try",
        "rm",
        "/data/dir/file",
        "try",
        "rename",
        "/data/file",
        "/data/moved",
        "try",
        "rename",
        "/data/file",
        "/moved",
        "cd",
        "/data",
        "try",
        "rm",
        "dir/file",
        "cat",
        "file",
        "write",
        "/beside",
        "w",
    ];
    let expected = "cannot open /data/file: Read-only file system\n\
        cannot open /file: Read-only file system\n\
        cannot mkdir /data/new: Read-only file system\n\
        cannot rm /data/dir/file: Read-only file system\n\
        cannot rename /data/file: Read-only file system\n\
        cannot rename /data/file: Cross-device link\n\
        cannot rm dir/file: Read-only file system\n\
        x\n";
    assert_eq!(world.run(root, &argv).await, ok(expected));
    assert_eq!(fs::read_to_string(data.join("dir/file")).unwrap(), "y");
}

/// Mounts inside mounts, given in any order.
#[tokio::test]
async fn mounts_are_nested() {
    let world = World::new().await;
    let [a, b, c] = ["a", "b", "c"].map(|name| world.tree(name, &[(name, name)]));
    let root = mounts(vec![
        read_only(&c, "/m/one/two"),
        mount(&b, "/m/one"),
        read_only(&world.tree("outer", &[("one/covered", "")]), "/m"),
        mount(&a.join("a"), "/m/one/file"),
    ]);
    let argv =
        ["ls", "/m", "ls", "/m/one", "ls", "/m/one/two", "cat", "/m/one/file", "write", "/m/one/new", "x"];
    assert_eq!(world.run(root, &argv).await, ok("one\nb\nfile\ntwo\nc\na\n"));
    assert_eq!(fs::read_to_string(b.join("new")).unwrap(), "x");
    assert!(a.join("a").exists() && !world.path().join("outer/one/new").exists());
}

/// One volume at two places, once to be written and once only to be read.
#[tokio::test]
async fn one_volume_is_mounted_twice() {
    let world = World::new().await;
    let data = world.tree("data", &[]);
    let root = mounts(vec![mount(&data, "/rw"), read_only(&data, "/ro")]);
    let argv = ["write", "/rw/file", "x", "cat", "/ro/file", "say", "", "try", "write", "/ro/file", "y"];
    assert_eq!(world.run(root, &argv).await, ok("x\ncannot open /ro/file: Read-only file system\n"));
}

/// A volume at `/` is the root itself, and others can be mounted in it.
#[tokio::test]
async fn a_volume_can_be_the_root() {
    let world = World::new().await;
    let (root, data) = (world.tree("volume", &[("file", "x")]), world.tree("data", &[("inner", "y")]));
    let spec = mounts(vec![mount(&data, "/data"), mount(&root, "/")]);
    let argv = ["ls", "/", "cat", "/data/inner", "write", "/new", "z"];
    assert_eq!(world.run(spec, &argv).await, ok("data\nfile\ny\n"));
    assert_eq!(fs::read_to_string(root.join("new")).unwrap(), "z");
    let spec = mounts(vec![read_only(&root, "/")]);
    let ran = world.run(spec, &["try", "write", "/new", "w", "cat", "/new"]).await;
    assert_eq!(ran, ok("cannot open /new: Read-only file system\nz\n"));
    let error = world.refusal(mounts(vec![mount(&root.join("file"), "/")]), "a file").await.to_string();
    assert!(error.contains("cannot mount ") && error.contains("at /: Not a directory"), "{error}");
}

/// Renames stay inside a mount: between two of them there are none.
#[tokio::test]
async fn renames_do_not_cross_mounts() {
    let world = World::new().await;
    let (a, b) = (world.tree("a", &[("file", "x")]), world.tree("b", &[]));
    let root = mounts(vec![mount(&a, "/a"), mount(&b, "/b")]);
    let argv = [
        "try", "rename", "/a/file", "/b/file", "try", "link", "/a/file", "/file", "rename", "/a/file",
        "/a/moved", "ls", "/a",
    ];
    let expected =
        "cannot rename /a/file: Cross-device link\ncannot link /a/file: Cross-device link\nmoved\n";
    assert_eq!(world.run(root, &argv).await, ok(expected));
}

/// What cannot be mounted keeps the container from starting, and nothing of it is left.
#[tokio::test]
async fn what_cannot_be_mounted_is_named() {
    let world = World::new().await;
    let data = world.linked_tree("data", &[("file", "x")], &[("link", "file"), ("dirlink", ".")]);
    let missing = data.join("missing");
    let long = "/x".repeat(3000);
    for (mounts, expected) in [
        (vec![mount(&data, "/data"), mount(&missing, "/gone")], "at /gone: No such file or directory"),
        (vec![mount(&data.join("link"), "/l")], "at /l: a part of its path is a symbolic link"),
        (vec![mount(&data.join("dirlink/file"), "/l")], "at /l: a part of its path is a symbolic link"),
        (
            vec![read_only(&data, "/ro"), mount(&data, "/ro/new")],
            "cannot make /ro/new in the container's file system: Read-only",
        ),
        (
            vec![mount(&data, "/d"), mount(&data, "/d/file")],
            "cannot make /d/file in the container's file system: Not a directory",
        ),
        (
            vec![mount(&data, "/d"), mount(&data.join("file"), "/d/sub"), mount(&data, "/d/sub/sub")],
            "Not a directory",
        ),
        (vec![mount(&data, &long)], "has more than 4095 bytes"),
    ] {
        let error = world.refusal(RootSpec { mounts, ..RootSpec::default() }, expected).await.to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(world.mounts(), [""; 0]);
    }
}
