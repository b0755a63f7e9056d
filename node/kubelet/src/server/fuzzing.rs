//! What a fuzzer calls, in a build for one (`make fuzz`): paths and queries, as callers of the HTTPS port may send them.
//! Each is read, and what must hold whatever it is is checked.

#![allow(clippy::panic, clippy::unwrap_used, clippy::expect_used, reason = "what a fuzzer is to find")]

use std::{path::Path, sync::OnceLock};

use http::Uri;
use jiff::Timestamp;

use super::{attributes, system_logs};
use crate::logs::LogReadOptions;

/// A directory of logs, and beside it what is none of its: `log` and `secret`.
fn fill(root: &Path) {
    std::fs::create_dir_all(root.join("log/a/b")).unwrap();
    std::fs::write(root.join("secret"), system_logs::fuzzing::SECRET).unwrap();
    std::fs::write(root.join("log/a/x.log"), "x").unwrap();
    std::os::unix::fs::symlink("../secret", root.join("log/out")).unwrap();
    std::os::unix::fs::symlink("a/b", root.join("log/in")).unwrap();
}

/// A path. Whoever may not act on the node's containers gets nothing by it that is not of another kind; and of the
/// machine's logs nothing is shown that is not in their directory.
pub fn path(data: &[u8]) {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        folder
    });
    path_below(folder.path(), data);
}

fn path_below(root: &Path, data: &[u8]) {
    let Ok(uri) = Uri::try_from(data) else { return };
    let path = uri.path();
    let subresources = attributes::subresources(path);
    assert!(!subresources.is_empty());
    let is_action = ["/exec", "/attach", "/run", "/portForward", "/containerLogs", "/debug"]
        .iter()
        .any(|prefix| path == *prefix || path.starts_with(&format!("{prefix}/")));
    if is_action {
        assert_eq!(subresources, ["proxy"]);
    }
    if let Some(below) = path.strip_prefix("/logs") {
        assert!(subresources == ["log"] || !below.starts_with('/'));
        system_logs::fuzzing::stays_within(&root.join("log"), below);
    }
}

/// A query. What is taken of it has its bounds.
pub fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
    let pairs: Vec<(String, String)> = text
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(name, value)| (decode(name), decode(value)))
        .collect();
    let now = Timestamp::UNIX_EPOCH;
    if let Ok(options) = LogReadOptions::parse(&pairs, now) {
        assert!(options.limit_bytes.is_none_or(|limit| limit > 0));
    }
    system_logs::fuzzing::query(&pairs);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the fuzzer begins with, and what has been found.
    #[test]
    fn seeds_hold() {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path());
        for seed in [
            "/containerLogs/ns/pod/main?follow=true",
            "/logs/a/../%2e%2e/secret",
            "/logs/in/..",
            "/logs/out",
            "/logs",
            "/logsx/..",
            "/exec",
            "*",
            "http://host/logs/%00",
        ] {
            path_below(folder.path(), seed.as_bytes());
        }
        for seed in [
            "follow=true&previous=1&timestamps=&tailLines=10&limitBytes=7&sinceSeconds=60&stream=All&tail=all",
            "query=kubelet&query=cron&sinceTime=2026-01-02T00:00:00Z&boot=-1&tailLines=5&pattern=x",
            "query=-rf&query=%00&limitBytes=9223372036854775807&sinceSeconds=9223372036854775807",
            "&&=&query&%",
        ] {
            query(seed.as_bytes());
        }
    }
}
