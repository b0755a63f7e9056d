//! What a worker has given up before it hosts anything.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{
        fs::{PermissionsExt as _, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
};

use kubewasm_wasi::{
    confine::Confinement,
    supervisor::{Supervisor, SupervisorError, SupervisorOptions},
    worker::WorkerOptions,
};
use rustix::process::Pid;

use super::{AN_HOUR, NOW, Node, exit_of, sleeps, support};
use support::program;

/// The fields of `/proc/PID/status`.
fn status(pid: Pid) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap();
    let field =
        |line: &str| line.split_once(":\t").map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(field).collect()
}

/// All that a worker may have of root's power: to use files of others, and to listen below port 1024.
const CAPABILITIES: u64 = CAP_DAC_OVERRIDE | CAP_FOWNER | CAP_NET_BIND_SERVICE;
const CAP_DAC_OVERRIDE: u64 = 1 << 1;
const CAP_FOWNER: u64 = 1 << 3;
const CAP_NET_BIND_SERVICE: u64 = 1 << 10;

/// No threads of a worker's can become more than they are, ask the kernel for what they do not need, or have
/// more of root's power than files take. None may mount, or use the blocks that are reserved for root.
#[tokio::test]
async fn a_worker_cannot_become_more_than_it_is() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.start("a", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    let worker = node.worker_of("a").unwrap();
    let tasks = fs::read_dir(format!("/proc/{}/task", worker.as_raw_pid())).unwrap();
    let mut threads = 0;
    for task in tasks {
        let thread = Pid::from_raw(task.unwrap().file_name().to_str().unwrap().parse().unwrap()).unwrap();
        let status = status(thread);
        threads += 1;
        let [user, .., of_files]: [&str; 4] =
            status["Uid"].split_whitespace().collect::<Vec<_>>().try_into().unwrap();
        assert!(of_files != "0", "files are used as root");
        assert_eq!(user == "0", rustix::process::geteuid().is_root());
        assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"), "{status:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let capabilities = u64::from_str_radix(&status[set], 16).unwrap();
            assert!(
                capabilities & !CAPABILITIES == 0 || set == "CapBnd" && !rustix::process::geteuid().is_root(),
                "{set}: {capabilities:x}"
            );
        }
    }
    assert!(threads > 2);
    let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", worker.as_raw_pid())).unwrap();
    assert_eq!(score.trim(), "500");
    let limits = fs::read_to_string(format!("/proc/{}/limits", worker.as_raw_pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    agent.shutdown(NOW).await;
}

/// A worker knows nothing of its agent's environment.
#[tokio::test]
async fn a_worker_has_none_of_the_agents_environment() {
    let node = Node::new();
    let agent = node.agent().await;
    assert!(std::env::var_os("PATH").is_some(), "there is something to inherit");
    agent.start("a", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    let worker = node.worker_of("a").unwrap();
    let environment = fs::read(format!("/proc/{}/environ", worker.as_raw_pid())).unwrap();
    let names: Vec<_> = String::from_utf8_lossy(&environment)
        .split('\0')
        .filter_map(|variable| variable.split_once('=').map(|(name, _)| name.to_owned()))
        .collect();
    let allowed = ["KUBEWASM_V", "KUBEWASM_LOG", "RUST_BACKTRACE"];
    assert!(names.iter().all(|name| allowed.contains(&name.as_str())), "{names:?}");
    agent.shutdown(NOW).await;
}

/// What a worker is not to see of its agent's stays hidden when it is replaced, as every rotation of a certificate
/// does, and when it appears later; everything beside it is there as before.
#[tokio::test]
async fn hidden_files_stay_hidden_when_they_are_replaced() {
    let node = Node::new();
    // The worker's own folder is beside the secrets, as in a node's root folder.
    let dir = node.dir.path().canonicalize().unwrap().join("root");
    for folder in ["pki", "config"] {
        fs::create_dir_all(dir.join(folder)).unwrap();
    }
    for (name, text) in [
        ("kubeconfig", "a token"),
        ("beside", "no secret"),
        ("pki/key", "a key"),
        ("config/linked", "another token"),
    ] {
        fs::write(dir.join(name), text).unwrap();
    }
    symlink("config/linked", dir.join("link")).unwrap();
    let mut options = SupervisorOptions::new(dir.join("workers"), program());
    options.with_parent = true;
    options.hidden = ["kubeconfig", "later", "pki", "link"].map(|name| dir.join(name)).into();
    let agent = Supervisor::open(options).await.unwrap();
    agent.start("node", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    let log = fs::read_to_string(dir.join("workers/node/worker.log")).unwrap();
    if log.contains("it has no mount namespace of its own") {
        eprintln!("not tested: workers may not mount here");
        return;
    }
    let worker = fs::read_to_string(dir.join("workers/node/worker.lock")).unwrap().trim().to_owned();
    let seen =
        |name: &str| fs::read_to_string(format!("/proc/{worker}/root{}", dir.join(name).display())).ok();
    // A directory that was entered before is a way around what covers it.
    assert_eq!(fs::read_link(format!("/proc/{worker}/cwd")).unwrap(), Path::new("/"));
    let hidden = ["kubeconfig", "later", "pki/key", "link", "config/linked"];
    for name in hidden {
        assert_eq!(seen(name), None, "{name}");
    }

    for (name, text) in
        [("kubeconfig", "a new token"), ("later", "a late token"), ("config/linked", "a third")]
    {
        fs::write(dir.join("new"), text).unwrap();
        fs::rename(dir.join("new"), dir.join(name)).unwrap();
    }
    fs::write(dir.join("pki/new"), "a new key").unwrap();
    fs::rename(dir.join("pki/new"), dir.join("pki/key")).unwrap();
    for name in hidden {
        assert_eq!(seen(name), None, "{name} has been replaced");
    }
    assert_eq!(seen("beside").as_deref(), Some("no secret"));
    assert_eq!(seen("workers/node/worker.log"), Some(log));

    // It works on where it is, with what is made after its start.
    agent.start("node", &node.spec("b", &sleeps(1, 3))).await.unwrap();
    assert_eq!(exit_of(&agent, "b").await.0, 3);
    agent.shutdown(NOW).await;
}

/// The claims are where a worker cannot see them.
#[tokio::test]
async fn claims_are_out_of_a_workers_reach() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.start("a", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    let workers = node.dir.path().canonicalize().unwrap().join("workers");
    let mode = fs::metadata(workers.join(".claims/a")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    assert!(workers.join(".claims/a/a").exists());
    let log = fs::read_to_string(workers.join("a/worker.log")).unwrap();
    if log.contains("it has no mount namespace of its own") {
        eprintln!("not tested: workers may not mount here");
    } else {
        let seen =
            Path::new("/proc").join(node.worker_of("a").unwrap().as_raw_pid().to_string()).join("root");
        assert!(!seen.join(workers.strip_prefix("/").unwrap()).join(".claims").exists());
    }
    agent.remove("a").await.unwrap();
    assert!(!workers.join(".claims/a/a").exists());
    agent.shutdown(NOW).await;
}

/// What came of attempts from inside a worker, in the words of `support::inside`.
fn inside(options: &WorkerOptions, attempts: &[String]) -> BTreeMap<String, String> {
    let mut command = Command::new(support::path());
    command.args(["--", "inside"]).args(options.args());
    command.args(attempts.iter().flat_map(|attempt| ["--try", attempt]));
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{err}");
    let result = |line: &str| line.rsplit_once(": ").map(|(what, how)| (what.to_owned(), how.to_owned()));
    out.lines().filter_map(result).collect()
}

fn may_mount() -> bool {
    rustix::process::geteuid().is_root()
}

/// From inside a worker: it mounts nothing, speaks to no socket of the host, changes none of the host's files, and sees of
/// the node's files its own directory and the modules.
#[test]
fn from_inside_a_worker_the_host_is_out_of_reach() {
    if !may_mount() {
        eprintln!("not tested: not run as root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join("root");
    for folder in ["pods/mine", "pods/theirs", "modules", "workers/mine", "workers/theirs"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for file in ["pods/theirs/secret", "modules/code", "beside"] {
        fs::write(root.join(file), "x").unwrap();
    }
    let outside = dir.path().canonicalize().unwrap().join("outside");
    fs::write(&outside, "x").unwrap();
    let theirs = root.join("workers/theirs/worker.sock");
    let _listener = UnixListener::bind(&theirs).unwrap();
    let host = dir.path().canonicalize().unwrap().join("host.sock");
    let _host = UnixListener::bind(&host).unwrap();

    let mut options = WorkerOptions::new(root.join("workers/mine/worker.sock"));
    options.hidden = vec![root.clone(), root.join("workers")];
    options.shown = vec![root.join("modules")];
    options.confinement = Confinement::Required;
    let path = |name: &str| root.join(name).display().to_string();
    let attempts: Vec<(String, &str)> = vec![
        ("mount:/tmp".into(), "PermissionDenied"),
        ("unmount:/proc".into(), "PermissionDenied"),
        (format!("unmount:{}", root.display()), "PermissionDenied"),
        // As if there were no such sockets.
        (format!("connect:{}", theirs.display()), "Uncategorized"),
        (format!("connect:{}", host.display()), "Uncategorized"),
        (format!("read:{}", path("pods/theirs/secret")), "NotFound"),
        (format!("list:{}", path("pods")), "NotFound"),
        (format!("list:{}", path("workers/theirs")), "NotFound"),
        (format!("read:{}", path("beside")), "NotFound"),
        (format!("create:{}", path("new")), "ReadOnlyFilesystem"),
        (format!("read:{}", path("modules/code")), "done"),
        (format!("write:{}", path("modules/code")), "ReadOnlyFilesystem"),
        (format!("create:{}", path("modules/new")), "ReadOnlyFilesystem"),
        (format!("create:{}", path("workers/mine/new")), "done"),
        (format!("read:{}", outside.display()), "done"),
        (format!("write:{}", outside.display()), "ReadOnlyFilesystem"),
        ("write:/proc/sys/kernel/core_pattern".into(), "ReadOnlyFilesystem"),
        ("read:/dev/null".into(), "PermissionDenied"),
        ("look-up:localhost".into(), "done"),
    ];
    let what: Vec<_> = attempts.iter().map(|(what, _)| what.clone()).collect();
    let found = inside(&options, &what);
    for (what, expected) in &attempts {
        assert_eq!(found[what], *expected, "{what}");
    }
}

/// Where confinement is required, an agent does not start on a host that does not allow all of it, and says what is
/// missing; without that it goes on.
#[tokio::test]
async fn an_agent_whose_workers_cannot_be_confined_says_why() {
    let node = Node::new();
    let options = |confinement| SupervisorOptions {
        confinement,
        program: program().arg(support::NO_MOUNTS),
        ..node.options()
    };
    let error = Supervisor::open(options(Confinement::Required)).await.unwrap_err();
    assert!(matches!(error, SupervisorError::Confinement(_)));
    let text = error.to_string();
    for expected in
        ["--confinement=required", "hidden files: not restricted", "it has no mount namespace of its own"]
    {
        assert!(text.contains(expected), "{text}");
    }
    assert!(!node.dir.path().join("workers/.check").exists());
    let agent = Supervisor::open(options(Confinement::BestEffort)).await.unwrap();
    agent.start("a", &node.spec("a", &sleeps(1, 3))).await.unwrap();
    assert_eq!(exit_of(&agent, "a").await.0, 3);
    agent.shutdown(NOW).await;
}

/// Where all can be confined, what is required is no hindrance.
#[tokio::test]
async fn workers_that_are_confined_as_required_run() {
    if !may_mount() {
        eprintln!("not tested: not run as root");
        return;
    }
    let node = Node::new();
    let options = SupervisorOptions { confinement: Confinement::Required, ..node.options() };
    let agent = Supervisor::open(options).await.unwrap();
    agent.start("a", &node.spec("a", &sleeps(1, 3))).await.unwrap();
    assert_eq!(exit_of(&agent, "a").await.0, 3);
    agent.shutdown(NOW).await;
}

/// A mounter that has died is replaced by the next start; what was started before goes on.
#[tokio::test]
async fn a_mounter_that_has_died_is_replaced() {
    let node = Node::new();
    let agent = node.agent().await;
    agent.start("a", &node.spec("a", &sleeps(AN_HOUR, 0))).await.unwrap();
    let mounter = || {
        let dir = node.dir.path().join("workers").display().to_string();
        let is_it = |pid: &Pid| {
            let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).unwrap_or_default();
            let line: Vec<_> = line.split(|byte| *byte == 0).collect();
            line.contains(&&b"mounter"[..]) && line.contains(&dir.as_bytes())
        };
        let pid = |entry: fs::DirEntry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?);
        fs::read_dir("/proc").unwrap().filter_map(|entry| pid(entry.ok()?)).find(is_it)
    };
    let first = mounter().unwrap();
    rustix::process::kill_process(first, rustix::process::Signal::KILL).unwrap();
    super::until("the end of the mounter", || mounter() != Some(first)).await;
    agent.start("a", &node.spec("b", &sleeps(1, 3))).await.unwrap();
    assert_eq!(exit_of(&agent, "b").await.0, 3);
    assert!(super::runs(agent.observe("a")));
    agent.shutdown(NOW).await;
    drop(agent);
    super::until("the end of the mounter with its agent", || mounter().is_none()).await;
}
