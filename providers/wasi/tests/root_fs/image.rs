//! The files of an image, and what a container writes over them.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use kubewasm_wasi::spec::{InstanceSpec, RootSpec};
use nix::{
    errno::Errno,
    mount::{MntFlags, MsFlags, mount, umount2},
};

use crate::world::{Ran, World, ok};

fn image(world: &World) -> RootSpec {
    let files = [("etc/motd", "hello"), ("bin/tool", "tool"), ("srv/a/b", "deep")];
    let links = [("link", "etc/motd"), ("usr/tool", "../bin/tool")];
    RootSpec { image: Some(world.linked_tree("image", &files, &links)), ..RootSpec::default() }
}

/// A container changes its own view of an image: other containers and the image stay as they are.
#[tokio::test]
async fn what_a_container_writes_is_its_own() {
    let world = World::new().await;
    let image = image(&world);
    let argv = [
        "same",
        "/etc/motd",
        "hello",
        "same",
        "/link",
        "hello",
        "same",
        "/usr/tool",
        "tool",
        "write",
        "/etc/motd",
        "changed",
        "append",
        "/link",
        "!",
        "write",
        "/etc/new",
        "new",
        "rm",
        "/bin/tool",
        "rename",
        "/srv",
        "/var",
        "mkdir",
        "/srv",
        "cat",
        "/etc/motd",
        "cat",
        "/var/a/b",
        "ls",
        "/",
        "ls",
        "/srv",
    ];
    let changed = "changed!deepbin\netc\nlink\nsrv\ntmp\nusr\nvar\n";
    assert_eq!(world.run(image.clone(), &argv).await, ok(changed));
    assert_eq!(world.run(image.clone(), &argv).await, ok(changed), "the next one begins anew");
    let root = image.image.unwrap();
    assert_eq!(fs::read_to_string(root.join("etc/motd")).unwrap(), "hello");
    assert!(!root.join("etc/new").exists() && root.join("bin/tool").exists() && !root.join("tmp").exists());
}

/// With a read-only root nothing can be changed, and the guest is told so.
#[tokio::test]
async fn a_read_only_root_cannot_be_changed() {
    let world = World::new().await;
    let image = RootSpec { read_only: true, ..image(&world) };
    let ran = world
        .run(
            image.clone(),
            &[
                "cat",
                "/etc/motd",
                "say",
                "",
                "try",
                "write",
                "/etc/motd",
                "x",
                "try",
                "write",
                "/new",
                "x",
                "try",
                "write",
                "/tmp/x",
                "x",
                "try",
                "mkdir",
                "/dir",
                "try",
                "rm",
                "/bin/tool",
                "try",
                "rename",
                "/bin",
                "/sbin",
                "try",
                "symlink",
                "x",
                "/y",
                "try",
                "link",
                "/bin/tool",
                "/tool",
                "try",
                "rmdir",
                "/tmp",
                "ls",
                "/",
            ],
        )
        .await;
    let expected = "hello\n\
        cannot open /etc/motd: Read-only file system\n\
        cannot open /new: Read-only file system\n\
        cannot open /tmp/x: Read-only file system\n\
        cannot mkdir /dir: Read-only file system\n\
        cannot rm /bin/tool: Read-only file system\n\
        cannot rename /bin: Read-only file system\n\
        cannot symlink /y: Read-only file system\n\
        cannot link /bin/tool: Read-only file system\n\
        cannot rmdir /tmp: Read-only file system\n\
        bin\netc\nlink\nsrv\ntmp\nusr\n";
    assert_eq!(ran, ok(expected));
    let empty = RootSpec { read_only: true, ..RootSpec::default() };
    let ran = world.run(empty, &["ls", "/", "try", "mkdir", "/x"]).await;
    assert_eq!(ran, ok("tmp\ncannot mkdir /x: Read-only file system\n"));
}

/// A module that came without files has an empty root, which it can write to.
#[tokio::test]
async fn a_container_without_an_image_has_a_root_of_its_own() {
    let world = World::new().await;
    let argv = ["ls", "/", "write", "/tmp/a", "x", "mkdir", "/d", "write", "/d/b", "y", "cat", "/d/b"];
    assert_eq!(world.run(RootSpec::default(), &argv).await, ok("tmp\ny\n"));
    assert_eq!(world.run(RootSpec::default(), &argv).await, ok("tmp\ny\n"), "the next one begins anew");
    assert_eq!(world.mounts(), [""; 0]);
}

/// The directory for temporary files is there, and anybody's.
#[tokio::test]
async fn temporary_files_have_their_directory() {
    let world = World::new().await;
    let spec = world.spec(image(&world), &["write", "/tmp/x", "y"]);
    assert_eq!(world.run_spec(&spec).await, ok(""));
    let tmp = spec.root.scratch.unwrap().join("upper/tmp");
    assert_eq!(fs::metadata(tmp).unwrap().permissions().mode() & 0o7777, 0o1777);
}

/// The working directory is made where the image has none, in a read-only root, too.
#[tokio::test]
async fn the_working_directory_is_there() {
    let world = World::new().await;
    for read_only in [false, true] {
        let root = RootSpec { read_only, ..image(&world) };
        let spec = world.spec(root, &["stat", "/job/here", "ls", "/job"]);
        let spec = InstanceSpec { working_dir: Some("/job/here".into()), ..spec };
        assert_eq!(world.run_spec(&spec).await, ok("directory\nhere\n"));
    }
    let spec = world.spec(image(&world), &["say", "started"]);
    let spec = InstanceSpec { working_dir: Some("/etc/motd/here".into()), ..spec };
    let error = world.agent.start("node", &spec).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot make /etc/motd/here in the container's file system: Not a directory (os error 20)"
    );
}

/// Hard links of one file stay one file.
#[tokio::test]
async fn hard_links_are_links() {
    let world = World::new().await;
    let argv = [
        "write", "/a", "one", "link", "/a", "/b", "append", "/b", "two", "cat", "/a", "rm", "/a", "cat", "/b",
    ];
    assert_eq!(world.run(image(&world), &argv).await, ok("onetwoonetwo\n"));
}

/// What fails says why, and ends the guest that does not expect it.
#[tokio::test]
async fn failures_have_their_names() {
    let world = World::new().await;
    for (argv, expected) in [
        (&["cat", "/missing"][..], "cannot open /missing: No such file or directory\n"),
        (&["cat", "/etc/motd/x"], "cannot open /etc/motd/x: Not a directory\n"),
        (&["mkdir", "/etc"], "cannot mkdir /etc: File exists\n"),
        (&["rmdir", "/etc"], "cannot rmdir /etc: Directory not empty\n"),
    ] {
        assert_eq!(world.run(image(&world), argv).await, Ran { code: 1, text: expected.into() });
    }
}

/// The place where containers are made, on a file system that cannot be the upper layer of an overlay: another overlay.
struct NoUpperLayer(PathBuf);

impl NoUpperLayer {
    /// `None`, with a line that says so, where this process may not mount.
    fn below(world: &World) -> Option<Self> {
        let layer = |name: &str| world.tree(name, &[]).display().to_string();
        let place = world.tree("pods", &[]);
        let options =
            format!("lowerdir={},upperdir={},workdir={}", layer("lower"), layer("upper"), layer("work"));
        match mount(Some("overlay"), &place, Some("overlay"), MsFlags::empty(), Some(options.as_str())) {
            Ok(()) => Some(Self(place)),
            Err(Errno::EPERM) => {
                eprintln!("not tested: this process may not mount");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }
}

impl Drop for NoUpperLayer {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// Where the kernel makes no overlay, the files of the image are copied for each container, which makes no difference to
/// a guest.
#[tokio::test]
async fn without_an_overlay_the_image_is_copied() {
    let world = World::new().await;
    let Some(_place) = NoUpperLayer::below(&world) else { return };
    let image =
        world.linked_tree("image", &[("etc/motd", "hello"), ("srv/list", "one")], &[("link", "etc/motd")]);
    let argv = [
        "cat",
        "/link",
        "write",
        "/etc/motd",
        "changed",
        "rename",
        "/srv",
        "/moved",
        "cat",
        "/moved/list",
        "say",
        "",
        "ls",
        "/",
    ];
    for attempt in ["first", "second"] {
        let spec = world.spec(RootSpec { image: Some(image.clone()), ..RootSpec::default() }, &argv);
        assert_eq!(world.run_spec(&spec).await, ok("helloone\netc\nlink\nmoved\ntmp\n"), "{attempt}");
        let scratch = spec.root.scratch.unwrap();
        assert_eq!(fs::read_to_string(scratch.join("root/etc/motd")).unwrap(), "changed", "it is a copy");
    }
    let root = RootSpec { image: Some(image.clone()), read_only: true, ..RootSpec::default() };
    let ran = world.run(root, &["try", "write", "/etc/motd", "changed", "cat", "/etc/motd"]).await;
    assert_eq!(ran, ok("cannot open /etc/motd: Read-only file system\nhello\n"));
    assert_eq!(fs::read_to_string(image.join("etc/motd")).unwrap(), "hello");
}
