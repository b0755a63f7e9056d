//! The termination message of a container that has ended.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use k8s_openapi::api::core::v1::Container;

use crate::runtime::Exit;

/// Lines of the log that a message is made of at most, and bytes of it; upstream's numbers.
const LINES: usize = 80;
const BYTES: usize = 2048;

/// Bytes at the end of a log that are looked at: enough for [`BYTES`] in short lines with their heads.
const TAIL: u64 = 64 * 1024;

/// The message, where it is not what the provider says of the exit: with `FallbackToLogsOnError`, the end of
/// the log of a container that failed.
pub(super) fn message(container: &Container, exit: &Exit, log: &Path) -> Option<String> {
    let fall_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    if !fall_back || exit.exit_code == 0 {
        return None;
    }
    match tail(log) {
        Ok(bytes) => Some(last_lines(&bytes)).filter(|text| !text.is_empty()),
        Err(error) => {
            tracing::debug!(log = %log.display(), %error, "cannot read the end of a log for a termination message");
            None
        }
    }
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of the last lines of a CRI log. The first line may be torn; it counts for nothing then.
fn last_lines(log: &[u8]) -> String {
    let log = String::from_utf8_lossy(log);
    let mut text = String::new();
    let lines: Vec<&str> = log.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(LINES)) {
        let mut parts = line.splitn(4, ' ');
        let (Some(_), Some("stdout" | "stderr"), Some(tag)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        text.push_str(parts.next().unwrap_or_default());
        if tag.split(':').next() == Some("F") {
            text.push('\n');
        }
    }
    let mut start = text.len().saturating_sub(BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.split_off(start)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::runtime::ExitReason;

    #[test]
    fn the_end_of_a_log_without_its_heads() {
        let head = "2026-01-02T15:04:05.123456789Z";
        let log = format!(
            "4Z stdout F torn\n{head} stdout F one\n{head} stderr P tw\n{head} stderr F o\n{head} stdout F \n{head} stdout P end"
        );
        assert_eq!(last_lines(log.as_bytes()), "torn\none\ntwo\n\nend");
        assert_eq!(last_lines(b"out F torn\n"), "");
    }

    #[test]
    fn eighty_lines_and_two_kibibytes() {
        let line = |n: usize, width: usize| format!("2026-01-02T15:04:05Z stdout F {n:0width$}\n");
        let many: String = (0..200).map(|n| line(n, 3)).collect();
        let text = last_lines(many.as_bytes());
        assert_eq!((text.lines().count(), text.lines().next()), (80, Some("120")));
        let wide: String = (0..100).map(|n| line(n, 99)).collect();
        assert_eq!(last_lines(wide.as_bytes()).len(), 2048);
    }

    #[test]
    fn only_a_failure_falls_back() {
        let log = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(log.path(), "2026-01-02T15:04:05Z stderr F no such table\n").unwrap();
        let exit = |exit_code| Exit {
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
            exit_code,
            reason: ExitReason::Exited,
            message: String::new(),
        };
        let container = |policy: &str| Container {
            termination_message_policy: Some(policy.to_owned()),
            ..Container::default()
        };
        let fallback = container("FallbackToLogsOnError");
        assert_eq!(message(&fallback, &exit(3), log.path()).as_deref(), Some("no such table\n"));
        assert_eq!(message(&fallback, &exit(0), log.path()), None);
        assert_eq!(message(&container("File"), &exit(3), log.path()), None);
        assert_eq!(message(&fallback, &exit(3), Path::new("/nonexistent")), None);
    }
}
