//! The termination message of a container that has ended: what it has left in a file of its own, or, if it
//! asks for that and has failed, the end of its log; after what the provider says of the exit, if anything.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use k8s_openapi::api::core::v1::{Container, Pod};
use rustix::fs::{Mode, OFlags};

use crate::{logs::cri::LogLine, runtime::Exit};

/// Lines of the log that a message is made of at most, and bytes of it; upstream's numbers.
const LINES: usize = 80;
const BYTES: usize = 2048;

/// Bytes at the end of a log that are looked at: enough for [`BYTES`] in short lines with their heads.
const TAIL: u64 = 64 * 1024;

/// Bytes of a message that a container leaves itself, and of all messages of a pod together; upstream's
/// numbers.
const OWN_BYTES: u64 = 4096;
const POD_BYTES: usize = 12 << 10;

/// Where a container leaves its message when the pod does not say.
const DEFAULT_PATH: &str = "/dev/termination-log";

/// Where the guest finds the file for its message.
pub(super) fn guest_path(container: &Container) -> String {
    let path = container.termination_message_path.as_deref().filter(|path| !path.is_empty());
    let path = path.unwrap_or(DEFAULT_PATH);
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Makes the file for the message of an attempt, in the place of one that may be there.
///
/// # Errors
/// What the system says.
pub(super) fn make_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    // A guest writes as the user of its worker, who is that of the agent: nobody else has anything to do here.
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

/// The message, where it is not only what the provider says of the exit. `own` is the file that the
/// container could write to, `log` its log.
pub(super) fn message(
    pod: &Pod,
    container: &Container,
    exit: &Exit,
    own: &Path,
    log: &Path,
) -> Option<String> {
    let fall_back = container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let text = match read_own(own) {
        Ok(text) if text.is_empty() => None,
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => Some(format!("Error on reading termination log: {error}")),
    };
    let text = text.or_else(|| (fall_back && exit.exit_code != 0).then(|| from_log(log)).flatten())?;
    let text = match exit.message.as_str() {
        "" => text,
        said => format!("{said}: {text}"),
    };
    Some(cut(text, POD_BYTES / containers(pod).max(1)))
}

/// How many containers share what a pod may say.
fn containers(pod: &Pod) -> usize {
    let Some(spec) = &pod.spec else { return 0 };
    let len = |list: Option<usize>| list.unwrap_or_default();
    spec.containers.len()
        + len(spec.init_containers.as_ref().map(Vec::len))
        + len(spec.ephemeral_containers.as_ref().map(Vec::len))
}

/// The first bytes of the file. The guest may have done anything to its contents, and it is never waited for.
fn read_own(path: &Path) -> io::Result<String> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no file any more"));
    }
    let mut bytes = Vec::new();
    file.take(OWN_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn cut(mut text: String, bytes: usize) -> String {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

fn from_log(log: &Path) -> Option<String> {
    match tail(log) {
        Ok(bytes) => Some(last_lines(&bytes)).filter(|text| !text.is_empty()),
        Err(error) => {
            tracing::debug!(log = %log.display(), %error, "cannot read the end of a log for a termination message");
            None
        }
    }
}

fn tail(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = kubewasm_trees::open_plain(path, OFlags::RDONLY, Mode::empty())?;
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
        let Some(line) = LogLine::parse(line.as_bytes()) else { continue };
        text.push_str(&String::from_utf8_lossy(line.message));
        if !line.partial {
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

    use std::os::unix::fs::PermissionsExt as _;

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
        fs::write(log.path(), "2026-01-02T15:04:05Z stderr F no such table\n").unwrap();
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
        let (pod, none) = (Pod::default(), Path::new("/nonexistent"));
        let message = |container: &Container, exit: &Exit, log| message(&pod, container, exit, none, log);
        let fallback = container("FallbackToLogsOnError");
        assert_eq!(message(&fallback, &exit(3), log.path()).as_deref(), Some("no such table\n"));
        assert_eq!(message(&fallback, &exit(0), log.path()), None);
        assert_eq!(message(&container("File"), &exit(3), log.path()), None);
        assert_eq!(message(&fallback, &exit(3), none), None);
        let trap = Exit { message: "unreachable".to_owned(), ..exit(134) };
        assert_eq!(message(&fallback, &trap, log.path()).as_deref(), Some("unreachable: no such table\n"));
    }

    #[test]
    fn what_the_container_has_left_itself() {
        let dir = tempfile::tempdir().unwrap();
        let (own, log) = (dir.path().join("0.end"), dir.path().join("log"));
        fs::write(&log, "2026-01-02T15:04:05Z stderr F from the log\n").unwrap();
        let container = Container {
            termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
            ..Container::default()
        };
        let containers = |count: usize| -> Pod {
            let containers: Vec<_> = (0..count).map(|n| serde_json::json!({"name": n.to_string()})).collect();
            serde_json::from_value(serde_json::json!({"spec": {"containers": containers}})).unwrap()
        };
        let exit = |exit_code, said: &str| Exit {
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: Timestamp::UNIX_EPOCH,
            exit_code,
            reason: ExitReason::Exited,
            message: said.to_owned(),
        };
        let one = containers(1);
        let read = |pod: &Pod, exit: &Exit| message(pod, &container, exit, &own, &log);
        make_file(&own).unwrap();
        assert_eq!(fs::metadata(&own).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&one, &exit(3, "")).as_deref(), Some("from the log\n"));
        fs::write(&own, "why").unwrap();
        assert_eq!(read(&one, &exit(0, "")).as_deref(), Some("why"));
        assert_eq!(read(&one, &exit(134, "trap")).as_deref(), Some("trap: why"));
        fs::write(&own, vec![b'x'; 10_000]).unwrap();
        assert_eq!(read(&one, &exit(0, "")).unwrap().len(), 4096);
        assert_eq!(read(&containers(6), &exit(0, "")).unwrap().len(), 2048);
        fs::write(&own, "é".repeat(2000)).unwrap();
        assert_eq!(read(&containers(13), &exit(0, "")).unwrap().len(), 944);

        // Whatever is put in its place tells nothing of other files, and holds nobody up.
        fs::remove_file(&own).unwrap();
        std::os::unix::fs::symlink(&log, &own).unwrap();
        let text = read(&one, &exit(0, "")).unwrap();
        assert!(
            text.starts_with("Error on reading termination log") && !text.contains("from the log"),
            "{text}"
        );
        fs::remove_file(&own).unwrap();
        fs::create_dir(&own).unwrap();
        assert!(read(&one, &exit(0, "")).unwrap().starts_with("Error on reading termination log"));
    }

    #[test]
    fn where_the_guest_finds_its_file() {
        let path = |text: Option<&str>| {
            guest_path(&Container {
                termination_message_path: text.map(str::to_owned),
                ..Container::default()
            })
        };
        assert_eq!(path(None), "/dev/termination-log");
        assert_eq!(path(Some("")), "/dev/termination-log");
        assert_eq!(path(Some("/tmp/why")), "/tmp/why");
        assert_eq!(path(Some("why")), "/why");
    }
}
