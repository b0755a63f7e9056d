//! The end of a test run: what the watchdog does when the process that it watches is gone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::Duration,
};

use kubewasm_tests::{home::Home, process::Process};

const SOON: Duration = Duration::from_secs(30);

/// The end of its input makes the watchdog end the folder's processes and remove the folder.
#[tokio::test]
async fn cleans_up_when_its_owner_is_gone() {
    let outside = tempfile::tempdir().unwrap();
    let (path, mut server, mut watchdog) = set_up(&outside.path().join("home"), outside.path());
    drop(watchdog.stdin.take());
    assert!(watchdog.wait().unwrap().success());
    assert!(!server.await_end(SOON).await.unwrap().success());
    assert!(!path.exists());
}

/// A folder whose logs are asked for loses everything else.
#[tokio::test]
async fn keeps_logs_that_are_asked_for() {
    let outside = tempfile::tempdir().unwrap();
    let (path, mut server, mut watchdog) = set_up(&outside.path().join("home"), outside.path());
    let home = Home::persistent(&path).unwrap();
    fs::write(home.log("server"), "last words").unwrap();
    home.keep_logs().unwrap();
    drop(watchdog.stdin.take());
    assert!(watchdog.wait().unwrap().success());
    server.await_end(SOON).await.unwrap();
    assert_eq!(fs::read_to_string(home.log("server")).unwrap(), "last words");
    assert!(!path.join("data").exists());
}

/// A home with a file of data, a process that belongs to it, and its watchdog.
fn set_up(path: &std::path::Path, outside: &std::path::Path) -> (std::path::PathBuf, Process, Child) {
    let home = Home::persistent(path).unwrap();
    let data = home.path().join("data");
    fs::write(&data, "").unwrap();
    let mut command = Command::new("tail");
    let server = Process::start("tail", command.arg("-f").arg(&data), &outside.join("log")).unwrap();
    let watchdog = Command::new(env!("CARGO_BIN_EXE_kubewasm-watchdog"))
        .arg(home.path())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    (home.path().to_owned(), server, watchdog)
}
