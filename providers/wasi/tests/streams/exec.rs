//! exec: what goes in and out, how it ends, and who ends it.

use std::time::{Duration, Instant};

use kubewasm_kubelet::runtime::{ContainerSpec, ExecIo, Runtime as _};
use kubewasm_wasi::{protocol::Versions, provider::WasiRuntime};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{
    support::{self, until},
    world::{CAT, Node, PATIENCE, YES, caller, failed, options, spec},
};

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A node on which a container runs that waits for input, one for each generation.
async fn with_cats() -> Node {
    let node = Node::new().await;
    for (id, image) in ["core", "component"].iter().zip(node.both(CAT).await) {
        node.start(&ContainerSpec { stdin: true, ..node.spec(id, &image) }).await;
    }
    node
}

#[tokio::test]
async fn what_is_sent_is_read_and_what_is_written_comes() {
    let node = with_cats().await;
    for id in ["core", "component"] {
        let (mut caller, streams) = caller();
        let argv = argv(&["cat"]);
        let exec = node.runtime.exec_stream(id, &argv, streams);
        let talk = async {
            caller.send("one").await;
            caller.expect("one").await;
            caller.send("two").await;
            caller.expect("two").await;
            // Half a close: what is under way still comes.
            caller.send("three").await;
            caller.stdin.shutdown().await.unwrap();
            caller.rest().await
        };
        let (code, rest) = tokio::join!(exec, talk);
        assert_eq!((code.unwrap(), rest), (failed(id), ("three".into(), String::new())), "{id}");
        assert!(node.runs(id), "its container has another input");
    }
}

#[tokio::test]
async fn who_sends_nothing_is_at_the_end() {
    let node = with_cats().await;
    for id in ["core", "component"] {
        let (mut caller, mut streams) = caller();
        (streams.stdin, streams.stderr) = (None, None);
        let argv = argv(&["cat"]);
        let (code, rest) = tokio::join!(node.runtime.exec_stream(id, &argv, streams), caller.rest());
        assert_eq!((code.unwrap(), rest.0.as_str()), (failed(id), ""), "{id}");
    }
}

/// `KUBEWASM_TEST_SIZE=full` sends 1 GiB.
#[tokio::test]
async fn much_goes_through_and_little_is_held() {
    let megabytes = if std::env::var("KUBEWASM_TEST_SIZE").as_deref() == Ok("full") { 1024 } else { 96 };
    let node = with_cats().await;
    let piece: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let (mut caller, streams) = caller();
    let argv = argv(&["cat"]);
    let before = peak(&node);
    let exec = node.runtime.exec_stream("core", &argv, streams);
    let (mut stdin, mut stdout) = (caller.stdin, caller.stdout);
    let send = async {
        for _ in 0..megabytes {
            stdin.write_all(&piece).await.unwrap();
        }
        stdin.shutdown().await.unwrap();
    };
    let receive = async {
        let mut come = vec![0; piece.len()];
        for number in 0..megabytes {
            stdout.read_exact(&mut come).await.unwrap();
            assert!(come == piece, "megabyte {number} is another one");
        }
        assert_eq!(stdout.read(&mut come).await.unwrap(), 0);
    };
    let errors = async { caller.stderr.read_to_end(&mut Vec::new()).await.unwrap() };
    let (code, (), (), errors) = tokio::join!(exec, send, receive, errors);
    assert_eq!((code.unwrap(), errors), (3, 0));
    let grown = peak(&node) - before;
    assert!(grown < 32 << 10, "the worker has grown by {grown} KiB");
}

/// The most memory that the node's worker has had, in KiB.
fn peak(node: &Node) -> u64 {
    let workers = std::fs::read_dir(node.dir.path().join("workers")).unwrap();
    let peak = |worker: std::io::Result<std::fs::DirEntry>| {
        let pid = std::fs::read_to_string(worker.unwrap().path().join("worker.lock")).ok()?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok())
    };
    workers.filter_map(peak).max().unwrap()
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_up_its_own_guest_until_it_goes() {
    let node = with_cats().await;
    let yes = node.have("yes.wasm", &wat::parse_str(YES).unwrap()).await;
    node.start(&node.spec("yes", &yes)).await;
    // Its own guest has its memory by then.
    let log = node.dir.path().join("yes.log");
    let has_begun = || std::fs::metadata(&log).ok().filter(|log| log.len() > 0).map(drop);
    until("the container's output", PATIENCE, has_begun).await;
    let idle = node.memory("yes").await;
    let (_caller, streams) = caller();
    let argv = argv(&["yes"]);
    let mut exec = Box::pin(node.runtime.exec_stream("yes", &argv, streams));
    let in_two = async {
        while node.memory("yes").await <= idle {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        code = &mut exec => panic!("it has ended with {code:?}"),
        () = in_two => {}
    }
    // Others are served meanwhile.
    let (mut other, streams) = caller();
    other.stdin.shutdown().await.unwrap();
    let (code, _) = tokio::join!(node.runtime.exec_stream("core", &argv, streams), other.rest());
    assert_eq!(code.unwrap(), 3);
    drop(exec);
    let started = Instant::now();
    while node.memory("yes").await > idle {
        assert!(started.elapsed() < PATIENCE, "the instance outlives its caller");
    }
}

#[tokio::test]
async fn an_exec_ends_with_its_container() {
    let node = with_cats().await;
    let (mut caller, streams) = caller();
    let argv = argv(&["cat"]);
    let exec = node.runtime.exec_stream("core", &argv, streams);
    let end = async {
        caller.send("x").await;
        caller.expect("x").await;
        node.runtime.stop("core", Duration::ZERO).await.unwrap();
        caller.rest().await
    };
    let (code, rest) = tokio::join!(exec, end);
    assert_eq!((code.unwrap(), rest), (137, Default::default()));
}

#[tokio::test]
async fn an_exec_ends_with_its_agent_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let first = WasiRuntime::new(options(dir.path())).await.unwrap();
    let path = dir.path().join("cat.wasm");
    std::fs::write(&path, wat::parse_str(CAT).unwrap()).unwrap();
    let image = path.display().to_string();
    first.pull(&image, &[]).await.unwrap();
    let spec = ContainerSpec { stdin: true, ..spec(dir.path(), "a", &image) };
    first.start(&spec).await.unwrap();
    let (mut caller, streams) = caller();
    let argv = argv(&["cat"]);
    {
        let mut exec = Box::pin(first.exec_stream("a", &argv, streams));
        let talk = async {
            caller.send("x").await;
            caller.expect("x").await;
        };
        tokio::select! {
            code = &mut exec => panic!("it has ended with {code:?}"),
            () = talk => {}
        }
    }
    drop(first);
    let second = WasiRuntime::new(options(dir.path())).await.unwrap();
    let stats = async || second.stats().await.into_iter().find(|stats| stats.id == "a").unwrap().memory_bytes;
    let (mut caller, streams) = super::world::caller();
    caller.stdin.shutdown().await.unwrap();
    let (code, _) = tokio::join!(second.exec_stream("a", &argv, streams), caller.rest());
    assert_eq!(code.unwrap(), 3, "one that was adopted is as good");
    let started = Instant::now();
    let alone = second.exec("a", &argv, ExecIo::Collect { limit: 9 }).await.unwrap();
    assert_eq!(alone.exit_code, 3);
    // 3 pages, and what the host holds: not two of them.
    while stats().await >= 2 * (3 << 16) + (64 << 10) {
        assert!(started.elapsed() < PATIENCE, "the instance of the first agent's caller runs on");
    }
    second.shutdown(Duration::ZERO).await;
}

/// The worker of an earlier kubewasm runs what it ran, and says what to do about the rest.
#[tokio::test]
async fn an_older_worker_connects_nobody() {
    let old = Versions { min: Versions::OURS.min, max: Versions::OURS.max - 1 };
    let node = Node::with(|options| options.program = support::program_of(old)).await;
    let image = node.have("yes.wasm", &wat::parse_str(YES).unwrap()).await;
    node.start(&node.spec("a", &image)).await;
    let expected = "older version of kubewasm; restart the pod";
    let (_caller, streams) = caller();
    let error = node.runtime.exec_stream("a", &argv(&["x"]), streams).await.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    let (_caller, streams) = caller();
    let error = node.runtime.attach("a", streams).await.unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    let error = node.runtime.port_forward("pod-a", 1).await.err().unwrap().to_string();
    assert!(error.contains(expected), "{error}");
    until("the container's output", PATIENCE, || node.log("a").contains("stdout F yyy").then_some(())).await;
}
