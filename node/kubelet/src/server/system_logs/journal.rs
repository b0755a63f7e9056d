//! Logs of services of the machine: by journald, or in a file that has the service's name.

use std::{path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use jiff::{Timestamp, tz::TimeZone};
use tokio::{
    io,
    process::Command,
    sync::{Semaphore, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use warp::reply::{Reply as _, Response};

use super::{Blocks, Opened, QUEUE, open_below, query::ServiceQuery, send};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Answers at once; others wait.
const AT_ONCE: usize = 4;
/// Bytes of journald's list of services that are looked at.
const MOST_UNITS: u64 = 4 * 1024 * 1024;

/// Where logs of services are.
#[derive(Clone, Debug)]
pub(super) struct Journal {
    program: PathBuf,
    /// Where services have their files which do not log to journald.
    dir: PathBuf,
    turns: Arc<Semaphore>,
}

impl Journal {
    pub(super) fn new(program: PathBuf, dir: PathBuf) -> Self {
        Self { program, dir, turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Answers with what the services have logged. What fails stands in the answer, as with the kubelet.
    pub(super) fn answer(&self, query: ServiceQuery) -> Response {
        let (blocks, receiver) = mpsc::channel(QUEUE);
        let journal = self.clone();
        tokio::spawn(async move {
            let copied = async {
                // The semaphore is never closed, so that this waits and does not fail.
                let _turn = journal.turns.acquire().await.ok();
                journal.copy(&query, &blocks).await;
            };
            tokio::select! {
                copied = tokio::time::timeout(TIMEOUT, copied) => if copied.is_err() {
                    say(&blocks, format!("\nerror: there is no end after {} s\n", TIMEOUT.as_secs())).await;
                },
                () = blocks.closed() => {}
            }
        });
        let mut response = warp::reply::stream(ReceiverStream::new(receiver)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain;charset=UTF-8"));
        response
    }

    async fn copy(&self, query: &ServiceQuery, blocks: &Blocks) {
        let units = self.units().await;
        let (native, files): (Vec<_>, Vec<_>) = query
            .services
            .iter()
            .map(String::as_str)
            .partition(|service| units.contains(&format!("{service}.service")));
        if !native.is_empty() {
            self.copy_native(query, &native, blocks).await;
        }
        if !files.is_empty() && query.has_options() {
            let files = files.join(" ");
            let message = format!(
                "\noptions present and query resolved to log files for [{files}]\ntry without specifying options\n"
            );
            return say(blocks, message).await;
        }
        for service in files {
            self.copy_file(service, blocks).await;
        }
    }

    /// The services that journald knows; none where there is no journald.
    async fn units(&self) -> String {
        use tokio::io::AsyncReadExt as _;
        let mut command = self.command();
        command.args(["--field", "_SYSTEMD_UNIT"]).stdout(Stdio::piped());
        let mut units = Vec::new();
        if let Ok(mut child) = command.spawn()
            && let Some(stdout) = child.stdout.take()
        {
            // What could be read is what is known.
            let _ = stdout.take(MOST_UNITS).read_to_end(&mut units).await;
        }
        String::from_utf8_lossy(&units).into_owned()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn copy_native(&self, query: &ServiceQuery, services: &[&str], blocks: &Blocks) {
        let mut command = self.command();
        command.args(arguments(query, services)).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            return say(blocks, "\nerror: journal output not available\n".to_owned()).await;
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let output = async {
            if let Some(stdout) = stdout {
                send(stdout, blocks).await;
            }
        };
        let errors = async {
            if let Some(stderr) = stderr {
                send(stderr, blocks).await;
            }
        };
        tokio::join!(output, errors);
        // How it ended is in what it said.
        let _ = child.wait().await;
    }

    /// Looks for `<service>`, `<service>.log` and `<service>/<service>.log`.
    async fn copy_file(&self, service: &str, blocks: &Blocks) {
        for name in [service.to_owned(), format!("{service}.log"), format!("{service}/{service}.log")] {
            match open_below(&self.dir, &PathBuf::from(name)) {
                Ok(Opened::File(file)) => return send(tokio::fs::File::from_std(file), blocks).await,
                Ok(Opened::Directory(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    return say(blocks, format!("\nerror getting log for {service}: {error}\n")).await;
                }
            }
        }
        say(blocks, format!("\nlog not found for {service}\n")).await;
    }
}

/// How `journalctl` is asked. Values are of one argument with their names, so that none is taken for a flag.
fn arguments(query: &ServiceQuery, services: &[&str]) -> Vec<String> {
    let time = |time: Timestamp| TimeZone::UTC.to_datetime(time).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut arguments = ["--utc", "--no-pager", "--output=short-precise"].map(str::to_owned).to_vec();
    arguments.extend(query.since.map(|since| format!("--since={}", time(since))));
    arguments.extend(query.until.map(|until| format!("--until={}", time(until))));
    if let Some(lines) = query.tail_lines {
        arguments.extend(["--pager-end".to_owned(), format!("--lines={lines}")]);
    }
    arguments.extend(services.iter().map(|service| format!("--unit={service}")));
    arguments.extend(query.pattern.iter().map(|pattern| format!("--grep={pattern}")));
    arguments.extend(query.boot.map(|boot| format!("--boot={boot}")));
    arguments
}

async fn say(blocks: &Blocks, message: String) {
    // Nobody may be there any more to be told.
    let _ = blocks.send(Ok(Bytes::from(message))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_becomes_arguments() {
        let query = ServiceQuery {
            services: vec!["a".into()],
            since: "2026-01-02T03:04:05Z".parse().ok(),
            until: "2026-01-02T03:04:06Z".parse().ok(),
            tail_lines: Some(7),
            boot: Some(-1),
            pattern: Some("--version".into()),
        };
        assert_eq!(
            arguments(&query, &["a", "b"]),
            [
                "--utc",
                "--no-pager",
                "--output=short-precise",
                "--since=2026-01-02 03:04:05",
                "--until=2026-01-02 03:04:06",
                "--pager-end",
                "--lines=7",
                "--unit=a",
                "--unit=b",
                "--grep=--version",
                "--boot=-1",
            ]
        );
    }
}
