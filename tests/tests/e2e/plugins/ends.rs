//! How plugins end, and what they have of a terminal.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::user::{User, end};
use crate::{desk::errors, suite::SOON};

/// The code is the plugin's own, or that of what has ended it, and nothing is printed that is not the plugin's.
#[tokio::test]
async fn exit_codes_are_kubectls() {
    let user = User::new().await;
    user.has("actor.c", "old", &[]).await;
    user.has("actor-0.3.c", "new", &[]).await;
    for (args, code) in [
        (&["old", "exit", "0"][..], 0),
        (&["old", "exit", "127"], 127),
        (&["old", "exit", "255"], 255),
        (&["new", "exit", "42"], 42),
        (&["new", "fail"], 1),
    ] {
        let output = user.kubectl(args).await;
        assert_eq!(
            (output.status.code(), output.stdout.len()),
            (Some(code), 0),
            "{args:?}: {}",
            errors(&output)
        );
        assert_eq!(errors(&output), "", "{args:?}");
    }
    for name in ["old", "new"] {
        let output = user.kubectl(&[name, "say", "before", "trap"]).await;
        assert_eq!((output.status.code(), &*output.stdout), (Some(134), &b"before\n"[..]), "{name}");
        assert!(
            errors(&output).contains(&format!("kubectl {name}: the plugin has crashed")),
            "{}",
            errors(&output)
        );
    }
    let output = user.kubectl(&["old", "alloc", "2000"]).await;
    assert!(!output.status.success() && output.stdout.is_empty(), "{}", errors(&output));
}

/// One that computes, one that sleeps and one that reads end when they are told to.
#[tokio::test]
async fn a_signal_ends_a_plugin_at_once() {
    let user = User::new().await;
    user.has("actor.c", "actor", &[]).await;
    use rustix::process::Signal;
    for (verbs, signal, code) in [
        (&["spin"][..], Signal::INT, 130),
        (&["sleep", "1000"], Signal::TERM, 143),
        (&["wait"], Signal::HUP, 129),
    ] {
        let mut command = user.kubectl_command();
        command.args(["actor", "say", "begun"]).args(verbs).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _input = child.stdin.take();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(SOON, lines.next_line()).await.expect("a line").unwrap();
        assert_eq!(line.as_deref(), Some("begun"));
        let pid = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
        let ended = tokio::time::timeout(SOON, child.wait()).await.expect("an end").unwrap();
        assert_eq!(ended.code(), Some(code), "{verbs:?}");
    }
}

/// Standard input is the user's, to its end; output that nobody reads ends the plugin, as `head` ends any program.
#[tokio::test]
async fn streams_are_those_of_the_user() {
    let user = User::new().await;
    user.has("actor.c", "actor", &[]).await;
    let mut command = user.kubectl_command();
    command.args(["actor", "wait", "say", "ended"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"some\nlines\n").await.unwrap();
    drop(input);
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.expect("an end").unwrap();
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"ended\n"[..]));

    let mut shell = user.command("/bin/sh".as_ref());
    let link = user.bin().join("kubectl-actor");
    shell.args(["-c", &format!("{{ {} print 10000000; echo $? >&2; }} | head -n 1", link.display())]);
    let output = end(shell).await;
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    assert_eq!(errors(&output), "141\n", "as of a program that SIGPIPE has ended");
}

/// On a terminal, the plugin has one: its size, and keys as they are pressed where that was granted. Elsewhere it has none.
#[tokio::test]
async fn a_terminal_is_a_terminal() {
    let user = User::new().await;
    user.has("actor.c", "actor", &["--grant", "tty=raw"]).await;
    let no_terminal = user.kubectl_prints(&["actor", "env"]).await;
    assert!(!no_terminal.contains("COLUMNS="), "{no_terminal}");
    // `script` runs a program on a terminal of its own.
    let mut command = user.command("/usr/bin/script".as_ref());
    let link = user.bin().join("kubectl-actor");
    let line = format!("stty cols 77 rows 33; {} env; stty -a", link.display());
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).env("TERM", "xterm");
    let seen = end(command).await;
    let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
    assert!(seen.contains("COLUMNS=77\r\n") && seen.contains("LINES=33\r\n"), "{seen}");
    assert!(seen.contains(" icanon") && seen.contains(" echo "), "what was set is set back: {seen}");
}

/// Where that was granted, a key is the plugin's once it is pressed, without a line's end; Ctrl-C still ends the plugin.
#[tokio::test]
async fn keys_come_as_they_are_pressed() {
    let user = User::new().await;
    user.has("actor.c", "actor", &["--grant", "tty=raw"]).await;
    let mut command = user.command("/usr/bin/script".as_ref());
    let line = format!("{} say begun key key wait", user.bin().join("kubectl-actor").display());
    command
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .env("TERM", "xterm");
    let mut child = command.spawn().unwrap();
    let mut keyboard = child.stdin.take().unwrap();
    let mut screen = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut shows = async |wanted: &str| {
        let line = tokio::time::timeout(SOON, screen.next_line()).await.expect("a line").unwrap();
        assert_eq!(line.as_deref().map(str::trim_end), Some(wanted), "and no key itself");
    };
    shows("begun").await;
    for (key, shown) in [(b'x', "key 120"), (b'\r', "key 10")] {
        keyboard.write_all(&[key]).await.unwrap();
        shows(shown).await;
    }
    keyboard.write_all(b"\x03").await.unwrap();
    let ended = tokio::time::timeout(SOON, child.wait()).await.expect("an end").unwrap();
    assert_eq!(ended.code(), Some(130));
}
