//! A node of its own, with networks that the reference plugins make.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use kubewasm_cni::{PodName, SandboxOptions, SandboxRequest, Sandboxes};
use kubewasm_network::Namespace;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use serde_json::{Value, json};

pub(crate) const NODE_IP: &str = "192.0.2.1";
/// Name of the network, and of its bridge.
pub(crate) const NETWORK: &str = "testnet";
const NOTHING: Option<&str> = None;

/// Runs a test on a node of its own: in network and mount namespaces that nobody else is in. Says so and does nothing
/// without the rights for it.
pub(crate) fn on_node<F: Future<Output = ()>>(test: impl FnOnce(World) -> F + Send) {
    let node = match Namespace::create() {
        Ok(node) => node,
        Err(error) => {
            eprintln!("skipped: no network namespace can be made here: {error}");
            return;
        }
    };
    let plugins = plugins();
    let run = || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(NOTHING, "/", NOTHING, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NOTHING)?;
        // One thread, so that all others, and all processes, are made by one that is inside.
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio.block_on(async {
            have_address().await;
            let world = World::new(plugins);
            match Sandboxes::check(&world.options).await {
                Ok(()) => test(world).await,
                Err(error) => eprintln!("skipped: {error}"),
            }
        });
        Ok(())
    };
    node.run(run).unwrap();
}

/// The directory of the reference plugins.
fn plugins() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/tools/cni-plugins/build.sh");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "the reference plugins cannot be built");
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

async fn have_address() {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let up = rtnetlink::LinkUnspec::new_with_name("lo").up().build();
    handle.link().set(up).execute().await.unwrap();
    handle.address().add(1, NODE_IP.parse().unwrap(), 32).execute().await.unwrap();
    // An address of a new bridge is used at once, and not when nobody has answered for it for a while.
    let _ = fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0");
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) options: SandboxOptions,
}

impl World {
    fn new(plugins: PathBuf) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let options = SandboxOptions {
            conf_dir: path("net.d"),
            bin_dirs: vec![path("bin"), plugins],
            state_dir: path("state"),
            namespaces_dir: path("netns"),
            others_dir: path("others"),
        };
        for dir in [&options.conf_dir, &options.bin_dirs[0]] {
            fs::create_dir(dir).unwrap();
        }
        Self { dir, options }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// An agent that comes to what earlier ones have left.
    pub(crate) async fn agent(&self) -> Sandboxes {
        Sandboxes::open(self.options.clone()).await.unwrap()
    }

    /// Configures a network of these plugins.
    pub(crate) fn configure(&self, name: &str, version: &str, plugins: &[Value]) {
        let config = json!({ "cniVersion": version, "name": name, "plugins": plugins });
        // As those who know of readers write it.
        fs::write(self.path("config"), config.to_string()).unwrap();
        fs::rename(self.path("config"), self.options.conf_dir.join("10-test.conflist")).unwrap();
    }

    /// A bridge, with addresses of both families.
    pub(crate) fn bridge(&self) -> Value {
        json!({
            "type": "bridge", "bridge": "testnet0", "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.path("leases"),
                "ranges": [[{ "subnet": "10.89.0.0/24" }], [{ "subnet": "fd00:89::/64" }]],
                "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
            },
        })
    }

    /// The addresses that are given out in a network.
    pub(crate) fn leases(&self, network: &str) -> Vec<IpAddr> {
        let entries = fs::read_dir(self.path("leases").join(network)).into_iter().flatten().flatten();
        let mut found: Vec<IpAddr> =
            entries.filter_map(|entry| entry.file_name().to_str()?.replace('_', ":").parse().ok()).collect();
        found.sort();
        found
    }

    /// Installs a plugin that is a shell script, which passes on what the plugin before it has said. `$input` is what it
    /// is told, `$dir` the world's directory.
    pub(crate) fn script(&self, name: &str, script: &str) {
        let text = format!(
            "#!/bin/sh\ndir={}\ninput=$(cat)\necho \"$CNI_COMMAND\" >> $dir/{name}.log\n{script}\n{PASS_ON}",
            self.dir.path().display()
        );
        let (new, path) = (self.path("script"), self.options.bin_dirs[0].join(name));
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, path).unwrap();
    }

    /// What a script was asked.
    pub(crate) fn asked(&self, name: &str) -> Vec<String> {
        let log = fs::read_to_string(self.path(&format!("{name}.log"))).unwrap_or_default();
        log.lines()
            .map(str::to_owned)
            .filter(|verb| !["VERSION", "STATUS"].contains(&verb.as_str()))
            .collect()
    }

    /// Names of the files in a directory of the world's.
    pub(crate) fn files(&self, dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Nothing is left of any sandbox.
    pub(crate) fn assert_empty(&self) {
        for dir in [&self.options.state_dir, &self.options.namespaces_dir] {
            assert_eq!(self.files(dir), Vec::<String>::new(), "{}", dir.display());
        }
        assert_eq!(self.leases(NETWORK), Vec::<IpAddr>::new());
        let links = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        assert!(!links.contains("veth"), "{links}");
    }
}

/// The end of each script: versions, and the previous result.
const PASS_ON: &str = r#"
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.4.0", "1.0.0", "1.1.0"]}' ;;
ADD) echo "$input" | python3 -c 'import json, sys; print(json.dumps(json.load(sys.stdin)["prevResult"]))' ;;
esac
"#;

pub(crate) fn request(name: &str) -> SandboxRequest {
    let (namespace, name, uid) = ("ns".to_owned(), name.to_owned(), format!("uid-of-{name}"));
    SandboxRequest { pod: PodName { namespace, name, uid }, ..SandboxRequest::default() }
}

/// A server in a pod's namespace, on all of its addresses, that says who it is to whoever connects.
pub(crate) fn serve(sandboxes: &Sandboxes, uid: &str, port: u16, name: &'static str) {
    let namespace = Namespace::at(sandboxes.namespace_of(uid).unwrap()).unwrap();
    let listener = namespace.run(|| TcpListener::bind(("::", port))).unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let _ = client.and_then(|mut client| client.write_all(name.as_bytes()));
        }
    });
}

/// Who answers there.
pub(crate) fn ask(to: SocketAddr) -> io::Result<String> {
    let mut answer = String::new();
    TcpStream::connect(to)?.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Who answers there to a pod.
pub(crate) fn ask_from(sandboxes: &Sandboxes, uid: &str, to: SocketAddr) -> io::Result<String> {
    Namespace::at(sandboxes.namespace_of(uid).unwrap()).unwrap().run(|| ask(to))
}
