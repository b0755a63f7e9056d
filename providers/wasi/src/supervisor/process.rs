//! Worker processes: started, found by their lock, and ended by signals.

use std::{
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use kubewasm_network::Namespace;
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{ChildStdin, Command},
    runtime::Handle,
    task::JoinHandle,
};

use super::SupervisorOptions;
use crate::worker::{self, WorkerOptions};

/// A worker says little; what it said before is thrown away beyond this, in bytes.
const LOG_LIMIT: u64 = 1 << 20;
/// How much of a dead worker's last words is repeated, in bytes.
const LAST_WORDS: u64 = 2048;
/// Between two looks at a process.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// What a child process inherits of the agent's environment: how much it says. All else may be secret.
const ENVIRONMENT: [&str; 3] = ["KUBEWASM_V", "KUBEWASM_LOG", "RUST_BACKTRACE"];

/// Where the worker of a group listens.
pub(super) fn socket(dir: &Path, group: &str) -> PathBuf {
    dir.join(group).join("worker.sock")
}

/// Where it writes what it has to say.
pub(super) fn log(socket: &Path) -> PathBuf {
    socket.with_extension("log")
}

/// A process that was just started.
pub(super) struct Started {
    pub(super) pid: Option<u32>,
    pub(super) exit: JoinHandle<io::Result<ExitStatus>>,
    /// The end of the pipe that the worker's life hangs on, if it does.
    pub(super) lifeline: Option<ChildStdin>,
}

/// Starts a worker, in a network namespace, if there is one to be in. Must be called within a tokio
/// runtime.
pub(super) fn spawn(
    socket: &Path,
    options: &SupervisorOptions,
    namespace: Option<&Namespace>,
) -> io::Result<Started> {
    let mut command = options.program.command("worker");
    let with_parent = options.with_parent;
    let own_network = namespace.is_some();
    command.args(WorkerOptions { own_network, ..worker_options(socket, options) }.args());
    inherit_little(&mut command);
    command.stderr(Stdio::from(open_log(&log(socket))?));
    if with_parent {
        command.stdin(Stdio::piped());
    }
    let mut child = match namespace {
        Some(namespace) => {
            let runtime = Handle::current();
            namespace.run(|| {
                let _inside = runtime.enter();
                command.spawn()
            })?
        }
        None => command.spawn()?,
    };
    let (pid, lifeline) = (child.id(), child.stdin.take());
    // Somebody must take note of its end, or it stays a zombie for as long as we live.
    let exit = tokio::spawn(async move { child.wait().await });
    Ok(Started { pid, exit, lifeline })
}

/// Starts a worker that ends as soon as it is confined. What it says when it cannot be is the error.
pub(super) async fn check(options: &SupervisorOptions) -> io::Result<()> {
    // No name of a group.
    let socket = socket(&options.dir, ".check");
    let mut command = options.program.command("worker");
    command.args(WorkerOptions { check: true, ..worker_options(&socket, options) }.args());
    inherit_little(&mut command);
    let result = succeeds(&mut command).await;
    if let Some(dir) = socket.parent() {
        // Empty but for its sockets; whoever takes stock of workers removes what is left.
        let _ = tokio::fs::remove_dir_all(dir).await;
    }
    result
}

/// Runs a process to its end. What it says last when it fails is the error.
pub(super) async fn succeeds(command: &mut Command) -> io::Result<()> {
    let output = command.stderr(Stdio::piped()).output().await?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    Err(io::Error::other(last.trim_start_matches("kubewasm: ").to_owned()))
}

fn worker_options(socket: &Path, options: &SupervisorOptions) -> WorkerOptions {
    WorkerOptions {
        with_parent: options.with_parent,
        default_memory_limit: options.default_memory_limit,
        log: options.log,
        // Other groups' workers are none of its business.
        hidden: options.hidden.iter().chain([&options.dir]).cloned().collect(),
        shown: options.shown.clone(),
        confinement: options.confinement,
        ..WorkerOptions::new(socket)
    }
}

/// Keeps the agent's environment from a process, and a terminal's Ctrl-C, which is for the process group in front.
pub(super) fn inherit_little(command: &mut Command) {
    command.env_clear().envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.process_group(0);
}

/// Opens the file that a process says what it has to say in.
pub(super) fn open_log(path: &Path) -> io::Result<std::fs::File> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let log = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
    if log.metadata()?.len() > LOG_LIMIT {
        log.set_len(0)?;
    }
    Ok(log)
}

/// The end of what a worker wrote to its log, empty when there is nothing.
pub(super) fn last_words(socket: &Path) -> String {
    // A worker writes as much as it likes, and no more than this is read of it.
    let read = || {
        let mut log = std::fs::File::open(log(socket))?;
        let end = log.metadata()?.len();
        log.seek(SeekFrom::Start(end.saturating_sub(LAST_WORDS)))?;
        let mut words = Vec::new();
        log.take(LAST_WORDS).read_to_end(&mut words)?;
        Ok::<_, io::Error>(words)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).trim().to_owned()
}

/// The process that holds a worker's lock, as it noted there itself, if that is still a worker on this
/// socket. A number alone may belong to another process by now.
pub(super) fn holder(socket: &Path) -> Option<Pid> {
    let noted = std::fs::read_to_string(worker::lock_path(socket)).ok()?;
    let pid = Pid::from_raw(noted.trim().parse().ok()?)?;
    let command_line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())).ok()?;
    let is_it =
        command_line.split(|byte| *byte == 0).any(|argument| argument == socket.as_os_str().as_bytes());
    (is_it && worker::is_locked(socket)).then_some(pid)
}

/// Sends a signal to the process that holds a worker's lock.
pub(super) fn signal(socket: &Path, signal: Signal) {
    if let Some(pid) = holder(socket) {
        // It may have ended in between.
        let _ = kill_process(pid, signal);
    }
}

/// Returns true once nobody holds a worker's lock any more, false when that takes longer than `within`.
pub(super) async fn is_gone(socket: &Path, within: Duration) -> bool {
    let gone = async {
        while worker::is_locked(socket) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(within, gone).await.is_ok()
}

/// Removes what dead workers have left in the directory of workers, and returns the names of the groups whose
/// workers live.
///
/// # Errors
/// What the system says: it is not known then which workers live.
pub(super) fn take_stock(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    let (alive, dead): (Vec<_>, Vec<_>) = names
        .filter(|name| worker::lock_path(&socket(dir, name)).exists())
        .partition(|name| worker::is_locked(&socket(dir, name)));
    for group in dead {
        let socket = socket(dir, &group);
        if socket.exists() {
            // One that ends well takes its socket away.
            let last_words = last_words(&socket);
            tracing::warn!(group, last_words, "a worker has died while no agent was here");
        }
        if let Err(error) = kubewasm_trees::remove(&dir.join(&group)) {
            tracing::warn!(group, %error, "cannot remove what a dead worker has left");
        }
    }
    Ok(alive)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_workers_have_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["dead", "alive", "foreign"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(worker::lock_path(&socket(dir.path(), "dead")), "1\n").unwrap();
        let lock = std::fs::File::create(worker::lock_path(&socket(dir.path(), "alive"))).unwrap();
        lock.lock().unwrap();
        assert_eq!(take_stock(dir.path()).unwrap(), ["alive"]);
        let mut left: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["alive", "foreign"]);
        assert_eq!(take_stock(Path::new("/nonexistent")).unwrap(), Vec::<String>::new());
        assert!(take_stock(&dir.path().join("foreign/file")).is_ok(), "nothing is there yet");
        assert!(take_stock(&worker::lock_path(&socket(dir.path(), "alive"))).is_err(), "no directory");
    }

    #[test]
    fn a_number_in_a_lock_that_is_another_process_is_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let socket = socket(dir.path(), "g");
        std::fs::create_dir(dir.path().join("g")).unwrap();
        assert_eq!(holder(&socket), None, "no lock");
        let lock = std::fs::File::create(worker::lock_path(&socket)).unwrap();
        lock.lock().unwrap();
        std::fs::write(worker::lock_path(&socket), format!("{}\n", std::process::id())).unwrap();
        assert_eq!(holder(&socket), None, "this process is no worker on that socket");
    }

    #[test]
    fn the_last_words_are_the_end_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("worker.sock");
        assert_eq!(last_words(&socket), "");
        std::fs::write(log(&socket), format!("{}the end\n", "x".repeat(10_000))).unwrap();
        let words = last_words(&socket);
        assert!(words.ends_with("xthe end") && words.len() < 2048, "{words}");
    }
}
