//! What a worker has given up before it hosts anything.

use std::{collections::BTreeMap, fs, os::unix::fs::symlink, path::Path};

use kubewasm_wasi::supervisor::{Supervisor, SupervisorOptions};
use rustix::process::Pid;

use super::{AN_HOUR, NOW, Node, exit_of, sleeps, support::program};

/// The fields of `/proc/PID/status`.
fn status(pid: Pid) -> BTreeMap<String, String> {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap();
    let field =
        |line: &str| line.split_once(":\t").map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(field).collect()
}

/// No threads of a worker's can become more than they are, ask the kernel for what they do not need, or have
/// more of root's power than mounting and files take.
#[tokio::test]
async fn a_worker_cannot_become_more_than_it_is() {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    const CAP_SYS_MODULE: u64 = 1 << 16;
    const CAP_SETUID: u64 = 1 << 7;
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
        assert_eq!((status["NoNewPrivs"].as_str(), status["Seccomp"].as_str()), ("1", "2"), "{status:?}");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let capabilities = u64::from_str_radix(&status[set], 16).unwrap();
            let given_up = CAP_NET_ADMIN | CAP_SYS_PTRACE | CAP_SYS_MODULE | CAP_SETUID;
            assert!(
                capabilities & given_up == 0 || set == "CapBnd" && !rustix::process::geteuid().is_root(),
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
