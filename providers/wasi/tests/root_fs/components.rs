//! Components of WASI 0.2 and of 0.3, whose calls take other ways through the host than those of a 0.1 module.

use std::fs;

use kubewasm_host::{ModuleKind, engine};
use kubewasm_tests::guests;
use kubewasm_wasi::spec::InstanceSpec;
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
