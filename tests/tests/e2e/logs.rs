//! `kubectl logs`.

use std::process::Stdio;

use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    pods::{Pods, running},
    suite::{SOON, suite, with_temp_ns},
};

/// Lines that a guest writes after `logs -f` began to read arrive while it runs, each within two seconds
/// of being written.
#[tokio::test]
async fn following_shows_lines_as_they_are_written() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("ticks", &["tick", "300"]).await;
        pods.until("ticks", "running", running).await;
        let suite = suite().await;
        let mut kubectl = tokio::process::Command::new(suite.cluster.kubectl_path())
            .arg("--kubeconfig")
            .arg(suite.cluster.admin_kubeconfig())
            .args(["--namespace", ns, "logs", "--follow", "--timestamps", "--tail=0", "ticks"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(kubectl.stdout.take().unwrap()).lines();
        let read = async {
            let mut numbers = Vec::new();
            while numbers.len() < 5 {
                let line = lines.next_line().await.unwrap().expect("the stream goes on as long as the guest");
                let (time, text) = line.split_once(' ').unwrap();
                let age = Timestamp::now().duration_since(time.parse().unwrap());
                assert!(age < SignedDuration::from_secs(2), "{line:?} is {age:?} old");
                numbers.push(text.strip_prefix("tick ").unwrap().parse::<u64>().unwrap());
            }
            numbers
        };
        let numbers = tokio::time::timeout(SOON, read).await.expect("five lines");
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    })
    .await;
}

/// Following ends by itself when the guest ends, with everything it wrote.
#[tokio::test]
async fn following_ends_with_the_guest() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("brief", &["say", "one", "sleep", "2", "say", "two"]).await;
        pods.until("brief", "a start", |pod| running(pod) || crate::pods::terminated(pod).is_some()).await;
        let suite = suite().await;
        let arguments = ["--namespace", ns, "logs", "--follow", "brief"];
        let follow = suite.cluster.kubectl(&arguments);
        let text = tokio::time::timeout(SOON, follow).await.expect("an end").unwrap();
        assert_eq!(text, "one\ntwo\n");
    })
    .await;
}

/// `--tail`, `--since`, `--limit-bytes` and both streams, of a guest that has ended.
#[tokio::test]
async fn parts_of_a_log() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        pods.act("wrote", &["print", "100", "stderr", "to stderr"]).await;
        pods.phase("wrote", "Succeeded").await;
        let suite = suite().await;
        for (flag, expected) in [
            ("--tail=3", "line 99\nline 100\nto stderr\n"),
            ("--tail=0", ""),
            ("--limit-bytes=9", "line 1\nli"),
        ] {
            let text = suite.cluster.kubectl(&["--namespace", ns, "logs", flag, "wrote"]).await.unwrap();
            assert_eq!(text, expected, "{flag}");
        }
        let all = suite.cluster.kubectl(&["--namespace", ns, "logs", "wrote"]).await.unwrap();
        assert_eq!(all.lines().count(), 101);
    })
    .await;
}

/// `--previous` shows the run before the restart.
#[tokio::test]
async fn the_log_of_the_previous_run() {
    with_temp_ns(async |client, ns| {
        let pods = Pods::new(&client, ns);
        let suite = suite().await;
        let spec = serde_json::json!({
            "restartPolicy": "Always",
            "containers": [{ "name": "main", "image": suite.actor.tagged, "args": ["say", "once more", "exit", "1"] }],
        });
        pods.create("repeats", spec).await;
        pods.waiting("repeats", &["CrashLoopBackOff"]).await;
        let text = suite.cluster.kubectl(&["--namespace", ns, "logs", "--previous", "repeats"]).await.unwrap();
        assert_eq!(text, "once more\n");
    })
    .await;
}
