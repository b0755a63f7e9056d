//! A real guest with host interfaces of all kinds, in memory and in files. `tests/backends` has those on servers.

use std::{any::Any, collections::HashMap, fmt::Write as _, path::Path, sync::Arc};

use kubewasm_host::{
    Capture, CpuShare, GuestExtension, GuestLimits, GuestState, Host, HostOptions, Output, Plugin,
    PluginState, Setup, Stack, compile,
};
use wasmtime::component::Linker;

use super::{
    blobstore::WasiBlobStore, config::WasiConfig, keyvalue::WasiKeyValue, logging::WasiLogging,
    messaging::WasmcloudMessaging,
};
use crate::{
    host_interface::{ComponentBinding, HostInterface, LinkedImport, WorkloadIdentity},
    instance::InstanceTemplate,
    wit::{InterfaceName, WitInterface},
};

/// The host interfaces, and a host that has them.
struct World {
    dir: tempfile::TempDir,
    interfaces: Arc<Interfaces>,
    host: Arc<Host>,
    loaded: Arc<kubewasm_host::Loaded>,
}

#[derive(Debug)]
struct Interfaces(Vec<Arc<dyn HostInterface>>);

impl Plugin for Interfaces {
    type State = ();

    fn link(&self, linker: &mut Linker<GuestState>, _: PluginState<()>) -> wasmtime::Result<()> {
        for interface in &self.0 {
            interface.link(linker, &imports(&**interface))?;
        }
        Ok(())
    }

    fn state(&self, _: &Setup<'_>) {}
}

/// All that a host interface has, as if a component imported it.
fn imports(interface: &dyn HostInterface) -> Vec<LinkedImport> {
    let mut imports = Vec::new();
    for entry in interface.world().exports {
        for name in &entry.interfaces {
            let version = entry.version.clone().unwrap();
            let import = format!("{}/{name}@{version}", entry.package_name());
            let interface = InterfaceName::parse(&import).unwrap();
            imports.push(LinkedImport { import, interface, label: None });
        }
    }
    imports
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let source = kubewasm_tests::guests::repository().join("tests/guests/interfaces");
        let guest = kubewasm_tests::guests::rust::program(&source, "interfaces");
        let (module, code) = (dir.path().join("guest.wasm"), dir.path().join("guest.code"));
        std::fs::write(&module, guest.await.unwrap()).unwrap();
        let kind = compile::compile_file(&module, &code).unwrap();
        let interfaces = Arc::new(Interfaces(vec![
            Arc::new(WasiKeyValue::new()),
            Arc::new(WasiBlobStore::new()),
            Arc::new(WasiConfig::new()),
            Arc::new(WasiLogging),
            Arc::new(WasmcloudMessaging::new()),
        ]));
        let mut options = HostOptions::new(dir.path().join("empty"));
        options.plugins.push(Arc::<Interfaces>::clone(&interfaces) as _);
        let host = Arc::new(Host::new(options).unwrap());
        let loaded = host.load(&code, kind, Stack::DEFAULT).await.unwrap();
        Self { dir, interfaces, host, loaded }
    }

    /// Starts a workload with these entries, and returns what makes its instances.
    async fn start(&self, name: &str, entries: &[WitInterface]) -> Workload<'_> {
        let identity = Arc::new(WorkloadIdentity {
            id: format!("{name}-id"),
            namespace: "test".to_owned(),
            name: name.to_owned(),
            ..WorkloadIdentity::default()
        });
        let capture = Capture::new(1 << 20);
        let output: Arc<dyn Output> = Arc::new(capture.clone());
        let account = self.host.account(GuestLimits { memory_bytes: 64 << 20, cpu: CpuShare::default() });
        let mut bound = Vec::new();
        for interface in &self.interfaces.0 {
            let world = interface.world();
            let is_about = |entry: &&WitInterface| {
                world.exports.iter().any(|known| known.package_name() == entry.package_name())
            };
            let own: Vec<WitInterface> = entries.iter().filter(is_about).cloned().collect();
            interface.bind(&identity, &own).await.unwrap();
            let component = ComponentBinding {
                workload: Arc::clone(&identity),
                component: "component".into(),
                interfaces: own,
                config: HashMap::from([
                    ("own".to_owned(), "1".to_owned()),
                    ("both".to_owned(), "own".to_owned()),
                ]),
                imports: imports(&**interface),
                exports: Vec::new(),
                account: Arc::clone(&account),
                output: Arc::clone(&output),
            };
            bound.push(interface.bind_component(&component).await.unwrap());
        }
        let extension: Arc<dyn GuestExtension> = Arc::new(InstanceTemplate { interfaces: bound });
        Workload { world: self, extension, capture, output, account }
    }
}

struct Workload<'a> {
    world: &'a World,
    extension: Arc<dyn GuestExtension>,
    capture: Capture,
    output: Arc<dyn Output>,
    account: Arc<kubewasm_host::Account>,
}

impl Workload<'_> {
    /// Runs an instance that does these steps, one a line, and returns what it says of each.
    async fn run(&self, steps: &str) -> Vec<String> {
        let mut argv = vec!["guest".to_owned()];
        argv.extend(steps.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
        let setup = Setup {
            argv: &argv,
            extension: Some(&self.extension),
            ..Setup::isolated(&self.output, &self.account)
        };
        let guest = self.world.host.prepare(Arc::clone(&self.world.loaded), setup).unwrap();
        let exit = guest.run().await;
        let text = String::from_utf8(self.capture.take()).unwrap();
        assert_eq!(exit.code, 0, "{exit:?}: {text}");
        text.lines().map(|line| line.trim_end().to_owned()).collect()
    }

    /// Does steps, each with what is to be said of it.
    async fn expect(&self, steps: &str) {
        let mut asked = String::new();
        for line in steps.lines().map(str::trim).filter(|line| !line.is_empty()) {
            writeln!(asked, "{}", line.split(" ->").next().unwrap()).unwrap();
        }
        let expected: Vec<_> = steps.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let said = self.run(&asked).await;
        for (said, expected) in said.iter().zip(&expected) {
            match expected.strip_suffix('…') {
                Some(beginning) => assert!(said.starts_with(beginning), "{said} instead of {expected}"),
                None => assert_eq!(said, expected),
            }
        }
        assert_eq!(said.len(), expected.len(), "{said:?}");
    }
}

fn entry(interface: &str, name: Option<&str>, config: &[(&str, &str)]) -> WitInterface {
    WitInterface {
        name: name.map(str::to_owned),
        config: config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        ..WitInterface::from(interface)
    }
}

fn in_files(interface: &str, name: Option<&str>, dir: &Path) -> WitInterface {
    entry(interface, name, &[("backend", "files"), ("path", dir.to_str().unwrap())])
}

const KEYVALUE: &str = "wasi:keyvalue/store,atomics,batch@0.2.0-draft";
const BLOBSTORE: &str = "wasi:blobstore/types,container,blobstore@0.2.0-draft";

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_keeps_values_in_memory_and_in_files() {
    let world = World::new().await;
    let files = world.dir.path().join("values");
    let entries = [
        in_files(KEYVALUE, Some("kept"), &files),
        entry(KEYVALUE, Some("few"), &[("buckets", "one"), ("read_only", "true"), ("max_value_bytes", "10")]),
    ];
    let workload = world.start("first", &entries).await;
    for bucket in ["any", "kept"] {
        workload
            .expect(
                &"set B a 1 -> set
                get B a -> 1
                get B b -> none
                exists B a -> true
                exists B b -> false
                increment B n 5 -> 5
                increment B n 7 -> 12
                get B n -> 12
                increment B a 18446744073709551615 -> error: Error::Other(…
                set-many B x=1 y=2 -> set
                get-many B x nothing y -> 1,none,2
                delete B x -> deleted
                delete B x -> deleted
                keys B -> 3 in 1: a,n,y
                fill B 1001 -> filled"
                    .replace(" B ", &format!(" {bucket} "))
                    .replace("keys B", &format!("keys {bucket}")),
            )
            .await;
        let keys = workload.run(&format!("keys {bucket}")).await;
        assert!(keys[0].starts_with(&format!("keys {bucket} -> 1004 in 2: ")), "{}", keys[0]);
    }
    workload
        .expect(
            "set kept ../../escaped 1 -> set
            get kept ../../escaped -> 1
            get kept/../.. a -> none
            set few/two a 1 -> error: Error::AccessDenied
            set few/one a 1 -> error: Error::AccessDenied
            get few/one a -> none",
        )
        .await;
    assert!(!world.dir.path().join("escaped").exists());
    assert!(files.join("kept/%2E.%2F..%2Fescaped").is_file());

    let other = world.start("second", &[]).await;
    other.expect("get any a -> none\n keys any -> 0 in 1:").await;
    let again = world.start("first-again", &entries).await;
    again.expect("get kept n -> 12\n get any n -> none").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_keeps_objects_in_memory_and_in_files() {
    let world = World::new().await;
    let entries = [in_files(BLOBSTORE, Some("kept"), &world.dir.path().join("objects"))];
    let workload = world.start("first", &entries).await;
    for container in ["any", "kept"] {
        workload
            .expect(
                &"has C -> false
                list C -> error: there is no container…
                create C -> C
                has C -> true
                write C a/b.txt hello-world -> false
                read C a/b.txt 0 end -> 11 hello-world
                read C a/b.txt 6 8 -> 3 wor
                read C a/b.txt 6 100 -> 5 world
                read C a/b.txt 20 30 -> 0 
                count C a/b.txt -> 11
                info C a/b.txt -> C/a/b.txt 11
                abandon C a/b.txt replaced -> true
                abandon C new replaced -> false
                read C a/b.txt 0 end -> 11 hello-world
                read C new 0 end -> error: there is no object new
                write-late C late said-before -> written
                read C late 0 end -> 11 said-before
                write-zeroes C large 1 -> false
                count C large -> 1048576
                copy C late C copied -> copied
                move C copied C moved -> moved
                list C -> a/b.txt,large,late,moved
                read C moved 0 end -> 11 said-before
                unlink C moved -> deleted
                unlink C moved -> deleted
                clear C -> cleared
                list C -> "
                    .replace('C', container),
            )
            .await;
    }
    workload
        .expect(
            "write any x 1 -> false
            copy any x kept y -> copied
            read kept y 0 end -> 1 1
            write kept ../../escaped 1 -> false
            remove any -> removed
            has any -> false",
        )
        .await;
    assert!(!world.dir.path().join("escaped").exists());
    let other = world.start("second", &[]).await;
    other.expect("has any -> false\n has kept -> false").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_reads_settings_that_change_and_writes_to_its_log() {
    let world = World::new().await;
    let entries = [entry("wasi:config/store@0.2.0-rc.1", None, &[("shared", "1"), ("both", "shared")])];
    let workload = world.start("first", &entries).await;
    workload
        .expect(
            r#"config own -> 1
            config both -> own
            config shared -> 1
            config nothing -> none
            configs -> [("both", "own"), ("own", "1"), ("shared", "1")] [("both", "own"), ("own", "1"), ("shared", "1")]"#,
        )
        .await;
    let said = workload.run("log disk almost-full").await;
    assert_eq!(said, ["WARN disk: almost-full", "log disk almost-full -> logged"]);
    workload.expect("publish a.b hello -> error: the workload has no entry…").await;
}

/// What is bound of an interface that a guest does not have is nobody else's.
#[test]
fn states_are_of_their_interfaces() {
    let states: [Box<dyn Any + Send>; 2] = [Box::new(1_u8), Box::new(2_u16)];
    let mut states = crate::host_interface::InterfaceStates(states.into());
    assert_eq!(states.get_mut::<u16>(), Some(&mut 2));
    assert_eq!(states.get_mut::<u32>(), None);
}
