//! A worker with its agent, and a folder for everything.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use kubewasm_host::{Generation, ModuleKind, engine, program::Program};
use kubewasm_tests::guests;
use kubewasm_wasi::{
    spec::{InstanceSpec, Mount, RootSpec},
    supervisor::{Supervisor, SupervisorError, SupervisorOptions},
};
use tokio::sync::OnceCell;

use crate::support;

/// What is awaited must come; how long it takes on a busy machine is not what these tests are about.
const PATIENCE: Duration = Duration::from_secs(60);

/// The guest as machine code, made once.
static CODE: OnceCell<Vec<u8>> = OnceCell::const_new();

async fn code() -> &'static [u8] {
    let code = async || {
        let module = guests::guest("actor.c").await.unwrap();
        engine::new(Generation::Blocking).unwrap().precompile_module(&module).unwrap()
    };
    CODE.get_or_init(code).await
}

/// How a guest ended, and what it printed on both streams.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) text: String,
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) agent: Supervisor,
    module: PathBuf,
    count: AtomicUsize,
}

impl World {
    /// A worker that may mount, as these tests are run.
    pub(crate) async fn new() -> Self {
        Self::with(support::program()).await
    }

    /// A worker that mounts nothing.
    pub(crate) async fn without_mounts() -> Self {
        Self::with(support::program().arg(support::NO_MOUNTS)).await
    }

    pub(crate) async fn with(program: Program) -> Self {
        Self::on(tempfile::tempdir().unwrap(), program).await
    }

    /// With all its files in this directory.
    pub(crate) async fn on(dir: tempfile::TempDir, program: Program) -> Self {
        let module = dir.path().join("actor.module");
        fs::write(&module, code().await).unwrap();
        let mut options = SupervisorOptions::new(dir.path().join("workers"), program);
        options.with_parent = true;
        let agent = Supervisor::open(options).await.unwrap();
        Self { dir, agent, module, count: AtomicUsize::new(0) }
    }

    /// A directory with these files, each with a text.
    pub(crate) fn tree(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = self.dir.path().join(name);
        fs::create_dir_all(&root).unwrap();
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    /// The same with links, each with its target.
    pub(crate) fn linked_tree(&self, name: &str, files: &[(&str, &str)], links: &[(&str, &str)]) -> PathBuf {
        let root = self.tree(name, files);
        for (link, target) in links {
            let path = root.join(link);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = fs::remove_file(&path);
            symlink(target, path).unwrap();
        }
        root
    }

    /// What the kubelet gives a container: a directory whose parent exists, and an id.
    pub(crate) fn container(&self) -> (String, PathBuf) {
        let id = format!("c{}", self.count.fetch_add(1, Ordering::SeqCst));
        let pod = self.dir.path().join("pods").join(&id);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&pod).unwrap();
        (id, pod.join("0"))
    }

    pub(crate) fn spec(&self, root: RootSpec, argv: &[&str]) -> InstanceSpec {
        let (id, scratch) = self.container();
        let log_path = self.dir.path().join(format!("{id}.log"));
        InstanceSpec {
            pod_uid: format!("pod-{id}"),
            name: format!("default/{id}/main"),
            argv: std::iter::once("actor").chain(argv.iter().copied()).map(Into::into).collect(),
            root: RootSpec { scratch: Some(scratch), ..root },
            terminal: true,
            ..InstanceSpec::new(id, self.module.clone(), ModuleKind::CoreCommand, log_path)
        }
    }

    /// Runs a guest to its end, and removes it.
    pub(crate) async fn run(&self, root: RootSpec, argv: &[&str]) -> Ran {
        self.run_spec(&self.spec(root, argv)).await
    }

    pub(crate) async fn run_spec(&self, spec: &InstanceSpec) -> Ran {
        self.agent.start("node", spec).await.unwrap();
        let ran = self.end_of(spec).await;
        self.agent.remove(&spec.id).await.unwrap();
        ran
    }

    /// Why a guest does not start.
    pub(crate) async fn refusal(&self, root: RootSpec, what: &str) -> SupervisorError {
        let spec = self.spec(root, &["say", "started"]);
        self.agent.start("node", &spec).await.expect_err(what)
    }

    pub(crate) async fn end_of(&self, spec: &InstanceSpec) -> Ran {
        let code = until("the end of a guest", || Some(self.agent.observe(&spec.id)?.end?.exit.code)).await;
        Ran { code, text: log(&spec.log_path) }
    }

    /// What a guest that still runs has printed, as soon as it ends like this.
    pub(crate) async fn until_printed(&self, spec: &InstanceSpec, end: &str) {
        until("what a guest prints", || log(&spec.log_path).ends_with(end).then_some(())).await;
    }

    /// Runs one more guest in the container of a running one.
    pub(crate) async fn exec(&self, spec: &InstanceSpec, argv: &[&str]) -> Ran {
        let argv: Vec<String> =
            std::iter::once("actor").chain(argv.iter().copied()).map(Into::into).collect();
        let output = self.agent.exec(&spec.id, &argv, None, 1 << 16).await.unwrap();
        Ran { code: output.exit_code, text: String::from_utf8(output.output).unwrap() }
    }

    /// How many directories the worker has open that are in no mount of its own: those of its containers and their logs.
    pub(crate) fn handed(&self) -> usize {
        let lock = fs::read_to_string(self.dir.path().join("workers/node/worker.lock")).unwrap();
        let process = Path::new("/proc").join(lock.trim());
        let table = fs::read_to_string(process.join("mountinfo")).unwrap();
        let own: Vec<_> = table.lines().filter_map(|line| line.split(' ').next()).collect();
        let handed = |fd: &fs::DirEntry| {
            let info = fs::read_to_string(process.join("fdinfo").join(fd.file_name())).unwrap_or_default();
            let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
            fs::metadata(fd.path()).is_ok_and(|metadata| metadata.is_dir())
                && mount.is_some_and(|mount| !own.contains(&mount.trim()))
        };
        fs::read_dir(process.join("fd")).unwrap().map(Result::unwrap).filter(handed).count()
    }

    /// Mount points in the folders of containers, as everybody outside of workers and the mounter sees them.
    pub(crate) fn mounts(&self) -> Vec<String> {
        let dir = self.dir.path().join("pods").display().to_string();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4));
        points.filter(|point| point.starts_with(&dir)).map(Into::into).collect()
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

pub(crate) fn mount(host: &Path, guest: &str) -> Mount {
    Mount { host_path: host.to_owned(), guest_path: guest.to_owned(), read_only: false }
}

pub(crate) fn read_only(host: &Path, guest: &str) -> Mount {
    Mount { read_only: true, ..mount(host, guest) }
}

pub(crate) fn mounts(mounts: Vec<Mount>) -> RootSpec {
    RootSpec { mounts, ..RootSpec::default() }
}

pub(crate) fn ok(text: &str) -> Ran {
    Ran { code: 0, text: text.to_owned() }
}

pub(crate) async fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    support::until(what, PATIENCE, look).await
}

/// The lines of a log without what is in front of each of them.
fn log(path: &Path) -> String {
    let log = fs::read_to_string(path).unwrap_or_default();
    log.lines().filter_map(|line| line.splitn(4, ' ').nth(3)).map(|line| format!("{line}\n")).collect()
}
