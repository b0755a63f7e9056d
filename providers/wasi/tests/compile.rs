//! Compiling in a child process.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    os::unix::process::ExitStatusExt as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use kubewasm_host::{
    ModuleKind,
    compile::{ChildCompiler, CompileError},
    inspect::Facts,
    program::Program,
};

use support::program;

async fn compiled(wasm: &[u8]) -> (Result<Facts, CompileError>, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&input, wasm).unwrap();
    let result = ChildCompiler::new(program()).unwrap().compile(&input, &output).await;
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    (result, size(&output))
}

#[tokio::test]
async fn modules_are_compiled_in_a_child() {
    let (result, size) = compiled(&wat::parse_str(r#"(module (func (export "_start")))"#).unwrap()).await;
    let facts = result.unwrap();
    assert_eq!((facts.kind, &*facts.exports), (ModuleKind::CoreCommand, &["_start".to_owned()][..]));
    assert!(size > 0);
}

/// Where it is required that compilers give up everything, nothing is compiled on a host that does not allow that: in a
/// user namespace with one user, say, where nobody can become nobody.
#[tokio::test]
async fn compilers_that_cannot_be_confined_as_required_say_why() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not tested: only root becomes somebody else");
        return;
    }
    let elsewhere =
        Program::new("unshare").arg("--user").arg("--map-root-user").arg(support::path()).arg("--");
    let lenient = ChildCompiler::new(elsewhere).unwrap();
    lenient.check().await.unwrap();
    let strict = lenient.clone().confined();
    let check = strict.check().await.unwrap_err();
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::write(&input, wat::parse_str(r#"(module (func (export "_start")))"#).unwrap()).unwrap();
    let compile = strict.compile(&input, &output).await.unwrap_err();
    for error in [check, compile] {
        let text = error.to_string();
        for expected in ["--confinement=required", "user: not restricted"] {
            assert!(text.contains(expected), "{text}");
        }
    }
    lenient.compile(&input, &dir.path().join("again")).await.unwrap();
    ChildCompiler::new(program()).unwrap().confined().check().await.unwrap();
}

/// What the kernel says of a process; empty when it is gone.
fn status(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

/// A compiler that waits for the first byte of its module has given up everything, and ends with who has started it.
#[tokio::test]
async fn a_compiler_has_nothing_and_ends_with_its_parent() {
    let (started, mut child) = tokio::sync::mpsc::unbounded_channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    // The kernel takes the thread that has started a process for its parent.
    let parent = std::thread::spawn(move || {
        let mut command = Command::new(support::path());
        command.args(["--", "compile"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        started.send(command.spawn().unwrap()).unwrap();
        let _ = ended.recv();
    });
    let mut child = child.recv().await.unwrap();
    let pid = child.id();
    // Held to the end: its module must not seem to be over.
    let stdin = child.stdin.take();
    let confined = || status(pid).contains("\nSeccomp:\t2\n").then(|| status(pid));
    let found = support::until("a confined compiler", Duration::from_secs(60), confined).await;
    let none = "0000000000000000";
    for (field, expected) in [("CapPrm", none), ("CapEff", none), ("CapBnd", none), ("NoNewPrivs", "1")] {
        // Who is not root has no power to give up, and cannot take from what it might get.
        if field != "CapBnd" || rustix::process::geteuid().is_root() {
            assert!(found.contains(&format!("\n{field}:\t{expected}\n")), "{field} in {found}");
        }
    }
    if rustix::process::geteuid().is_root() {
        assert!(found.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{found}");
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        assert_eq!(files, 3);
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let (session, nice) = (fields[3], fields[16]);
    assert_eq!((session, nice), (&*pid.to_string(), "10"), "{stat}");
    // Not every kernel groups processes by their sessions.
    if let Ok(group) = std::fs::read_to_string(format!("/proc/{pid}/autogroup")) {
        assert!(group.ends_with(" nice 10\n"), "{group}");
    }
    drop(end);
    parent.join().unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert_eq!(status.signal(), Some(9), "{status}");
    drop(stdin);
}

#[tokio::test]
async fn what_does_not_compile_says_why() {
    for (wasm, expected) in [
        (b"\x7fELF\x02".to_vec(), "it is a Linux program"),
        (Vec::new(), "the module is empty"),
        (wat::parse_str("(module)").unwrap(), "has no `_start` function"),
        (
            // Adds nothing to nothing.
            wat::parse_str(r#"(module (func (export "_start") i32.add drop))"#).unwrap(),
            "the module does not compile: ",
        ),
    ] {
        let (result, _) = compiled(&wasm).await;
        let error = result.unwrap_err();
        assert!(
            matches!(&error, CompileError::Refused(text) if text.contains(expected)),
            "{expected}: {error}"
        );
    }
}

#[tokio::test]
async fn a_compiler_that_cannot_be_started_is_no_fault_of_the_module() {
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    let compiler = ChildCompiler::new(Program::new("/nonexistent/kubewasm")).unwrap();
    let error = compiler.compile(&input, &output).await.unwrap_err();
    assert!(matches!(error, CompileError::Open { .. }), "{error}");
    std::fs::write(&input, "").unwrap();
    let error = compiler.compile(&input, &output).await.unwrap_err();
    assert!(matches!(error, CompileError::Spawn(_)), "{error}");
}
