//! Programs that know credentials: asked over standard input, with bounded time and output.

use std::{io, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

/// Most bytes of an answer.
const ANSWER_LIMIT: usize = 1 << 20;
/// Bytes of standard error that are kept for the log.
const ERROR_LIMIT: usize = 4096;

/// What a program has answered.
pub(super) struct Answer {
    /// Whether it ended with 0.
    pub(super) succeeded: bool,
    /// Its standard output. It may hold a secret, and so this type has no `Debug`.
    pub(super) output: Vec<u8>,
    /// How it ended and the beginning of its standard error: for the log.
    pub(super) end: String,
}

/// Runs `command`, writes `question` to its standard input, and waits for its end. A program that takes longer than
/// `within`, or says too much, is killed with all that it has started.
///
/// The error goes after the program's name.
pub(super) async fn ask(mut command: Command, question: &[u8], within: Duration) -> Result<Answer, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true).process_group(0);
    let mut child = command.spawn().map_err(|error| format!("cannot be run: {error}"))?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let tell = async {
        if let Some(mut stdin) = stdin {
            // Who knows the answer without the question may have gone.
            let _ = stdin.write_all(question).await;
        }
    };
    let read = async {
        let ((), output, errors) = tokio::join!(
            tell,
            read(stdout, ANSWER_LIMIT, WhatIsOver::Refused),
            read(stderr, ERROR_LIMIT, WhatIsOver::Dropped)
        );
        let status = child.wait().await;
        (output, errors, status)
    };
    let Ok((output, errors, status)) = tokio::time::timeout(within, read).await else {
        return Err(format!("did not end within {} s", within.as_secs()));
    };
    let broken = |error: io::Error| format!("failed: {error}");
    let (output, errors, status) =
        (output.map_err(broken)?, errors.map_err(broken)?, status.map_err(broken)?);
    // Nothing is left to be killed, and its number may be another's soon.
    group.forget();
    let said: String = String::from_utf8_lossy(&errors).chars().filter(|c| !c.is_control()).collect();
    Ok(Answer { succeeded: status.success(), output, end: format!("{status}: {said}") })
}

enum WhatIsOver {
    Refused,
    Dropped,
}

async fn read(from: Option<impl AsyncRead + Unpin>, limit: usize, over: WhatIsOver) -> io::Result<Vec<u8>> {
    let Some(mut from) = from else { return Ok(Vec::new()) };
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = from.read(&mut buffer).await?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { return Ok(kept) };
        let room = limit.saturating_sub(kept.len());
        match over {
            WhatIsOver::Refused if bytes.len() > room => {
                return Err(io::Error::other(format!("it says more than {limit} bytes")));
            }
            _ => kept.extend(bytes.iter().take(room)),
        }
    }
}

/// The processes of a child, killed when this is dropped.
struct Group(Option<Pid>);

impl Group {
    fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        command
    }

    const AMPLE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_question_and_its_answer() {
        let answer = ask(shell("cat; echo oops >&2; exit 3"), b"who?", AMPLE).await.unwrap();
        assert!(!answer.succeeded);
        assert_eq!(answer.output, b"who?");
        assert!(answer.end.contains('3') && answer.end.contains("oops"), "{}", answer.end);
        assert!(ask(shell("exec <&-; echo fine"), &[b'x'; 1 << 20], AMPLE).await.unwrap().succeeded);
    }

    /// Its child would keep the streams open.
    #[tokio::test]
    async fn one_that_does_not_end_is_killed_with_its_children() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("pid");
        let script = format!("sleep 1000 & echo $! > {}; wait", place.display());
        let error = ask(shell(&script), b"", Duration::from_secs(2)).await.err().unwrap();
        assert_eq!(error, "did not end within 2 s");
        let pid: i32 = std::fs::read_to_string(place).unwrap().trim().parse().unwrap();
        let gone = || match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !gone() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn one_that_says_too_much_or_is_not_there() {
        let error = ask(shell("cat /dev/zero"), b"", AMPLE).await.err().unwrap();
        assert!(error.contains("more than"), "{error}");
        let error = ask(Command::new("/does/not/exist"), b"", AMPLE).await.err().unwrap();
        assert!(error.starts_with("cannot be run"), "{error}");
    }
}
