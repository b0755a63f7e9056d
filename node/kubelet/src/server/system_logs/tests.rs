//! What callers see of a directory of logs.

use std::{fs, os::unix::fs::symlink};

use http_body_util::BodyExt as _;

use super::*;

/// A log directory beside a file that is none of its.
fn folder() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("log");
    fs::create_dir_all(dir.join("pods/a b")).unwrap();
    fs::create_dir(dir.join("cron")).unwrap();
    fs::write(root.path().join("secret"), "secret").unwrap();
    fs::write(dir.join("syslog"), "one\ntwo\n").unwrap();
    fs::write(dir.join("old.log.gz"), [0x1f, 0x8b, 0]).unwrap();
    fs::write(dir.join("cron/cron.log"), "cron has run\n").unwrap();
    fs::write(dir.join("pods/a b/<0>.log"), "of a pod\n").unwrap();
    symlink("../pods/a b/<0>.log", dir.join("cron/within.log")).unwrap();
    symlink("../secret", dir.join("out.log")).unwrap();
    symlink(root.path().join("secret"), dir.join("absolute.log")).unwrap();
    symlink("..", dir.join("up")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.join("pipe"), rustix::fs::FileType::Fifo, Mode::RWXU, 0)
        .unwrap();
    root
}

fn shown(root: &tempfile::TempDir) -> SystemLogs {
    SystemLogs::new(root.path().join("log"), true, false)
}

async fn get(logs: &SystemLogs, path: &str, query: &[(&str, &str)]) -> (u16, String) {
    let pairs: Vec<_> = query.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let response = logs.answer(path, &pairs).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn files_and_directories_are_shown() {
    let root = folder();
    let logs = shown(&root);
    assert_eq!(get(&logs, "/syslog", &[]).await, (200, "one\ntwo\n".into()));
    assert_eq!(get(&logs, "/pods/a%20b/%3C0%3E.log", &[]).await, (200, "of a pod\n".into()));
    assert_eq!(get(&logs, "/cron/within.log", &[]).await, (200, "of a pod\n".into()));
    let (status, body) = get(&logs, "/pods/a%20b/", &[]).await;
    assert_eq!(status, 200);
    assert!(body.contains("<a href=\"./%3C0%3E.log\">&lt;0&gt;.log</a>\n"), "{body}");
    let (_, body) = get(&logs, "/", &[]).await;
    assert!(body.contains("<a href=\"./cron/\">cron/</a>\n<a href=\"./old.log.gz\">"), "{body}");
    let compressed = logs.answer("/old.log.gz", &[]).await;
    assert_eq!(compressed.headers()[CONTENT_TYPE], "application/gzip");
    for (path, to) in [("/pods", "pods/"), ("/pods/a%20b", "a%20b/"), ("", "logs/")] {
        let response = logs.answer(path, &[]).await;
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY, "{path}");
        assert_eq!(response.headers()[LOCATION], to);
    }
    // Without the feature, queries are not looked at.
    assert_eq!(get(&logs, "/syslog", &[("query", "cron")]).await.0, 200);
}

/// Not by links, not by dots, not by their encodings; and nothing waits for a pipe.
#[tokio::test]
async fn nothing_outside_is_shown() {
    let root = folder();
    let logs = shown(&root);
    for (path, status) in [
        ("/none", 404),
        ("/syslog/below", 404),
        ("/nul%00byte", 404),
        ("/out.log", 403),
        ("/absolute.log", 403),
        ("/../secret", 403),
        ("/%2e%2e/secret", 403),
        ("/cron/..%2f..%2fsecret", 403),
        ("/%2f%2fetc/passwd", 403),
        ("/up/secret", 403),
        ("/pipe", 403),
    ] {
        let (found, body) = get(&logs, path, &[]).await;
        assert_eq!(found, status, "{path}: {body}");
        assert!(!body.contains("secret"), "{path}: {body}");
    }
}

/// A file that grows while it is read is shown as far as it was.
#[tokio::test]
async fn a_file_that_grows_has_an_end() {
    let root = folder();
    let path = root.path().join("log/large");
    fs::write(&path, "x".repeat(1 << 20)).unwrap();
    let response = shown(&root).answer("/large", &[]).await;
    let mut body = response.into_body();
    let mut seen = body.frame().await.unwrap().unwrap().into_data().unwrap().len();
    fs::OpenOptions::new().append(true).open(&path).unwrap().set_len(2 << 20).unwrap();
    while let Some(frame) = body.frame().await {
        seen += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(seen, 1 << 20);
}

/// Services that journald knows are asked of it; others are looked for in files.
#[tokio::test]
async fn queries_are_answered_by_journald_or_files() {
    let root = folder();
    let program = root.path().join("journalctl");
    let script = "#!/bin/sh\nif [ \"$1\" = --field ]; then echo other.service; echo web.service; exit; fi\necho \"$@\"\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let logs = shown(&root).with_journalctl(program);
    let asked = "--utc --no-pager --output=short-precise --pager-end --lines=3 --unit=web\n";
    assert_eq!(get(&logs, "/", &[("query", "web"), ("tailLines", "3")]).await, (200, asked.into()));
    assert_eq!(get(&logs, "/", &[("query", "cron")]).await, (200, "cron has run\n".into()));
    assert_eq!(get(&logs, "/", &[("query", "nobody")]).await, (200, "\nlog not found for nobody\n".into()));
    assert_eq!(get(&logs, "", &[("query", "/syslog")]).await, (200, "one\ntwo\n".into()));
    assert_eq!(get(&logs, "/syslog", &[]).await, (200, "one\ntwo\n".into()));
    let (_, body) = get(&logs, "/", &[("query", "cron"), ("boot", "0")]).await;
    assert!(body.contains("options present and query resolved to log files for [cron]"), "{body}");
    for (path, query, status) in [
        ("/", ("query", " "), 400),
        ("/", ("tailLines", "1"), 406),
        ("/syslog", ("query", "web"), 406),
        ("/", ("query", "/none"), 406),
        ("/", ("query", "../secret"), 406),
        ("/", ("query", "/out.log"), 406),
        ("/", ("query", "a;b"), 406),
    ] {
        assert_eq!(get(&logs, path, &[query]).await.0, status, "{path} {query:?}");
    }
}

#[tokio::test]
async fn a_machine_without_journald_says_so() {
    let root = folder();
    let logs = shown(&root).with_journalctl(root.path().join("none"));
    assert_eq!(get(&logs, "/", &[("query", "cron")]).await, (200, "cron has run\n".into()));
}
