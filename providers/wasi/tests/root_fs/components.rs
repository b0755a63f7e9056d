//! Components of WASI 0.2 and of 0.3, whose calls take other ways through the host than those of a 0.1 module.

use std::fs;

use kubewasm_host::{ModuleKind, engine};
use kubewasm_tests::guests;
use kubewasm_wasi::spec::{InstanceSpec, RootSpec};
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::world::{World, mount, mounts, ok, read_only};

/// Codes of `wasi:filesystem/types@0.2`.
const NO_SUCH_DEVICE: u32 = 29;
const READ_ONLY: u32 = 33;
const CROSS_DEVICE: u32 = 36;

/// They are told what is read-only, that a rename does not cross mounts, and that a named pipe is none to open, for
/// which they do not wait.
#[tokio::test]
async fn components_are_told_why_not() {
    let world = World::new().await;
    let (data, closed) = (world.tree("data", &[("file", "x")]), world.tree("closed", &[("file", "y")]));
    mknodat(CWD, data.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    let versions =
        [("files-0.2.wat", ModuleKind::CliComponent), ("files-0.3.wat", ModuleKind::CliComponentP3)];
    for (name, kind) in versions {
        let component = guests::guest(name).await.unwrap();
        let code = world.path().join(format!("{name}.component"));
        let engine = engine::new(kind.generation()).unwrap();
        fs::write(&code, engine.precompile_component(&component).unwrap()).unwrap();
        let root = mounts(vec![mount(&data, "/data"), read_only(&closed, "/ro")]);
        let spec = InstanceSpec { module: code, kind, ..world.spec(root, &[]) };
        let expected = format!("{NO_SUCH_DEVICE}\n{READ_ONLY}\n{READ_ONLY}\n{CROSS_DEVICE}\nok\n");
        assert_eq!(world.run_spec(&spec).await, ok(&expected), "{name}");
        assert!(data.join("new").exists() && data.join("file").exists());
        fs::remove_file(data.join("new")).unwrap();
        assert_eq!(fs::read_to_string(closed.join("file")).unwrap(), "y");
    }
}

/// What guests read from files and write to them is counted to the byte, whichever calls they make, those that are run in a
/// container among them; what they print is not.
#[tokio::test]
async fn what_guests_read_and_write_is_counted() {
    let world = World::new().await;
    let module = guests::guest("actor.c").await.unwrap();
    let component = guests::rust::as_command_component(&module).unwrap();
    let engine = engine::new(ModuleKind::CliComponent.generation()).unwrap();
    let code = world.path().join("actor.component");
    fs::write(&code, engine.precompile_component(&component).unwrap()).unwrap();
    let data = world.tree("counted", &[]);
    let argv = ["write", "/data/file", "hello", "append", "/data/file", " there", "drain", "/data/file"];
    let core = world.spec(mounts(vec![mount(&data, "/data")]), &[&argv[..], &["sleep", "600"]].concat());
    let (id, scratch) = world.container();
    let as_component = InstanceSpec {
        pod_uid: format!("pod-{id}"),
        log_path: world.path().join(format!("{id}.log")),
        id,
        module: code,
        kind: ModuleKind::CliComponent,
        root: RootSpec { scratch: Some(scratch), ..core.root.clone() },
        ..core.clone()
    };
    for spec in [core, as_component] {
        world.agent.start("node", &spec).await.unwrap();
        world.until_printed(&spec, "11 bytes\n").await;
        let files = async || {
            let stats = world.agent.stats().await;
            let files = stats.into_iter().find(|stats| stats.id == spec.id).unwrap().usage.files;
            assert!(files.reads > 0 && files.writes > 0 && !files.has_uncounted, "{files:?}");
            (files.received_bytes, files.sent_bytes)
        };
        assert_eq!(files().await, (11, 11), "{:?}", spec.kind);
        assert_eq!(world.exec(&spec, &["drain", "/data/file"]).await, ok("11 bytes\n"));
        assert_eq!(files().await, (22, 11), "{:?}", spec.kind);
        world.agent.remove(&spec.id).await.unwrap();
    }
}
