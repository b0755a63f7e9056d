//! Child processes: started with a log file, ended by name of their folder.
//!
//! Every child gets a process group of its own, so that Ctrl-C at the terminal reaches the command that
//! the user sees and not its servers, and can outlive the command that started it (as the demo's do).

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// Bytes from the end of a log that an error shows.
const LOG_TAIL: u64 = 4_096;

/// A program that runs beside us, its output going to a file.
///
/// Dropping it leaves the program running: what ends it is [`Process::stop`], [`Process::kill`] or the end
/// of its [`crate::home::Home`].
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts `command` with nothing on standard input; what it writes is appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        let errors = output.try_clone().context("cannot duplicate a file handle")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!("cannot start {name} ({})", Path::new(command.get_program()).display())
            })?;
        Ok(Self { name: name.to_owned(), log: log.to_owned(), child })
    }

    /// Id of the process, also that of its process group.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status when the program has ended, `None` while it runs.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot ask for the state of {}", self.name))
    }

    /// Waits until `ready` answers `Ok`, and gives up at once when the program ends before that.
    ///
    /// # Errors
    /// When it ended, or was not ready within `limit`. The error names the log and shows its end.
    pub async fn await_ready(
        &mut self,
        limit: Duration,
        mut ready: impl AsyncFnMut() -> Result<(), String>,
    ) -> Result<()> {
        let what = format!("{} to be ready", self.name);
        let outcome = wait::until(&what, limit, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(Err(status)),
            _ => ready().await.map(Ok),
        })
        .await;
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => bail!("{} ended while starting ({status}). {}", self.name, self.log_tail()),
            Err(error) => Err(error.context(self.log_tail())),
        }
    }

    /// Sends a signal. A program that has ended already is fine.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.ended()?.is_none() {
            kill_process(Pid::from_child(&self.child), signal)
                .with_context(|| format!("cannot send {signal:?} to {}", self.name))?;
        }
        Ok(())
    }

    /// Asks the program to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// When it still runs after `limit`; it is killed then.
    pub async fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let ended = self.await_end(limit).await;
        if ended.is_err() {
            self.kill()?;
        }
        ended
    }

    /// Waits for the program to end by itself.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn await_end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        let ended = wait::until(&what, limit, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it still runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await;
        ended.with_context(|| self.log_tail())
    }

    /// Kills the program (SIGKILL) and waits for its end.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// A sentence that names the log and shows its end.
    #[must_use]
    pub fn log_tail(&self) -> String {
        format!("The log of {} is {}; its end:\n{}", self.name, self.log.display(), tail(&self.log))
    }
}

/// The last bytes of a file as text, or why there are none.
fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
        let mut bytes = Vec::new();
        file.take(LOG_TAIL).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(cannot be read: {error})"),
    }
}

/// Kills every process that has `folder`, or a path below it, on its command line, and waits until they
/// are gone. Ourselves and our own parents are spared.
///
/// # Errors
/// When `/proc` cannot be read, or when some still run after `limit`.
pub async fn end_all_under(folder: &Path, limit: Duration) -> Result<()> {
    let what = format!("the processes of {} to end", folder.display());
    wait::until(&what, limit, async || {
        let left = all_under(folder).map_err(|error| format!("{error:#}"))?;
        for &pid in &left {
            // It may have ended in between, or belong to someone else; the next look tells.
            let _ = kill_process(pid, Signal::KILL);
        }
        if left.is_empty() { Ok(()) } else { Err(format!("still running: {left:?}")) }
    })
    .await
}

/// Kills the processes that have `folder`, or a path below it, on their command line now, and waits until they are gone:
/// those that take their place live.
///
/// # Errors
/// When `/proc` cannot be read, or when one still runs after `limit`.
pub async fn end_now_under(folder: &Path, limit: Duration) -> Result<()> {
    let doomed = all_under(folder)?;
    for &pid in &doomed {
        // It may have ended in between, or belong to someone else; the next look tells.
        let _ = kill_process(pid, Signal::KILL);
    }
    let what = format!("the processes of {} to end", folder.display());
    wait::until(&what, limit, async || {
        let mut left = all_under(folder).map_err(|error| format!("{error:#}"))?;
        left.retain(|pid| doomed.contains(pid));
        if left.is_empty() { Ok(()) } else { Err(format!("still running: {left:?}")) }
    })
    .await
}

/// The processes that have `folder`, or a path below it, on their command line.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn all_under(folder: &Path) -> Result<Vec<Pid>> {
    let own = ancestors();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").context("cannot read /proc")? {
        let entry = entry.context("cannot read /proc")?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw)
        else {
            continue;
        };
        // A process that has just ended has no command line any more, and a zombie an empty one.
        let Ok(command_line) = fs::read(entry.path().join("cmdline")) else {
            continue;
        };
        if !own.contains(&pid)
            && command_line.split(|&byte| byte == 0).any(|argument| names(argument, folder))
        {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Ourselves and all our parents.
fn ancestors() -> Vec<Pid> {
    let mut found = vec![rustix::process::getpid()];
    while let Some(parent) = found.last().copied().and_then(parent_of) {
        found.push(parent);
    }
    found
}

/// The parent of a process; `None` for the first process of all, and for one that is gone.
fn parent_of(pid: Pid) -> Option<Pid> {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    Pid::from_raw(parent.trim().parse().ok()?)
}

/// Whether an argument is `folder`, a path below it, or a flag (`--name=path`) or URL with such a value.
fn names(argument: &[u8], folder: &Path) -> bool {
    let folder = folder.as_os_str().as_bytes();
    let starts = |value: &[u8]| {
        value.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    };
    let value = argument.iter().position(|&byte| byte == b'=').and_then(|at| argument.get(at + 1..));
    starts(argument) || value.is_some_and(starts)
}

/// Looks for a program along `PATH`.
#[must_use]
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the error shows what it wrote to standard error.
pub async fn run(program: &Path, arguments: &[impl AsRef<OsStr>]) -> Result<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments);
    run_command(command).await
}

/// [`run`], of a command that has an environment of its own, say.
///
/// # Errors
/// See [`run`].
pub async fn run_command(mut command: tokio::process::Command) -> Result<String> {
    let started = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let command = command.as_std();
    let program = Path::new(command.get_program()).display();
    let output = started.with_context(|| format!("cannot start {program}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let line: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{program} {}` failed ({}):\n{stdout}{stderr}", line.join(" "), output.status);
    }
    Ok(stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_belongs_to_a_folder_by_whole_path_parts() {
        let folder = Path::new("/tmp/run-1");
        for (argument, expected) in [
            ("/tmp/run-1", true),
            ("/tmp/run-1/etcd", true),
            ("--data-dir=/tmp/run-1/etcd", true),
            ("/tmp/run-10", false),
            ("--data-dir=/tmp/run-10/etcd", false),
            ("/var/tmp/run-1", false),
            ("see /tmp/run-1", false),
            ("", false),
        ] {
            assert_eq!(names(argument.as_bytes(), folder), expected, "{argument:?}");
        }
    }

    #[tokio::test]
    async fn ends_what_belongs_to_a_folder_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("log");
        let inside = home.path().join("inside");
        let start = |marker: &Path| {
            let mut command = Command::new("tail");
            Process::start("tail", command.arg("-f").arg(marker), &log).unwrap()
        };
        let other = tempfile::NamedTempFile::new().unwrap();
        fs::write(&inside, "").unwrap();
        let mut mine = start(&inside);
        let mut stranger = start(other.path());
        // A process is there a moment before its command line is.
        let there = async || match all_under(home.path()).unwrap()[..] {
            [] => Err("no process".to_owned()),
            [_, ..] => Ok(()),
        };
        wait::until("the process below the folder", Duration::from_secs(10), there).await.unwrap();
        end_all_under(home.path(), Duration::from_secs(10)).await.unwrap();
        assert!(!mine.await_end(Duration::from_secs(10)).await.unwrap().success());
        assert_eq!(stranger.ended().unwrap(), None);
        stranger.kill().unwrap();
    }

    #[tokio::test]
    async fn a_program_that_ends_while_starting_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such option; exit 3"]);
        let mut process = Process::start("sh", &mut command, &folder.path().join("sh.log")).unwrap();
        let ready = process.await_ready(Duration::from_secs(10), async || Err("not yet".to_owned())).await;
        let message = format!("{:#}", ready.unwrap_err());
        assert!(message.contains("exit status: 3") && message.contains("no such option"), "{message}");
    }
}
