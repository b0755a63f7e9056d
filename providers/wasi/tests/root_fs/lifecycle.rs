//! When a root comes and goes, and who shares it.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Duration};

use kubewasm_host::program::Program;
use kubewasm_wasi::spec::{InstanceSpec, RootSpec};

use crate::{
    support,
    world::{World, mount, mounts, ok, read_only},
};

/// A root is the worker's own, and ends with the container. Execs see what the container sees.
#[tokio::test]
async fn a_root_lives_as_long_as_its_container() {
    let world = World::new().await;
    let (data, image) = (world.tree("data", &[]), world.tree("image", &[("file", "x")]));
    let root =
        RootSpec { image: Some(image), ..mounts(vec![mount(&data, "/data"), read_only(&data, "/ro")]) };
    let spec = world.spec(root, &["write", "/own", "of the container", "say", "ready", "sleep", "3600"]);
    world.agent.start("node", &spec).await.unwrap();
    world.until_printed(&spec, "ready\n").await;
    assert!(world.handed() >= 2, "its root and the directory of its log");
    assert_eq!(world.mounts(), [""; 0], "nobody else sees what is mounted");

    let ran =
        world.exec(&spec, &["cat", "/own", "write", "/data/exec", "x", "write", "/tmp/exec", "y"]).await;
    assert_eq!(ran, ok("of the container"));
    assert_eq!(world.exec(&spec, &["cat", "/ro/exec", "cat", "/tmp/exec"]).await, ok("xy"));

    world.agent.stop(&spec.id, Duration::ZERO).await.unwrap();
    assert_eq!(world.end_of(&spec).await.code, 137);
    assert_eq!(world.handed(), 0, "gone by the time the end is known");
    fs::remove_dir_all(spec.root.scratch.unwrap()).unwrap();
    assert!(data.join("exec").exists());
}

/// The directory of a container can be removed while its mounts are still there, and no volume is touched.
#[tokio::test]
async fn removing_a_directory_touches_no_volume() {
    let world = World::new().await;
    let data = world.tree("data", &[("precious", "x")]);
    let spec = world.spec(mounts(vec![mount(&data, "/data")]), &["say", "ready", "sleep", "3600"]);
    world.agent.start("node", &spec).await.unwrap();
    world.until_printed(&spec, "ready\n").await;
    fs::remove_dir_all(spec.root.scratch.as_ref().unwrap()).unwrap();
    assert!(data.join("precious").exists());
    world.agent.remove(&spec.id).await.unwrap();
    assert_eq!(world.handed(), 0);
}

/// A container that is started again while it runs goes on as it is: its directory is not emptied under it.
#[tokio::test]
async fn a_start_that_is_repeated_changes_nothing() {
    let world = World::new().await;
    let image = world.tree("image", &[("file", "x")]);
    let root = RootSpec { image: Some(image), ..RootSpec::default() };
    let spec = world.spec(root, &["write", "/own", "mine", "say", "ready", "sleep", "3600"]);
    world.agent.start("node", &spec).await.unwrap();
    world.until_printed(&spec, "ready\n").await;
    let before = world.handed();
    world.agent.start("node", &spec).await.unwrap();
    assert_eq!(world.exec(&spec, &["cat", "/own"]).await, ok("mine"));
    assert_eq!(world.handed(), before);
    // Another one in its place does not start.
    let other = InstanceSpec { id: "other".into(), ..spec.clone() };
    let error = world.agent.start("node", &other).await.unwrap_err().to_string();
    assert!(error.contains("is in use"), "{error}");
    assert_eq!(world.exec(&spec, &["cat", "/own"]).await, ok("mine"));
}

/// What is left of an attempt that was cut short is no obstacle, and is not seen by the next.
#[tokio::test]
async fn leftovers_are_no_obstacle() {
    let world = World::new().await;
    let (image, data) = (world.tree("image", &[("file", "x")]), world.tree("data", &[("precious", "y")]));
    let root = RootSpec { image: Some(image), ..mounts(vec![mount(&data, "/data")]) };
    let spec = world.spec(root, &["ls", "/", "write", "/own", "w"]);
    for id in ["first", "second"] {
        let log_path = spec.log_path.with_extension(id);
        let again = InstanceSpec { id: id.into(), log_path, ..spec.clone() };
        assert_eq!(world.run_spec(&again).await, ok("data\nfile\ntmp\n"), "{id}");
        let scratch = spec.root.scratch.as_ref().unwrap();
        assert!(scratch.join("upper/own").exists(), "{id}: it is an overlay, and no copy");
        let work = fs::metadata(scratch.join("work/work")).unwrap().permissions().mode();
        assert_eq!(work & 0o700, 0o700, "{id}: its owner can remove it");
    }
    assert!(data.join("precious").exists());
}

/// Without root on the host, a user namespace does.
#[tokio::test]
async fn a_user_namespace_is_enough() {
    let program = Program::new("setpriv").arg("--bounding-set=-sys_admin").arg(support::path());
    let world = World::with(support::as_process(program)).await;
    let (data, image) = (world.tree("data", &[("in", "x")]), world.tree("image", &[("etc/motd", "hello")]));
    let files = world.tree("files", &[("hosts", "localhost\n")]);
    let root = RootSpec {
        image: Some(image.clone()),
        ..mounts(vec![
            mount(&data, "/data"),
            read_only(&data, "/ro"),
            mount(&files.join("hosts"), "/etc/hosts"),
        ])
    };
    let argv = [
        "cat",
        "/etc/hosts",
        "write",
        "/etc/motd",
        "changed",
        "try",
        "rename",
        "/etc",
        "/etc2",
        "write",
        "/data/out",
        "y",
        "cat",
        "/ro/out",
        "say",
        "",
        "try",
        "write",
        "/ro/out",
        "z",
        "ls",
        "/",
    ];
    let spec = world.spec(root, &argv);
    let ran = world.run_spec(&spec).await;
    assert_eq!(
        ran,
        ok(
            "localhost\ncannot rename /etc: Cross-device link\ny\ncannot open /ro/out: Read-only file system\ndata\netc\nro\ntmp\n"
        )
    );
    assert_eq!(fs::read_to_string(image.join("etc/motd")).unwrap(), "hello");
    assert!(spec.root.scratch.unwrap().join("upper").exists(), "it was an overlay");
}
